//! Apptainer, which is in Debian's unstable release only: that is installed in a folder of its own,
//! and `apptainer.c` lays it over this machine for the time of a command. Where it cannot be had,
//! bubblewrap stands in for it.

use std::path::PathBuf;

use super::cache::Part;
use super::{Image, made, open_fuse};

const SID: &str = r#"
    debootstrap --variant=minbase --include=apptainer,squashfs-tools,squashfuse sid root
    rm -rf root/var/cache/apt/* root/var/lib/apt/lists/* root/usr/share/doc root/usr/share/man
    chroot root apptainer --version
"#;

const SCRIPT: &str = r#"
    mkdir bin
    cc -O2 -Wall -Wextra -Werror -DROOT="\"$1/root\"" -o bin/apptainer "$SOURCES/apptainer.c"
    chown "root:$GROUP" bin/apptainer
    chmod 4750 bin/apptainer
"#;

/// Quick rather than small. Files belong to root, as in most images.
const FILE: &str = r#"
    "$2/bin/apptainer" build --mksquashfs-args '-comp zstd -Xcompression-level 1' image.sif "$1/root"
    chmod 644 image.sif
"#;

const STAND_IN: &str = r#"
    mkdir bin
    cp "$SOURCES/apptainer_stand_in.sh" bin/apptainer
    chmod 755 bin/apptainer
"#;

fn real() -> Part {
    let sid = Part::new("sid", SID, &[], &[]);
    Part::new("apptainer", SCRIPT, &[include_str!("apptainer.c")], &[&sid])
}

/// The folder with the command, and why it is a stand-in if it is one.
pub(super) fn ready() -> (PathBuf, Option<String>) {
    open_fuse();
    let real = match std::env::var_os("CKPT_TEST_STAND_IN") {
        Some(_) => Err("CKPT_TEST_STAND_IN is set".into()),
        None => real().folder(),
    };
    match real {
        Ok(folder) => (folder.join("bin"), None),
        Err(why) => {
            eprintln!("bubblewrap stands in for apptainer: {why}");
            let script = include_str!("apptainer_stand_in.sh");
            let part = Part::new("apptainer-stand-in", STAND_IN, &[script], &[]);
            (made(part.folder()).join("bin"), Some(why))
        }
    }
}

/// The image as a SIF file.
pub(super) fn file(image: Image) -> String {
    let part = Part::new(&format!("sif-{}", image.name()), FILE, &[], &[&image.part(), &real()]);
    made(part.folder()).join("image.sif").display().to_string()
}
