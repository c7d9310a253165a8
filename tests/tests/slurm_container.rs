//! `ckpt-launch --slurm --container`: no Slurm is in the image, no checkpoint is taken outside.

use ckpt_tests::runtime::{Image, Kind, Runtime};
use ckpt_tests::{Cluster, Options, SHORT, Work};

/// Limit, requeue, restart, and so on, until it has completed.
fn limits(cluster: &Cluster, kind: Kind) {
    let Some(runtime) = Runtime::of(kind) else { return };
    let image = runtime.image(Image::Bash);
    let name = kind.program();
    let path = format!("PATH={}:{}:$PATH", ckpt_tests::programs().display(), runtime.path());
    let launch =
        format!("ckpt-launch --slurm --container {name} --image {image} -- bash ./steps.sh output");
    let lines = ["export HOME=/tmp", &path, SHORT, &launch].join("\n");
    let job = cluster.submit(name, &["-t 1"], &lines);
    job.until_restarts(2);
    job.until_life(2);
    job.completes(Work::Script, "output");
}

/// Its user cancels it: the container ends as well, and nothing is requeued.
fn cancelled(cluster: &Cluster) {
    let Some(runtime) = Runtime::of(Kind::PodmanHpc) else { return };
    let image = runtime.image(Image::Bash);
    let path = format!("PATH={}:{}:$PATH", ckpt_tests::programs().display(), runtime.path());
    let launch = format!(
        "ckpt-launch --slurm --container podman-hpc --image {image} -- bash ./steps.sh output"
    );
    let job =
        cluster.submit("cancelled", &["-t 5"], &["export HOME=/tmp", &path, &launch].join("\n"));
    job.makes_steps("output");
    job.scancel(&[]);
    job.until_state("CANCELLED");
    job.until_gone();
    assert_eq!(job.restarts(), 0);
}

#[test]
fn in_containers() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    cluster.plays(&[
        ("podman_hpc", &|cluster| limits(cluster, Kind::PodmanHpc)),
        ("shifter", &|cluster| limits(cluster, Kind::Shifter)),
        ("cancelled", &cancelled),
    ]);
}
