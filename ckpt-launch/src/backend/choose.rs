//! Which engine a job is for: ours, except for MPI across nodes, where DMTCP reaches every node.
//!
//! Only what can be seen without running anything counts: words of the command line, the
//! environment, the libraries that the program names, the words of a script. A program that loads
//! MPI later is not recognised. The answer comes with its reason, for the user to overrule.

use std::collections::HashMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use goblin::elf::Elf;

/// What can take and restore a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Our own engine.
    Native,
    /// A DMTCP that is installed here.
    Dmtcp,
}

/// A decision and its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The engine.
    pub backend: Backend,
    /// One line for the user.
    pub why: String,
}

/// No program that is larger is looked into.
const MAX_PROGRAM: u64 = 256 << 20;
/// As much of a script is looked at.
const MAX_SCRIPT: usize = 64 << 10;
/// What MPI libraries' names begin with, and those of what they stand on.
const LIBRARIES: [&str; 6] = ["libmpi", "libpmi", "libfabric", "libucp", "libopen-rte", "libpsm2"];
/// Set in every rank.
const RANK: [&str; 4] = ["PMIX_RANK", "PMI_RANK", "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS"];
/// How many nodes the batch system gave.
const NODES: [&str; 3] = ["SLURM_JOB_NUM_NODES", "SLURM_NNODES", "PBS_NUM_NODES"];
/// Launchers' options that name a file of hosts, or a list of them.
const HOSTFILE: [&str; 3] = ["hostfile", "machinefile", "default-hostfile"];
const HOSTS: [&str; 3] = ["host", "hosts", "H"];

/// Chooses for `command`, which is to run in `cwd` with the environment that `env` tells.
pub fn auto(command: &[OsString], cwd: &Path, env: &dyn Fn(&str) -> Option<OsString>) -> Choice {
    let number = |name: &str| env(name).and_then(|value| value.to_str()?.parse::<u32>().ok());
    let mut words: Vec<String> = Vec::new();
    for argument in command {
        // Split, for `sh -c "mpirun …"`.
        words.extend(argument.to_string_lossy().split_whitespace().map(str::to_owned));
    }
    let program = command.first().and_then(|name| find(name, cwd, env)).map(|path| look(&path));
    let (mut library, mut script) = (None, Vec::new());
    match program {
        Some(Program::Needs(first)) => library = first,
        Some(Program::Script(text)) => script = text,
        _ => {}
    }
    // An interpreter's script is the first argument that is a file.
    if let Some(path) = command.iter().skip(1).map(|word| cwd.join(word)).find(|p| p.is_file())
        && let Program::Script(text) = look(&path)
    {
        script.extend(text);
    }
    words.extend(script);

    let launcher = words.iter().position(|word| is_launcher(word));
    let srun = words.iter().position(|word| base(word) == "srun");
    let srun_mpi = srun.filter(|&at| words[at..].iter().any(|word| word.starts_with("--mpi")));
    let rank = RANK.into_iter().find(|name| env(name).is_some());
    let mpi = match (launcher.or(srun_mpi), library, rank) {
        (Some(at), ..) => format!("{} starts MPI", base(&words[at])),
        (_, Some(library), _) => format!("the program needs {library}"),
        (.., Some(rank)) => format!("${rank} is set, as in a rank of an MPI job"),
        _ => return native("nothing tells of MPI"),
    };
    let by_launcher = launcher.or(srun).and_then(|at| hosts(&words[at + 1..]));
    let across = NODES
        .into_iter()
        .find_map(|name| {
            number(name)
                .filter(|&n| n > 1)
                .map(|n| format!("the batch job has {n} nodes (${name})"))
        })
        .or_else(|| {
            let (all, here) = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE");
            let elsewhere = number(all)? > number(here)?;
            elsewhere.then(|| format!("${all} is more than ${here}"))
        })
        .or_else(|| by_launcher.map(|word| format!("\"{word}\" names other nodes")));
    match across {
        Some(across) => Choice {
            backend: Backend::Dmtcp,
            why: format!("DMTCP, for MPI across nodes: {mpi}, and {across}"),
        },
        None => native(&format!("{mpi}, but nothing tells of other nodes")),
    }
}

fn native(why: &str) -> Choice {
    Choice { backend: Backend::Native, why: format!("our own engine: {why}") }
}

fn base(word: &str) -> &str {
    word.trim_matches(['"', '\'', ';', '(', ')']).rsplit('/').next().unwrap_or(word)
}

fn is_launcher(word: &str) -> bool {
    let base = base(word);
    // mpiexec.hydra, mpirun_rsh, mpirun.openmpi.
    let kind = base.split(['.', '_']).next().unwrap_or(base);
    matches!(kind, "mpirun" | "mpiexec" | "orterun" | "prterun")
}

/// The first word after a launcher that tells of other nodes.
fn hosts(words: &[String]) -> Option<String> {
    words.iter().enumerate().find_map(|(at, word)| {
        let option = word.strip_prefix('-')?;
        let option = option.strip_prefix('-').unwrap_or(option);
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, value),
            None => (option, words.get(at + 1).map_or("", String::as_str)),
        };
        // srun -N2, --nodes=2, -N 2-4; with mpirun, -N is "ranks on a node".
        let nodes = match name.strip_prefix('N') {
            Some("") | None if name != "nodes" => "",
            Some(glued) if !glued.is_empty() => glued,
            _ => value,
        };
        let many = nodes.split('-').next_back().and_then(|n| n.parse::<u32>().ok());
        let told = HOSTFILE.contains(&name)
            || HOSTS.contains(&name) && value.contains(',')
            || many.is_some_and(|nodes| nodes > 1);
        told.then(|| word.clone())
    })
}

/// The file that would be executed.
fn find(name: &OsStr, cwd: &Path, env: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if name.as_encoded_bytes().contains(&b'/') {
        return Some(cwd.join(name));
    }
    let runs = |path: &PathBuf| {
        path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    env::split_paths(&env("PATH")?).map(|dir| cwd.join(dir).join(name)).find(runs)
}

enum Program {
    /// An ELF file, and the first library of MPI's that it needs.
    Needs(Option<String>),
    /// The words of a script, without its comments.
    Script(Vec<String>),
    Unknown,
}

fn look(path: &Path) -> Program {
    read(path).unwrap_or(Program::Unknown)
}

fn read(path: &Path) -> Option<Program> {
    let mut file = File::open(path).ok()?;
    let meta = file.metadata().ok().filter(|meta| meta.is_file() && meta.len() <= MAX_PROGRAM)?;
    let mut bytes = Vec::new();
    file.by_ref().take(4).read_to_end(&mut bytes).ok()?;
    if bytes.starts_with(b"#!") {
        file.take(MAX_SCRIPT as u64).read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        let words = lines.flat_map(str::split_whitespace).map(str::to_owned);
        return Some(Program::Script(words.collect()));
    }
    bytes.starts_with(b"\x7fELF").then_some(())?;
    bytes.reserve_exact(usize::try_from(meta.len()).ok()?);
    file.read_to_end(&mut bytes).ok()?;
    let needed = Elf::parse(&bytes).ok()?.libraries;
    let of_mpi = |name: &&str| LIBRARIES.iter().any(|start| name.starts_with(start));
    Some(Program::Needs(needed.into_iter().find(of_mpi).map(str::to_owned)))
}

/// The environment of this process, for [`auto`].
pub fn environment() -> impl Fn(&str) -> Option<OsString> {
    let all: HashMap<OsString, OsString> = env::vars_os().collect();
    move |name| all.get(OsStr::new(name)).cloned()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    fn choose(command: &[&str], cwd: &Path, vars: &[(&str, &str)]) -> Choice {
        let env = |name: &str| {
            vars.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        };
        auto(&command.iter().map(OsString::from).collect::<Vec<_>>(), cwd, &env)
    }

    #[test]
    fn by_words_and_environment() {
        let root = Path::new("/");
        let backend = |command: &[&str], vars: &[(&str, &str)]| choose(command, root, vars).backend;
        for (command, vars) in [
            (&["mpirun", "-hostfile", "hosts", "./x"][..], &[][..]),
            (&["mpiexec.hydra", "-hosts", "a,b", "./x"], &[]),
            (&["/opt/bin/orterun", "--host=a,b", "./x"], &[]),
            (&["srun", "--mpi=pmix", "-N2", "./x"], &[]),
            (&["srun", "--mpi", "pmi2", "--nodes=1-4", "./x"], &[]),
            (&["sh", "-c", "cd /x; mpirun ./x"], &[("SLURM_NNODES", "2")]),
            (&["mpirun", "./x"], &[("SLURM_JOB_NUM_NODES", "3")]),
            (&["./rank"], &[("PMI_RANK", "0"), ("SLURM_NNODES", "2")]),
            (&["./rank"], &[("OMPI_COMM_WORLD_SIZE", "8"), ("OMPI_COMM_WORLD_LOCAL_SIZE", "4")]),
        ] {
            assert_eq!(backend(command, vars), Backend::Dmtcp, "{command:?} {vars:?}");
        }
        for (command, vars) in [
            (&["python3", "x.py"][..], &[("SLURM_NNODES", "4")][..]),
            (&["mpirun", "-n", "4", "./x"], &[]),
            (&["mpirun", "--host", "a", "./x"], &[("SLURM_NNODES", "1")]),
            (&["srun", "-N", "2", "./x"], &[]),
            (&["srun", "--mpi=pmix", "-N", "1", "./x"], &[]),
            (&["./rank"], &[("PMI_RANK", "0")]),
            (&["./rank"], &[("SLURM_NNODES", "many")]),
            (&[], &[]),
        ] {
            assert_eq!(backend(command, vars), Backend::Native, "{command:?} {vars:?}");
        }
        let choice = choose(&["mpirun", "./x"], root, &[("SLURM_NNODES", "2")]);
        assert!(choice.why.contains("mpirun") && choice.why.contains("2 nodes"), "{choice:?}");
    }

    #[test]
    fn by_libraries_and_scripts() {
        let dir = tempfile::tempdir().unwrap();
        let cc = |arguments: &[&str]| {
            let status = Command::new("cc").current_dir(dir.path()).args(arguments).status();
            assert!(status.unwrap().success());
        };
        fs::write(dir.path().join("lib.c"), "int MPI_Init(void) { return 0; }").unwrap();
        fs::write(
            dir.path().join("mpi.c"),
            "int MPI_Init(void); int main(void) { return MPI_Init(); }",
        )
        .unwrap();
        fs::write(dir.path().join("plain.c"), "int main(void) { return 0; }").unwrap();
        cc(&["-shared", "-fPIC", "-Wl,-soname,libmpi.so.40", "-o", "libmpi.so.40", "lib.c"]);
        cc(&["-o", "mpi", "mpi.c", "./libmpi.so.40"]);
        cc(&["-o", "plain", "plain.c"]);
        let script = "#!/bin/sh\n# mpirun\nmpirun -n 2 ./mpi\n";
        fs::write(dir.path().join("script"), script).unwrap();
        fs::write(dir.path().join("comment"), "#!/bin/sh\n# mpirun\n./plain\n").unwrap();

        let two = [("SLURM_NNODES", "2")];
        let choose = |command: &[&str], vars: &[(&str, &str)]| choose(command, dir.path(), vars);
        let choice = choose(&["./mpi"], &two);
        assert_eq!(choice.backend, Backend::Dmtcp);
        assert!(choice.why.contains("libmpi.so.40"), "{choice:?}");
        assert_eq!(choose(&["./script"], &two).backend, Backend::Dmtcp);
        assert_eq!(choose(&["sh", "script"], &two).backend, Backend::Dmtcp);
        let path = [two[0], ("PATH", dir.path().to_str().unwrap())];
        assert_eq!(choose(&["mpi"], &path).backend, Backend::Dmtcp);
        for command in ["./plain", "./comment", "./lib.c", "./nothing", "mpi"] {
            assert_eq!(choose(&[command], &two).backend, Backend::Native, "{command}");
        }
        assert_eq!(choose(&["./mpi"], &[]).backend, Backend::Native);
    }
}
