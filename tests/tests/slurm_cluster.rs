//! The cluster that the other tests use, with plain scripts and nothing of ours.

use ckpt_tests::{Cluster, Options, Work};

/// A script that has itself requeued, then one whose limit comes, then one that is cancelled.
#[test]
fn plain_jobs() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    let requeues = "\
        trap '' TERM\n\
        echo life ${SLURM_RESTART_COUNT:-0}\n\
        [ \"$SLURM_RESTART_COUNT\" ] && exit 7\n\
        scontrol requeue $SLURM_JOB_ID\n\
        sleep 100";
    let requeued = cluster.submit("requeued", &["-t 1"], requeues);
    let short = "scontrol update JobId=$SLURM_JOB_ID EndTime=now+2\nexec ./steps.sh output";
    let limited = cluster.submit("limited", &["-t 1"], short);
    let cancelled = cluster.submit("cancelled", &[], "exec ./steps.sh output");
    let finished = cluster.submit("finished", &[], "./steps.sh output");
    cancelled.until_step("output", 10);
    cancelled.scancel(&[]);
    finished.makes_steps("output");
    finished.finish("output");
    finished.until_state("COMPLETED");
    finished.must_be_exact(Work::Script, "output");
    cancelled.until_state("CANCELLED");
    requeued.until_state("FAILED");
    assert_eq!(requeued.field("ExitCode"), "7:0");
    let log = requeued.log();
    let said: Vec<&str> = log.lines().filter(|line| !line.starts_with("slurmstepd")).collect();
    assert_eq!(said, ["life 0", "life 1"]);
    limited.until_state("TIMEOUT");
    for job in [requeued, limited, cancelled, finished] {
        job.until_gone();
    }
}

/// A job outlives both daemons.
#[test]
fn killed_daemons() {
    let Some(cluster) = Cluster::start(Options { nodes: 2, ..Options::default() }) else { return };
    let job = cluster.submit(
        "job",
        &["-w n2"],
        "\
        scontrol update JobId=$SLURM_JOB_ID Comment=begun && touch begun\n\
        exec ./steps.sh output",
    );
    job.until_step("output", 5);
    cluster.until_saved(job.written("begun"));
    cluster.kill_slurmctld();
    assert!(job.fields().is_empty());
    job.makes_steps("output");
    assert!(cluster.start_slurmctld());
    cluster.kill_slurmd(2);
    job.makes_steps("output");
    assert!(cluster.start_slurmd(2));
    assert_eq!(job.field("JobState"), "RUNNING");
    job.finish("output");
    job.until_state("COMPLETED");
    job.must_be_exact(Work::Script, "output");
}

/// Tasks of an array, and what the payloads write.
#[test]
fn payloads() {
    let Some(cluster) = Cluster::start(Options { nodes: 3, ..Options::default() }) else { return };
    let works = [Work::Script, Work::Pipe, Work::Arrays];
    let commands = works.map(|work| format!("'{}'", work.command())).join(" ");
    let script =
        format!("works=({commands})\n${{works[SLURM_ARRAY_TASK_ID - 1]}} out-$SLURM_JOB_ID");
    let jobs = cluster.submit_array("array", &["-N1"], &script, 3);
    let wide = cluster.submit("wide", &["-N3"], "srun sh -c './steps.sh out-$SLURM_PROCID'");
    for job in &jobs {
        let output = format!("out-{}", job.id);
        job.makes_steps(&output);
        job.finish(&output);
    }
    for (job, work) in jobs.iter().zip(works) {
        job.until_state("COMPLETED");
        job.must_be_exact(work, &format!("out-{}", job.id));
    }
    for rank in 0..3 {
        wide.makes_steps(&format!("out-{rank}"));
        wide.finish(&format!("out-{rank}"));
    }
    wide.until_state("COMPLETED");
}
