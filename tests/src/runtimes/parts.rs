//! What the runtimes are made of.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use super::{Runtimes, executable, must};

/// What Geant4's Python module wants of a Debian, beside Python itself.
const PACKAGES: &str = "python3,libgl1,libice6,libsm6,libx11-6,libxext6";
/// The module, from PyPI.
const GEANT4: &str = "geant4-pybind==0.1.3";
const PODMAN_HPC: &str = "podman-hpc==1.2.2";

/// The static set, newly copied whenever it is another.
pub(super) fn programs(all: &Runtimes) {
    // target/PROFILE/deps/this-test
    let own = std::env::current_exe().expect("a program knows its name");
    let target = own.ancestors().nth(3).expect("cargo's folders");
    let (from, to) = (target.join("dist/ckpt"), all.programs());
    fs::create_dir_all(&to).expect("the folder is ours");
    for name in ["ckpt-launch", "ckpt", "ckpt-restore", "libckpt_preload.so"] {
        let (from, to) = (from.join(name), to.join(name));
        let meta = fs::metadata(&from);
        let meta = meta.unwrap_or_else(|e| panic!("`cargo xtask test` makes {from:?}: {e}"));
        let same = |there: fs::Metadata| {
            (there.len(), there.mtime(), there.mtime_nsec())
                == (meta.len(), meta.mtime(), meta.mtime_nsec())
        };
        if !fs::metadata(&to).is_ok_and(same) {
            // Whatever runs keeps its old file.
            must(Command::new("cp").args(["-p", "--remove-destination"]).arg(&from).arg(&to));
        }
    }
}

fn debootstrap(include: &str, suite: &str, root: &Path) {
    let _left_by_a_crash = fs::remove_dir_all(root);
    let mut command = Command::new("debootstrap");
    command.args(["--variant=minbase", &format!("--include={include}"), suite]).arg(root);
    must(command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"));
}

/// This machine's Debian, with Python and Geant4.
pub(super) fn debian(all: &Runtimes) {
    let release = fs::read_to_string("/etc/os-release").expect("this is a Debian");
    let suite = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let root = all.at("debian");
    debootstrap(PACKAGES, suite.unwrap_or("stable"), &root);
    let python = fs::read_link(root.join("usr/bin/python3")).expect("python3 is in there");
    let version = python.to_string_lossy().replace("python", "");
    let into = root.join("usr/lib/python3/dist-packages");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]);
    pip.args(["--python-version", &version, "--target"]).arg(&into).arg(GEANT4);
    must(&mut pip);
    // Where folders of the host are bound to.
    for name in ["var/cache/apt/archives", "usr/share/doc", "usr/share/locale"] {
        let _ = fs::remove_dir_all(root.join(name));
    }
    let site = root.join("etc/ckpt-image");
    fs::write(site, "debian\n").expect("the root is ours");
}

/// Another Debian, that has Apptainer.
pub(super) fn sid(all: &Runtimes) {
    debootstrap("apptainer", "sid", &all.at("sid"));
}

pub(super) fn podman_hpc(all: &Runtimes) {
    let venv = all.at("venv");
    must(Command::new("/usr/bin/python3").args(["-m", "venv"]).arg(&venv));
    must(Command::new(venv.join("bin/pip")).args(["install", "--quiet", PODMAN_HPC]));
}

/// The programs that a user calls.
pub(super) fn wrappers(all: &Runtimes) {
    let bin = all.bin();
    let store = all.at("store");
    for folder in [&bin, &all.at("udi"), &all.at("images"), &store, &all.at("hooks.d")] {
        fs::create_dir_all(folder).expect("the folder is ours");
    }
    fs::create_dir_all(store.join("hpc")).expect("the folder is ours");
    all.user.own(&store);
    all.user.own(&store.join("hpc"));
    let run = format!("/dev/shm/ckpt-tests-{}", all.user.uid());
    let (at, store) = (all.folder.display(), store.display());
    let write = |name: &str, text: String| {
        fs::write(all.at(name), text).expect("the folder is ours");
    };
    write(
        "containers.conf",
        format!(
            "[containers]\nnetns = \"none\"\n[engine]\nruntime = \"runc\"\n\
             cgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\ntmp_dir = \"{run}/tmp\"\n"
        ),
    );
    write(
        "storage.conf",
        format!(
            "[storage]\ndriver = \"overlay\"\nrunroot = \"{run}/run\"\n\
             graphroot = \"{store}/podman\"\nrootless_storage_path = \"{store}/podman\"\n"
        ),
    );
    write(
        "hpc.yaml",
        format!(
            "podman_bin: /usr/bin/podman\nmount_program: {at}/venv/bin/fuse-overlayfs-wrap\n\
             modules_dir: {at}/venv/etc/podman_hpc/modules.d\nhooks_dir: {at}/hooks.d\n\
             graph_root_template: {store}/hpc/storage\nrun_root_template: {run}/hpc\n\
             config_home_template: {store}/hpc/config\n"
        ),
    );
    executable(
        &bin.join("podman"),
        &format!(
            "#!/bin/sh\nexport CONTAINERS_CONF={at}/containers.conf \
             CONTAINERS_STORAGE_CONF={at}/storage.conf\nexec /usr/bin/podman \"$@\"\n"
        ),
    );
    executable(
        &bin.join("podman-hpc"),
        &format!(
            "#!/bin/sh\nexport PODMANHPC_CONFIG_FILE={at}/hpc.yaml STORAGE_DRIVER=overlay \
             SQUASH_DIR={store}/hpc/squash\nexport PATH=\"{at}/venv/bin:$PATH:/usr/sbin\"\n\
             export USER=\"${{USER:-$(id -un)}}\"\nexec {at}/venv/bin/podman-hpc \"$@\"\n"
        ),
    );
    compile(all, "apptainer", include_str!("apptainer.c"));
    compile(all, "shifter", include_str!("shifter.c"));
}

/// What only root can do for a user: set-user-ID root, for this user alone.
fn compile(all: &Runtimes, name: &str, source: &str) {
    let file = all.at(&format!("{name}.c"));
    fs::write(&file, source).expect("the folder is ours");
    let at = all.folder.display();
    let root = if name == "shifter" { "udi" } else { "sid" };
    let program = all.bin().join(name);
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-o"]).arg(&program).arg(&file);
    must(cc.arg(format!("-DROOT=\"{at}/{root}\"")).arg(format!("-DIMAGES=\"{at}/images\"")));
    all.user.own_by_group(&program);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4750)).expect("root may");
}
