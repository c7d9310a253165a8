//! DMTCP 5.0's commands, spoken to and speaking as its users know them.
//!
//! Batch scripts, benchmarks and sites call `dmtcp_launch`, `dmtcp_restart`, `dmtcp_command` and
//! `dmtcp_coordinator`, and read what these print. This is the pure half of our stand-ins: arguments
//! and environment become plain data, plain data becomes text.
//!
//! ```text
//! table ─▶ scan ─▶ options    dmtcp_launch, dmtcp_restart, dmtcp_coordinator: words ─▶ structs
//!   │       └────▶ command    dmtcp_command: words ─▶ a request
//!   └──────▶ words            request and reply ─▶ answer; usage texts
//!            files ◀─ script  names, files that others wait for; the restart script
//! ```
//!
//! Nothing here opens a socket, reads the process' environment or prints.

use std::ffi::OsString;
use std::fmt;

pub mod command;
pub mod files;
pub mod options;
mod scan;
pub mod script;
mod table;
pub mod words;

/// Finds an environment variable.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Where a coordinator listens if nobody says otherwise.
pub const DEFAULT_PORT: u16 = 7779;

/// One of the four commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `dmtcp_launch`
    Launch,
    /// `dmtcp_restart`
    Restart,
    /// `dmtcp_coordinator`
    Coordinator,
    /// `dmtcp_command`
    Command,
}

impl Program {
    /// The name it is called by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Launch => "dmtcp_launch",
            Self::Restart => "dmtcp_restart",
            Self::Coordinator => "dmtcp_coordinator",
            Self::Command => "dmtcp_command",
        }
    }

    /// The exit status for a failure of its own, as opposed to the job's. `lookup` finds an
    /// environment variable: `DMTCP_FAIL_RC` stands in for 99.
    pub fn failure_code(self, lookup: Lookup<'_>) -> u8 {
        match self {
            Self::Launch | Self::Restart => lookup("DMTCP_FAIL_RC")
                .and_then(|text| text.to_str()?.parse().ok())
                .filter(|&code| code != 0)
                .unwrap_or(words::FAILURE),
            Self::Coordinator | Self::Command => words::USAGE,
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
