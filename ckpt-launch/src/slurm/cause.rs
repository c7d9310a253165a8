//! Why Slurm has sent us a signal: what slurmctld says of the job right after tells the causes apart.
//!
//! | why | state | reason | restarts |
//! | --- | --- | --- | --- |
//! | a warning (`--signal`) | RUNNING | None | as before |
//! | the time limit | COMPLETING | TimeLimit | as before |
//! | scancel(1) | COMPLETING | None | as before |
//! | requeued by others, preempted | COMPLETING | None | one more |

use super::info::Info;

/// Why a signal came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The job runs on, but not for long, or somebody wants it to be requeued.
    Warning,
    /// Its time is up.
    Limit,
    /// Somebody has cancelled it.
    Cancelled,
    /// It is requeued already.
    Requeued,
}

impl Cause {
    /// The cause, given what slurmctld says and how often the job had been requeued when this round
    /// began.
    pub fn of(info: &Info, restarts: u32) -> Self {
        if info.restarts > restarts {
            return Self::Requeued;
        }
        match (info.state.as_str(), info.reason.as_str()) {
            // SIGNALING is what a running job is while it is being sent the warning.
            ("RUNNING" | "SIGNALING" | "SUSPENDED" | "STOPPED" | "RESIZING" | "CONFIGURING", _) => {
                Self::Warning
            }
            ("PENDING" | "REQUEUED" | "REQUEUE_HOLD" | "NODE_FAIL", _) => Self::Requeued,
            ("TIMEOUT" | "PREEMPTED", _) | (_, "TimeLimit") => Self::Limit,
            _ => Self::Cancelled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        for (state, reason, restarts, cause) in [
            ("RUNNING", "None", 1, Cause::Warning),
            ("SIGNALING", "None", 1, Cause::Warning),
            ("COMPLETING", "TimeLimit", 1, Cause::Limit),
            ("TIMEOUT", "TimeLimit", 1, Cause::Limit),
            ("COMPLETING", "None", 1, Cause::Cancelled),
            ("CANCELLED", "None", 1, Cause::Cancelled),
            ("COMPLETING", "None", 2, Cause::Requeued),
            ("RUNNING", "None", 2, Cause::Requeued),
            ("PENDING", "BeginTime", 2, Cause::Requeued),
        ] {
            let info =
                Info { state: state.into(), reason: reason.into(), restarts, ..Info::default() };
            assert_eq!(Cause::of(&info, 1), cause, "{state} {reason} {restarts}");
        }
    }
}
