//! Commands, times and files, as every room needs them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process};

/// What went wrong, for whoever looks at the terminal.
pub type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Longer than anything takes; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(120);

/// A process that is killed with this, and all below it: a job outlives its launcher.
#[derive(Debug)]
pub struct Running(pub Child);

impl Running {
    /// Whether it has ended, without taking its status.
    pub fn ended(&self) -> bool {
        // Behind the name, which may hold anything.
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
    }

    /// Waits for its end, which something else brings about.
    ///
    /// # Errors
    ///
    /// When it does not come.
    pub fn ends(mut self) -> Result {
        until("a process to end", || Ok(self.0.try_wait()?))?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let below = descendants(self.0.id() as i32);
        let _ = self.0.kill();
        let _ = self.0.wait();
        for pid in below {
            let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL));
        }
    }
}

/// A process' parent, as long as it lives.
pub fn parent(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// Children, their children, and so on.
fn descendants(of: i32) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let kin: Vec<(i32, i32)> = pids.filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut all = vec![of];
    let mut next = 0;
    while let Some(&above) = all.get(next) {
        all.extend(kin.iter().filter(|(_, parent)| *parent == above).map(|(pid, _)| pid));
        next += 1;
    }
    all.split_off(1)
}

/// Asks again and again, until there is an answer.
///
/// # Errors
///
/// What asking gives, and when there is none for too long.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Err(format!("waited in vain for {what}").into())
}

/// Runs it to its end; what it wrote to stdout.
///
/// # Errors
///
/// When it does not succeed, with what it wrote to stderr.
pub fn must(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{command:?}: {e}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let said = text(&output.stderr);
    let last: Vec<&str> = said.lines().rev().take(3).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    let name = Path::new(command.get_program()).file_name().unwrap_or_default();
    Err(format!("{}: {}: {}", name.display(), output.status, last.join("; ")).into())
}

/// What it gives, and the seconds it took.
///
/// # Errors
///
/// Its own.
pub fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let begun = Instant::now();
    let given = work()?;
    Ok((given, begun.elapsed().as_secs_f64()))
}

/// The one in the middle, if there is one.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Seconds since 1970.
pub fn wall_clock() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |it| it.as_secs_f64())
}

/// Where a program is found: where the variable says, else in `$PATH`.
pub fn found(name: &str, variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let said = std::env::var_os(variable).map(PathBuf::from);
    let mut places = said.into_iter().chain(std::env::split_paths(&path).map(|dir| dir.join(name)));
    places.find(|path| path.is_file())
}

/// Files below `dir` whose names end so, by name.
///
/// # Errors
///
/// When the folder cannot be read.
pub fn files(dir: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let paths = fs::read_dir(dir)?.flatten().map(|entry| entry.path());
    let its = |path: &PathBuf| path.is_file() && path.to_string_lossy().ends_with(ending);
    let mut paths: Vec<PathBuf> = paths.filter(its).collect();
    paths.sort();
    Ok(paths)
}

/// Their bytes, all together.
///
/// # Errors
///
/// When one is gone.
pub fn bytes(files: &[PathBuf]) -> Result<f64> {
    files.iter().map(|file| Ok(fs::metadata(file)?.len() as f64)).sum()
}

/// Reads them, so that they are in the page cache, or has them dropped from it.
///
/// # Errors
///
/// When that cannot be done.
pub fn cache(files: &[PathBuf], warm: bool) -> Result {
    for file in files {
        let mut dd = Command::new("dd");
        dd.arg("status=none");
        if warm {
            dd.arg(format!("if={}", file.display())).args(["of=/dev/null", "bs=1M"]);
        } else {
            // Any user may do this: the pages are clean, and dd gives the kernel the advice.
            dd.arg(format!("of={}", file.display()));
            dd.args(["oflag=nocache", "conv=notrunc,fdatasync", "count=0"]);
        }
        must(&mut dd)?;
    }
    Ok(())
}
