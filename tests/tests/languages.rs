//! ckpt for C and Python as it is installed: programs in these languages are killed, go on, and end as if nothing
//! had happened.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ckpt_tests::{descendants, tools};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}

/// What `cargo xtask test` has put beside cargo's folders.
fn put(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a program knows its name");
    let path = own.ancestors().nth(3).expect("cargo's folders").join(name);
    assert!(path.exists(), "{} is missing; `cargo xtask test` makes it", path.display());
    path
}

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("ckpt-languages-").tempdir().expect("a folder")
}

fn said(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Compiles an example as its first lines say.
fn compiled(name: &str, folder: &TempDir) -> PathBuf {
    let (library, program) = (put("library"), folder.path().join(name));
    let mut pkg_config = Command::new("pkg-config");
    pkg_config.args(["--cflags", "--libs", "ckpt"]);
    let flags = said(pkg_config.env("PKG_CONFIG_PATH", library.join("lib/pkgconfig")));
    let mut cc = Command::new("cc");
    cc.arg(sources().join(format!("ckpt-c/examples/{name}.c")));
    cc.args(flags.split_whitespace()).arg("-o").arg(&program);
    // Before what cargo has in $LD_LIBRARY_PATH.
    let path = library.join("lib");
    said(cc.arg("-Wl,--disable-new-dtags").arg(format!("-Wl,-rpath,{}", path.display())));
    program
}

/// Its result.
fn ends(mut command: Command) -> String {
    said(&mut command)
}

/// Kills it, and all below it, when it has said so many lines; gives these.
fn killed_after(mut command: Command, lines: usize) -> Vec<String> {
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs");
    let said = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let said: Vec<String> = said.map_while(Result::ok).take(lines).collect();
    let below = descendants(child.id().cast_signed());
    child.kill().expect("it is ours");
    for pid in below {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    child.wait().expect("it is ours");
    said
}

/// `program DIR words`, killed and started again.
fn goes_on(program: impl Fn(&Path, &str) -> Command) {
    let folder = folder();
    let (alone, often) = (folder.path().join("alone"), folder.path().join("often"));
    let expected = ends(program(&alone, "100000"));
    assert!(killed_after(program(&often, "50"), 2)[0].starts_with("version"));
    for lines in [2, 4, 3] {
        let said = killed_after(program(&often, "50"), lines);
        assert!(said[0].starts_with("goes on from version"), "{said:?}");
    }
    assert_eq!(ends(program(&often, "50")), expected);
}

/// `program DIR STEPS EVERY`, killed and brought back.
fn comes_back(program: impl Fn(&Path, &str) -> Command, every: &str) {
    let folder = folder();
    let (alone, often) = (folder.path().join("alone"), folder.path().join("often"));
    let expected = ends(program(&alone, "1000000"));
    let said = killed_after(closed(program(&often, every)), 4);
    assert!(said.iter().any(|line| line == "generation"), "{said:?}");
    let restored = || {
        let mut restore = Command::new(&tools().restore);
        restore.arg("-q").arg(&often);
        restore
    };
    for lines in [3, 4] {
        let said = killed_after(restored(), lines);
        assert_eq!(said[0], "brought back", "{said:?}");
        assert!(said[1].starts_with("goes on"), "{said:?}");
    }
    assert_eq!(ends(restored()), expected);
}

/// With our helper, and no descriptors but the first three: whoever runs the tests has pipes of its own, which
/// come to all that it starts.
fn closed(command: Command) -> Command {
    let mut shell = Command::new("bash");
    shell.args(["-c", CLOSED, "bash"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    shell.env("CKPT_HELPER", &tools().ckpt);
    shell
}

const CLOSED: &str = r#"for fd in /proc/$$/fd/*; do
    fd=${fd##*/}
    ((fd > 2)) && eval "exec $fd>&-"
done
exec "$@""#;

#[test]
fn arrays_in_c() {
    let programs = folder();
    let program = compiled("heat", &programs);
    goes_on(|dir, every| {
        let mut command = Command::new(&program);
        command.arg(dir).args(["60000", "3000", every]);
        command
    });
}

#[test]
fn the_whole_program_in_c() {
    let programs = folder();
    let program = compiled("itself", &programs);
    let run = |dir: &Path, every: &str| {
        let mut command = Command::new(&program);
        command.arg(dir).args(["3000", every]);
        command
    };
    comes_back(run, "100");
}

/// A helper that ends at once is told of; it does not kill the program by SIGPIPE.
#[test]
fn a_helper_that_is_gone() {
    let programs = folder();
    let program = compiled("itself", &programs);
    for helper in ["/bin/true", "/bin/false", "/nowhere"] {
        let mut command = Command::new(&program);
        command.env("CKPT_HELPER", helper).arg(programs.path().join("images")).args(["100", "10"]);
        let output = command.output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            [66, 75].contains(&output.status.code().unwrap_or(-1)),
            "{}: {said}",
            output.status
        );
        assert!(said.contains(helper), "{said}");
    }
}

/// Each name has the version in which it came, and there are no others.
#[test]
fn symbols_have_versions() {
    let mut nm = Command::new("nm");
    nm.args(["-D", "--defined-only", "--with-symbol-versions"]);
    let symbols = said(nm.arg(put("library").join("lib/libckpt.so")));
    let names: Vec<&str> = symbols.lines().filter_map(|line| line.split(' ').nth(2)).collect();
    let of = |prefix: &str| names.iter().filter(|name| name.starts_with(prefix)).count();
    assert!(of("ckpt_") > 20 && of("VELOC_") > 15, "{names:?}");
    let stray = names.iter().find(|name| !name.ends_with("@@CKPT_0.1") && **name != "CKPT_0.1");
    assert_eq!(stray, None);
    let header = fs::read_to_string(put("library").join("include/ckpt.h")).expect("it is there");
    for name in
        names.iter().filter_map(|name| name.split('@').next()).filter(|n| n.starts_with("ckpt_"))
    {
        assert!(header.contains(&format!("{name}(")), "{name} is not declared");
    }
}

fn python() -> Command {
    Command::new(put("python/bin/python"))
}

#[test]
fn arrays_in_python() {
    let program = sources().join("ckpt-python/examples/heat.py");
    goes_on(|dir, every| {
        let mut command = python();
        command.arg(&program).arg(dir).args(["60000", "2000", every]);
        command
    });
}

#[test]
fn the_whole_program_in_python() {
    let program = sources().join("ckpt-python/examples/itself.py");
    let run = |dir: &Path, every: &str| {
        let mut command = python();
        command.env("OPENBLAS_NUM_THREADS", "2").arg(&program).arg(dir).args(["300", every]);
        command
    };
    comes_back(run, "20");
}

/// Its stdout is a pipe to a child of its own, which is part of the checkpoint as the program is.
#[test]
fn a_child_at_its_stdout() {
    let script = r#"
import os, subprocess, sys, ckpt
images, output, steps, every = sys.argv[1], sys.argv[1] + ".said", int(sys.argv[2]), int(sys.argv[3])
tee = subprocess.Popen(["tee", output], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
os.dup2(tee.stdin.fileno(), 1)
tee.stdin.close()
x = 1
for step in range(1, steps + 1):
    for _ in range(20000):
        x = x * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
    print(step, x, flush=True)
    if step % every == 0:
        life = ckpt.checkpoint_self(images)
        word = "generation" if life is ckpt.Life.RESUMED else "brought back\ngoes on"
        print(word, file=sys.stderr, flush=True)
os.close(1)
assert tee.wait() == 0
print(open(output).read(), end="", file=sys.stderr)
"#;
    let run = |dir: &Path, every: &str| {
        let mut command = python();
        command.args(["-c", script]).arg(dir).args(["300", every]);
        command
    };
    let folder = folder();
    let alone = folder.path().join("alone");
    said(&mut run(&alone, "1000"));
    let expected = fs::read_to_string(alone.with_extension("said")).expect("it is there");
    assert_eq!(expected.lines().count(), 300);
    let often = folder.path().join("often");
    let first = killed_after(closed(run(&often, "20")), 3);
    assert_eq!(first[0], "generation", "{first:?}");
    let restored = || {
        let mut restore = Command::new(&tools().restore);
        restore.arg("-q").arg(&often);
        restore
    };
    let said_then = killed_after(restored(), 4);
    assert_eq!(said_then[..2], ["brought back", "goes on"], "{said_then:?}");
    said(&mut restored());
    let output = fs::read_to_string(often.with_extension("said")).expect("it is there");
    assert!(output == expected, "{output}");
}

#[test]
fn pythons_own_tests() {
    let mut command = python();
    command.args(["-m", "unittest", "discover", "-s"]).arg(sources().join("ckpt-python/tests"));
    said(&mut command);
}
