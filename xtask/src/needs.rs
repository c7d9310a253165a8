//! What the tests need of a machine: installed where we may, else reported.

use std::process::{Command, Stdio};

use crate::{Result, cargo, must};

/// A thing, how it is seen that it is there, and Debian's packages that bring it.
struct Need {
    what: &'static str,
    check: &'static str,
    packages: &'static [&'static str],
}

const NEEDS: &[Need] = &[
    Need { what: "a C compiler", check: "cc --version", packages: &["gcc", "libc6-dev"] },
    Need {
        what: "OpenMP and static C libraries",
        check: "cd /tmp && d=$(mktemp -d) && cd $d && echo 'int main(){}' > a.c && \
                cc -static a.c && cc -fopenmp a.c; s=$?; rm -rf $d; exit $s",
        packages: &["gcc", "libc6-dev"],
    },
    Need {
        what: "python3 with numpy and a threaded BLAS",
        check: "/usr/bin/python3 -c 'import numpy' && ls /usr/lib/*/openblas-pthread/libblas.so.3",
        packages: &["python3-numpy", "libopenblas0-pthread"],
    },
    Need {
        what: "what links a library for C",
        check: "c++ --version && pkg-config --version && nm --version",
        packages: &["g++", "pkg-config", "binutils"],
    },
    Need { what: "perl", check: "perl -e 1", packages: &["perl"] },
    Need { what: "tclsh", check: "echo exit | tclsh", packages: &["tcl"] },
    Need { what: "awk", check: "awk 'BEGIN { exit }'", packages: &["gawk"] },
    Need { what: "mount", check: "mount --version", packages: &["mount"] },
    Need { what: "ip", check: "ip -V", packages: &["iproute2"] },
    Need { what: "strace", check: "strace -V", packages: &["strace"] },
    Need { what: "useradd", check: "useradd --help", packages: &["passwd"] },
    Need {
        what: "rootless podman",
        check: "podman --version && runc --version && newuidmap 2>&1 | grep -q usage",
        packages: &["podman", "runc", "uidmap", "fuse-overlayfs", "tar"],
    },
    Need {
        what: "what makes images and other container runtimes",
        check: "debootstrap --version && bwrap --version && musl-gcc --version && \
                /usr/bin/python3 -c 'import ensurepip'",
        packages: &["debootstrap", "bubblewrap", "musl-tools", "python3-venv"],
    },
    Need {
        what: "Slurm",
        // Its other commands want a configuration before they say anything.
        check: "slurmctld -V && slurmd -V && munged --version && \
                command -v sbatch && command -v srun",
        packages: &["slurmctld", "slurmd", "slurm-client", "munge"],
    },
];

fn there(check: &str) -> bool {
    let mut shell = Command::new("sh");
    shell.env("PATH", path()).args(["-c", check]).stdin(Stdio::null());
    shell.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

/// With the folders that an ordinary user's lacks.
fn path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

/// Installs or reports what is missing.
pub fn meet() -> Result {
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| !there(need.check)).collect();
    if !missing.is_empty() {
        let mut packages: Vec<&str> = missing.iter().flat_map(|n| n.packages).copied().collect();
        packages.dedup();
        let what: Vec<&str> = missing.iter().map(|need| need.what).collect();
        println!("missing here: {}", what.join(", "));
        if !there("test $(id -u) = 0 && apt-get --version") {
            let packages = packages.join(" ");
            return Err(format!("ask root to `apt-get install {packages}`, then try again"));
        }
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        must(Command::new("apt-get").args(["-qq", "update"]))?;
        must(apt.args(["-qq", "install", "-y", "--no-install-recommends"]).args(packages))?;
        if let Some(need) = NEEDS.iter().find(|need| !there(need.check)) {
            return Err(format!("{} is still missing; looked for with: {}", need.what, need.check));
        }
    }
    if !there("cargo-nextest --version") {
        must(cargo().args(["install", "cargo-nextest", "--locked"]))?;
    }
    Ok(())
}
