//! What went wrong, in words that a user can act upon.
//!
//! Every failure names the action that failed, the object it failed on, whose object that is and
//! what to do about it. The [`ErrorKind`] decides the exit status (`sysexits.h` numbers).

use std::fmt;
use std::io;

/// Shorthand for a result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The class of a failure; callers branch on it, and the commands exit with its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request itself makes no sense (exit 64, `EX_USAGE`).
    Usage,
    /// An image or another input is damaged or not ours (exit 65, `EX_DATAERR`).
    Damaged,
    /// There is no image, no job or no file where one was expected (exit 66, `EX_NOINPUT`).
    NotFound,
    /// The job uses something that cannot be saved or brought back here (exit 69, `EX_UNAVAILABLE`).
    Unsupported,
    /// A defect of ours (exit 70, `EX_SOFTWARE`).
    Internal,
    /// The kernel refused something it should not have (exit 71, `EX_OSERR`).
    Os,
    /// A file could not be read or written, no space among others (exit 74, `EX_IOERR`).
    Io,
    /// It may work on another try: busy, timed out (exit 75, `EX_TEMPFAIL`).
    Busy,
    /// Permission denied (exit 77, `EX_NOPERM`).
    Permission,
    /// A process ended while it was being worked on (exit 75, `EX_TEMPFAIL`).
    Gone,
    /// The job was changing its shape while it was being frozen (exit 75, `EX_TEMPFAIL`).
    Disturbed,
}

impl ErrorKind {
    /// The exit status that the commands end with on such a failure.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Usage => 64,
            Self::Damaged => 65,
            Self::NotFound => 66,
            Self::Unsupported => 69,
            Self::Internal => 70,
            Self::Os => 71,
            Self::Io => 74,
            Self::Busy | Self::Gone | Self::Disturbed => 75,
            Self::Permission => 77,
        }
    }
}

impl ErrorKind {
    /// The class that a command has ended with.
    pub(crate) fn of_exit_code(code: u8) -> Self {
        let all = [
            Self::Usage,
            Self::Damaged,
            Self::NotFound,
            Self::Unsupported,
            Self::Os,
            Self::Io,
            Self::Busy,
            Self::Permission,
        ];
        all.into_iter().find(|kind| kind.exit_code() == code).unwrap_or(Self::Internal)
    }
}

/// A failure: what was being done, to which object, whose, why it failed and what to do.
#[derive(Debug)]
pub struct Error(Box<Parts>);

#[derive(Debug)]
struct Parts {
    kind: ErrorKind,
    what: String,
    owner: Option<String>,
    help: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A failure of `kind`; `what` is a full phrase that names action and object
    /// ("cannot open /scratch/x.ckpt").
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self(Box::new(Parts { kind, what: what.into(), owner: None, help: None, source: None }))
    }

    /// A failed system call; the kind follows from `errno`.
    pub fn os(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        let source: io::Error = source.into();
        let kind = match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES | libc::EROFS) => ErrorKind::Permission,
            Some(libc::ENOENT) => ErrorKind::NotFound,
            Some(libc::ESRCH) => ErrorKind::Gone,
            Some(libc::EBUSY | libc::EAGAIN | libc::ETIMEDOUT) => ErrorKind::Busy,
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG | libc::EIO) => ErrorKind::Io,
            _ => ErrorKind::Os,
        };
        let mut error = Self::new(kind, what);
        if let Some(libc::ENOSPC | libc::EDQUOT) = source.raw_os_error() {
            error = error.help("free some space there, or name another folder with --ckptdir");
        }
        error.source(source)
    }

    /// Says whose object it was: the process (`pid`, as seen from here) and its command name.
    #[must_use]
    pub fn of_process(mut self, pid: i32, comm: &str) -> Self {
        if self.0.owner.is_none() {
            self.0.owner = Some(format!("process {pid} ({comm})"));
        }
        self
    }

    /// Says what the user can do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.0.help = Some(help.into());
        self
    }

    /// Adds the underlying error.
    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Replaces the class.
    #[must_use]
    pub fn kind_is(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// The class of this failure.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What the user can do about it, if anything is known.
    pub fn guidance(&self) -> Option<&str> {
        self.0.help.as_deref()
    }

    /// Whose object it was, if that is known: "process 42 (python3)".
    pub fn owner(&self) -> Option<&str> {
        self.0.owner.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)?;
        if let Some(owner) = &self.0.owner {
            write!(f, " of {owner}")?;
        }
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        if let Some(help) = &self.0.help {
            write!(f, "; {help}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|s| s.as_ref() as _)
    }
}
