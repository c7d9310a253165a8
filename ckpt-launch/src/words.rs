//! Numbers in a human's words: sizes, durations, moments.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use indicatif::DecimalBytes;

/// "1.07 GB".
pub fn bytes(count: u64) -> String {
    DecimalBytes(count).to_string()
}

/// "24 ms", "1.21 s", "3 min 4 s".
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 0.9995 {
        format!("{:.0} ms", seconds * 1000.0)
    } else if seconds < 60.0 {
        format!("{seconds:.2} s")
    } else if seconds < 3600.0 {
        format!("{} min {} s", time.as_secs() / 60, time.as_secs() % 60)
    } else {
        format!("{} h {} min", time.as_secs() / 3600, time.as_secs() / 60 % 60)
    }
}

/// Whole decimal megabytes a second.
pub fn rate(bytes: u64, time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds <= 0.0 {
        "-".to_owned()
    } else {
        format!("{:.0} MB/s", bytes as f64 / 1e6 / seconds)
    }
}

/// "3.28", or "-" when nothing was stored.
pub fn ratio(read: u64, stored: u64) -> String {
    if stored == 0 { "-".to_owned() } else { format!("{:.2}", read as f64 / stored as f64) }
}

/// Seconds since 1970.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A moment, given in seconds since 1970, as "2026-01-02 03:04:05 UTC".
pub fn moment(unix: u64) -> String {
    let (days, seconds) = (unix / 86400, unix % 86400);
    // Howard Hinnant's civil_from_days, for days since 1970 only.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// [`moment`] and how long ago that was.
pub fn moment_and_age(unix: u64) -> String {
    let age = unix_now().saturating_sub(unix);
    format!("{} ({} ago)", moment(unix), duration(Duration::from_secs(age)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        assert_eq!(moment(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(moment(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(moment(1_767_225_599), "2025-12-31 23:59:59 UTC");
    }

    #[test]
    fn durations() {
        assert_eq!(duration(Duration::from_millis(24)), "24 ms");
        assert_eq!(duration(Duration::from_millis(1210)), "1.21 s");
        assert_eq!(duration(Duration::from_secs(184)), "3 min 4 s");
    }
}
