//! Images, for each runtime in its own form.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Runtime, Runtimes, must};

/// What is in an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    /// Debian with bash, Python and Geant4.
    Debian,
    /// The same with another file.
    Other,
    /// One static program, and no shell, no C library.
    Bare,
    /// One program, and musl.
    Musl,
}

impl Image {
    fn name(self) -> &'static str {
        match self {
            Self::Debian => "debian",
            Self::Other => "other",
            Self::Bare => "bare",
            Self::Musl => "musl",
        }
    }
}

/// The image, made if need be; gives the word for `--image`.
pub(super) fn ready(all: &Runtimes, runtime: Runtime, image: Image) -> String {
    let name = image.name();
    all.once(&format!("root-{name}"), |all| root(all, image));
    let root = all.at(name);
    match runtime {
        Runtime::Podman | Runtime::PodmanHpc => {
            let word = format!("localhost/ckpt-{name}");
            all.once(&format!("{}-{name}", runtime.name()), |all| {
                let tar = all.at("image.tar");
                must(Command::new("tar").arg("-cf").arg(&tar).arg("-C").arg(&root).arg("."));
                let mut import = all.command(&all.bin().join(runtime.name()).to_string_lossy());
                must(import.arg("import").arg(&tar).arg(&word).current_dir("/"));
                let _ = fs::remove_file(&tar);
            });
            word
        }
        Runtime::Apptainer => root.to_string_lossy().into_owned(),
        Runtime::Shifter => {
            all.once(&format!("shifter-{name}"), |all| {
                let folder = all.at("images").join(name);
                fs::create_dir_all(&folder).expect("the folder is ours");
                let _left_by_a_crash = fs::remove_file(folder.join("root"));
                symlink(&root, folder.join("root")).expect("the folder is ours");
                let id = name.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
                fs::write(folder.join("id"), id).expect("the folder is ours");
            });
            name.to_owned()
        }
    }
}

fn root(all: &Runtimes, image: Image) {
    let root = all.at(image.name());
    match image {
        Image::Debian => {}
        Image::Other => {
            let _left_by_a_crash = fs::remove_dir_all(&root);
            must(
                Command::new("cp").args(["-a", "--reflink=auto"]).arg(all.at("debian")).arg(&root),
            );
            fs::write(root.join("etc/ckpt-image"), "other\n").expect("the root is ours");
        }
        Image::Bare => {
            small(&root);
            compile("cc", "static.c", &["-static"], &root);
        }
        Image::Musl => {
            small(&root);
            compile("musl-gcc", "threads.c", &[], &root);
            let loader = "lib/ld-musl-x86_64.so.1";
            fs::create_dir_all(root.join("lib")).expect("the root is ours");
            // A link to the library, as Debian has it; an image has the file.
            fs::copy(Path::new("/").join(loader), root.join(loader)).expect("musl is here");
        }
    }
}

/// Folders that runtimes bind things to, and nothing else.
fn small(root: &Path) {
    let _left_by_a_crash = fs::remove_dir_all(root);
    for name in ["proc", "sys", "dev", "tmp", "etc", "opt", "var/tmp", "home"] {
        fs::create_dir_all(root.join(name)).expect("the folder is ours");
    }
}

fn compile(compiler: &str, source: &str, flags: &[&str], root: &Path) {
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("payloads").join(source);
    let mut command = Command::new(compiler);
    command.args(["-O2", "-pthread", "-o"]).arg(root.join("payload")).arg(source).args(flags);
    must(&mut command);
}
