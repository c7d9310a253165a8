//! What happens when the object is loaded: a look at the environment.
//!
//! It is read from `/proc/self/environ`, since constructors are given it by glibc only, and now,
//! since a program may write its title over it later.

use core::mem::MaybeUninit;

use crate::place::{DIR, JOB};
use crate::sys::{self, Fd};
use crate::text::{Put, Text};

// SAFETY: the loader calls each entry of .init_array once with C's calling convention; the
// function ignores whatever arguments there are.
#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = look_around;

extern "C" fn look_around() {
    let Ok(environ) = Fd::open(c"/proc/self/environ", 0) else { return };
    let mut search = Search { name: Text::new(), pid: Text::new(), wanted: Wanted::Unknown };
    let mut buffer = [MaybeUninit::uninit(); 4096];
    while !search.is_over() {
        match environ.read(&mut buffer) {
            Ok([]) | Err(_) => break,
            Ok(bytes) => bytes.iter().for_each(|&byte| search.take(byte)),
        }
    }
    if !search.pid.is_cut() && search.pid.number() > 0 {
        sys::set_ptracer(search.pid.number());
    }
}

/// What the entry that is being read holds.
enum Wanted {
    /// Its name is not over.
    Unknown,
    Nothing,
    Launcher,
    Dir,
    Job,
}

/// A search through NUL-separated entries, byte by byte.
struct Search {
    name: Text<18>,
    pid: Text<9>,
    wanted: Wanted,
}

impl Search {
    fn take(&mut self, byte: u8) {
        match (&self.wanted, byte) {
            (_, 0) => {
                self.wanted = Wanted::Unknown;
                self.name.clear();
            }
            (Wanted::Unknown, b'=') => self.wanted = self.named(),
            (Wanted::Unknown, _) => self.name.push(byte),
            (Wanted::Nothing, _) => {}
            (Wanted::Launcher, _) => self.pid.push(byte),
            (Wanted::Dir, _) => DIR.push(byte),
            (Wanted::Job, _) => JOB.push(byte),
        }
    }

    /// Of two entries of one name, the first holds.
    fn named(&self) -> Wanted {
        let name = &self.name;
        if name.is(b"CKPT_LAUNCHER_PID") && self.pid.bytes().is_empty() {
            Wanted::Launcher
        } else if name.is(b"CKPT_DIR") && DIR.len() == 0 {
            Wanted::Dir
        } else if name.is(b"CKPT_JOB_ID") && JOB.len() == 0 {
            Wanted::Job
        } else {
            Wanted::Nothing
        }
    }

    /// Whether all has been found, and the last entry was read to its end.
    fn is_over(&self) -> bool {
        matches!(self.wanted, Wanted::Unknown)
            && !self.pid.bytes().is_empty()
            && DIR.len() > 0
            && JOB.len() > 0
    }
}
