//! `cargo xtask demo`: a job is checkpointed, killed with SIGKILL, and finishes nevertheless.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Result, built, cargo, must, workspace};

/// The lines after which the checkpoint is asked for, and after which the kill comes.
const CHECKPOINT_AT: usize = 7;
const KILL_AT: usize = 10;

/// Where it all happens.
struct Stage {
    folder: PathBuf,
    program: PathBuf,
}

/// Builds, runs, checkpoints, kills, restarts, compares.
pub fn run() -> Result {
    println!("Building ckpt-launch, ckpt and ckpt-restore ...");
    must(cargo().args([
        "build",
        "--release",
        "--quiet",
        "-p",
        "ckpt-launch",
        "-p",
        "ckpt-restore",
    ]))?;
    let folder = std::env::temp_dir().join(format!("ckpt-demo-{}", std::process::id()));
    fs::create_dir(&folder).map_err(|e| format!("cannot make {}: {e}", folder.display()))?;
    let program = folder.join("primes");
    let source = workspace().join("xtask/demo/primes.c");
    must(Command::new("cc").args(["-O2", "-pthread", "-o"]).arg(&program).arg(source))?;
    let done = Stage { folder: folder.clone(), program }.play();
    // When something went wrong, whoever looks into it wants the images.
    if done.is_ok() {
        let _ = fs::remove_dir_all(&folder);
    }
    done
}

impl Stage {
    fn play(&self) -> Result {
        scene("The job, undisturbed: four threads that count primes.");
        let whole = self.folder.join("undisturbed");
        must(Command::new(&self.program).stdout(create(&whole)?))?;
        let whole = read(&whole);
        println!("{}", lines(&whole, whole.lines().count() - 2, usize::MAX));

        let images = self.folder.join("images");
        scene(&format!(
            "The same under ckpt-launch:\n$ ckpt-launch --ckptdir {} -- ./primes",
            images.display()
        ));
        fs::create_dir(&images).map_err(|e| e.to_string())?;
        let before = self.folder.join("before");
        let mut launch = Command::new(built().join("ckpt-launch"));
        launch.arg("--ckptdir").arg(&images).arg("--").arg(&self.program);
        let mut launch = launch.stdout(create(&before)?).spawn().map_err(|e| e.to_string())?;
        let mut shown = follow(&before, 0, CHECKPOINT_AT, &mut launch)?;

        scene("$ ckpt checkpoint");
        must(Command::new(built().join("ckpt")).arg("checkpoint").arg("--ckptdir").arg(&images))?;
        shown = follow(&before, shown, KILL_AT, &mut launch)?;

        scene("$ kill -9: launcher and job, all at once");
        let victims = family(launch.id());
        let numbers: Vec<String> = victims.iter().map(u32::to_string).collect();
        must(Command::new("sh").args(["-c", "kill -9 \"$@\"", "sh"]).args(&numbers))?;
        launch.wait().map_err(|e| e.to_string())?;
        let before = read(&before);
        print!("{}", lines(&before, shown, usize::MAX));
        println!("{} processes killed after {} lines", victims.len(), before.lines().count());

        scene(&format!("$ ckpt-restore {}\nIt goes on from the checkpoint:", images.display()));
        let after = self.folder.join("after");
        let mut restore = Command::new(built().join("ckpt-restore"));
        restore.arg(&images).stdout(create(&after)?).stdin(Stdio::null());
        let mut restore = restore.spawn().map_err(|e| e.to_string())?;
        follow(&after, 0, usize::MAX, &mut restore)?;
        let status = restore.wait().map_err(|e| e.to_string())?;

        // What was written before the checkpoint and what came after the restart, put together.
        let after = read(&after);
        let kept = whole.lines().count().saturating_sub(after.lines().count());
        let both = lines(&before, 0, kept) + &after;
        if !status.success() || both != whole || kept < CHECKPOINT_AT || after.is_empty() {
            return Err(format!("the outputs differ ({status}); see {}", self.folder.display()));
        }
        scene("");
        println!(
            "{kept} lines before the checkpoint + {} after the restart = {} lines,",
            after.lines().count(),
            whole.lines().count()
        );
        println!("equal, byte for byte, to those of the undisturbed run. Exit status: 0.");
        Ok(())
    }
}

fn scene(title: &str) {
    println!("\n\x1b[1m{title}\x1b[0m");
}

fn create(path: &Path) -> Result<File> {
    File::create(path).map_err(|e| format!("cannot make {}: {e}", path.display()))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Lines `from..to` of a text, each with its end.
fn lines(text: &str, from: usize, to: usize) -> String {
    text.split_inclusive('\n').take(to).skip(from).collect()
}

/// Shows the lines as they come, until there are `until` or the job ends; gives how many were shown.
fn follow(path: &Path, mut shown: usize, until: usize, job: &mut Child) -> Result<usize> {
    let deadline = Instant::now() + Duration::from_secs(120);
    while shown < until {
        // Asked first: what it wrote before its end is then read for sure.
        let ended = job.try_wait().map_err(|e| e.to_string())?.is_some();
        let text = read(path);
        let whole = text.matches('\n').count();
        print!("{}", lines(&text, shown, whole));
        shown = shown.max(whole);
        if ended && until == usize::MAX {
            break;
        }
        if ended || Instant::now() > deadline {
            return Err(format!("the job came to line {shown} only"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(shown)
}

/// A process and all below it.
fn family(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        let tasks = fs::read_dir(format!("/proc/{}/task", found[at])).into_iter().flatten();
        for task in tasks.flatten() {
            let children = read(&task.path().join("children"));
            found.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        at += 1;
    }
    found
}
