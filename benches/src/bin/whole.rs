//! Whole checkpoints and restarts beside their rivals, on the same bytes in the same run:
//! `cargo xtask bench [MIB]`. A bare `fork()`, `dd conv=fsync`, zstd on one core, and DMTCP where there
//! is one (`$DMTCP_HOME`, `$CKPT_TEST_DMTCP`). The payload itself tells how long it stood still.

use std::error::Error;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How often each is done; the medians are told.
const ROUNDS: usize = 3;

/// What one way of doing it took.
struct Figures {
    name: String,
    /// How long the payload stood still, seconds.
    stopped: Option<f64>,
    /// Until all was on disk.
    durable: Option<f64>,
    restart: Option<f64>,
    bytes: Option<u64>,
}

/// Kills the process with it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() -> Result<()> {
    let mib: u32 = std::env::args().nth(1).map_or(Ok(1024), |mib| mib.parse())?;
    let built = std::env::current_exe()?.parent().ok_or("no folder")?.to_path_buf();
    let folder = tempfile::Builder::new().prefix("ckpt-bench-").tempdir_in("/var/tmp")?;
    let ticker = folder.path().join("ticker");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("payloads/ticker.c");
    must(Command::new("cc").args(["-O2", "-o"]).arg(&ticker).arg(source))?;
    let mut report = String::from(HEAD);
    report.push_str(&surroundings());
    for (kind, mib) in [("random", mib), ("mixed", mib), ("random", 64)] {
        let payload = Payload { ticker: &ticker, kind, mib, dir: folder.path() };
        let figures = payload.figures(&built)?;
        report.push_str(&table(&format!("{mib} MiB, {kind}"), &figures));
    }
    print!("{report}");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/performance.md");
    fs::write(file, report)?;
    Ok(())
}

const HEAD: &str = "# Performance\n\n\
    Written by `cargo xtask bench`. Every table is one run: all rows on the same bytes, on the same disk,\n\
    one after the other. *Stopped* is what a tick every millisecond inside the payload has missed.\n\
    Ratios are to the table's first row that has the figure.\n\n";

/// A payload and where it works.
struct Payload<'a> {
    ticker: &'a Path,
    kind: &'a str,
    mib: u32,
    dir: &'a Path,
}

impl Payload<'_> {
    fn words(&self) -> Vec<String> {
        let dump = self.dir.join("dump").display().to_string();
        vec![self.ticker.display().to_string(), self.kind.into(), self.mib.to_string(), dump]
    }

    /// Starts it under these words; once it ticks, gives it and what its bare fork took.
    fn start(&self, under: &[String]) -> Result<(Running, f64)> {
        let words: Vec<String> = under.iter().cloned().chain(self.words()).collect();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stderr(File::create(self.log("err"))?);
        command.stdout(File::create(self.log("out"))?).current_dir(self.dir);
        let running = Running(command.spawn()?);
        let fork = self.until(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("fork "))?;
            line.parse().ok()
        })?;
        Ok((running, fork))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("log.{name}"))
    }

    fn until<T>(&self, told: impl Fn(&str) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + Duration::from_secs(300);
        while Instant::now() < deadline {
            if let Some(told) = told(&fs::read_to_string(self.log("out"))?) {
                return Ok(told);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Err(format!("the payload does not go on: {}", fs::read_to_string(self.log("err"))?).into())
    }

    /// The longest that it has stood still since `when`.
    fn stopped(&self, when: f64) -> Result<f64> {
        std::thread::sleep(Duration::from_millis(50));
        let text = fs::read_to_string(self.log("out"))?;
        let late = text.lines().filter_map(|line| {
            let (at, late) = line.strip_prefix("late ")?.split_once(' ')?;
            let (at, late): (f64, f64) = (at.parse().ok()?, late.parse().ok()?);
            (at >= when).then_some(late)
        });
        Ok(late.fold(0.001, f64::max))
    }

    fn figures(&self, built: &Path) -> Result<Vec<Figures>> {
        let mut all = Vec::new();
        for level in ["1", "0"] {
            let (ours, fork) = self.ours(built, level)?;
            if all.is_empty() {
                let name = "a bare fork()".to_owned();
                let (stopped, durable, restart, bytes) = (Some(fork), None, None, None);
                all.push(Figures { name, stopped, durable, restart, bytes });
                all.push(self.dd()?);
                all.push(self.zstd()?);
            }
            all.push(ours);
        }
        if let Some(bin) = dmtcp() {
            all.push(self.dmtcp(&bin)?);
        }
        Ok(all)
    }

    fn ours(&self, built: &Path, level: &str) -> Result<(Figures, f64)> {
        let images = self.dir.join("images");
        let _ = fs::remove_dir_all(&images);
        let tool = |name: &str| built.join(name).display().to_string();
        let flags = ["-q", "-i", "0", "--level", level, "--ckptdir"].map(String::from);
        let mut under = vec![tool("ckpt-launch")];
        under.extend(flags);
        under.extend([images.display().to_string(), "--".into()]);
        let (job, fork) = self.start(&under)?;
        let (mut stopped, mut durable) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (when, begun) = (unix_now(), Instant::now());
            let mut command = Command::new(tool("ckpt"));
            must(command.args(["checkpoint", "-q", "--ckptdir"]).arg(&images))?;
            durable.push(begun.elapsed().as_secs_f64());
            stopped.push(self.stopped(when)?);
        }
        must(Command::new(tool("ckpt")).args(["kill", "-q", "--ckptdir"]).arg(&images))?;
        drop(job);
        let bytes = size(&images, ".ckpt")?;
        let mut restart = Vec::new();
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            let mut command = Command::new(tool("ckpt-restore"));
            command.args(["-q"]).arg(&images).stdin(Stdio::null()).current_dir(self.dir);
            command.stdout(File::create(self.log("out"))?).stderr(File::create(self.log("err"))?);
            let job = Running(command.spawn()?);
            // The first tick behind the gap.
            self.until(|text| text.contains("late ").then_some(()))?;
            restart.push(begun.elapsed().as_secs_f64());
            must(Command::new(tool("ckpt")).args(["kill", "-q", "--ckptdir"]).arg(&images))?;
            drop(job);
        }
        let figures = Figures {
            name: format!("ckpt, level {level}"),
            stopped: median(stopped),
            durable: median(durable),
            restart: median(restart),
            bytes: Some(bytes / 2),
        };
        Ok((figures, fork))
    }

    fn dd(&self) -> Result<Figures> {
        let durable = timed(|| {
            let mut command = Command::new("dd");
            command.arg(format!("if={}", self.dir.join("dump").display()));
            command.arg(format!("of={}", self.dir.join("copy").display()));
            must(command.args(["bs=1M", "conv=fsync", "status=none"]))
        })?;
        let bytes = fs::metadata(self.dir.join("copy"))?.len();
        fs::remove_file(self.dir.join("copy"))?;
        let name = "dd conv=fsync".to_owned();
        Ok(Figures { name, stopped: None, durable, restart: None, bytes: Some(bytes) })
    }

    fn zstd(&self) -> Result<Figures> {
        let packed = self.dir.join("packed");
        let durable = timed(|| {
            let mut command = Command::new("zstd");
            command.args(["-1", "-T1", "-f", "-q"]).arg(self.dir.join("dump"));
            must(command.arg("-o").arg(&packed))
        })?;
        let bytes = fs::metadata(&packed)?.len();
        fs::remove_file(&packed)?;
        let name = "zstd -1 on one core".to_owned();
        Ok(Figures { name, stopped: None, durable, restart: None, bytes: Some(bytes) })
    }

    fn dmtcp(&self, bin: &Path) -> Result<Figures> {
        let images = self.dir.join("dmtcp");
        let _ = fs::remove_dir_all(&images);
        fs::create_dir(&images)?;
        let (port, tool) = (images.join("port"), |name: &str| bin.join(name).display().to_string());
        let text = |path: &Path| path.display().to_string();
        let mut under = vec![tool("dmtcp_launch")];
        under.extend(["-q", "-q", "--new-coordinator", "--coord-port", "0"].map(String::from));
        under.extend(["--port-file".into(), text(&port), "--ckptdir".into(), text(&images)]);
        let (job, _) = self.start(&under)?;
        let said = |port: &Path, word: &str| -> Result<()> {
            let number = fs::read_to_string(port)?;
            let mut command = Command::new(tool("dmtcp_command"));
            must(command.args(["-q", "--coord-port", number.trim(), word]))
        };
        let (mut stopped, mut durable) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (when, begun) = (unix_now(), Instant::now());
            said(&port, "-bc")?;
            durable.push(begun.elapsed().as_secs_f64());
            stopped.push(self.stopped(when)?);
        }
        said(&port, "--quit")?;
        drop(job);
        let bytes = size(&images, ".dmtcp")?;
        let image = fs::read_dir(&images)?.flatten().map(|entry| entry.path());
        let image = image.into_iter().find(|path| path.extension().is_some_and(|it| it == "dmtcp"));
        let begun = Instant::now();
        let mut command = Command::new(tool("dmtcp_restart"));
        command.args(["-q", "-q", "--new-coordinator", "--coord-port", "0", "--port-file"]);
        command.arg(&port).arg(image.ok_or("DMTCP wrote no image")?).current_dir(&images);
        let out = File::options().append(true).open(self.log("out"))?;
        let known = fs::read_to_string(self.log("out"))?.len();
        command.stdin(Stdio::null()).stdout(out).stderr(File::create(self.log("err"))?);
        let job = Running(command.spawn()?);
        self.until(|text| text.get(known..)?.contains("late ").then_some(()))?;
        let restart = Some(begun.elapsed().as_secs_f64());
        said(&port, "--quit")?;
        drop(job);
        let (stopped, durable) = (median(stopped), median(durable));
        Ok(Figures { name: "DMTCP".into(), stopped, durable, restart, bytes: Some(bytes) })
    }
}

fn dmtcp() -> Option<PathBuf> {
    let homes = ["CKPT_TEST_DMTCP", "DMTCP_HOME"];
    let bins =
        homes.iter().filter_map(|name| Some(Path::new(&std::env::var_os(name)?).join("bin")));
    bins.into_iter().find(|bin| bin.join("dmtcp_launch").exists())
}

/// The median time of a command.
fn timed(mut command: impl FnMut() -> Result<()>) -> Result<Option<f64>> {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        command()?;
        times.push(begun.elapsed().as_secs_f64());
    }
    Ok(median(times))
}

fn median(mut times: Vec<f64>) -> Option<f64> {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied()
}

fn unix_now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |it| it.as_secs_f64())
}

fn size(dir: &Path, ending: &str) -> Result<u64> {
    let entries = fs::read_dir(dir)?.flatten();
    let its = entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(ending));
    Ok(its.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum())
}

fn must(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}: {said}", output.status).into())
}

/// The machine, in a line.
fn surroundings() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("?", |line| line.trim_start_matches(['\t', ' ', ':']));
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let release = read("/proc/sys/kernel/osrelease");
    let version = env!("CARGO_PKG_VERSION");
    format!("{count} × {model}, Linux {}, ckpt {version}.\n", release.trim())
}

/// A table in Markdown.
fn table(title: &str, rows: &[Figures]) -> String {
    let mut text = format!("\n## {title}\n\n| | stopped | durable | restart | bytes |\n");
    text.push_str("| --- | --- | --- | --- | --- |\n");
    let first = |get: fn(&Figures) -> Option<f64>| rows.iter().find_map(get);
    let cell = |value: Option<f64>, base: Option<f64>, unit: &dyn Fn(f64) -> String| {
        let Some(value) = value else { return String::new() };
        let ratio = base.map_or(1.0, |base| value / base);
        format!("{} ({ratio:.2})", unit(value))
    };
    let seconds = |it: f64| match it {
        0.0..1.0 => format!("{:.1} ms", it * 1e3),
        _ => format!("{it:.2} s"),
    };
    let size = |it: f64| format!("{:.1} MiB", it / f64::from(1 << 20));
    for row in rows {
        let cells = [
            cell(row.stopped, first(|it| it.stopped), &seconds),
            cell(row.durable, first(|it| it.durable), &seconds),
            cell(row.restart, first(|it| it.restart), &seconds),
            cell(row.bytes.map(|it| it as f64), first(|it| it.bytes.map(|it| it as f64)), &size),
        ];
        text.push_str(&format!("| {} | {} |\n", row.name, cells.join(" | ")));
    }
    text
}
