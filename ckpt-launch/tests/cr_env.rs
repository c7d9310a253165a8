//! The examples for job scripts, containers/examples, in a real bash: what needs no Slurm.

#![allow(missing_docs, reason = "a test program")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../containers/examples");

/// A folder with the examples, our programs in PATH, and no Slurm. Its name needs quoting.
struct Site {
    folder: TempDir,
    programs: TempDir,
}

/// What a script has said, and its exit status.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Site {
    fn new() -> Self {
        let site = Self {
            folder: tempfile::Builder::new().prefix("ckpt a 'b").tempdir().expect("a folder"),
            programs: tempfile::tempdir().expect("a folder"),
        };
        for script in ["cr_env.sh", "main.sh", "wrapper.sh", "payload.sh"] {
            let folder = if script == "payload.sh" { "" } else { "functions" };
            let from = Path::new(EXAMPLES).join(folder).join(script);
            fs::copy(from, site.path(script)).expect("it is there");
        }
        let [launch, ckpt] =
            [assert_cmd::cargo::cargo_bin!("ckpt-launch"), assert_cmd::cargo::cargo_bin!("ckpt")];
        for (name, program) in [
            ("ckpt", ckpt),
            ("dmtcp_command", ckpt),
            ("dmtcp_coordinator", launch),
            ("dmtcp_launch", launch),
        ] {
            symlink(program, site.programs.path().join(name)).expect("the folder is empty");
        }
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a script there that has sourced cr_env.sh.
    fn run(&self, script: &str) -> Said {
        self.run_with(script, self.programs.path().to_str().expect("plain"))
    }

    fn run_with(&self, script: &str, programs: &str) -> Said {
        let script = format!("set -u\n. ./cr_env.sh\n{script}");
        let mut command = Command::new("bash");
        command.args(["--norc", "-c", &script]).current_dir(self.folder.path());
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if ["SLURM_", "DMTCP_", "CKPT_"].iter().any(|prefix| name.starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command.env("PATH", format!("{programs}:/usr/bin:/bin"));
        let output = command.output().expect("bash runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

#[test]
fn shellcheck_has_nothing_to_say() {
    let folders = ["", "functions"].map(|name| Path::new(EXAMPLES).join(name));
    let files = folders.iter().flat_map(|folder| fs::read_dir(folder).expect("it is there"));
    let files = files.map(|file| file.expect("it is there").path());
    let scripts: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|it| it == "sh")).collect();
    assert!(scripts.len() >= 9, "{scripts:?}");
    match Command::new("shellcheck").arg("-x").args(scripts).current_dir(EXAMPLES).output() {
        Ok(said) => assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout)),
        Err(_) => println!("skipped: no shellcheck here"),
    }
}

#[test]
fn times() {
    let site = Site::new();
    for (time, seconds) in [
        ("45", "2700"),
        ("90:00", "5400"),
        ("08:09", "489"),
        ("01:00:00", "3600"),
        ("1-02", "93600"),
        ("1-02:03", "93780"),
        ("1-02:03:04", "93784"),
        ("UNLIMITED", "UNLIMITED"),
        ("infinite", "UNLIMITED"),
        ("(null)", ""),
        ("", ""),
    ] {
        let said = site.run(&format!("timestr2secs '{time}'"));
        assert_eq!((said.code, said.out.trim_end()), (Some(0), seconds), "{time}: {said:?}");
    }
    for (seconds, time) in [("0", "00:00:00"), ("93784", "26:03:04"), ("360000", "100:00:00")] {
        assert_eq!(site.run(&format!("secs2timestr {seconds}")).out.trim_end(), time);
    }
    for nonsense in ["timestr2secs soon", "secs2timestr 1:00", "timestr2secs 1:2:3:4"] {
        let said = site.run(nonsense);
        assert!(said.code == Some(64) && said.out.is_empty(), "{nonsense}: {said:?}");
    }
    assert_eq!(site.run("timestr2secs; secs2timestr").out, "\n\n", "with nothing, nothing");
}

#[test]
fn the_first_round_has_no_count() {
    let site = Site::new();
    assert_eq!(site.run("restart_count").out, "0\n");
    assert_eq!(site.run("SLURM_RESTART_COUNT=3; restart_count").out, "3\n");
}

#[test]
fn outside_of_a_job_no_trap_is_needed_and_none_is_lost() {
    let said = Site::new().run("requeue_job true USR1 TERM; echo $?; trap -p");
    assert!(!said.out.starts_with("0\n"), "{said:?}");
    assert!(said.out.contains("'true USR1' SIGUSR1") && said.out.contains("'true TERM' SIGTERM"));
}

#[test]
fn a_missing_coordinator_is_an_error() {
    let said = Site::new().run_with("start_coordinator; echo $?", "/nowhere");
    assert_eq!(said.out, "127\n");
    assert!(said.err.contains("there is no dmtcp_coordinator in PATH (/nowhere:"), "{said:?}");
}

#[test]
fn a_coordinator_that_does_not_come_is_not_waited_for() {
    let site = Site::new();
    let begun = Instant::now();
    let said = site.run("dmtcp_coordinator() { echo why; }; cr_patience=1; start_coordinator");
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("has not written its port") && said.err.contains("why"), "{said:?}");
    let said = site.run("dmtcp_coordinator() { echo why; false; }; start_coordinator");
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("does not start: why"), "{said:?}");
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn the_coordinator_is_found_from_anywhere() {
    let site = Site::new();
    let said = site.run(
        "SLURM_JOB_ID=17; . ./cr_env.sh
        start_coordinator --interval 7 || exit
        port=$DMTCP_COORD_PORT host=$DMTCP_COORD_HOST
        unset DMTCP_COORD_PORT DMTCP_COORD_HOST CKPT_SECRET_FILE
        cd / && cr_status \"$cr_command\" && \"$cr_command\" --status && \"$cr_command\" --quit
        [[ $port == $(grep -o 'PORT=.*' \"$cr_command\" | cut -d= -f2) ]] && echo $host $cr_peers",
    );
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(
        said.out.contains("CKPT_INTERVAL=7") && said.out.ends_with("\n127.0.0.1 0\n"),
        "{said:?}"
    );
    let command = fs::read_to_string(site.path("dmtcp_command.17")).expect("it was made");
    assert!(command.starts_with("#!/bin/bash\n") && command.ends_with("dmtcp_command \"$@\"\n"));
}

/// A coordinator whose words are these, one a line; the last one for ever.
fn saying(words: &str) -> String {
    format!(
        "echo 0 >count
        asked() {{
            n=$(($(<count) + 1)) && echo $n >count && echo \"asked $*\" >>log
            case $1 in
            --status) echo Coordinator: ; echo '  Host: NUM_PEERS' ; eval \"$(sed -n \"${{n}}p\" said)\" ;;
            *) eval \"$(sed -n \"${{n}}p\" said)\" ;;
            esac
        }}
        cat >said <<'END'\n{words}\nEND\n"
    )
}

const RUNS: &str = "printf '  EXTRA=1\\n  RUNNING=yes\\n  NUM_PEERS=10\\n  MORE=5 (x)\\n'";
const STANDS: &str = "printf '  NUM_PEERS=2\\n  RUNNING=no\\n'";
const NOBODY: &str = "printf '  NUM_PEERS=0\\n  RUNNING=no\\n'";

#[test]
fn status_is_read_by_its_keys() {
    let site = Site::new();
    let status = "cr_status asked; echo $cr_peers $cr_running";
    assert_eq!(site.run(&(saying(RUNS) + status)).out, "10 yes\n");
    assert_eq!(site.run(&(saying(STANDS) + status)).out, "2 no\n");
    let status = "cr_status asked || echo $cr_peers $cr_running";
    assert_eq!(site.run(&(saying("printf 'NUM_PEERS=x;ls\\n'") + status)).out, "0 no\n");
    assert_eq!(site.run("cr_status /nowhere || echo $cr_peers $cr_running").out, "0 no\n");
}

#[test]
fn a_checkpoint_is_waited_for() {
    let site = Site::new();
    let run = |words: &[&str]| {
        let _of_the_last_one = fs::remove_file(site.path("log"));
        let said = site.run(&(saying(&words.join("\n")) + "ckpt_dmtcp asked"));
        let log = fs::read_to_string(site.path("log")).expect("it was asked");
        (said.code, log.replace("asked --", "").replace('\n', " "))
    };
    let (code, log) = run(&["true", STANDS, STANDS, RUNS]);
    assert_eq!((code, &*log), (Some(0), "bcheckpoint status status status "));
    // Refused while another one is under way; the second try comes after that.
    let (code, log) = run(&["false", STANDS, RUNS, "true", RUNS]);
    assert_eq!((code, &*log), (Some(0), "bcheckpoint status status bcheckpoint status "));
    let (code, log) = run(&["false", RUNS, "false"]);
    assert_eq!((code, &*log), (Some(1), "bcheckpoint status bcheckpoint "));
    let (code, log) = run(&["false", NOBODY]);
    assert_eq!((code, &*log), (Some(2), "bcheckpoint status "));
    // One that does not answer may have a job: it is no reason to begin that once more.
    let (code, log) = run(&["false", "false"]);
    assert_eq!((code, &*log), (Some(1), "bcheckpoint status "));
    assert_eq!(site.run("ckpt_dmtcp").code, Some(2));
}

#[test]
fn waiting_for_a_checkpoint_ends() {
    let site = Site::new();
    let said = site.run(&(saying(&[STANDS; 20].join("\n")) + "cr_patience=1; wait_coord asked"));
    assert_eq!(said.code, Some(1), "{said:?}");
    let said = site.run(&(saying(NOBODY) + "wait_coord asked"));
    assert_eq!((said.code, &*said.err), (Some(2), "cr_env.sh: no running job to checkpoint\n"));
    let mana = "dmtcp_command() { asked \"$@\"; }; ckpt_mana && wait_coord2";
    let said = site.run(&(saying(&["true", RUNS, RUNS].join("\n")) + mana));
    let done = "checkpointing completed, overhead = 0 seconds\n";
    assert_eq!((said.code, said.out), (Some(0), done.repeat(2)));
}

/// What func_trap does after a checkpoint command with this status; the job's requeueing as a word.
fn trapped(site: &Site, before: &str, status: i32, requeue: i32) -> Said {
    site.run(&format!(
        "ckpt() {{ echo \"$@\"; return {requeue}; }}
        ckpt_command='eval echo checkpoint; (exit {status})'
        {before}
        func_trap USR1 2>&1; status=$?
        trap -p TERM; kill %1 2>/dev/null; exit $status"
    ))
}

#[test]
fn requeued_after_a_checkpoint_only() {
    let site = Site::new();
    let said = trapped(&site, "sleep 9 &", 0, 0);
    assert_eq!(said.code, Some(0));
    assert_eq!(said.out, "checkpoint\nslurm requeue\ntrap -- '' SIGTERM\n", "TERM comes at once");
    // The reason is `ckpt slurm requeue`'s to tell; nothing else is done to the job.
    let said = trapped(&site, "sleep 9 &", 0, 69);
    assert_eq!((said.code, &*said.out), (Some(1), "checkpoint\nslurm requeue\n"));

    // What runs is ended by us if there is another round, and only then.
    let coordinator = "echo 'echo told \"$@\" >>told' >x; chmod +x x; cr_command=$PWD/x; sleep 9 &";
    assert_eq!(trapped(&site, coordinator, 0, 69).code, Some(1));
    assert!(!site.path("told").exists());
    assert_eq!(trapped(&site, coordinator, 0, 0).code, Some(0));
    assert_eq!(fs::read_to_string(site.path("told")).expect("it was asked"), "told --quit\n");

    let said = trapped(&site, "sleep 9 &", 1, 0);
    assert_eq!(said.code, Some(1));
    assert!(said.out.contains("no checkpoint at all") && !said.out.contains("slurm requeue"));
    let older = "mkdir -p d; DMTCP_CHECKPOINT_DIR=$PWD/d; touch d/dmtcp_restart_script.sh
        chmod +x d/dmtcp_restart_script.sh; sleep 9 &";
    let said = trapped(&site, older, 1, 0);
    assert!(said.code == Some(0) && said.out.contains("from the one before"), "{said:?}");

    let said = trapped(&site, "sleep 9 &", 2, 0);
    assert!(said.code == Some(0) && said.out.contains("has not begun"), "{said:?}");
    let said = trapped(&site, "true & wait", 2, 0);
    assert!(said.code == Some(1) && said.out.contains("has ended"), "{said:?}");
}

/// In a trap, bash takes the status of a bare `return` from what was interrupted.
#[test]
fn a_trap_tells_right_from_wrong() {
    let site = Site::new();
    for (words, status, end) in [
        (&["true", RUNS][..], 0, "slurm requeue\n"),
        (&["false", RUNS, "false"], 1, "at all: the job is not requeued\n"),
        (&["false", NOBODY], 0, "slurm requeue\n"),
    ] {
        let said = site.run(
            &(saying(&words.join("\n"))
                + "ckpt() { echo \"$@\"; }
                ckpt_command='ckpt_dmtcp asked'
                trapped() { func_trap \"$@\"; result=$?; }
                trap 'trapped USR1' USR1
                (sleep 0.3; kill -USR1 $$; sleep 0.5; exit 9) 2>&1 & wait_pid $! 2>&1
                echo $? >&2; exit $result"),
        );
        assert_eq!(said.code, Some(status), "{words:?} {said:?}");
        assert!(said.err.contains("\n9\n") || said.err == "9\n", "{said:?}");
        assert!(said.out.ends_with(end), "{said:?}");
    }
}

#[test]
fn what_a_job_script_wishes() {
    let site = Site::new();
    // `ckpt slurm time` is the real one; what is asked of Slurm is only said.
    let asked = "ckpt() {
            if [[ $2 == time ]]; then command ckpt \"$@\"; else echo \"$@\"; fi
        }
        cr_slurm plan";
    for (wishes, words) in [
        ("", "slurm plan\n"),
        ("ckpt_overhead=30", "slurm plan --overhead 30\n"),
        ("max_timelimit=172800", "slurm plan --max 48:00:00\n"),
        ("max_timelimit=00:02:30", "slurm plan --max 00:02:30\n"),
        ("max_timelimit=2-0 ckpt_overhead=9", "slurm plan --overhead 9 --max 2-0\n"),
    ] {
        assert_eq!(site.run(&format!("{wishes}\n{asked}")).out, words);
    }
    let said = site.run(
        "ckpt() {
            if [[ $2 == time ]]; then command ckpt \"$@\"; else
            printf '%s\\n' ckpt_overhead=60 max_timelimit= TOTAL_TIME= timeAlloc= used=5 \\
                remainingTimeSec= remainingTime= requestTime=; fi
        }
        parse_job && parse_job && echo $used",
    );
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains("$max_timelimit: UNLIMITED\n"), "{said:?}");
    assert!(said.out.contains("$remainingTime: not limited\n") && said.out.ends_with("\n5\n"));
}

#[test]
fn waiting_for_a_process() {
    let site = Site::new();
    assert_eq!(site.run("(sleep 0.2; exit 7) & wait_pid $!").code, Some(7));
    assert_eq!(site.run("(exit 7) & sleep 0.2; wait_pid $!").code, Some(7));
    assert_eq!(site.run("(sleep 0.2; kill -9 $BASHPID) & wait_pid $!").code, Some(137));
    assert_eq!(site.run("nothing & wait_pid $!").code, Some(127));
    assert_eq!(site.run("wait_pid 999999999").code, Some(127));
    assert_eq!(
        site.run(
            "p=$(sleep 0.7 >/dev/null & echo $!); wait_pid $p; [[ $? == 127 && ! -e /proc/$p ]]"
        )
        .code,
        Some(0)
    );
    for none in ["", "''", "x", "0", "-1"] {
        assert_eq!(site.run(&format!("wait_pid {none}")).code, Some(64), "{none}");
    }
    let said = site.run(
        "trap 'echo trapped' USR1
        (sleep 0.3; kill -USR1 $$; sleep 0.3; exit 9) & wait_pid $!",
    );
    assert_eq!((said.code, &*said.out), (Some(9), "trapped\n"));
}

#[test]
fn the_payload_says_the_same_each_time() {
    let site = Site::new();
    let said = site.run("./payload.sh 3 a && ./payload.sh 3 b && cmp a b && cat a");
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(said.out.lines().count(), 4);
    assert!(said.out.starts_with("step 1 sum ") && said.out.contains("\ndone "));
}

#[test]
fn the_wrapper_runs_a_job_that_can_be_checkpointed() {
    let site = Site::new();
    let said = site.run(
        "SLURM_JOB_ID=17; export SLURM_JOB_ID; . ./cr_env.sh
        ./wrapper.sh ./payload.sh 100000 & payload=$!
        until cr_status \"$cr_command\"; ((cr_peers > 0)); do sleep 0.1; done
        ckpt_dmtcp; echo $?
        \"$cr_command\" --kill; wait_pid $payload; echo $?
        ls ckpt.17",
    );
    assert!(said.out.contains("completed, overhead") && said.out.contains("\n0\n"), "{said:?}");
    assert!(
        said.out.contains("\n86\n") && said.out.contains("dmtcp_restart_script.sh"),
        "{said:?}"
    );
    assert!(said.out.contains("ckpt_payload.sh_"), "{said:?}");
}
