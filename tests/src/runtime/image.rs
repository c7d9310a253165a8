//! The images: folders, each with the `root` of a file system and an `id` that changes with it.

use super::cache::Part;
use super::podman_hpc;

/// What a test's job runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    /// A small Debian: bash, coreutils, python3.
    Bash,
    /// The same with Geant4 for Python.
    Geant4,
    /// A static program and nothing else, no shell, no C library: the payload `static`, as
    /// `/payload`.
    Bare,
    /// The payload `threads` as `/payload`, and the C library that it needs, which is musl.
    Musl,
    /// As [`Image::Bash`], but another build: bash and the C library have other build IDs.
    Other,
}

/// Its shared objects of libGL are unpacked by themselves, as what they depend on is very large and
/// only draws.
const BASE: &str = r#"
    . /etc/os-release
    debootstrap --variant=minbase \
        --include=python3-minimal,libpython3-stdlib,libx11-6,libxext6,libsm6 \
        "$VERSION_CODENAME" root
    chroot root sh -c 'cd /tmp && apt-get download libgl1 libglx0 libglvnd0'
    for package in root/tmp/*.deb; do dpkg -x "$package" root; done
    cd root
    rm -rf tmp/* var/cache/apt/* var/lib/apt/lists/* usr/share/doc usr/share/man usr/share/locale
    mkdir -p opt home
"#;

const SAME: &str = r#"
    cp -al "$1/root" root
"#;

/// Files are shared with the image below: they are replaced, not written to.
const OTHER: &str = r#"
    cp -al "$1/root" root
    echo other >root/etc/other
    /usr/bin/python3 - root/usr/bin/bash root/usr/lib/x86_64-linux-gnu/libc.so.6 <<'END'
import os, shutil, sys
for path in map(os.path.realpath, sys.argv[1:]):
    with open(path, "rb") as file:
        data = bytearray(file.read())
    note = data.index(b"\4\0\0\0\x14\0\0\0\3\0\0\0GNU\0") + 16
    data[note] ^= 0xFF
    with open(path + ".new", "wb") as file:
        file.write(data)
    shutil.copymode(path, path + ".new")
    os.replace(path + ".new", path)
END
"#;

const GEANT4: &str = r#"
    cp -al "$1/root" root
    version=$(chroot root python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$2/venv/bin/pip" install -q --no-deps --only-binary=:all: --python-version "$version" \
        --target root/usr/lib/python3/dist-packages geant4-pybind==0.1.3
"#;

const BARE: &str = r#"
    mkdir -p root/dev root/etc root/home root/opt root/proc root/sys root/tmp
    cc -O2 -pthread -static -o root/payload "$PAYLOADS/static.c"
"#;

const MUSL: &str = r#"
    mkdir -p root/dev root/etc root/home root/lib root/opt root/proc root/sys root/tmp
    cp -L /lib/ld-musl-x86_64.so.1 root/lib/
    chmod 755 root/lib/ld-musl-x86_64.so.1
    musl-gcc -O2 -pthread -o root/payload "$PAYLOADS/threads.c"
"#;

const HEADER: &str = include_str!("../../payloads/payload.h");

const ID: &str = "tar --sort=name -C root -c . | sha256sum | cut -d ' ' -f 1 >id\n";

impl Image {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Bash, Self::Geant4, Self::Bare, Self::Musl, Self::Other];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Geant4 => "geant4",
            Self::Bare => "bare",
            Self::Musl => "musl",
            Self::Other => "other",
        }
    }

    pub(super) fn part(self) -> Part {
        let base = Part::new("base", BASE, &[], &[]);
        let (script, sources, on): (_, &[&str], &[&Part]) = match self {
            Self::Bash => (SAME, &[], &[&base]),
            Self::Other => (OTHER, &[], &[&base]),
            Self::Geant4 => (GEANT4, &[], &[&base, &podman_hpc::venv()]),
            Self::Bare => (BARE, &[HEADER, include_str!("../../payloads/static.c")], &[]),
            Self::Musl => (MUSL, &[HEADER, include_str!("../../payloads/threads.c")], &[]),
        };
        Part::new(self.name(), &format!("{script}{ID}"), sources, on)
    }
}
