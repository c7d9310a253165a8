//! The words of `dmtcp_command`.
//!
//! A word may be dashed or not (`s`, `-s`, `status`, `--status`), and of several only the last
//! counts. `-h` is a host's option when something follows, and a cry for help when nothing does.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::scan::{find, from_environment};
use super::table::{Meaning, Takes, rows};
use super::{DEFAULT_PORT, Lookup, Program};

/// What the coordinator is asked for, or we ourselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// How the job is doing.
    Status,
    /// Who is connected.
    List,
    /// A checkpoint, not waited for.
    Checkpoint,
    /// A checkpoint, waited for.
    BlockingCheckpoint,
    /// A checkpoint, and the end of the job.
    KillAfterCheckpoint,
    /// A new time between checkpoints, in seconds; 0 for none.
    Interval(u32),
    /// The end of the job.
    Kill,
    /// The end of job and coordinator.
    Quit,
    /// The usage text, as `--help` wants it.
    Help,
    /// The version text.
    Version,
    /// The usage text, since no command was given or it was `h`, `help` or `?`.
    Usage,
    /// A word that we don't know.
    Unknown,
}

impl Command {
    /// Whether the answer is known without asking the coordinator.
    pub fn is_local(self) -> bool {
        matches!(self, Self::Help | Self::Version | Self::Usage | Self::Unknown)
    }
}

/// A command and the words for it.
#[derive(Debug)]
pub(super) struct Word {
    /// The command; an interval of 0 is a placeholder.
    pub command: Command,
    /// The two words of the usage text, dashed.
    pub listed: &'static str,
    /// Others, without dashes.
    pub unlisted: &'static str,
    /// Its line in the usage text.
    pub help: &'static str,
}

const fn word(
    command: Command,
    listed: &'static str,
    unlisted: &'static str,
    help: &'static str,
) -> Word {
    Word { command, listed, unlisted, help }
}

/// All words.
#[rustfmt::skip]
pub(super) const WORDS: &[Word] = &[
    word(Command::Status, "-s --status", "", "Say how the job is doing"),
    word(Command::List, "-l --list", "t", "List the connected clients"),
    word(Command::Checkpoint, "-c --checkpoint", "", "Begin a checkpoint"),
    word(Command::BlockingCheckpoint, "-bc --bcheckpoint", "", "Take a checkpoint, and return when it is done"),
    word(Command::KillAfterCheckpoint, "-kc --kcheckpoint", "ck K Kc", "Begin a checkpoint that ends the job"),
    word(Command::Interval(0), "-i --interval", "", "Change the time between checkpoints to the following number of seconds; 0: none"),
    word(Command::Kill, "-k --kill", "", "Kill the job"),
    word(Command::Quit, "-q --quit", "", "Kill the job, and end the coordinator"),
    word(Command::Usage, "", "h help ?", ""),
];

/// One call of `dmtcp_command`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The coordinator's host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether the port was named, by flag or environment.
    pub port_given: bool,
    /// Whether the answer is to be JSON.
    pub json: bool,
    /// File with the secret that lets us in.
    pub secret_file: Option<PathBuf>,
    /// What is wanted.
    pub command: Command,
}

/// Reads the arguments of `dmtcp_command` (without its own name). As DMTCP has it, a port that is no
/// number is port 0, where nobody is found.
pub fn parse(args: impl IntoIterator<Item = OsString>, lookup: Lookup<'_>) -> Request {
    let mut request = Request {
        host: "localhost".to_owned(),
        port: DEFAULT_PORT,
        port_given: false,
        json: false,
        secret_file: None,
        command: Command::Usage,
    };
    for row in rows(Program::Command) {
        if let Some((_, value)) = from_environment(row, lookup) {
            request.set(row.meaning, &value);
        }
    }
    let mut args = args.into_iter().peekable();
    while let Some(arg) = args.next() {
        let is_last = args.peek().is_none();
        let end = match arg.as_bytes() {
            b"-h" | b"--help" if is_last => Some(Command::Help),
            b"--version" if is_last => Some(Command::Version),
            b"--version" => Some(Command::Unknown),
            b"h" | b"--help" | b"?" => Some(Command::Usage),
            _ => None,
        };
        if let Some(command) = end {
            return Request { command, ..request };
        }
        let command = match find(Program::Command, &arg) {
            Some((row, _, attached)) => {
                let value = match (row.takes, attached) {
                    (Takes::Nothing, None) => Some(OsString::new()),
                    (Takes::Nothing, Some(_)) => None,
                    (_, attached) => attached.or_else(|| args.next()),
                };
                match value {
                    Some(value) => {
                        request.set(row.meaning, &value);
                        continue;
                    }
                    None => None,
                }
            }
            None => look_up(&arg.to_string_lossy(), || args.next()),
        };
        match command {
            Some(command) => request.command = command,
            None => return Request { command: Command::Unknown, ..request },
        }
    }
    request
}

impl Request {
    fn set(&mut self, meaning: Meaning, value: &OsString) {
        match meaning {
            Meaning::Host => self.host = value.to_string_lossy().into_owned(),
            Meaning::Port => {
                self.port = value.to_str().and_then(|text| text.parse().ok()).unwrap_or(0);
                self.port_given = true;
            }
            Meaning::SecretFile => self.secret_file = Some(value.into()),
            Meaning::Json => self.json = true,
            _ => {}
        }
    }
}

/// The command that `word` is for, which may take another word.
fn look_up(word: &str, next: impl FnOnce() -> Option<OsString>) -> Option<Command> {
    let word = word.trim_start_matches('-');
    if let Some(number) =
        word.strip_prefix('i').filter(|n| n.starts_with(|c: char| c.is_ascii_digit()))
    {
        return number.parse().ok().map(Command::Interval);
    }
    let is_it = |entry: &&Word| {
        let mut listed = entry.listed.split_whitespace().map(|w| w.trim_start_matches('-'));
        listed.any(|w| w == word) || entry.unlisted.split_whitespace().any(|w| w == word)
    };
    match WORDS.iter().find(is_it)?.command {
        Command::Interval(_) => next()?.to_str()?.parse().ok().map(Command::Interval),
        command => Some(command),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(line: &str) -> Request {
        parse(line.split_whitespace().map(OsString::from), &|_| None)
    }

    #[test]
    fn every_word_with_any_dashes() {
        for entry in WORDS {
            let (command, more) = match entry.command {
                Command::Interval(_) => (Command::Interval(7), " 7"),
                command => (command, ""),
            };
            let listed = entry.listed.split_whitespace().map(|w| w.trim_start_matches('-'));
            for word in listed.chain(entry.unlisted.split_whitespace()) {
                for dashes in ["", "-", "--", "---"] {
                    let expected = match (dashes, word) {
                        ("-", "h") | ("--", "help") => Command::Help,
                        _ => command,
                    };
                    let line = format!("{dashes}{word}{more}");
                    assert_eq!(request(&line).command, expected, "{line}");
                }
            }
        }
        for line in ["i5", "-i5", "--i5", "-i 5", "interval 5"] {
            assert_eq!(request(line).command, Command::Interval(5), "{line}");
        }
    }

    #[test]
    fn the_last_command_counts() {
        assert_eq!(request("-s -l c").command, Command::Checkpoint);
        assert_eq!(request("-c -i 5 -q").command, Command::Quit);
        assert_eq!(request("s --help").command, Command::Help);
        assert_eq!(request("--help s").command, Command::Usage);
        assert_eq!(request("h s").command, Command::Usage);
        assert_eq!(request("--version").command, Command::Version);
        assert_eq!(request("").command, Command::Usage);
        for bad in ["-s bogus", "--version s", "-i", "-i x", "-i5x", "--port", "S", "-", "--json=1"]
        {
            assert_eq!(request(bad).command, Command::Unknown, "{bad}");
        }
    }

    #[test]
    fn where_the_coordinator_is() {
        let plain = request("s");
        assert_eq!((&*plain.host, plain.port, plain.port_given), ("localhost", 7779, false));
        for line in
            ["-h n -p 8 s", "s --host n --port 8", "--coord-host n -p8 s", "--port=8 -h n s"]
        {
            let got = request(line);
            assert_eq!((&*got.host, got.port, got.port_given), ("n", 8, true), "{line}");
            assert_eq!(got.command, Command::Status, "{line}");
        }
        assert_eq!(request("-p x s").port, 0);
        assert!(request("--json s").json && !request("bogus --json").json);
        assert_eq!(request("--secret-file f s").secret_file, Some("f".into()));

        let args = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        let env = |name: &str| match name {
            "DMTCP_COORD_HOST" => Some("a".into()),
            "DMTCP_HOST" => Some("b".into()),
            "DMTCP_PORT" => Some("9".into()),
            _ => None,
        };
        let got = parse(args("s"), &env);
        assert_eq!((&*got.host, got.port, got.port_given), ("a", 9, true));
        let got = parse(args("-h c -p 10 s"), &env);
        assert_eq!((&*got.host, got.port), ("c", 10));
    }
}
