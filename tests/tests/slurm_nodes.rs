//! `ckpt-launch --slurm` on several nodes: lost ones, jobs across them, jobs that give them up.

use std::fs;

use ckpt_tests::{Cluster, Options, Work};

/// When a process was born, by which it is known from a later one with its number.
fn birth(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = &stat[stat.rfind(')')? + 1..];
    after_name.split_whitespace().nth(19).map(str::to_owned)
}

/// Slurm starts the job elsewhere, while the old incarnation lives on and knows nothing.
#[test]
fn a_node_is_lost() {
    let Some(cluster) = Cluster::start(Options { nodes: 2, ..Options::default() }) else { return };
    let launch = "exec ckpt-launch --slurm -i 2 -- ./steps.sh output";
    let job = cluster.submit("job", &["-t 5"], launch);
    job.until_image(&[]);
    let node = job.field("NodeList");
    let old: Vec<_> = job.processes().into_iter().map(|pid| (pid, birth(pid))).collect();
    assert!(!old.is_empty());
    cluster.kill_slurmd(node[1..].parse().expect("n1 or n2"));
    let name = format!("NodeName={node}");
    cluster.scontrol(&["update", &name, "State=DOWN", "Reason=test"]).expect("root may");
    job.until_restarts(1);
    assert!(!job.processes().is_empty(), "the old incarnation is gone by itself");
    job.until_life(1);
    assert_ne!(job.field("NodeList"), node);
    job.waits_for("its predecessor's end", || {
        old.iter().all(|(pid, born)| born.is_none() || birth(*pid) != *born)
    });
    assert!(job.log().contains("has taken over"), "{}", job.log());
    job.completes(Work::Script, "output");
    assert_eq!(job.restarts(), 1);
}

/// A launcher on each node, all of which make a generation together.
#[test]
fn a_job_across_nodes() {
    let Some(cluster) = Cluster::start(Options { nodes: 3, ..Options::default() }) else { return };
    let lines = "\
        scontrol update JobId=$SLURM_JOB_ID EndTime=now+40\n\
        srun sh -c 'exec ckpt-launch --slurm -i 0 -- ./steps.sh out-$SLURM_PROCID'";
    let job = cluster.submit("wide", &["-t 1", "-N3"], lines);
    let outputs = ["out-0", "out-1", "out-2"];
    job.until_life(2);
    outputs.iter().for_each(|output| job.makes_steps(output));
    outputs.iter().for_each(|output| job.finish(output));
    job.until_state("COMPLETED");
    outputs.iter().for_each(|output| job.must_be_exact(Work::Script, output));
    assert!(!cluster.timed_out(&job), "it was over its limit");
    job.until_gone();
}

/// A more important job needs the node: with a warning nothing is lost, without one an earlier
/// generation must do.
#[test]
fn preempted() {
    let Some(cluster) = Cluster::start(Options { nodes: 1, ..Options::default() }) else { return };
    let launch = "exec ckpt-launch --slurm -i 2 -- ./steps.sh output";
    let options = ["-p preempt", "-t 30", "-c 8"];
    let warned = [&options[..], &["--signal=B:USR1@60"]].concat();
    let warned = cluster.submit("warned", &warned, &launch.replace("-i 2", "-i 0"));
    let unwarned = cluster.submit("unwarned", &options, launch);
    warned.makes_steps("output");
    unwarned.until_image(&[]);
    let urgent = cluster.submit("urgent", &["-t 30", "-c 16"], "exec ./steps.sh output");
    urgent.makes_steps("output");
    for job in [&warned, &unwarned] {
        job.until_state("PENDING");
        assert_eq!(job.restarts(), 1);
        job.until_gone();
    }
    urgent.completes(Work::Script, "output");
    warned.goes_through(Work::Script, "output", 1);
    unwarned.until_life(1);
    unwarned.completes(Work::Script, "output");
    assert_eq!((warned.restarts(), unwarned.restarts()), (1, 1));
}
