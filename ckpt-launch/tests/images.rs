//! `ckpt inspect`, `verify` and `list` on what isn't an image.
#![allow(missing_docs, reason = "tests")]

mod common;

use common::ckpt;

fn stderr(assert: assert_cmd::assert::Assert) -> String {
    String::from_utf8_lossy(&assert.get_output().stderr).into_owned()
}

#[test]
fn garbage_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in [("empty", &b""[..]), ("text", b"hello\n"), ("zeroes", &[0; 70_000])] {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        for verb in ["verify", "inspect"] {
            let said = stderr(ckpt().arg(verb).arg(&path).assert().code(65));
            assert!(said.contains(name), "{said}");
        }
    }
}

#[test]
fn nothing_there() {
    let dir = tempfile::tempdir().unwrap();
    for verb in ["verify", "inspect", "list"] {
        ckpt().arg(verb).arg(dir.path().join("nowhere")).assert().code(66);
        ckpt().arg(verb).arg(dir.path()).assert().code(66);
    }
}
