//! The script itself is run, with stand-ins for `dmtcp_restart` and `ssh`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use tempfile::TempDir;

use super::*;

/// A directory with a script for `images` in it, and the stand-ins in `bin`: `dmtcp_restart` prints
/// its arguments, one in each pair of brackets, the line at once; `ssh` prints the host and runs the rest.
struct Stage {
    dir: TempDir,
}

impl Stage {
    fn new(images: &[(&str, &[&str])]) -> Self {
        let stage = Self { dir: tempfile::tempdir().unwrap() };
        let bin = stage.dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        // Written by a shell: a file that this process has open for writing can't be executed by
        // another test's child.
        let make = r##"cd "$1"
            printf '#!/bin/bash\nfor a; do l+="[$a]"; done; echo "$l"; exit 3\n' >dmtcp_restart
            printf '#!/bin/bash\necho "to $1:"; shift; sh -c "$*"\n' >ssh
            chmod +x *"##;
        assert!(Command::new("bash").args(["-c", make, "-"]).arg(bin).status().unwrap().success());
        stage.publish(images);
        stage
    }

    fn publish(&self, images: &[(&str, &[&str])]) -> PathBuf {
        let group = |(host, images): &(&str, &[&str])| {
            ((*host).to_owned(), images.iter().map(PathBuf::from).collect())
        };
        let script = Script {
            computation: "98ff-40000-fac0f3ea34".parse().unwrap(),
            generation: None,
            taken: 0,
            host: "node'1",
            port: 8801,
            interval: 60,
            programs: Some(Path::new("/nowhere")),
            images: &images.iter().map(group).collect(),
        };
        script.publish(self.dir.path()).unwrap()
    }

    /// stdout, and the exit status.
    fn run(&self, args: &[&str], env: &[(&str, &str)]) -> (String, i32) {
        let mut command = Command::new("bash");
        command.arg(LINK).args(args).current_dir(self.dir.path()).env_clear();
        let path = format!("{}/bin:/usr/bin:/bin", self.dir.path().display());
        let output = command.env("PATH", path).envs(env.iter().copied()).output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        (stdout, output.status.code().unwrap())
    }
}

const ONE: &[(&str, &[&str])] = &[("node1", &["/a b/ckpt_x_1-2-3.dmtcp", "/c/it's $HOME.dmtcp"])];
const TWO: &[(&str, &[&str])] = &[("node1", &["/a/1.dmtcp"]), ("node2", &["/a b/2.dmtcp"])];

#[test]
fn one_host() {
    let stage = Stage::new(ONE);
    let images = "[/a b/ckpt_x_1-2-3.dmtcp][/c/it's $HOME.dmtcp]\n";
    let plain = format!("[--coord-host][node'1][--coord-port][8801][--interval][60]{images}");
    assert_eq!(stage.run(&[], &[]), (plain, 3));

    let env = [
        ("DMTCP_COORD_HOST", "e"),
        ("DMTCP_COORD_PORT", "1"),
        ("DMTCP_CHECKPOINT_INTERVAL", "2"),
        ("DMTCP_RESTART_DIR", "/r"),
        ("DMTCP_TMPDIR", "/t"),
        ("DMTCP_CKPT_DIR", "/k"),
    ];
    let moved = "[/r/ckpt_x_1-2-3.dmtcp][/r/it's $HOME.dmtcp]\n";
    let start = "[--coord-host][e][--coord-port][1][--ckptdir][/k]";
    let expected = format!("{start}[--interval][2][--tmpdir][/t]{moved}");
    assert_eq!(stage.run(&[], &env), (expected, 3));

    for (host, port, dir, tmpdir, interval) in [
        ("--coord-host", "--coord-port", "--restartdir", "--tmpdir", "--interval"),
        ("--host", "--port", "-d", "-t", "-i"),
        ("-h", "-p", "-d", "-t", "-i"),
    ] {
        let args = [
            host,
            "f g",
            port,
            "9",
            dir,
            "/R",
            tmpdir,
            "/T",
            interval,
            "0",
            "--ckptdir",
            "/K",
            "--no-strict-checking",
            "--coord-logfile",
            "/L",
        ];
        let expected = "[--coord-host][f g][--coord-port][9][--ckptdir][/K][--interval][0]\
            [--tmpdir][/T][--no-strict-checking][--coord-logfile][/L]\
            [/R/ckpt_x_1-2-3.dmtcp][/R/it's $HOME.dmtcp]\n";
        assert_eq!(stage.run(&args, &env), (expected.to_owned(), 3));
    }
}

#[test]
fn several_hosts() {
    let stage = Stage::new(TWO);
    let options = "[--coord-host][node'1][--coord-port][8801][--join-coordinator][--interval][60]";
    let (out, status) = stage.run(&[], &[]);
    for (host, image) in [("node1", "/a/1.dmtcp"), ("node2", "/a b/2.dmtcp")] {
        assert!(out.contains(&format!("to {host}:\n")), "{out}");
        assert!(out.contains(&format!("{options}[{image}]\n")), "{out}");
    }
    assert_eq!(status, 3);

    fs::write(stage.dir.path().join("hosts"), "# new\n\nlocalhost # us\n  other\nspare\n").unwrap();
    let (out, status) = stage.run(&["--hostfile", "hosts", "-d", "/r"], &[]);
    assert!(out.contains(&format!("{options}[/r/1.dmtcp]\n")), "{out}");
    assert!(!out.contains("localhost") && !out.contains("spare"), "{out}");
    assert_eq!(status, 3);

    fs::write(stage.dir.path().join("hosts"), "lonely\n").unwrap();
    assert_eq!(stage.run(&["--hostfile", "hosts"], &[]), (String::new(), 1));
    assert_eq!(stage.run(&["--hostfile", "none"], &[]), (String::new(), 1));
}

#[test]
fn usage_and_mistakes() {
    let stage = Stage::new(ONE);
    let (usage, status) = stage.run(&["--help"], &[]);
    assert!(usage.starts_with("USAGE:\n  dmtcp_restart_script.sh [OPTIONS]\n"), "{usage}");
    assert_eq!(status, 0);
    let (out, status) = stage.run(&["--bogus"], &[]);
    let first = "dmtcp_restart_script.sh: unrecognized option '--bogus'. See correct usage below\n";
    assert_eq!((out, status), (format!("{first}{usage}"), 0));
    assert_eq!(stage.run(&["--tmpdir"], &[]), (String::new(), 1));
    assert_eq!(stage.run(&[], &[("PATH", "/usr/bin:/bin")]), (String::new(), 1));
}

#[test]
fn published_whole() {
    let stage = Stage::new(TWO);
    let path = stage.publish(ONE);
    let name = "dmtcp_restart_script_98ff-40000-fac0f3ea34.sh";
    assert_eq!(path, stage.dir.path().join(name));
    assert_eq!(fs::read_link(stage.dir.path().join(LINK)).unwrap(), Path::new(name));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o744);
    // The stand-ins, the script, the link.
    assert_eq!(fs::read_dir(stage.dir.path()).unwrap().count(), 3);
    assert!(fs::read_to_string(&path).unwrap().starts_with("#!/bin/bash\n"));
}

#[test]
fn names_with_and_without_generation() {
    let images = BTreeMap::new();
    let computation = UniqueId { host: 1, pid: 2, time: 3 };
    let (taken, host, port, interval) = (0, "h", 1, 0);
    let generation = Some(7);
    let mut script = Script {
        computation,
        generation,
        taken,
        host,
        port,
        interval,
        programs: None,
        images: &images,
    };
    assert_eq!(script.name(), "dmtcp_restart_script_1-2-3_00007.sh");
    script.generation = None;
    assert_eq!(script.name(), "dmtcp_restart_script_1-2-3.sh");
    assert_eq!(quoted(OsStr::from_bytes(b"\xffa'b")), b"'\xffa'\\''b'");
}
