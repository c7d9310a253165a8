//! `ckpt status` and `ckpt kill`, and who may use them.
#![allow(missing_docs, reason = "tests")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Running, ckpt, launcher};

const WAIT: &str = "echo ready; sleep 60 & sleep 60 & wait";

fn socket(dir: &Path) -> PathBuf {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.into_iter().find(|path| path.extension().is_some_and(|e| e == "sock")).expect("a socket")
}

fn stderr(assert: assert_cmd::assert::Assert) -> String {
    String::from_utf8_lossy(&assert.get_output().stderr).into_owned()
}

#[test]
fn status_and_kill() {
    let dir = tempfile::tempdir().unwrap();
    let job = Running::start(dir.path(), WAIT);
    let out = ckpt().args(["status", "--json", "--ckptdir"]).arg(dir.path()).assert().success();
    let status: serde_json::Value = serde_json::from_slice(&out.get_output().stdout).unwrap();
    assert_eq!(status["event"], "status");
    assert_eq!(status["name"], "sh");
    assert_eq!(status["state"], "running");
    assert_eq!(status["generation"], 0);
    assert_eq!(status["supervisor"], job.child.id());
    let id = status["job"].as_str().unwrap();
    let words = ckpt().args(["status", "--job", id]).env("CKPT_DIR", dir.path()).assert().success();
    let words = String::from_utf8_lossy(&words.get_output().stdout).into_owned();
    assert!(words.contains(id) && words.contains("on request"), "{words}");

    ckpt().arg("kill").current_dir(dir.path()).assert().success();
    let (code, said) = job.end();
    assert_eq!(code, Some(137), "{said}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing stays behind");
    ckpt().arg("status").current_dir(dir.path()).assert().code(66);
}

#[test]
fn kill_reaches_those_who_left_the_session() {
    let dir = tempfile::tempdir().unwrap();
    let script =
        "(setsid sh -c 'trap \"\" TERM INT HUP; echo ready; echo $$; while :; do sleep 1; done' &)
                  wait; sleep 60";
    let mut job = Running::start(dir.path(), script);
    let pid = job.line();
    ckpt().args(["kill", "--ckptdir"]).arg(dir.path()).assert().success();
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(job.end().0, Some(137));
}

#[test]
fn inside_the_job() {
    let dir = tempfile::tempdir().unwrap();
    let program = ckpt().get_program().to_owned();
    let mut command = launcher();
    let script = "cd /; \"$CKPT\" status --json; exit 0";
    command.env("CKPT", program).arg("--ckptdir").arg(dir.path()).args(["sh", "-c", script]);
    let out = command.output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(status["state"], "running");
}

#[test]
fn several_jobs_in_one_directory() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (Running::start(dir.path(), WAIT), Running::start(dir.path(), WAIT));
    let said = stderr(ckpt().args(["kill", "--ckptdir"]).arg(dir.path()).assert().code(64));
    assert!(said.contains("--job"), "{said}");
    let ids: Vec<_> =
        said.split([' ', ',']).filter(|word| word.len() == 16 && !word.contains('/')).collect();
    assert_eq!(ids.len(), 2, "{said}");
    for id in ids {
        ckpt().args(["kill", "--job", id, "--ckptdir"]).arg(dir.path()).assert().success();
    }
    assert_eq!((one.end().0, two.end().0), (Some(137), Some(137)));
}

#[test]
fn a_stale_socket_is_no_job() {
    let dir = tempfile::tempdir().unwrap();
    let mut job = Running::start(dir.path(), "echo ready; echo $$; exec sleep 60");
    let payload = job.line();
    job.signal("KILL");
    assert_eq!(job.child.wait().unwrap().code(), None);
    assert!(socket(dir.path()).exists());
    let said = stderr(ckpt().args(["status", "--ckptdir"]).arg(dir.path()).assert().code(66));
    assert!(said.contains("no job running"), "{said}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "cleaned up");
    assert!(Command::new("kill").arg(payload).status().unwrap().success(), "the payload lives on");

    let alone = dir.path().join(".ckpt-00000000000000aa.sock");
    drop(std::os::unix::net::UnixListener::bind(&alone).unwrap());
    ckpt().args(["checkpoint", "--ckptdir"]).arg(dir.path()).assert().code(66);
    assert!(!alone.exists());
}

#[test]
fn strangers_are_refused() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("only root can play the stranger");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // Root may do everything, so the job is a user's and the stranger another user.
    let user = |command: &mut Command, id: u32| {
        command.uid(id).gid(id);
    };
    rustix::fs::chown(dir.path(), Some(rustix::fs::Uid::from_raw(4001)), None).unwrap();
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(dir.path(), open).unwrap();
    let mut command = launcher();
    user(&mut command, 4001);
    command.arg("--ckptdir").arg(dir.path()).args(["sh", "-c", WAIT]);
    let job = Running::start_command(command);
    let socket = socket(dir.path());
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);

    let ask = |verb: &str| {
        let mut command = Command::new(ckpt().get_program());
        user(&mut command, 4002);
        command.arg(verb).arg("--ckptdir").arg(dir.path()).output().unwrap()
    };
    assert_eq!(ask("kill").status.code(), Some(77), "the file's mode keeps strangers out");
    // Even one who gets past the file's mode is refused.
    for path in [socket.clone(), socket.with_extension("lock")] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).unwrap();
    }
    let out = ask("kill");
    assert_eq!(out.status.code(), Some(77), "{out:?}");
    ckpt().args(["status", "--ckptdir"]).arg(dir.path()).assert().success();
    ckpt().args(["kill", "--ckptdir"]).arg(dir.path()).assert().success();
    let (code, said) = job.end();
    assert_eq!(code, Some(137));
    assert!(said.contains("4002"), "{said}");
}

#[test]
fn nonsense_on_the_socket_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let job = Running::start(dir.path(), WAIT);
    let long = [vec![b'x'; 100_000], b"\n".to_vec()].concat();
    let not_utf8 = b"\xff\xfe\n".to_vec();
    let fd_missing = br#"{"version":1,"request":"checkpoint","reply":"fd"}"#.to_vec();
    let later = br#"{"version":9,"request":"status"}"#.to_vec();
    for request in
        [long, not_utf8, [fd_missing, b"\n".to_vec()].concat(), [later, b"\n".to_vec()].concat()]
    {
        let mut stream = UnixStream::connect(socket(dir.path())).unwrap();
        let mut hello = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut hello).unwrap();
        assert!(hello.contains("hello"), "{hello}");
        // It may hang up before it has read it all.
        let _ = stream.write_all(&request);
        let mut answer = String::new();
        if stream.read_to_string(&mut answer).is_ok() {
            assert!(answer.contains(r#""failed""#), "{answer}");
        }
    }
    // A client that says nothing holds nobody up.
    let _silent = UnixStream::connect(socket(dir.path())).unwrap();
    ckpt().args(["kill", "--ckptdir"]).arg(dir.path()).assert().success();
    assert_eq!(job.end().0, Some(137));
}

#[test]
fn two_owners_of_one_job_are_not_possible() {
    let dir = tempfile::tempdir().unwrap();
    let job = Running::start(dir.path(), WAIT);
    let lock = std::fs::File::open(socket(dir.path()).with_extension("lock")).unwrap();
    assert!(matches!(lock.try_lock(), Err(std::fs::TryLockError::WouldBlock)));
    // An orphan that outlives the launcher must not inherit the lock.
    job.signal("KILL");
    drop(job.end());
    assert!(lock.try_lock().is_ok());
}
