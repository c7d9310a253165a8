//! The script as a text. What bash makes of it, and what is given to sbatch: tests/sbatch.rs.

use clap::CommandFactory;

use super::*;

fn asked(words: &[&str]) -> Sbatch {
    let name = std::iter::once("ckpt-launch sbatch");
    Sbatch::try_parse_from(name.chain(words.iter().copied())).unwrap_or_else(|e| panic!("{e}"))
}

fn text(words: &[&str]) -> String {
    script(&asked(words)).unwrap_or_else(|e| panic!("{e}"))
}

fn last_line(words: &[&str]) -> String {
    text(words).lines().last().unwrap_or_default().to_owned()
}

#[test]
fn declarations_are_sound() {
    Sbatch::command().debug_assert();
}

#[test]
fn a_whole_one() {
    let words =
        ["--time", "60", "--total", "1-0", "-i", "5m", "-q", "low", "--", "./payload.sh", "a b"];
    assert_eq!(
        text(&words),
        "\
#!/bin/bash
#SBATCH --job-name=payload.sh
#SBATCH --qos=low
#SBATCH --time=01:00:00
#SBATCH --requeue           # the next round is this job again,
#SBATCH --open-mode=append  # and goes on in the same output files

# Starts the payload, or goes on from its newest checkpoint. Before the time is up it takes one, and
# has the job queued again, unless the payload has ended or the total time is used up.
exec ckpt-launch --slurm --total 24:00:00 --interval 300 -- ./payload.sh 'a b'
"
    );
}

#[test]
fn in_a_container() {
    let words = ["--container", "podman-hpc", "--image", "me/app:1", "--container-arg", "-v /a:/b"];
    assert_eq!(
        last_line(&[&words[..], &["./payload.sh"]].concat()),
        "exec ckpt-launch --slurm --container=podman-hpc --image=me/app:1 \
         '--container-arg=-v /a:/b' -- ./payload.sh"
    );
}

#[test]
fn every_option_of_sbatch() {
    let words = "-J my\tjob -A a -p b,c -q d -C e&f -N 1 -n 1 -c 4 --mem 2G --time-min 10 \
                 --signal B:USR1@60 -o out-%j -e err \
                 --sbatch --gres=gpu:1\t--exclusive --sbatch=-D\tx go";
    let words: Vec<_> = words.split(' ').filter(|word| !word.is_empty()).collect();
    let words: Vec<_> = words.iter().map(|word| word.replace('\t', " ")).collect();
    let words: Vec<_> = words.iter().map(|word| &**word).collect();
    let text = text(&words);
    let lines: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("#SBATCH ")).collect();
    let expected = [
        "--job-name=\"my job\"",
        "--account=a",
        "--partition=b,c",
        "--qos=d",
        "--constraint=e&f",
        "--nodes=1",
        "--ntasks=1",
        "--cpus-per-task=4",
        "--mem=2G",
        "--time-min=00:10:00",
        "--signal=B:USR1@60",
        "--output=out-%j",
        "--error=err",
        "--gres=gpu:1 --exclusive",
        "-D x",
    ];
    assert_eq!(lines[..expected.len()], expected);
    assert_eq!(lines.len(), expected.len() + 2);
    assert!(text.ends_with("\nexec ckpt-launch --slurm -- go\n"), "{text}");
}

#[test]
fn what_our_launcher_is_told() {
    let words = "--ckptdir=-odd --keep 3 --level -2 --backend dmtcp --dmtcp /opt/d -i 1.5 x";
    let words: Vec<_> = words.split(' ').collect();
    assert_eq!(
        last_line(&words),
        "exec ckpt-launch --slurm --interval 1.5 --keep 3 --level -2 --ckptdir ./-odd \
         --backend dmtcp --dmtcp /opt/d -- x"
    );
    assert_eq!(
        last_line(&["--total", "UNLIMITED", "x", "-i", "5"]),
        "exec ckpt-launch --slurm --total UNLIMITED -- x -i 5"
    );
}

#[test]
fn more_than_one_process_takes_srun() {
    for one in [&[][..], &["-N", "1"], &["-N", "1-1"], &["-n", "1"], &["-c", "8"]] {
        let line = last_line(&[one, &["x"]].concat());
        assert_eq!(line, "exec ckpt-launch --slurm -- x", "{one:?}");
    }
    for many in [&["-N", "2"][..], &["-N", "1-2"], &["-n", "2"], &["--ntasks-per-node", "2"]] {
        let line = last_line(&[many, &["x"]].concat());
        assert_eq!(line, "exec srun ckpt-launch --slurm -- x", "{many:?}");
        let line = last_line(&[many, &["-c", "4", "x"]].concat());
        assert_eq!(line, "exec srun --cpus-per-task=4 ckpt-launch --slurm -- x", "{many:?}");
    }
}

#[test]
fn what_cannot_be() {
    for bad in [
        &["-J", "a\nb"][..],
        &["-o", "a\r"],
        &["--sbatch", "--comment=a\nrm"],
        &["--sbatch", "gres=gpu:1"],
        &["--sbatch", ""],
        &["--sbatch", "-v --no-requeue"],
        &["--sbatch", "--open-mode=truncate"],
    ] {
        let error = script(&asked(&[bad, &["x"]].concat())).expect_err(bad[1]);
        assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
        assert!(error.to_string().contains(&format!("{:?}", bad[1])), "{error}");
    }
    for bad in [&["x", "-t"][1..], &["-t", "1:", "x"], &["--total", "x", "x"], &["-n", "-1", "x"]] {
        assert!(Sbatch::try_parse_from([&["sbatch"], bad].concat()).is_err(), "{bad:?}");
    }
}

#[test]
fn the_name_of_the_job() {
    for (program, name) in [("/a/b c", "\"b c\""), ("..", "\"\""), ("a\nb", "ab"), ("./x", "x")] {
        assert!(text(&[program]).contains(&format!("--job-name={name}\n")), "{program}");
    }
}
