//! Takes a command line apart as DMTCP does.
//!
//! DMTCP parses by hand, and scripts rely on how: a long option's argument is the next word whatever
//! it looks like, `-p7779` and `-i5` have theirs glued on, the first word that is no option begins
//! the command. No parser library agrees with all of that. Beyond DMTCP, `--option=value` is taken,
//! and `--help` and `--version` need not be the last word.

use std::ffi::{OsStr, OsString};
use std::mem::discriminant;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

use ckpt_core::{Error, ErrorKind, Result};

use super::options::Parsed;
use super::table::{Env, Meaning, Row, Takes, rows};
use super::{Lookup, Program};

/// An option that was found, on the command line or in the environment.
pub(super) struct Given {
    pub row: &'static Row,
    /// The option or variable, as it was spelled.
    pub from: &'static str,
    /// Its argument; empty if it takes none.
    pub value: OsString,
}

/// A command line taken apart.
pub(super) struct Scan {
    program: Program,
    given: Vec<Given>,
    /// What follows the options.
    pub rest: Vec<OsString>,
}

/// Takes `args` apart, and looks up in the environment what they leave open. An inner `Err` is a
/// request that ends it all, such as for help.
pub(super) fn scan<T>(
    program: Program,
    args: impl IntoIterator<Item = OsString>,
    lookup: Lookup<'_>,
) -> Result<Result<Scan, Parsed<T>>> {
    let mut scan = Scan { program, given: Vec::new(), rest: Vec::new() };
    let mut args = args.into_iter().peekable();
    if program != Program::Coordinator && args.peek().is_none() {
        return Ok(Err(Parsed::Nothing));
    }
    while let Some(arg) = args.next_if(|arg| arg.len() > 1 && arg.as_bytes()[0] == b'-') {
        if arg == "--" {
            break;
        }
        let (row, from, attached) =
            find(program, &arg).ok_or_else(|| scan.invalid(arg.display()))?;
        let value = match (row.takes, attached) {
            (Takes::Nothing, None) => OsString::new(),
            (Takes::Nothing, Some(_)) => return Err(scan.invalid(arg.display())),
            (_, Some(value)) => value,
            (Takes::Number(what) | Takes::Text(what), None) => args
                .next()
                .ok_or_else(|| scan.invalid(format_args!("{from} without its {what}")))?,
        };
        match row.meaning {
            Meaning::Help => return Ok(Err(Parsed::Help)),
            Meaning::Version => return Ok(Err(Parsed::Version)),
            _ => scan.given.push(Given { row, from, value }),
        }
    }
    scan.rest.extend(args);
    scan.look_around(lookup);
    Ok(Ok(scan))
}

/// The row that `arg` belongs to, how it is spelled there, and the value attached to it.
pub(super) fn find(
    program: Program,
    arg: &OsStr,
) -> Option<(&'static Row, &'static str, Option<OsString>)> {
    let value = |bytes| Some(OsStr::from_bytes(bytes).to_owned());
    rows(program).find_map(|row| {
        row.spellings().find_map(|name| {
            match (arg.as_bytes().strip_prefix(name.as_bytes())?, row.takes) {
                ([], _) => Some((row, name, None)),
                ([b'=', tail @ ..], _) if name.starts_with("--") => Some((row, name, value(tail))),
                (tail @ [b'0'..=b'9', ..], Takes::Number(_)) if name.len() == 2 => {
                    Some((row, name, value(tail)))
                }
                _ => None,
            }
        })
    })
}

/// The first variable that stands for the option, and the argument it gives.
pub(super) fn from_environment(row: &Row, lookup: Lookup<'_>) -> Option<(&'static str, OsString)> {
    row.env.iter().find_map(|&env| {
        let value = lookup(env.name())?;
        match env {
            Env::Value(_) => (!value.is_empty()).then_some((env.name(), value)),
            Env::Is(_, wanted) => (value == wanted).then_some((env.name(), OsString::new())),
            Env::Set(_) => Some((env.name(), OsString::new())),
        }
    })
}

/// The text as a number or another value.
pub(super) fn parse<T: FromStr>(text: &OsStr) -> Option<T> {
    text.to_str()?.trim().parse().ok()
}

impl Scan {
    /// Fills in from the environment what flags left open. `-q` goes on from `DMTCP_QUIET`, other
    /// than in the coordinator.
    fn look_around(&mut self, lookup: Lookup<'_>) {
        let flags = self.given.len();
        for row in rows(self.program) {
            let adds_up = row.meaning == Meaning::Quiet && self.program != Program::Coordinator;
            let settles = |given: &Given| match row.meaning {
                Meaning::Nothing => std::ptr::eq(given.row, row),
                meaning => discriminant(&given.row.meaning) == discriminant(&meaning),
            };
            if adds_up || !self.given[..flags].iter().any(settles) {
                let found = from_environment(row, lookup);
                self.given.extend(found.map(|(from, value)| Given { row, from, value }));
            }
        }
    }

    pub fn all(&self, meaning: Meaning) -> impl DoubleEndedIterator<Item = &Given> {
        let same = move |given: &&Given| discriminant(&given.row.meaning) == discriminant(&meaning);
        self.given.iter().filter(same)
    }

    /// What was said last about a matter, by a flag or else by the environment.
    pub fn last(&self, meaning: Meaning) -> Option<&Given> {
        self.all(meaning).next_back()
    }

    pub fn has(&self, meaning: Meaning) -> bool {
        self.last(meaning).is_some_and(|given| given.row.meaning == meaning)
    }

    pub fn path(&self, meaning: Meaning) -> Option<PathBuf> {
        self.last(meaning).map(|given| PathBuf::from(&given.value))
    }

    pub fn parsed<T: FromStr>(&self, meaning: Meaning) -> Result<Option<T>> {
        self.last(meaning).map(|given| self.value(given)).transpose()
    }

    pub fn value<T: FromStr>(&self, given: &Given) -> Result<T> {
        let text = given.value.display();
        parse(&given.value).ok_or_else(|| self.invalid(format_args!("{} {text}", given.from)))
    }

    pub fn invalid(&self, what: impl std::fmt::Display) -> Error {
        Error::new(ErrorKind::Usage, format!("Invalid Argument: {what}"))
            .help(format!("see {} --help", self.program))
    }
}
