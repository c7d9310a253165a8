//! How `dmtcp_launch` and `dmtcp_restart` come to their coordinator: they join one, or start one.

use std::net::{IpAddr, Ipv4Addr};

use ckpt_core::{Error, ErrorKind, Result};

use crate::coordinator::client;
use crate::coordinator::place::Address;
use crate::coordinator::secret;
use crate::coordinator::start::start;
use crate::coordinator::wire::Command;
use crate::dmtcp::files::write_port;
use crate::dmtcp::options::{Common, Meeting, Mode};

/// The coordinator that was found or started. One that was started goes with this if nobody has joined
/// it: it was to end with its last peer, and would wait for a first one.
#[derive(Debug)]
pub struct Met {
    /// Where it is.
    pub address: Address,
    is_ours: bool,
}

impl Drop for Met {
    fn drop(&mut self) {
        let ask = |command| client::ask(&self.address, command);
        if self.is_ours && ask(Command::Status).is_ok_and(|answer| answer.processes == 0) {
            let _ = ask(Command::Quit);
        }
    }
}

/// Finds or starts the coordinator, and writes the port file. To be called before there is a job.
///
/// # Errors
///
/// There is none where one is to be joined; its port is taken; it takes us for a stranger.
pub fn meet(common: &Common, meeting: &Meeting) -> Result<Met> {
    let (mode, port) = meeting.settled();
    let secret = secret::path(common.secret_file.as_deref());
    let mut address = Address { host: meeting.host.clone(), port, secret };
    let is_there = match mode {
        Mode::New => false,
        Mode::Join | Mode::Any if port == 0 => false,
        Mode::Join | Mode::Any => match address.connect() {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        },
    };
    if !is_there {
        address.port = begin(common, &address, mode)?;
    } else if let Some(interval) = common.interval {
        client::ask(&address, Command::Interval(interval.into()))?;
    }
    let met = Met { address, is_ours: !is_there };
    if let Some(file) = &common.port_file {
        write_port(file, met.address.port)?;
    }
    Ok(met)
}

/// Starts one of our own; gives its port.
fn begin(common: &Common, address: &Address, mode: Mode) -> Result<u16> {
    if mode == Mode::Join || !address.is_here() {
        let what = format!("there is no coordinator at {address}");
        return Err(Error::new(ErrorKind::NotFound, what)
            .help("start one there (dmtcp_coordinator), or check --coord-host and --coord-port"));
    }
    let mut words = Vec::new();
    let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
    if let Some(interval) = common.interval {
        option("--interval", interval.to_string());
    }
    option("--secret-file", address.secret.to_string_lossy().into_owned());
    if let Some(dir) = &common.ckptdir {
        option("--ckptdir", dir.to_string_lossy().into_owned());
    }
    if let Some(file) = &common.coord_logfile {
        option("--coord-logfile", file.to_string_lossy().into_owned());
    }
    start(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port, &words)
}
