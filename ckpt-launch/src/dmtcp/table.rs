//! Every option of DMTCP's four commands, one row each. (What `dmtcp_command` asks for, its words,
//! are in [`command`](super::command).)
//!
//! Parser, usage texts and tests read this table and nothing else. Most of DMTCP's options steer the
//! machinery inside the job's processes, which the native engine does not have: they are accepted,
//! and named to the user as [`Meaning::Nothing`].

use super::Program::{self, Command, Coordinator, Launch, Restart};
use super::options::Mode;

/// What an option means to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    Host,
    Port,
    PortFile,
    Mode(Mode),
    Interval,
    Gzip(bool),
    CkptDir,
    OpenFiles,
    Overwrite,
    Unique(bool),
    TmpDir,
    Quiet,
    LogFile,
    RestartDir,
    NoStrictChecking,
    ExitOnLast,
    KillAfterCkpt,
    Timeout,
    StaleTimeout,
    Daemon,
    StatusFile,
    Bind,
    SecretFile,
    Json,
    Help,
    Version,
    /// Accepted, and said to be without effect.
    Nothing,
}

/// What follows an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// Nothing.
    Nothing,
    /// A number, called so in the usage; short options may have its digits glued on (`-p7779`).
    Number(&'static str),
    /// Anything, called so in the usage.
    Text(&'static str),
}

/// An environment variable that stands for an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Env {
    /// Its value is the option's argument.
    Value(&'static str),
    /// It has this value.
    Is(&'static str, &'static str),
    /// It is there, whatever its value.
    Set(&'static str),
}

impl Env {
    /// The variable's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Value(name) | Self::Is(name, _) | Self::Set(name) => name,
        }
    }
}

/// One option.
#[derive(Debug)]
pub struct Row {
    /// The commands that know it.
    pub programs: &'static [Program],
    /// Spellings in the usage text, separated by blanks.
    pub listed: &'static str,
    /// Other spellings that DMTCP accepts.
    pub unlisted: &'static str,
    /// What follows.
    pub takes: Takes,
    /// Variables that stand for it, the most important first.
    pub env: &'static [Env],
    /// What it means to us.
    pub meaning: Meaning,
    /// Its line in the usage text.
    pub help: &'static str,
}

impl Row {
    const fn new(
        programs: &'static [Program],
        listed: &'static str,
        meaning: Meaning,
        help: &'static str,
    ) -> Self {
        Self { programs, listed, unlisted: "", takes: Takes::Nothing, env: &[], meaning, help }
    }

    /// An option that steers what the native engine does not have.
    const fn mute(programs: &'static [Program], listed: &'static str) -> Self {
        Self::new(programs, listed, Meaning::Nothing, "")
    }

    const fn also(mut self, unlisted: &'static str) -> Self {
        self.unlisted = unlisted;
        self
    }

    const fn text(mut self, called: &'static str) -> Self {
        self.takes = Takes::Text(called);
        self
    }

    const fn number(mut self, called: &'static str) -> Self {
        self.takes = Takes::Number(called);
        self
    }

    const fn env(mut self, env: &'static [Env]) -> Self {
        self.env = env;
        self
    }

    /// All spellings, the listed ones first.
    pub fn spellings(&self) -> impl Iterator<Item = &'static str> {
        self.listed.split_whitespace().chain(self.unlisted.split_whitespace())
    }
}

/// The rows that `program` knows.
pub fn rows(program: Program) -> impl Iterator<Item = &'static Row> {
    ROWS.iter().filter(move |row| row.programs.contains(&program))
}

const JOBS: &[Program] = &[Launch, Restart];
const CLIENTS: &[Program] = &[Launch, Restart, Command];
const SERVERS: &[Program] = &[Launch, Restart, Coordinator];
const ALL: &[Program] = &[Launch, Restart, Coordinator, Command];

/// The table.
#[rustfmt::skip]
pub const ROWS: &[Row] = {
    use Env::{Is, Set, Value};
    use Meaning as M;
    &[
        Row::new(CLIENTS, "-h --coord-host", M::Host, "Where the coordinator runs (default: 127.0.0.1)")
            .also("--host").text("HOSTNAME").env(&[Value("DMTCP_COORD_HOST"), Value("DMTCP_HOST")]),
        Row::new(ALL, "-p --coord-port", M::Port, "The coordinator's port (default: 7779); 0: any free one")
            .also("--port").number("PORT_NUM").env(&[Value("DMTCP_COORD_PORT"), Value("DMTCP_PORT")]),
        Row::new(SERVERS, "--port-file", M::PortFile, "Write the port that is used to this file").text("FILENAME"),
        Row::new(JOBS, "-j --join-coordinator", M::Mode(Mode::Join), "Join a coordinator; fail if there is none")
            .also("--join"),
        Row::new(JOBS, "--new-coordinator", M::Mode(Mode::New),
            "Start a coordinator, at any free port if none is given; fail if that port is taken"),
        Row::new(JOBS, "--any-coordinator", M::Mode(Mode::Any),
            "Join the coordinator at the given port if there is one, else start it (the default)"),
        Row::new(SERVERS, "-i --interval", M::Interval,
            "Time between automatic checkpoints; 0: only on request (default: the coordinator's, 0)")
            .number("SECONDS").env(&[Value("DMTCP_CHECKPOINT_INTERVAL")]),
        Row::new(&[Launch], "--gzip", M::Gzip(true), "Compress images (default)").env(&[Is("DMTCP_GZIP", "1")]),
        Row::new(&[Launch], "--no-gzip", M::Gzip(false), "Store images as they are").env(&[Is("DMTCP_GZIP", "0")]),
        Row::new(SERVERS, "--ckptdir", M::CkptDir,
            "Directory for images (default: the current one, or that of the image); the coordinator's restart script")
            .also("-c").text("PATH").env(&[Value("DMTCP_CHECKPOINT_DIR")]),
        Row::new(&[Restart], "--restartdir", M::RestartDir, "Restart all images in this directory").also("-r").text("DIR"),
        Row::new(&[Launch], "--ckpt-open-files --checkpoint-open-files", M::OpenFiles,
            "Save the files along that are open").env(&[Set("DMTCP_CKPT_OPEN_FILES")]),
        Row::new(&[Launch], "--allow-file-overwrite", M::Overwrite,
            "With --ckpt-open-files: saved files may replace those found at restart")
            .env(&[Set("DMTCP_ALLOW_OVERWRITE_WITH_CKPTED_FILES")]),
        Row::new(&[Launch], "--enable-unique-checkpoint-filenames", M::Unique(true),
            "Give each generation a directory of its own").env(&[Is("DMTCP_UNIQUE_CKPT_PLUGIN", "1")]),
        Row::new(&[Launch], "--disable-unique-checkpoint-filenames", M::Unique(false),
            "Put all generations into one directory (default)").env(&[Is("DMTCP_UNIQUE_CKPT_PLUGIN", "0")]),
        Row::new(&[Restart], "--no-strict-checking", M::NoStrictChecking, "Take images of other users too")
            .env(&[Set("DMTCP_DISABLE_STRICT_CHECKING")]),
        Row::new(SERVERS, "--tmpdir", M::TmpDir, "Directory for temporary files (default: $TMPDIR or /tmp)")
            .also("-t").text("PATH").env(&[Value("DMTCP_TMPDIR"), Value("TMPDIR")]),
        Row::new(&[Coordinator], "--status-file", M::StatusFile, "Write host, port and times to this file").text("FILENAME"),
        Row::new(&[Coordinator], "--exit-on-last", M::ExitOnLast, "Exit when the last client is gone"),
        Row::new(&[Coordinator], "--kill-after-ckpt", M::KillAfterCkpt, "Kill the job after each checkpoint"),
        Row::new(&[Coordinator], "--timeout", M::Timeout, "Exit after this time, busy or not").number("SECONDS"),
        Row::new(&[Coordinator], "--stale-timeout", M::StaleTimeout,
            "Exit after this time without a job (default: 28800); -1: never").number("SECONDS"),
        Row::new(&[Coordinator], "--daemon", M::Daemon, "Go to the background"),
        Row::new(SERVERS, "-q --quiet", M::Quiet, "Skip notes; given twice, warnings too").env(&[Value("DMTCP_QUIET")]),
        Row::new(SERVERS, "--coord-logfile", M::LogFile, "File that the coordinator logs to")
            .text("PATH").env(&[Value("DMTCP_COORD_LOG_FILENAME")]),
        Row::new(SERVERS, "--bind", M::Bind, "Not in DMTCP: address that the coordinator listens on (default: 127.0.0.1)")
            .text("ADDR").env(&[Value("CKPT_BIND")]),
        Row::new(ALL, "--secret-file", M::SecretFile, "Not in DMTCP: file with the secret that lets clients in")
            .text("FILE").env(&[Value("CKPT_SECRET_FILE")]),
        Row::new(&[Command], "--json", M::Json, "Answer in one line of JSON"),
        Row::new(CLIENTS, "--help", M::Help, "Print this message and exit"),
        Row::new(&[Coordinator], "-h --help", M::Help, "Print this message and exit"),
        Row::new(ALL, "--version", M::Version, "Print the version and exit"),

        Row::mute(&[Launch], "--ckpt-signal").number("SIGNUM").env(&[Value("DMTCP_SIGCKPT")]),
        Row::mute(&[Launch], "--with-plugin").text("PLUGINS").env(&[Value("DMTCP_PLUGIN")]),
        Row::mute(&[Launch], "--modify-env"),
        Row::mute(&[Launch], "--pathvirt").env(&[Set("DMTCP_PATH_MAPPING"), Set("DMTCP_PATH_PREFIX")]),
        Row::mute(&[Launch], "--disable-alloc-plugin").env(&[Is("DMTCP_ALLOC_PLUGIN", "0")]),
        Row::mute(&[Launch], "--disable-dl-plugin").env(&[Is("DMTCP_DL_PLUGIN", "0")]),
        Row::mute(&[Launch], "--disable-ssh-plugin").env(&[Is("DMTCP_SSH_PLUGIN", "0")]),
        Row::mute(&[Launch], "--disable-event-plugin").env(&[Is("DMTCP_EVENT_PLUGIN", "0")]),
        Row::mute(&[Launch], "--disable-file-plugin").env(&[Is("DMTCP_FILE_PLUGIN", "0")]),
        Row::mute(&[Launch], "--disable-pty-plugin").env(&[Is("DMTCP_PTY_PLUGIN", "0")]),
        Row::mute(&[Launch], "--disable-socket-plugin").env(&[Is("DMTCP_SOCKET_PLUGIN", "0")]),
        Row::mute(&[Launch], "--disable-svipc-plugin").env(&[Is("DMTCP_SVIPC_PLUGIN", "0")]),
        Row::mute(&[Launch], "--disable-timer-plugin").env(&[Is("DMTCP_TIMER_PLUGIN", "0")]),
        Row::mute(&[Launch], "--disable-pid-plugin").env(&[Is("DMTCP_PID_PLUGIN", "0")]),
        Row::mute(&[Launch], "").also("--disable-ipc-plugin"),
        Row::mute(&[Launch], "--disable-all-plugins").also("--no-plugins").env(&[Is("DMTCP_DISABLE_ALL_PLUGINS", "1")]),
        Row::mute(&[Launch], "--kernel-loader"),
        Row::mute(&[Restart], "--debug-restart-pause").number("1..7")
            .env(&[Value("DMTCP_RESTART_PAUSE"), Value("MTCP_RESTART_PAUSE")]),
        Row::mute(&[Restart], "").also("--gdb").number("LEVEL").env(&[Value("DMTCP_GDB_ATTACH_ON_RESTART")]),
        Row::mute(&[Coordinator], "--write-kv-data").env(&[Is("DMTCP_COORD_WRITE_KV_DATA", "1")]),
    ]
};
