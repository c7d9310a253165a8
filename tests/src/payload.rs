//! The programs under test.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use crate::tools::tools;

/// A program, how it is made and how it is run.
#[derive(Debug, Clone, Copy)]
pub struct Payload {
    /// Its name: that of its source file without the ending.
    pub name: &'static str,
    kind: Kind,
    /// What its environment holds besides.
    pub environment: &'static [(&'static str, &'static str)],
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A C program and its compiler flags.
    C(&'static [&'static str]),
    /// A Rust program, compiled by itself.
    Rust,
    /// A script and its interpreter's command line.
    Script(&'static str, &'static [&'static str]),
}

const fn new(name: &'static str, kind: Kind) -> Payload {
    Payload { name, kind, environment: &[] }
}

/// All of them.
pub const ALL: &[Payload] = &[
    new("shell", Kind::Script("shell.sh", &["bash"])),
    new("births", Kind::Script("births.sh", &["bash"])),
    new("numpy_pool", Kind::Script("numpy_pool.py", &["python3"])),
    new("perl", Kind::Script("perl.pl", &["perl"])),
    new("tcl", Kind::Script("tcl.tcl", &["tclsh"])),
    new("awk", Kind::Script("awk.awk", &["awk", "-f"])),
    new("threads", Kind::C(&[])),
    new("vectors", Kind::C(&["-fopenmp", "-lm"])),
    new("signals", Kind::C(&[])),
    new("blocked", Kind::C(&[])),
    new("static", Kind::C(&["-static"])),
    new("channels", Kind::Rust),
    Payload { name: "memory", kind: Kind::C(&[]), environment: &[("MIB", "256")] },
    new("forkbomb", Kind::C(&[])),
    new("family", Kind::C(&[])),
    new("objects", Kind::C(&[])),
    new("state", Kind::C(&[])),
    new("restless", Kind::C(&[])),
    new("faithful", Kind::C(&[])),
    new("unsupported", Kind::C(&[])),
    new("identity", Kind::C(&[])),
    new("pause", Kind::C(&[])),
    new("changes", Kind::C(&[])),
    new("counted", Kind::C(&[])),
    new("lazy", Kind::C(&[])),
    new("critical", Kind::C(&[])),
    new("filled", Kind::C(&[])),
    new("parts", Kind::C(&[])),
    new("dmtcp_api", Kind::C(&["-fPIC"])),
];

/// The payload of that name.
pub fn payload(name: &str) -> Payload {
    *ALL.iter().find(|p| p.name == name).unwrap_or_else(|| panic!("there is no payload {name}"))
}

impl Payload {
    /// Another environment than its usual one.
    #[must_use]
    pub fn with(self, environment: &'static [(&'static str, &'static str)]) -> Self {
        Self { environment, ..self }
    }

    /// Compiles or copies it from `sources` into `folder`.
    pub(crate) fn build(&self, sources: &Path, folder: &Path) {
        let source = |ending| sources.join(format!("{}.{ending}", self.name));
        let mut command = match self.kind {
            Kind::C(flags) => {
                let mut cc = Command::new("cc");
                cc.args(["-O2", "-pthread", "-o"]).arg(folder.join(self.name));
                cc.arg(source("c")).args(flags);
                cc
            }
            Kind::Rust => {
                let mut rustc = Command::new("rustc");
                rustc.args(["-O", "--edition", "2024", "-o"]).arg(folder.join(self.name));
                rustc.arg(source("rs"));
                rustc
            }
            Kind::Script(file, _) => {
                let mut cp = Command::new("cp");
                cp.arg(sources.join(file)).arg(folder);
                cp
            }
        };
        let status = command.status();
        assert!(status.is_ok_and(|s| s.success()), "cannot make {}: {command:?}", self.name);
    }

    /// The command line, up to the name of the output file.
    ///
    /// # Panics
    ///
    /// When its interpreter is missing.
    pub fn command(&self) -> Vec<String> {
        let folder = tools().payloads.display();
        match self.kind {
            Kind::C(_) | Kind::Rust => vec![format!("{folder}/{}", self.name)],
            Kind::Script(file, interpreter) => {
                let mut words: Vec<String> = interpreter.iter().map(|&w| w.to_owned()).collect();
                words[0] = interpreter_of(&words[0]);
                words.push(format!("{folder}/{file}"));
                words
            }
        }
    }
}

pub(crate) fn interpreter_of(name: &str) -> String {
    let found = match name {
        // The python3 of PATH may be one that lacks numpy, or is in somebody's home.
        "python3" => python().to_owned(),
        name => ["/usr/bin", "/bin", "/usr/local/bin"]
            .map(|folder| format!("{folder}/{name}"))
            .into_iter()
            .find(|path| Path::new(path).exists()),
    };
    found.unwrap_or_else(|| panic!("{name} is missing here; `cargo xtask test` says how to get it"))
}

fn python() -> &'static Option<String> {
    static PYTHON: OnceLock<Option<String>> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let works = |python: &&str| {
            let check = Command::new(python).args(["-c", "import numpy"]).output();
            check.is_ok_and(|check| check.status.success())
        };
        ["/usr/bin/python3", "python3"].into_iter().find(works).map(str::to_owned)
    })
}
