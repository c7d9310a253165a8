//! `ckpt-launch sbatch`: a batch script that a person can read, keep and change.
//!
//! The words of the command line become a few `#SBATCH` lines and one command, `ckpt-launch --slurm`,
//! which knows the job's end and its rounds by itself: there is no trap in the script, and no
//! arithmetic. The script is printed, or given to sbatch on its stdin.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use ckpt_core::{Error, ErrorKind, Result};
use clap::{Args, Parser};

use super::quote;
use super::time::SlurmTime;
use crate::cli::{Keeping, Talk, Where, With, no_option};
use crate::commands;
use crate::container::flags::InContainer;
use crate::voice::Voice;

/// What stands in every script, between the options and the command.
const ALWAYS: &str = "\
#SBATCH --requeue           # the next round is this job again,
#SBATCH --open-mode=append  # and goes on in the same output files

# Starts the payload, or goes on from its newest checkpoint. Before the time is up it takes one, and
# has the job queued again, unless the payload has ended or the total time is used up.
";

/// Write a batch script for Slurm that runs COMMAND in as many rounds as it takes.
///
/// Each round goes on from the checkpoint that the one before took when its time was up. The script
/// goes to stdout, to be kept and changed (`ckpt-launch sbatch … >job.sh; sbatch job.sh`), or with
/// --submit to sbatch.
#[derive(Debug, Parser)]
#[command(name = "ckpt-launch sbatch", version, max_term_width = 100)]
pub struct Sbatch {
    /// Time limit of a round, in any of sbatch's forms (45 is 45 minutes) [default: the partition's]
    #[arg(short, long, value_name = "TIME", default_value = "", hide_default_value = true)]
    pub time: SlurmTime,
    /// Time for all rounds together; no more are begun after it [default: until COMMAND ends]
    #[arg(long, value_name = "TIME", default_value = "", hide_default_value = true)]
    pub total: SlurmTime,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub keeping: Keeping,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub place: Where,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub engine: With,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub container: InContainer,
    /// Give the script to sbatch, and print what that says
    #[arg(long)]
    pub submit: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub options: Options,
    /// The program to run, and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// What sbatch is told besides.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "As for sbatch")]
#[allow(missing_docs)]
pub struct Options {
    /// Name of the job [default: COMMAND's]
    #[arg(short = 'J', long, value_name = "NAME")]
    pub job_name: Option<String>,
    /// Who is charged
    #[arg(short = 'A', long, value_name = "ACCOUNT")]
    pub account: Option<String>,
    /// Where it may run
    #[arg(short, long, value_name = "NAMES")]
    pub partition: Option<String>,
    /// Quality of service
    #[arg(short, long, value_name = "QOS")]
    pub qos: Option<String>,
    /// Features that nodes must have
    #[arg(short = 'C', long, value_name = "LIST")]
    pub constraint: Option<String>,
    /// Nodes; with more than one, srun starts COMMAND
    #[arg(short = 'N', long, value_name = "MIN[-MAX]")]
    pub nodes: Option<String>,
    /// Processes; with more than one, srun starts COMMAND
    #[arg(short = 'n', long, value_name = "N")]
    pub ntasks: Option<u32>,
    /// Processes on each node
    #[arg(long, value_name = "N")]
    pub ntasks_per_node: Option<u32>,
    /// Processors for each process
    #[arg(short = 'c', long, value_name = "N")]
    pub cpus_per_task: Option<u32>,
    /// Memory on each node
    #[arg(long, value_name = "SIZE")]
    pub mem: Option<String>,
    /// Least time limit that will do for a round
    #[arg(long, value_name = "TIME", default_value = "", hide_default_value = true)]
    pub time_min: SlurmTime,
    /// A signal ahead of the time limit; checkpoints are taken in time without it
    #[arg(long, value_name = "[B:]SIGNAL[@SECONDS]")]
    pub signal: Option<String>,
    /// File for stdout
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<String>,
    /// File for stderr
    #[arg(short, long, value_name = "FILE")]
    pub error: Option<String>,
    /// Any other options, as they stand in a script behind #SBATCH; may be given several times
    #[arg(long = "sbatch", value_name = "OPTIONS", allow_hyphen_values = true)]
    pub others: Vec<String>,
}

/// Prints or submits the script; gives the exit status, which is sbatch's where that was asked.
pub fn run(args: &Sbatch) -> u8 {
    let voice = Voice::new("ckpt-launch", &Talk { verbose: 0, quiet: false, json: false });
    let done = script(args).and_then(|script| {
        if args.submit { submit(&script) } else { commands::print(&script).map(|()| 0) }
    });
    done.unwrap_or_else(|error| voice.fail(&error))
}

/// The script.
///
/// # Errors
///
/// When what was asked for cannot stand in a batch script, or makes rounds impossible.
pub fn script(args: &Sbatch) -> Result<String> {
    let mut text = String::from("#!/bin/bash\n");
    for line in args.directives()? {
        text += &format!("#SBATCH {line}\n");
    }
    text += ALWAYS;
    text += &args.last_line();
    Ok(text)
}

impl Sbatch {
    /// The options for sbatch.
    fn directives(&self) -> Result<Vec<String>> {
        let Options { job_name, account, partition, qos, constraint, nodes, .. } = &self.options;
        let Options { ntasks, ntasks_per_node, cpus_per_task, mem, time_min, .. } = &self.options;
        let Options { signal, output, error, others, .. } = &self.options;
        let number = |n: &Option<u32>| n.as_ref().map(u32::to_string);
        let time = |t: &SlurmTime| (*t != SlurmTime::Unset).then(|| t.hms());
        let mut lines = Vec::new();
        for (option, value) in [
            ("--job-name", Some(job_name.clone().unwrap_or_else(|| self.program()))),
            ("--account", account.clone()),
            ("--partition", partition.clone()),
            ("--qos", qos.clone()),
            ("--constraint", constraint.clone()),
            ("--nodes", nodes.clone()),
            ("--ntasks", number(ntasks)),
            ("--ntasks-per-node", number(ntasks_per_node)),
            ("--cpus-per-task", number(cpus_per_task)),
            ("--mem", mem.clone()),
            ("--time", time(&self.time)),
            ("--time-min", time(time_min)),
            ("--signal", signal.clone()),
            ("--output", output.clone()),
            ("--error", error.clone()),
        ] {
            let Some(value) = value else { continue };
            let value = quote::sbatch(&value).ok_or_else(|| unspeakable(option, &value))?;
            lines.push(format!("{option}={value}"));
        }
        for other in others {
            lines.push(checked(other)?.to_owned());
        }
        Ok(lines)
    }

    /// What names the job: the program, without its folder.
    fn program(&self) -> String {
        let program = self.command.first().map(Path::new).and_then(Path::file_name);
        let name = program.unwrap_or_default().to_string_lossy();
        name.chars().filter(|c| !c.is_control()).collect()
    }

    /// Whether there is more than one process to start, as far as is known.
    fn is_parallel(&self) -> bool {
        let Options { nodes, ntasks, ntasks_per_node, .. } = &self.options;
        let most = nodes.as_deref().map(|nodes| nodes.rsplit('-').next().unwrap_or(nodes).trim());
        most.is_some_and(|most| most != "1")
            || [ntasks, ntasks_per_node].iter().any(|n| **n > Some(1))
    }

    /// The command that the script is for.
    fn last_line(&self) -> String {
        let mut words: Vec<OsString> = vec!["exec".into()];
        if self.is_parallel() {
            words.push("srun".into());
            // sbatch's --cpus-per-task is not handed down to srun since Slurm 22.05.
            let cpus = self.options.cpus_per_task;
            words.extend(cpus.map(|n| format!("--cpus-per-task={n}").into()));
        }
        words.extend(["ckpt-launch".into(), "--slurm".into()]);
        if self.total != SlurmTime::Unset {
            words.extend(["--total".into(), self.total.hms().into()]);
        }
        words.extend(self.keeping.words().into_iter().map(OsString::from));
        if let Some(dir) = &self.place.ckptdir {
            words.extend(["--ckptdir".into(), no_option(dir)]);
        }
        words.extend(self.engine.words());
        words.extend(self.container.words());
        words.push("--".into());
        words.extend(self.command.iter().cloned());
        let words: Vec<_> = words.iter().map(|word| quote::shell(word)).collect();
        words.join(" ") + "\n"
    }
}

fn unspeakable(option: &str, value: &str) -> Error {
    let what = format!("{option} {value:?} cannot stand in a batch script");
    Error::new(ErrorKind::Usage, what).help("it must not hold line breaks or control characters")
}

/// Options that are written as they came, if they are some and leave us those we need.
fn checked(options: &str) -> Result<&str> {
    if options.contains(char::is_control) {
        return Err(unspeakable("--sbatch", options));
    }
    if !options.starts_with('-') {
        let what = format!("--sbatch {options:?} is no option of sbatch's");
        return Err(Error::new(ErrorKind::Usage, what).help("write it as --sbatch='--gres=gpu:1'"));
    }
    let lost = |word: &str| word == "--no-requeue" || word.starts_with("--open-mode");
    match options.split_whitespace().find(|word| lost(word)) {
        Some(word) => {
            let what = format!("--sbatch {options:?}: {word} cannot go with several rounds");
            let help = "a job is queued again after each of them, and its output is appended";
            Err(Error::new(ErrorKind::Usage, what).help(help))
        }
        None => Ok(options),
    }
}

/// Gives the script to sbatch, which speaks to our stdout and stderr; gives its exit status.
fn submit(script: &str) -> Result<u8> {
    let child = Command::new("sbatch").stdin(Stdio::piped()).spawn();
    let mut child = child.map_err(|e| {
        Error::os("cannot run sbatch", e)
            .help("submit where Slurm is, or keep the script (>job.sh)")
    })?;
    // A sbatch that does not read it has a reason, and says so.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(script.as_bytes()));
    let status = child.wait().map_err(|e| Error::os("cannot wait for sbatch", e))?;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(u8::try_from(code).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests;
