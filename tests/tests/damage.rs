//! Damaged images are refused with a word about the damage, never half-restored, and the generation
//! before takes their place.

use std::fs;
use std::io::{self, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ckpt_core::ErrorKind;
use ckpt_core::image::Reader;
use ckpt_core::progress::Silent;
use ckpt_tests::{
    Ended, From, Moments, Run, User, describe, kill_tagged, payload, tagged, tools, undisturbed,
};

/// A killed job with two generations; and what it should come to.
fn two_generations(user: &User) -> (Run, Ended) {
    let payload = payload("memory").with(&[("MIB", "8")]);
    let expected = undisturbed(payload, user);
    let mut run = Run::start(payload, user);
    for step in [5, 15] {
        assert!(run.reaches(step) && run.answers());
        run.checkpoint().unwrap_or_else(|e| panic!("status {}: {}", e.status, e.message));
    }
    run.kill();
    assert_eq!(run.generations().len(), 2);
    (run, expected)
}

/// As `ckpt verify` does it, without a process each time.
fn verdict(path: &Path) -> Result<(), (ErrorKind, String)> {
    let whole = Reader::open(path).and_then(|image| image.verify(&Silent, 1).map(|_| ()));
    whole.map_err(|error| (error.kind(), error.to_string()))
}

fn must_be_refused(path: &Path, damage: &str) {
    let (kind, message) = verdict(path).expect_err(&format!("accepted with {damage}"));
    assert_eq!(kind, ErrorKind::Damaged, "{damage}: {message}");
    let name = path.file_name().expect("it is a file").to_string_lossy();
    assert!(message.contains(&*name), "{damage}: the image is not named: {message}");
}

/// Changes one byte for the time of `then`.
fn with_flip(path: &Path, at: u64, mask: u8, then: impl FnOnce()) -> io::Result<()> {
    let file = fs::File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ mask], at)?;
    then();
    file.write_all_at(&byte, at)
}

/// Places in the file: all of its first and last bytes, and others by chance.
fn places(len: u64, by_chance: usize, moments: &mut Moments) -> Vec<u64> {
    let edge = 600.min(len / 2);
    let mut places: Vec<u64> = (0..edge).chain(len - edge..len).collect();
    places.extend(moments.places(by_chance, len));
    places
}

#[test]
fn any_flipped_byte_is_found() {
    let (run, _) = two_generations(&User::ordinary());
    let image = run.generations().pop().expect("there are two");
    let len = image.metadata().expect("it is there").len();
    let mut moments = Moments::new();
    assert_eq!(verdict(&image), Ok(()), "before any damage");
    let places = places(len, 3000, &mut moments);
    for &at in &places {
        let mask = 1 + moments.below(255) as u8;
        let damage = format!("byte {at} of {len} changed by {mask:#x}");
        with_flip(&image, at, mask, || must_be_refused(&image, &damage)).expect("it is ours");
    }
    assert_eq!(verdict(&image), Ok(()), "after all was put right");
    println!("{} flips in an image of {len} bytes, all found", places.len());
}

#[test]
fn any_truncation_is_found() {
    let (run, _) = two_generations(&User::ordinary());
    let image = run.generations().pop().expect("there are two");
    let bytes = fs::read(&image).expect("it is there");
    let mut moments = Moments::new();
    for at in places(bytes.len() as u64, 300, &mut moments) {
        fs::write(&image, &bytes[..at as usize]).expect("it is ours");
        must_be_refused(&image, &format!("{at} of {} bytes", bytes.len()));
    }
    fs::write(&image, [&bytes[..], b"x"].concat()).expect("it is ours");
    must_be_refused(&image, "a byte too many");
}

/// Runs it to its end; gives its exit status and what it said. Files take the words: a process that
/// was left behind would keep a pipe open for ever.
fn tool(user: &User, program: &Path, words: &[&Path], tag: &str) -> (Option<i32>, String) {
    let mut said = tempfile::tempfile().expect("a temporary file");
    let copy = || said.try_clone().expect("descriptors are left");
    let mut command: Command = user.command(program);
    let (name, value) = tag.split_once('=').expect("it is NAME=VALUE");
    command.args(words).env(name, value).current_dir("/").stdin(Stdio::null());
    let status = command.stdout(copy()).stderr(copy()).status().expect("it can be run");
    let mut text = String::new();
    said.rewind().and_then(|()| said.read_to_string(&mut text)).expect("it is text");
    (status.code(), text)
}

/// The commands refuse: status 65, a word about the image, and not one process of the job.
fn commands_refuse(run: &Run, user: &User, image: &Path) {
    let tag = format!("CKPT_TEST_DAMAGE={}", std::process::id());
    let output_before = fs::read(run.output()).expect("it is there");
    let verify = tool(user, &tools().ckpt, &[Path::new("verify"), image], &tag);
    let restore = tool(user, &tools().restore, &[image], &tag);
    let left = tagged(&tag);
    let described = describe(&left);
    kill_tagged(&tag);
    assert!(left.is_empty() && run.is_gone(), "something was left behind:\n{described}");
    for (status, message) in [verify, restore] {
        assert_eq!(status, Some(65), "EX_DATAERR: {message}");
        let name = image.file_name().expect("it is a file").to_string_lossy();
        assert!(message.contains(&*name), "the image is not named: {message}");
    }
    let output = fs::read(run.output()).expect("it is there");
    assert!(output == output_before, "the payload has written");
}

fn refused_by_the_commands(user: &User) {
    let (mut run, expected) = two_generations(user);
    let image: PathBuf = run.generations().pop().expect("there are two");
    let bytes = fs::read(&image).expect("it is there");
    let mut moments = Moments::new();
    for at in moments.places(15, bytes.len() as u64) {
        with_flip(&image, at, 0x10, || commands_refuse(&run, user, &image)).expect("it is ours");
    }
    for at in moments.places(5, bytes.len() as u64) {
        fs::write(&image, &bytes[..at as usize]).expect("it is ours");
        commands_refuse(&run, user, &image);
    }
    // Given the directory, the generation before is used, and the bad one is named.
    run.restore(From::Directory);
    let end = run.end();
    let log = run.log();
    end.must_equal(&expected);
    let name = image.file_name().expect("it is a file").to_string_lossy().into_owned();
    assert!(log.contains(&name), "the damaged image is not named:\n{log}");
    assert!(log.contains("generation 1"), "nor the one that is used:\n{log}");
}

#[test]
fn refused_by_the_commands_as_root() {
    if let Some(root) = User::root() {
        refused_by_the_commands(&root);
    }
}

#[test]
fn refused_by_the_commands_as_ordinary_user() {
    refused_by_the_commands(&User::ordinary());
}
