//! The command lines, word for word. That the runtimes take them: tests/tests/containers.rs.

use super::*;

fn line(runtime: Runtime, container: &Container, stdin: bool) -> String {
    let run = Run {
        programs: Path::new("/home/me/ckpt"),
        name: "ckpt-1",
        here: Path::new("/scratch/me"),
        stdin,
        umask: 0o27,
        program: "ckpt-launch",
        words: vec!["--inside".into(), "/scratch/me/s".into(), "--".into(), "./a.sh".into()],
    };
    let words = runtime.words(container, &run).unwrap();
    words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn container(image: &str, identity: &str, arguments: &[&str]) -> Container {
    Container {
        image: image.to_owned(),
        identity: identity.to_owned(),
        arguments: arguments.iter().map(|&word| word.to_owned()).collect(),
        folders: vec!["/scratch/me".into(), "/images".into()],
        ..Container::default()
    }
}

#[test]
fn podman() {
    let expected = "run --rm --name ckpt-1 --network=host --env SLURM_* --env OMP_* \
         --volume /home/me/ckpt:/opt/ckpt:ro --volume /scratch/me:/scratch/me \
         --volume /images:/images --workdir /scratch/me --preserve-fds=1 --user=0 \
         --umask=0027 --gpu --entrypoint=/opt/ckpt/ckpt-launch me/app:1 --inside /scratch/me/s -- ./a.sh";
    let plain = container("me/app:1", "", &["--gpu"]);
    assert_eq!(line(Runtime::PodmanHpc, &plain, true), expected);
    let arguments = ["--net", "none", "--user=1000", "--umask=0"];
    let known = container("me/app:1", "abc", &arguments);
    let known = line(Runtime::Podman, &known, false);
    assert!(known.contains(" --pull=never abc --inside"), "{known}");
    for ours in ["--network=host", "--preserve-fds", "--user=0", "--umask=00"] {
        assert!(!known.contains(ours), "{known}");
    }
}

#[test]
fn apptainer() {
    assert_eq!(
        line(Runtime::Apptainer, &container("/x/app.sif", "uuid:1", &["--nv"]), true),
        "exec --bind /home/me/ckpt:/opt/ckpt:ro --bind /scratch/me:/scratch/me \
         --bind /images:/images --pwd /scratch/me --nv /x/app.sif /opt/ckpt/ckpt-launch \
         --inside /scratch/me/s -- ./a.sh"
    );
}

#[test]
fn shifter() {
    let words = "/home/me/ckpt/ckpt-launch --inside /scratch/me/s -- ./a.sh";
    assert_eq!(
        line(Runtime::Shifter, &container("docker:me/app:1", "", &["--module=mpich"]), true),
        format!("--image=docker:me/app:1 --module=mpich {words}")
    );
    assert_eq!(line(Runtime::Shifter, &container("-", "", &[]), true), words);
}

#[test]
fn what_is_ours_to_say() {
    let says = |runtime: Runtime, word: &str| runtime.allows(&["--gpu".into(), word.into()]);
    assert_eq!(says(Runtime::Podman, "--name=x").unwrap_err().kind(), ErrorKind::Usage);
    assert!(says(Runtime::PodmanHpc, "--entrypoint").is_err());
    assert!(says(Runtime::Podman, "--names").is_ok() && says(Runtime::Shifter, "--name=x").is_ok());
}

#[test]
fn folders_that_cannot_be_named() {
    let mut odd = container("x", "", &[]);
    odd.folders.push("/a:b".into());
    let run = Run {
        programs: Path::new("/p"),
        name: "n",
        here: Path::new("/"),
        stdin: false,
        umask: 0o22,
        program: "ckpt",
        words: Vec::new(),
    };
    assert_eq!(Runtime::Podman.words(&odd, &run).unwrap_err().kind(), ErrorKind::Usage);
    assert!(Runtime::Shifter.words(&odd, &run).is_ok());
}
