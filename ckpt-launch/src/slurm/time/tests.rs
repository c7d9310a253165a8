//! What Slurm 22.05 itself makes of these texts, and laws for all others.

use proptest::prelude::*;

use super::SlurmTime::{self, Limit, Unlimited, Unset};
use super::{DAY, HOUR, MINUTE};

fn read(text: &str) -> SlurmTime {
    text.parse().unwrap_or_else(|e| panic!("{e}"))
}

/// `sbatch --time TEXT`, and `TimeLimit=` in what `scontrol show job` then says.
#[test]
fn as_slurm_has_it() {
    for (asked, shown) in [
        ("45", "00:45:00"),
        ("0", "UNLIMITED"),
        ("1", "00:01:00"),
        ("007", "00:07:00"),
        ("2:30", "00:03:00"),
        ("90:00", "01:30:00"),
        ("0:30", "00:01:00"),
        ("0:61", "00:02:00"),
        ("1:0", "00:01:00"),
        ("1:99", "00:03:00"),
        ("0:00:01", "00:01:00"),
        ("1:00:00", "01:00:00"),
        ("1:60:00", "02:00:00"),
        ("1:00:99", "01:02:00"),
        ("00:45:00", "00:45:00"),
        ("25:00:00", "1-01:00:00"),
        ("100:00:00", "4-04:00:00"),
        ("1-", "1-00:00:00"),
        ("1-0", "1-00:00:00"),
        ("0-1", "01:00:00"),
        ("1-02", "1-02:00:00"),
        ("1-24", "2-00:00:00"),
        ("1-02:03", "1-02:03:00"),
        ("1-23:60", "2-00:00:00"),
        ("1-02:03:04", "1-02:04:00"),
        ("0-0:0:1", "00:01:00"),
        ("3000-0", "3000-00:00:00"),
        ("UNLIMITED", "UNLIMITED"),
        ("unlimited", "UNLIMITED"),
        ("Infinite", "UNLIMITED"),
        ("INFINITE", "UNLIMITED"),
        ("-1", "UNLIMITED"),
    ] {
        let limit = match read(asked).as_limit().minutes_up() {
            Some(minutes) => Limit(minutes * MINUTE),
            None => Unlimited,
        };
        assert_eq!(limit.to_string(), shown, "--time {asked}");
        assert_eq!(read(shown), limit, "{shown}");
    }
}

/// What sbatch calls an invalid specification; and what it takes and gets wrong.
#[test]
fn nonsense() {
    for bad in [
        "1:2:3:4",
        "1-2:3:4:5",
        "1:",
        ":30",
        "1::2",
        "abc",
        "5m",
        "5.5",
        "+5",
        "1 2",
        "1-2-3",
        "UNLIMITEDx",
        "unlimite",
        "-1:00",
        "1:+5",
        "-5",
        "-",
        "--1",
        "1-:5",
        "1-1:",
        "٣",
        "18446744073709551616",
        "213503982334602-0",
    ] {
        let error = bad.parse::<SlurmTime>().expect_err(bad);
        assert_eq!(error.kind().exit_code(), 64, "{bad}");
        assert!(error.to_string().contains(&format!("{bad:?}")), "{error}");
    }
}

#[test]
fn words_and_blanks() {
    for unset in ["", " ", "(null)", "N/A", "NOT_SET", "Partition_Limit", "INVALID"] {
        assert_eq!(read(unset), Unset, "{unset}");
    }
    assert_eq!(read(" 5\n"), Limit(300));
    assert_eq!(read("\tUNLIMITED "), Unlimited);
    assert_eq!((Unset.seconds(), Unlimited.seconds()), (None, None));
    assert_eq!((Unset.as_limit(), Limit(1).as_limit()), (Unset, Limit(1)));
}

/// As squeue prints limits and what is left of them.
#[test]
fn squeue_pads_nothing() {
    assert_eq!(read("0:00"), Limit(0));
    assert_eq!(read("3:07"), Limit(187));
    assert_eq!(read("1:30:00"), Limit(5400));
    assert_eq!(read("4-04:00:00"), Limit(100 * HOUR));
}

#[test]
fn in_columns() {
    assert_eq!(format!("{:>12}|{:<10}|", Limit(61), Unlimited), "    00:01:01|UNLIMITED |");
    assert_eq!(
        (Limit(359_999).hms(), Limit(360_000).hms()),
        ("99:59:59".into(), "100:00:00".into())
    );
}

fn any_time() -> impl Strategy<Value = SlurmTime> {
    prop_oneof![
        Just(Unset),
        Just(Unlimited),
        (0..3 * DAY).prop_map(Limit),
        any::<u64>().prop_map(Limit)
    ]
}

proptest! {
    #[test]
    fn what_is_printed_is_read_again(time in any_time()) {
        prop_assert_eq!(read(&time.to_string()), time);
        prop_assert_eq!(read(&time.hms()), time);
    }

    #[test]
    fn every_form_is_its_arithmetic(d in 0..1_000_000_u64, h in 0..1_000_000_u64,
                                    m in 0..1_000_000_u64, s in 0..1_000_000_u64) {
        for (text, seconds) in [
            (format!("{m}"), m * MINUTE),
            (format!("{m}:{s}"), m * MINUTE + s),
            (format!("{m:02}:{s:02}"), m * MINUTE + s),
            (format!("{h}:{m}:{s}"), h * HOUR + m * MINUTE + s),
            (format!(" {h:04}:{m:02}:{s:02} "), h * HOUR + m * MINUTE + s),
            (format!("{d}-"), d * DAY),
            (format!("{d}-{h}"), d * DAY + h * HOUR),
            (format!("{d}-{h}:{m}"), d * DAY + h * HOUR + m * MINUTE),
            (format!("{d}-{h}:{m}:{s}"), d * DAY + h * HOUR + m * MINUTE + s),
        ] {
            prop_assert_eq!(read(&text), Limit(seconds), "{}", text);
        }
    }

    #[test]
    fn minutes_are_enough_and_not_too_many(seconds in any::<u64>()) {
        let minutes = u128::from(Limit(seconds).minutes_up().unwrap_or_default());
        prop_assert!(minutes * 60 >= u128::from(seconds));
        prop_assert!(minutes * 60 < u128::from(seconds) + 60);
    }

    #[test]
    fn no_text_does_harm(text in ".*", like in "[-+0-9: ]{0,30}") {
        for text in [text, like] {
            if let Ok(time) = text.parse::<SlurmTime>() {
                prop_assert_eq!(read(&time.hms()), time);
            }
        }
    }
}
