//! `ckpt slurm`: what shell scripts ask about Slurm's times.
//!
//! The answers are for scripts: one value, on stdout. What a time means is [`super::time`]'s business.

use ckpt_core::{Error, ErrorKind, Result};
use clap::Subcommand;

use super::plan::{self, Wishes};
use super::time::SlurmTime;
use crate::commands::print;
use crate::voice::Voice;

/// What `ckpt slurm` is asked to do.
#[derive(Debug, Subcommand)]
pub enum Ask {
    /// Print the seconds of a time in any of Slurm's forms (45 is 45 minutes)
    ///
    /// UNLIMITED where there is no limit, and an empty line for a time that is not set.
    Seconds {
        /// MM, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS, UNLIMITED, or what Slurm's commands print
        #[arg(allow_hyphen_values = true, default_value = "", hide_default_value = true)]
        time: String,
    },
    /// Print seconds as HH:MM:SS
    Time {
        /// A number of seconds, or what `ckpt slurm seconds` prints
        #[arg(allow_hyphen_values = true)]
        seconds: String,
    },
    /// Print what is left of this job and what its next round is to be, for a shell's eval
    Plan(Wishes),
    /// Requeue this job, with what is left of its comment as the new one
    ///
    /// Not if it was cancelled (status 75) or its total is used up (69). One that is requeued already
    /// is not requeued again.
    Requeue(Wishes),
}

/// Answers on stdout.
///
/// # Errors
///
/// When the question makes no sense, or nobody takes the answer.
pub fn run(ask: &Ask, voice: &Voice) -> Result<()> {
    print(&(answer(ask, voice)?.trim_end().to_owned() + "\n"))
}

fn answer(ask: &Ask, voice: &Voice) -> Result<String> {
    Ok(match ask {
        Ask::Plan(wishes) => plan::assignments(wishes)?,
        Ask::Requeue(wishes) => plan::requeue(wishes, voice)?,
        Ask::Seconds { time } => match time.parse()? {
            SlurmTime::Limit(seconds) => seconds.to_string(),
            other => other.hms(),
        },
        Ask::Time { seconds } => match seconds.trim().parse() {
            Ok(seconds) => SlurmTime::Limit(seconds).hms(),
            // Of Slurm's forms only the words: a number of minutes is no number of seconds.
            Err(_) => match seconds.parse() {
                Ok(SlurmTime::Limit(_)) | Err(_) => return Err(no_seconds(seconds)),
                Ok(word) => word.hms(),
            },
        },
    })
}

fn no_seconds(text: &str) -> Error {
    Error::new(ErrorKind::Usage, format!("{text:?} is no number of seconds"))
        .help("for times like 1:30:00 there is 'ckpt slurm seconds'")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(ask: &Ask) -> Result<String> {
        let talk = crate::cli::Talk { verbose: 0, quiet: true, json: false };
        answer(ask, &Voice::new("ckpt", &talk))
    }

    #[test]
    fn seconds() {
        for (time, seconds) in [
            ("45", "2700"),
            ("1-02", "93600"),
            ("2-03:04:05", "183845"),
            ("UNLIMITED", "UNLIMITED"),
            ("-1", "UNLIMITED"),
            ("(null)", ""),
            ("", ""),
            ("0", "0"),
        ] {
            assert_eq!(asked(&Ask::Seconds { time: time.into() }).ok(), Some(seconds.into()));
        }
        for time in ["1:", "-5", "soon"] {
            let error = asked(&Ask::Seconds { time: time.into() }).expect_err(time);
            assert_eq!(error.kind(), ErrorKind::Usage);
        }
    }

    #[test]
    fn and_back() {
        for (seconds, time) in [
            ("0", "00:00:00"),
            (" 3661 ", "01:01:01"),
            ("360000", "100:00:00"),
            ("unlimited", "UNLIMITED"),
            ("", ""),
        ] {
            assert_eq!(asked(&Ask::Time { seconds: seconds.into() }).ok(), Some(time.into()));
        }
        for seconds in ["1:30", "1-0", "-5", "1.5", "x", "18446744073709551616"] {
            let error = asked(&Ask::Time { seconds: seconds.into() }).expect_err(seconds);
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(error.to_string().contains(&format!("{seconds:?}")), "{error}");
        }
    }
}
