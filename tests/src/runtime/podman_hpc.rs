//! podman-hpc, NERSC's wrapper of podman, from PyPI. It has a store and settings of its own, and runs
//! containers on fuse-overlayfs, without a seccomp filter.

use std::path::PathBuf;

use super::cache::Part;
use super::{made, open_fuse, podman};
use crate::user::User;

const VENV: &str = r#"
    /usr/bin/python3 -m venv venv
    venv/bin/pip install -q podman-hpc==1.2.2
    chmod 755 venv/bin/fuse-overlayfs-wrap
"#;

const SCRIPT: &str = r#"
    mkdir -p bin hooks.d STAYS/podman-hpc-config/containers
    cat >podman_hpc.yaml <<END
podman_bin: /usr/bin/podman
mount_program: $1/venv/bin/fuse-overlayfs-wrap
modules_dir: $1/venv/etc/podman_hpc/modules.d
hooks_dir: $PWD/hooks.d
graph_root_template: STAYS/podman-hpc
run_root_template: GOES/podman-hpc
config_home_template: STAYS/podman-hpc-config
END
    cat >STAYS/podman-hpc-config/containers/containers.conf <<END
[containers]
netns = "none"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "GOES/podman-hpc-tmp"
END
    cat >bin/podman-hpc <<END
#!/bin/sh
export PODMANHPC_CONFIG_FILE=$PWD/podman_hpc.yaml STORAGE_DRIVER=overlay
export SQUASH_DIR=STAYS/podman-hpc-squash
export PATH="\$PATH:/usr/bin:/usr/sbin:$1/venv/bin" USER="\${USER:-\$(id -un)}"
exec $1/venv/bin/podman-hpc "\$@"
END
    chmod 755 bin/podman-hpc
    chown -R ":$GROUP" STAYS/podman-hpc-config
    chmod -R g+w STAYS/podman-hpc-config
"#;

/// A folder `venv` with it, and with pip.
pub(super) fn venv() -> Part {
    Part::new("venv", VENV, &[], &[])
}

pub(super) fn ready(user: &User) -> PathBuf {
    open_fuse();
    let script = podman::placed(SCRIPT, user);
    let bin = made(Part::new("podman-hpc", &script, &[], &[&venv()]).folder()).join("bin");
    podman::settle(user, &bin.join("podman-hpc"));
    bin
}
