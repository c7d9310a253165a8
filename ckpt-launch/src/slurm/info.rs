//! What Slurm says of a job: `scontrol show job -o`, as plain data.

use super::time::SlurmTime;

/// A job as slurmctld sees it at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Info {
    /// `RUNNING`, `COMPLETING`, …
    pub state: String,
    /// Why it is in that state: `None`, `TimeLimit`, …
    pub reason: String,
    /// How often it was requeued.
    pub restarts: u32,
    /// Whether it may be.
    pub requeue: bool,
    /// Its time limit.
    pub limit: SlurmTime,
    /// The least time limit that the scheduler may give it (`--time-min`).
    pub least: SlurmTime,
    /// Seconds since 1970 at which it began to run.
    pub start: Option<u64>,
    /// Seconds since 1970 at which its time is up.
    pub end: Option<u64>,
    /// It is being preempted: its time of grace has begun.
    pub preempted: bool,
    /// Where it runs.
    pub partition: String,
    /// Its comment, if it has one.
    pub comment: Option<String>,
}

impl Info {
    /// Reads a line of `scontrol show job -o`, written with `TZ=UTC`; nothing if it is none.
    pub fn parse(line: &str) -> Option<Self> {
        // A job's name may hold anything, too.
        let line = &line[line.find(" UserId=").filter(|_| line.starts_with("JobId="))?..];
        let value = |key: &str| {
            let at = line.find(&format!(" {key}="))? + key.len() + 2;
            line[at..].split_ascii_whitespace().next()
        };
        let time = |key| value(key).and_then(|text| text.parse().ok()).unwrap_or_default();
        // A comment may hold anything, other keys included; what follows it is always the same.
        let comment = line.split_once(" Comment=").map(|(_, rest)| rest);
        let comment = comment.and_then(|rest| Some(rest.rsplit_once(" StdErr=")?.0.trim()));
        Some(Self {
            state: value("JobState")?.to_owned(),
            reason: value("Reason").unwrap_or_default().to_owned(),
            restarts: value("Restarts")?.parse().ok()?,
            // What salloc has started cannot be started again.
            requeue: value("Requeue") == Some("1") && value("BatchFlag") != Some("0"),
            limit: time("TimeLimit"),
            least: time("TimeMin"),
            start: value("StartTime").and_then(seconds_since_1970),
            end: value("EndTime").and_then(seconds_since_1970),
            preempted: value("PreemptTime").is_some_and(|time| time != "None"),
            partition: value("Partition").unwrap_or_default().to_owned(),
            comment: comment.filter(|text| !text.is_empty() && *text != "(null)").map(Into::into),
        })
    }

    /// The comment if it is a time, as sites write the total there. A lone number could be anything.
    pub fn comment_as_time(&self) -> Option<SlurmTime> {
        let text = self.comment.as_deref()?;
        let time: SlurmTime = text.parse().ok()?;
        time.seconds().filter(|_| text.contains([':', '-'])).map(SlurmTime::Limit)
    }
}

/// `2026-11-24T22:13:16`, in UTC.
fn seconds_since_1970(text: &str) -> Option<u64> {
    let (date, time) = text.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut time = time.splitn(3, ':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || !(1970..=9999).contains(&year) {
        return None;
    }
    // The year begins in March, so that the leap day is its last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days =
        365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 719_469;
    Some(u64::try_from(days).ok()? * 86400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "JobId=8 JobName=a JobState=PENDING b UserId=u(1001) GroupId=u(1001) MCS_label=N/A \
        JobState=COMPLETING Reason=TimeLimit Dependency=(null) Requeue=1 Restarts=2 BatchFlag=1 \
        RunTime=00:00:00 TimeLimit=1-00:07:00 TimeMin=N/A SubmitTime=2026-11-24T22:17:58 \
        StartTime=2026-11-24T22:18:00 EndTime=2026-11-24T22:25:00 Deadline=N/A PreemptTime=None Partition=debug \
        NodeList=n1 WorkDir=/tmp Comment=01:02:03 a JobState=X  StdErr=/tmp/a b StdIn=/dev/null";

    #[test]
    fn a_line_of_scontrol() {
        let info = Info::parse(LINE).unwrap();
        assert_eq!((info.state.as_str(), info.reason.as_str()), ("COMPLETING", "TimeLimit"));
        assert_eq!((info.restarts, info.requeue), (2, true));
        assert_eq!((info.limit, info.least), (SlurmTime::Limit(86820), SlurmTime::Unset));
        assert_eq!(info.end.unwrap() - info.start.unwrap(), 420);
        assert!(!info.preempted);
        assert_eq!(info.partition, "debug");
        assert_eq!(info.comment.as_deref(), Some("01:02:03 a JobState=X"));
        assert_eq!(Info::parse("slurm_load_jobs error: Invalid job id specified"), None);
    }

    #[test]
    fn comments_that_are_times() {
        let time = |comment: &str| {
            Info { comment: Some(comment.into()), ..Info::default() }.comment_as_time()
        };
        assert_eq!(time("24:00:00"), Some(SlurmTime::Limit(86400)));
        assert_eq!(time("1-00"), Some(SlurmTime::Limit(86400)));
        for other in ["45", "UNLIMITED", "a 24:00:00", "of-mine"] {
            assert_eq!(time(other), None, "{other}");
        }
    }

    #[test]
    fn moments() {
        assert_eq!(seconds_since_1970("1970-01-01T00:00:00"), Some(0));
        assert_eq!(seconds_since_1970("2000-02-29T12:00:01"), Some(951_825_601));
        assert_eq!(seconds_since_1970("2026-11-24T22:13:16"), Some(1_795_558_396));
        for bad in ["Unknown", "N/A", "2026-13-01T00:00:00", "T", "-1-1-1T0:0:0"] {
            assert_eq!(seconds_since_1970(bad), None, "{bad}");
        }
    }
}
