//! `ckpt-launch --slurm` in the everyday life of a job: it comes to its limit, is warned, ends, is
//! cancelled. Where a round is shortened, it is so that nobody has to wait for a whole minute.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use ckpt_tests::{Cluster, Fields, Job, NOTE, Options, SHORT, Work};

fn script(lines: &[&str]) -> String {
    lines.join("\n")
}

/// A script that shortens its rounds, and its work.
fn short(flags: &str, work: Work, output: &str) -> String {
    let launch = format!("exec ckpt-launch --slurm {flags} -- {} {output}", work.command());
    script(&[SHORT, &launch])
}

#[test]
fn limits() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    cluster.plays(&[
        ("whole_minutes", &whole_minutes),
        ("three_short_rounds", &three_short_rounds),
        ("a_small_total", &|cluster| a_small_total(cluster, "--total 15:00", "--nice")),
        ("a_small_total_as_comment", &|cluster| a_small_total(cluster, "", "--comment=15:00")),
        ("a_total_that_is_used_up", &a_total_that_is_used_up),
        ("an_array_in_one_directory", &an_array_in_one_directory),
        ("two_jobs_in_one_directory", &two_jobs_in_one_directory),
    ]);
}

/// Seconds of HH:MM:SS in a job's comment.
fn comment(fields: &Fields) -> u64 {
    seconds(fields.get("Comment").map_or("", String::as_str))
}

fn seconds(text: &str) -> u64 {
    let parts: Vec<u64> = text.split(':').filter_map(|part| part.parse().ok()).collect();
    let [hours, minutes, seconds] = parts[..] else { panic!("{text:?} is no HH:MM:SS") };
    hours * 3600 + minutes * 60 + seconds
}

/// What is left of `total` gets less by what each round has really used: no more than passed until
/// the next one began, no less than the payload's steps must have taken.
fn must_reckon_rightly(job: &Job<'_>, total: u64) {
    let rounds = job.rounds();
    let mut before = total;
    for pair in rounds.windows(2) {
        let [(began, first, _), (again, last, fields)] = pair else { unreachable!() };
        let left = comment(fields);
        let used = before.checked_sub(left).expect("nothing comes back");
        // Both times are cut to whole seconds.
        assert!(used <= again - began + 1, "{used} s were used from {began} to {again}");
        assert!(used + 2 >= (last - first) / 20, "{used} s were used from step {first} to {last}");
        before = left;
    }
}

/// The real limit of a job that says nothing about signals, and neither `exec`.
fn whole_minutes(cluster: &Cluster) {
    let lines = script(&[NOTE, "ckpt-launch --slurm --total 00:10:00 -- ./steps.sh output"]);
    let job = cluster.submit("whole-minutes", &["-t 1"], &lines);
    job.goes_through(Work::Script, "output", 2);
    let rounds = job.rounds();
    assert_eq!(rounds.len(), 3);
    assert!(rounds.iter().all(|(_, _, fields)| fields["TimeLimit"] == "00:01:00"));
    must_reckon_rightly(&job, 600);
}

fn three_short_rounds(cluster: &Cluster) {
    for work in [Work::Arrays, Work::Pipe] {
        let name = format!("three-short-{work:?}");
        let job = cluster.submit(&name, &["-t 1"], &short("", work, "output"));
        job.goes_through(work, "output", 2);
    }
}

/// No round is much longer than what is left of the total.
fn a_small_total(cluster: &Cluster, flags: &str, option: &str) {
    let lines = script(&[NOTE, &format!("exec ckpt-launch --slurm {flags} -- ./steps.sh output")]);
    let job = cluster.submit(&format!("small-total{option}"), &["-t 60", option], &lines);
    for life in 1..=2 {
        job.makes_steps("output");
        // Somebody wants it to make room.
        job.scancel(&["-b", "--signal=USR1"]);
        job.until_life(life);
    }
    job.completes_exactly(Work::Script, "output");
    let limits: Vec<(u64, Fields)> =
        job.rounds().into_iter().map(|(_, _, it)| (seconds(&it["TimeLimit"]), it)).collect();
    assert_eq!((limits.len(), limits[0].0), (3, 3600));
    for (limit, fields) in &limits[1..] {
        let left = comment(fields);
        // In whole minutes, and with time for a checkpoint.
        assert!((left..left + 120).contains(limit), "{left} s are left, the limit is {limit} s");
    }
    must_reckon_rightly(&job, 900);
}

/// It is saved and not requeued; a person may go on with it.
fn a_total_that_is_used_up(cluster: &Cluster) {
    let lines = "exec ckpt-launch --slurm -i 0 --total 0:20 -- ./steps.sh output";
    let job = cluster.submit("used-up", &["-t 5"], lines);
    job.until_state("FAILED");
    assert_eq!((job.field("ExitCode"), job.restarts()), ("85:0".into(), 0));
    assert!(job.log().contains("used up"), "{}", job.log());
    assert_eq!(job.images().len(), 1);
    job.until_gone();
    job.goes_on_by_hand("output");
    job.must_be_exact(Work::Script, "output");
}

fn an_array_in_one_directory(cluster: &Cluster) {
    let work = "exec ckpt-launch --slurm -- ./steps.sh out-$SLURM_ARRAY_TASK_ID";
    let jobs = cluster.submit_array("array", &["-t 1"], &script(&[SHORT, work]), 3);
    for (task, job) in (1..).zip(&jobs) {
        job.goes_through(Work::Script, &format!("out-{task}"), 1);
    }
}

fn two_jobs_in_one_directory(cluster: &Cluster) {
    let jobs = ["a", "b"].map(|output| {
        (output, cluster.submit("two-jobs", &["-t 1"], &short("", Work::Script, output)))
    });
    for (output, job) in jobs {
        job.goes_through(Work::Script, output, 1);
    }
}

#[test]
fn signals() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    cluster.plays(&[
        ("warned_by_term", &|cluster| warned(cluster, "TERM", "")),
        ("warned_by_term_with_exec", &|cluster| warned(cluster, "TERM", "exec")),
        ("warned_by_usr1", &|cluster| warned(cluster, "USR1", "")),
        ("warned_by_usr1_with_exec", &|cluster| warned(cluster, "USR1", "exec")),
        ("a_step_is_warned", &a_step_is_warned),
        ("written_by_ckpt_launch", &written_by_ckpt_launch),
        ("two_commands", &two_commands),
        ("done_when_warned", &|cluster| done_when_warned(cluster, "")),
        ("done_when_warned_with_exec", &|cluster| done_when_warned(cluster, "exec")),
    ]);
}

/// Slurm has sent the job its warning.
fn is_warned(cluster: &Cluster, job: &Job<'_>) -> bool {
    let end = format!("JobId={}", job.id);
    cluster.log().lines().any(|line| line.contains("arning signal") && line.contains(&end))
}

fn warned(cluster: &Cluster, signal: &str, exec: &str) {
    // Longer than it takes Slurm to look: so that it comes.
    let launch = format!("{exec} ckpt-launch --slurm -- ./steps.sh output");
    let options = format!("--signal=B:{signal}@60");
    let job = cluster.submit(&format!("{signal}-{exec}"), &["-t 1", &options], &launch);
    job.until_restarts(1);
    assert!(is_warned(cluster, &job), "{}", cluster.log());
    job.goes_through(Work::Script, "output", 1);
}

/// Every process of a step gets its warning, and the payload would die of it.
fn a_step_is_warned(cluster: &Cluster) {
    let launch = "srun ckpt-launch --slurm -- ./steps.sh output";
    let job = cluster.submit("step", &["-t 2", "--signal=USR1@20"], launch);
    job.goes_through(Work::Script, "output", 1);
}

/// A script that nobody has written by hand.
fn written_by_ckpt_launch(cluster: &Cluster) {
    let words = ["--time", "1:00", "--total", "10:00", "--", "./steps.sh", "output"];
    let job = cluster.submit_by_ckpt_launch("by-ckpt-launch", &words);
    job.goes_through(Work::Script, "output", 1);
    assert!(comment(&job.fields()) < 600, "{:?}", job.fields());
}

/// One after the other: what has ended does not begin anew in a later round.
fn two_commands(cluster: &Cluster) {
    let [first, second] = ["first", "second"]
        .map(|output| format!("ckpt-launch --slurm -- ./steps.sh {output} || exit"));
    let job = cluster.submit("two-commands", &["-t 1"], &script(&[SHORT, &first, &second]));
    job.until_life(1);
    assert!(!job.path("second").exists());
    job.makes_steps("first");
    job.finish("first");
    job.makes_steps("second");
    job.must_be_exact(Work::Script, "first");
    job.until_life(2);
    job.completes_exactly(Work::Script, "second");
    job.must_be_exact(Work::Script, "first");
}

/// A job that is told that its time will be up, but needs no more.
fn done_when_warned(cluster: &Cluster, exec: &str) {
    let launch = format!("{exec} ckpt-launch --slurm -- ./steps.sh output");
    let job = cluster.submit(&format!("done-{exec}"), &["-t 2", "--signal=B:USR1@100"], &launch);
    job.waits_for("a warning", || is_warned(cluster, &job));
    job.completes(Work::Script, "output");
    assert_eq!((job.restarts(), job.field("ExitCode")), (0, "0:0".into()));
}

#[test]
fn ends() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    cluster.plays(&[
        ("own_status", &|cluster| own_status(cluster, "")),
        ("own_status_with_exec", &|cluster| own_status(cluster, "exec")),
        ("cancelled", &|cluster| cancelled(cluster, "")),
        ("cancelled_with_exec", &|cluster| cancelled(cluster, "exec")),
        ("cancelled_in_its_last_checkpoint", &cancelled_in_its_last_checkpoint),
        ("cancelled_as_a_step", &cancelled_as_a_step),
        ("requeued_by_others", &requeued_by_others),
        ("ended_at_once", &ended_at_once),
        ("a_programs_own_policy", &a_programs_own_policy),
    ]);
}

/// A program without any launcher knows when its job will end.
fn a_programs_own_policy(cluster: &Cluster) {
    let own = std::env::current_exe().expect("a program knows its name");
    // Cargo puts examples beside the folder of the tests.
    let example = own.ancestors().nth(2).expect("cargo's folders").join("examples/due");
    let folder = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o755)).tempdir();
    let folder = folder.expect("a folder");
    let program = folder.path().join("due");
    fs::copy(example, &program).expect("the examples are built");
    let program = program.display();
    let lines = script(&[&format!("{program} 3600 > output"), &format!("{program} 10 >> output")]);
    let job = cluster.submit("own-policy", &["-t 30"], &lines);
    job.until_state("COMPLETED");
    assert_eq!(job.read("output"), "the end is near\nnot yet\n");
}

/// The payload's exit status is the job's, in the first life and in a later one.
fn own_status(cluster: &Cluster, exec: &str) {
    let launch = format!("{exec} ckpt-launch --slurm -- ./steps.sh output");
    let lines = script(&[SHORT, &launch]);
    for (name, lives) in [("first", 0), ("later", 1)] {
        let job = cluster.submit(&format!("{name}-{exec}"), &["-t 1"], &lines);
        job.until_life(lives);
        job.makes_steps("output");
        job.finish_with("output", "7");
        job.until_state("FAILED");
        assert_eq!((job.field("ExitCode"), job.restarts()), ("7:0".into(), lives));
        job.must_be_exact(Work::Script, "output");
        job.until_gone();
    }
}

/// No life comes after that.
fn must_stay_cancelled(cluster: &Cluster, job: &Job<'_>, restarts: u32) {
    job.until_state("CANCELLED");
    // Nobody is left who could have it requeued.
    job.until_gone();
    job.until("rest", |fields| fields["JobState"] == "CANCELLED");
    assert_eq!(job.restarts(), restarts);
    let requeues = cluster
        .log()
        .lines()
        .filter(|line| line.ends_with(&format!("Requeuing JobId={}", job.id)))
        .count();
    assert_eq!(requeues, restarts as usize, "{}", cluster.log());
}

fn cancelled(cluster: &Cluster, exec: &str) {
    let launch = format!("{exec} ckpt-launch --slurm -- ./steps.sh output");
    let first = cluster.submit(&format!("cancelled-{exec}"), &["-t 1"], &launch);
    let later =
        cluster.submit(&format!("cancelled-later-{exec}"), &["-t 1"], &script(&[SHORT, &launch]));
    first.makes_steps("output");
    first.scancel(&[]);
    must_stay_cancelled(cluster, &first, 0);
    later.until_life(1);
    later.makes_steps("output");
    later.scancel(&[]);
    must_stay_cancelled(cluster, &later, 1);
}

fn cancelled_in_its_last_checkpoint(cluster: &Cluster) {
    let job = cluster.submit("cancelled-last", &["-t 1"], &short("-i 0", Work::Memory, "output"));
    job.until_writing();
    job.scancel(&[]);
    must_stay_cancelled(cluster, &job, 0);
}

fn cancelled_as_a_step(cluster: &Cluster) {
    let launch = "srun ckpt-launch --slurm -i 2 -- ./steps.sh output";
    let job = cluster.submit("cancelled-step", &["-t 1"], launch);
    job.until_image(&[]);
    job.scancel(&[]);
    must_stay_cancelled(cluster, &job, 0);
}

/// An operator needs the node: TERM comes when the job is requeued already.
fn requeued_by_others(cluster: &Cluster) {
    let launch = "exec ckpt-launch --slurm -i 2 -- ./steps.sh output";
    let job = cluster.submit("requeued", &["-t 5"], launch);
    job.until_image(&[]);
    cluster.scontrol(&["requeue", &job.id.to_string()]).expect("root may");
    job.until_life(1);
    job.completes(Work::Script, "output");
    assert_eq!(job.restarts(), 1);
}

/// The limit comes before anybody has said so: an earlier generation must do.
fn ended_at_once(cluster: &Cluster) {
    let launch = "exec ckpt-launch --slurm -i 2 -- ./steps.sh output";
    let job = cluster.submit("at-once", &["-t 5"], launch);
    job.until_image(&[]);
    job.update("EndTime=now+1");
    job.until_life(1);
    assert!(cluster.timed_out(&job), "{}", cluster.log());
    job.completes(Work::Script, "output");
    assert_eq!(job.restarts(), 1);
}
