//! Debian's podman, rootless, with an image store of its own and settings that work on any machine:
//! crun wants a cgroup v2 of its own and slirp4netns a /dev/net/tun, which not every one has.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::cache::{Part, cache, lock, users_folder};
use super::{Image, Runtime, made};
use crate::user::User;

const SCRIPT: &str = r#"
    mkdir bin
    cat >storage.conf <<END
[storage]
driver = "overlay"
rootless_storage_path = "STAYS/podman"
END
    cat >containers.conf <<END
[containers]
netns = "none"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "GOES/podman-tmp"
END
    cat >bin/podman <<END
#!/bin/sh
export CONTAINERS_CONF=$PWD/containers.conf CONTAINERS_STORAGE_CONF=$PWD/storage.conf
exec /usr/bin/podman --runroot GOES/podman "\$@"
END
    chmod 755 bin/podman
"#;

/// Folders of the user's: for what stays, and for what must not outlive a boot.
fn stores(user: &User) -> (PathBuf, PathBuf) {
    let stays = cache().join(format!("store-{}", user.uid()));
    let goes = PathBuf::from(format!("/dev/shm/ckpt-tests-{}", user.uid()));
    users_folder(user, &stays);
    users_folder(user, &goes);
    (stays, goes)
}

/// The script with those in place of `STAYS` and `GOES`.
pub(super) fn placed(script: &str, user: &User) -> String {
    let (stays, goes) = stores(user);
    script
        .replace("STAYS", &stays.display().to_string())
        .replace("GOES", &goes.display().to_string())
}

pub(super) fn ready(user: &User) -> PathBuf {
    let bin = made(Part::new("podman", &placed(SCRIPT, user), &[], &[]).folder()).join("bin");
    settle(user, &bin.join("podman"));
    bin
}

/// The process that keeps podman's user namespace is started by the first command: let that be none
/// of a test's, which would find it among its own.
pub(super) fn settle(user: &User, program: &Path) {
    let _lock = lock("podman");
    let first = || {
        let mut command = user.command(program);
        command.args(["unshare", "true"]).current_dir("/").stdin(Stdio::null());
        command.output().expect("podman runs")
    };
    if first().status.success() {
        return;
    }
    // Where that process was killed among running containers, podman believes them to run for ever.
    forget(user, program);
    let output = first();
    assert!(output.status.success(), "podman: {}", String::from_utf8_lossy(&output.stderr));
}

/// Takes away what `program` knows of this boot's containers.
fn forget(user: &User, program: &Path) {
    let (_, goes) = stores(user);
    let name = program.file_name().expect("it is a program's").to_string_lossy();
    for folder in [goes.join(&*name), goes.join(format!("{name}-tmp"))] {
        let _ = std::fs::remove_dir_all(folder);
    }
}

/// The name of the image in the user's store.
pub(super) fn image(runtime: &Runtime, image: Image) -> String {
    let part = image.part();
    let root = made(part.folder()).join("root");
    let name = format!("localhost/ckpt-tests/{}:{}", image.name(), part.key());
    let program = runtime.kind().program();
    let _lock = lock(&format!("{program}-{}", part.title()));
    let there = runtime.command(program).args(["image", "exists", &name]).status();
    if !there.is_ok_and(|status| status.success()) {
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&root).args(["-c", "."]).stdout(Stdio::piped());
        let mut tar = tar.spawn().expect("tar runs");
        let mut import = runtime.command(program);
        import.args(["import", "-", &name]).stdin(tar.stdout.take().expect("it is piped"));
        let output = import.output().expect("podman runs");
        let tarred = tar.wait().is_ok_and(|status| status.success());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(tarred && output.status.success(), "{program} import: {said}");
    }
    name
}
