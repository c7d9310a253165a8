//! Our programs under DMTCP's names: what [`crate::dmtcp`] has read is done here, by our own launcher
//! and coordinator.
//!
//! `dmtcp_launch`, `dmtcp_coordinator` and `dmtcp_nocheckpoint` are links to `ckpt-launch`,
//! `dmtcp_command` is one to `ckpt`, `dmtcp_restart` one to `ckpt-restore`.

pub mod command;
pub mod coordinator;
pub mod image;
pub mod launch;
pub mod meeting;

use std::ffi::{OsStr, OsString};
use std::path::Path;

use ckpt_core::Error;

use crate::cli::Talk;
use crate::dmtcp::{Program, words};
use crate::voice::Voice;

/// The name that this program was called by, without its folder.
pub fn called() -> OsString {
    let name = std::env::args_os().next().unwrap_or_default();
    Path::new(&name).file_name().map(OsStr::to_owned).unwrap_or_default()
}

/// An environment variable.
pub fn lookup(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// Says why one of DMTCP's commands does nothing, and gives its exit status for that.
pub fn fail(program: Program, error: &Error) -> u8 {
    eprintln!("{program}: {error}");
    program.failure_code(&lookup)
}

/// The voice for one of DMTCP's commands: `-q` drops the notes, a second one the warnings.
pub fn voice(program: Program, quiet: u8) -> Voice {
    Voice::new(program.name(), &talk(quiet))
}

/// How much is said at this many `-q`.
pub fn talk(quiet: u8) -> Talk {
    Talk { verbose: 0, quiet: quiet > 1, json: false }
}

/// Names the options that have no effect here, once.
pub fn warn_of(ignored: &[&str], voice: &Voice) {
    if let Some(warning) = words::without_effect(ignored) {
        voice.warn(warning);
    }
}
