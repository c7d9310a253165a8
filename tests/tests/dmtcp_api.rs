//! Programs that were written for DMTCP: what `dmtcp.h` promises them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ckpt_tests::{Ended, From, Moments, Payload, Run, User, payload, tools, undisturbed};

/// Each as root and as an ordinary user.
macro_rules! as_both {
    ($($name:ident)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn as_root() {
                if let Some(root) = User::root() {
                    super::$name(&root);
                }
            }

            #[test]
            fn as_ordinary_user() {
                super::$name(&User::ordinary());
            }
        }
    )*};
}

as_both! { checkpoint_returns_twice disabled crowd }

fn program() -> Payload {
    payload("dmtcp_api")
}

/// The lines of `middle()`.
fn expected(run: &Run, came_back: bool) -> Ended {
    let images = run.images();
    let images = images.display();
    let all = |taken: u32, image: &str, restarts: u32, now: [&str; 3]| {
        let [value, cut, none] = now;
        format!(
            "enabled 1\ncoordinator 4: peers 1, running 1\n\
             local 4: checkpoints {taken}, restarts {restarts}\ngeneration {taken}\n\
             image {image}\ndirectory {images}\nrestart env WHERE_NOW: {value}\n\
             restart env WHERE_NOW: {cut}\nrestart env WHERE: {none}\nnull -5\nset 3\n"
        )
    };
    let nothing = ["-1 \"\""; 3];
    let before = all(0, "", 0, nothing);
    let image = run.generations().pop().expect("there is an image");
    let image = image.display().to_string();
    let (restarts, now) = match came_back {
        true => (1, ["0 \"on another node\"", "-2 \"on a\"", "-1 \"\""]),
        false => (0, nothing),
    };
    let after = all(1, &image, restarts, now);
    let steps: String = (0..40).map(|step| format!("step {step}\n")).collect();
    let result = 1 + u32::from(came_back);
    let output = format!(
        "{before}errno ok\ncheckpoint {result}\n{after}unique pid ok\ncomputation id ok\n\
         ended children ok\na child to wait for ok\n{steps}disable 1, enable 1\ndone\n"
    );
    Ended { output, status: 7 }
}

fn checkpoint_returns_twice(user: &User) {
    let mut run = Run::start_preloaded(program(), user);
    assert!(run.says("checkpoint 1") && run.reaches(3), "{}", run.log());
    for _ in 0..2 {
        run.kill();
        let image = run.generations().remove(0);
        let environment = [("WHERE_NOWHERE", "x"), ("WHERE_NOW", "on another node")];
        run.restore_with(From::Image(&image), &environment);
        assert!(run.says("checkpoint 2") && run.reaches(3), "{}", run.log());
    }
    let expected = expected(&run, true);
    run.end().must_equal(&expected);
    let left: Vec<_> = fs::read_dir(run.images()).expect("it is there").flatten().collect();
    assert_eq!(left.len(), 1, "files are left beside the image: {left:?}");

    let mut run = Run::start_preloaded(program(), user);
    assert!(run.says("checkpoint 1"));
    let expected = self::expected(&run, false);
    run.end().must_equal(&expected);
}

fn in_background(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().expect("ckpt can be run")
}

fn disabled(user: &User) {
    let mut run = Run::start_preloaded(program().with(&[("PART", "held")]), user);
    assert!(run.says("held"), "{}", run.log());
    let mut request = in_background(run.ckpt("checkpoint"));
    std::thread::sleep(Duration::from_millis(700));
    assert!(request.try_wait().expect("it is our child").is_none(), "it does not wait");
    assert!(run.generations().is_empty());
    fs::write(run.output().with_extension("go"), "").expect("the folder is there");
    assert!(request.wait().expect("it is our child").success(), "{}", run.log());
    assert_eq!(run.generations().len(), 1);
    run.kill();
    run.restore(From::Directory);
    assert!(run.answers());
    run.checkpoint().expect("a restored job can be checkpointed");
    let steps: String = (0..40).map(|step| format!("step {step}\n")).collect();
    let output = format!(
        "too early -1\ndisable 1 1\nenable 1\nheld\nenable 1, once more -1\n{steps}child ok\ndone\n"
    );
    run.end().must_equal(&Ended { output, status: 7 });
}

/// Who asks is told after some time; nothing else happens.
#[test]
fn disabled_for_too_long() {
    let user = User::ordinary();
    let mut run = Run::start_preloaded(program().with(&[("PART", "held")]), &user);
    assert!(run.says("held"), "{}", run.log());
    let begun = Instant::now();
    let refusal = run.checkpoint().expect_err("checkpoints are disabled");
    assert!(begun.elapsed() > Duration::from_secs(9));
    assert_eq!(refusal.status, 75, "EX_TEMPFAIL");
    assert!(refusal.message.contains("disabled checkpoints"), "{}", refusal.message);
    fs::write(run.output().with_extension("go"), "").expect("the folder is there");
    assert!(run.reaches(1));
    run.checkpoint().expect("they are enabled again");
    assert_eq!(run.end().status, 7);
}

/// Many ask at once, while others ask from outside and everything is killed at any moment.
fn crowd(user: &User) {
    let mut moments = Moments::new();
    let mut run = Run::start_preloaded(program().with(&[("PART", "crowd")]), user);
    assert!(run.says("begun") && run.answers());
    for _ in 0..3 {
        run.checkpoint().unwrap_or_else(|e| panic!("{e:?}\n{}", run.log()));
        std::thread::sleep(moments.up_to(Duration::from_millis(300)));
        run.kill();
        run.restore(From::Directory);
        assert!(run.answers(), "{}", run.log());
    }
    let mut output = "begun\n".to_owned();
    output += &"child ok\n".repeat(4);
    output += "failures ok\nresults ok\ndone\n";
    run.end().must_equal(&Ended { output, status: 7 });
}

/// Nobody there: neither the object nor, if that is loaded all the same, a job.
#[test]
fn without_launcher() {
    let user = User::ordinary();
    let run = undisturbed(program(), &user);
    let without = |null: &str, none: &str, image: &str, generation: &str| {
        let all = format!(
            "enabled 0\ncoordinator 3: peers -1, running -1\nlocal 3: checkpoints -1, restarts -1\n\
             generation {generation}\nimage {image}\ndirectory \n{none}{null}set 3\n"
        );
        let steps: String = (0..40).map(|step| format!("step {step}\n")).collect();
        format!(
            "{all}errno ok\ncheckpoint 3\n{all}unique pid ok\ncomputation id ok\n\
             ended children ok\na child to wait for ok\n{steps}disable 3, enable 3\ndone\n"
        )
    };
    let env = |result: &str| {
        let line = |name: &str| format!("restart env {name}: {result}\n");
        line("WHERE_NOW") + &line("WHERE_NOW") + &line("WHERE")
    };
    let output = without("", &env("-99 \"untouched\""), "(null)", "-1");
    run.must_equal(&Ended { output, status: 7 });

    let preload = tools().preload.to_str().expect("it is UTF-8").to_owned();
    let environment = Box::leak(Box::new([("LD_PRELOAD", &*preload.leak())]));
    let run = undisturbed(program().with(environment), &user);
    let output = without("null -5\n", &env("-1 \"untouched\""), "", "0");
    run.must_equal(&Ended { output, status: 7 });
}

/// It goes into every process of a job, of whatever C library.
#[test]
fn the_object_is_small_and_needs_nothing() {
    let object: &Path = &tools().preload;
    assert!(object.exists(), "cargo build --release -p ckpt-preload");
    assert!(object.metadata().expect("it is there").size() < 32 * 1024);
    let readelf = |flag: &str| {
        let output = Command::new("readelf").args([flag, "-W"]).arg(object).output();
        String::from_utf8(output.expect("readelf is installed").stdout).expect("ASCII")
    };
    assert!(!readelf("-d").contains("NEEDED"), "it needs a library");
    let symbols = readelf("--dyn-syms");
    let names = symbols.lines().skip(4).filter_map(|line| line.split_whitespace().nth(7));
    let foreign: Vec<&str> = names.filter(|name| !name.starts_with("dmtcp_")).collect();
    assert!(foreign.is_empty(), "it defines or wants {foreign:?}");
}
