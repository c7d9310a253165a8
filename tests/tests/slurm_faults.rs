//! `ckpt-launch --slurm` when something does not work: checkpoints, requeueing, the controller.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use ckpt_tests::{Cluster, Options, SHORT, Work};

fn script(lines: &[&str]) -> String {
    lines.join("\n")
}

#[test]
fn checkpoints() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    cluster.plays(&[
        ("refused_at_the_limit", &refused_at_the_limit),
        ("unwritable_at_the_limit", &unwritable_at_the_limit),
        ("none_at_all", &none_at_all),
        ("requeue_is_forbidden", &requeue_is_forbidden),
        ("usr1_during_a_checkpoint", &|cluster| {
            signal_during_a_checkpoint(cluster, "USR1", "exec");
        }),
        ("term_during_a_checkpoint", &|cluster| signal_during_a_checkpoint(cluster, "TERM", "")),
    ]);
}

/// The payload has opened what cannot be saved: an earlier generation must do.
fn refused_at_the_limit(cluster: &Cluster) {
    let launch = "exec ckpt-launch --slurm -i 2 -- ./steps.sh output";
    let job = cluster.submit("refused", &["-t 1"], &script(&[SHORT, launch]));
    job.until_image(&[]);
    job.write("output.refuse", "");
    job.waits_for("a refusal", || job.path("output.refused").exists());
    let images = job.images();
    job.until_restarts(1);
    assert_eq!(job.images(), images, "there is a new generation");
    job.until_life(1);
    job.completes(Work::Script, "output");
    assert!(job.log().contains("must do: "), "{}", job.log());
    assert!(job.log().contains("socket"), "{}", job.log());
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("root may");
}

/// Somebody has taken the right to write away, or the disk is full.
fn unwritable_at_the_limit(cluster: &Cluster) {
    let launch = "exec ckpt-launch --slurm -i 2 -- ./steps.sh output";
    let job = cluster.submit("unwritable", &["-t 1"], &script(&[SHORT, launch]));
    job.until_image(&[]);
    mode(&job.directory(), 0o500);
    job.until_restarts(1);
    mode(&job.directory(), 0o700);
    job.until_life(1);
    job.completes(Work::Script, "output");
}

/// There is nothing to go on from, and somebody must be told why.
fn none_at_all(cluster: &Cluster) {
    let launch = "exec ckpt-launch --slurm -i 0 -- ./steps.sh output";
    let lines = script(&[SHORT, "touch output.refuse", launch]);
    let job = cluster.submit("none", &["-t 1"], &lines);
    job.until_state("FAILED");
    job.until_gone();
    assert_eq!((job.field("ExitCode"), job.restarts()), ("69:0".into(), 0));
    let log = job.log();
    assert!(log.contains("no checkpoint to go on from"), "{log}");
    assert!(log.contains("socket"), "{log}");
    assert!(job.images().is_empty());
}

/// It is said at the beginning; the last checkpoint is taken all the same, and a person may go on.
fn requeue_is_forbidden(cluster: &Cluster) {
    let launch = "exec ckpt-launch --slurm -i 0 -- ./steps.sh output";
    let job = cluster.submit("forbidden", &["-t 1", "--no-requeue"], &script(&[SHORT, launch]));
    job.makes_steps("output");
    assert!(job.log().contains("#SBATCH --requeue"), "{}", job.log());
    job.until_image(&[]);
    job.makes_steps("output");
    job.until_state("TIMEOUT");
    job.until_gone();
    assert_eq!((job.restarts(), job.images().len()), (0, 1));
    job.goes_on_by_hand("output");
    job.must_be_right(Work::Script, "output");
}

/// Long before its limit: somebody wants the job to make room.
fn signal_during_a_checkpoint(cluster: &Cluster, signal: &str, exec: &str) {
    let launch = format!("{exec} ckpt-launch --slurm -i 2 -- {} output", Work::Memory.command());
    let options = format!("--signal=B:{signal}@30");
    let job = cluster.submit(&format!("during-{signal}"), &["-t 20", &options], &launch);
    job.until_image(&[]);
    job.until_writing();
    job.scancel(&["-b", &format!("--signal={signal}")]);
    job.goes_through(Work::Memory, "output", 1);
    assert_eq!(job.restarts(), 1);
}

/// It is away when the last checkpoint of a job comes, when the time of another is up, and when a
/// third begins. When it comes back, nothing is lost.
#[test]
fn the_controller_is_away() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    let launch = "exec ckpt-launch --slurm -i 0 -- ./steps.sh output";
    let ends_in = |seconds: u32| {
        let update = format!("scontrol update JobId=$SLURM_JOB_ID EndTime=now+{seconds}");
        script(&["if [ ! -e begun ]; then", &update, "date +%s >begun", "fi", launch])
    };
    let late = cluster.submit("late", &["-t 2"], &ends_in(90));
    let over = cluster.submit("over", &["-t 2"], &ends_in(60));
    let touch = "scontrol update JobId=$SLURM_JOB_ID Comment=x && touch begun";
    let lines = script(&[touch, "until [ -e go ]; do sleep 0.1; done", launch]);
    let new = cluster.submit("new", &["-t 5"], &lines);
    for job in [&late, &over, &new] {
        job.waits_for("its begin", || job.path("begun").exists());
        // What it does not know of a job when it comes back it cannot do right.
        cluster.until_saved(job.written("begun"));
    }
    assert!(over.images().is_empty(), "it was saved too late");
    cluster.kill_slurmctld();
    new.write("go", "");
    over.until_image(&[]);
    let begun: u64 = over.read("begun").trim().parse().expect("the script has written it");
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(begun + 60);
    let image = over.images().first().and_then(|image| image.metadata().ok()?.modified().ok());
    assert!(image < Some(end), "the last checkpoint came when the time was up");
    over.waits_for("the end of its time", || SystemTime::now() > end + Duration::from_secs(2));
    late.until_image(&[]);
    // It does not know its end, and neither whether the job may be requeued.
    new.makes_steps("output");
    assert!(cluster.start_slurmctld());
    new.update("EndTime=now+60");
    for job in [&late, &over, &new] {
        job.until_life(1);
    }
    // No more than it asked for at first.
    let limit = new.field("TimeLimit");
    assert!(limit.as_str() <= "00:05:00", "the five minutes have become {limit}");
    for job in [late, over, new] {
        job.completes_exactly(Work::Script, "output");
        assert_eq!(job.restarts(), 1);
    }
}
