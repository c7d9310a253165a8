//! What our commands cost a job, beside DMTCP's where there is one (`$DMTCP_HOME`,
//! `$CKPT_TEST_DMTCP`): `cargo run --release -p ckpt-benches --bin overhead [ROUNDS]`.
//!
//! All commands take turns, so that whatever else the host does hits them alike.

use std::error::Error;
use std::ffi::OsStr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// With this argument the program is a payload that says when it began.
const CLOCK: &str = "--clock";
const LOOP: &str = "for i in {1..200}; do /bin/true; done";

/// A way to run a payload: the words before it.
struct Way {
    name: String,
    words: Vec<String>,
    /// Whether it brings its own coordinator; then the long payload is left out.
    starts: bool,
}

/// A coordinator, which ends with this.
struct Coordinator {
    command: PathBuf,
    port: String,
}

impl Coordinator {
    fn start(bin: &Path, dir: &Path) -> Result<Self> {
        let file = dir.join("port");
        let mut command = run(bin.join("dmtcp_coordinator"), dir);
        command.args(["-q", "-q", "--daemon", "--coord-port", "0", "--port-file"]).arg(&file);
        must(&mut command)?;
        let port = std::fs::read_to_string(&file)?.trim().to_owned();
        Ok(Self { command: bin.join("dmtcp_command"), port })
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        let mut command = Command::new(&self.command);
        let _ = must(command.args(["-q", "--coord-port", &self.port, "--quit"]));
    }
}

fn main() -> Result<()> {
    let argument = std::env::args().nth(1);
    if argument.as_deref() == Some(CLOCK) {
        println!("{}", now().as_nanos());
        return Ok(());
    }
    let rounds = argument.map_or(Ok(15), |rounds| rounds.parse())?;
    let own = std::env::current_exe()?;
    let built = own.parent().ok_or("no folder")?;
    if let Some(cargo) = std::env::var_os("CARGO") {
        must(Command::new(cargo).args(["build", "-q", "--release", "-p", "ckpt-launch"]))?;
    }
    let folder = tempfile::tempdir()?;
    let dir = folder.path();
    for (name, ours) in [
        ("dmtcp_launch", "ckpt-launch"),
        ("dmtcp_coordinator", "ckpt-launch"),
        ("dmtcp_command", "ckpt"),
    ] {
        symlink(built.join(ours), dir.join(name))?;
    }
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    let launch = built.join("ckpt-launch").to_string_lossy().into_owned();
    let mut ways = vec![
        Way { name: "alone".into(), words: vec![], starts: false },
        Way {
            name: "ckpt-launch".into(),
            words: words(&[&launch, "--quiet", "--"]),
            starts: false,
        },
    ];
    let mut coordinators = Vec::new();
    for (whose, bin) in [("our", Some(dir.to_owned())), ("DMTCP's", dmtcp())] {
        let Some(bin) = bin else { continue };
        let coordinator = Coordinator::start(&bin, dir)?;
        let launch = bin.join("dmtcp_launch").to_string_lossy().into_owned();
        ways.push(Way {
            name: format!("{whose} dmtcp_launch"),
            words: words(&[&launch, "-q", "-q", "-j", "--coord-port", &coordinator.port]),
            starts: false,
        });
        ways.push(Way {
            name: format!("{whose}, new coordinator"),
            words: words(&[&launch, "-q", "-q", "--new-coordinator", "--coord-port", "0"]),
            starts: true,
        });
        coordinators.push(coordinator);
    }
    let clock = own.to_string_lossy().into_owned();
    let tables: [(&str, &[&str], usize); 3] = [
        ("until the payload's main", &[&clock, CLOCK], rounds * 2),
        ("/bin/true", &["/bin/true"], rounds * 2),
        ("/bin/true 200 times, by bash", &["bash", "-c", LOOP], rounds),
    ];
    println!("{:<30}{:>10}{:>10}{:>16}", "ms", "median", "minimum", "median / alone");
    for (title, payload, rounds) in tables {
        let long = payload.contains(&LOOP);
        let ways: Vec<&Way> = ways.iter().filter(|way| !(long && way.starts)).collect();
        table(title, &ways, payload, rounds, dir)?;
    }
    Ok(())
}

fn table(title: &str, ways: &[&Way], payload: &[&str], rounds: usize, dir: &Path) -> Result<()> {
    let mut times = vec![Vec::new(); ways.len()];
    for round in 0..=rounds {
        for (way, times) in ways.iter().zip(&mut times) {
            let time = measure(way, payload, dir)?;
            // The first of each fills caches.
            if round > 0 {
                times.push(time);
            }
        }
    }
    println!("{title}");
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let mut alone = None;
    for (way, times) in ways.iter().zip(&mut times) {
        times.sort_unstable();
        let (median, minimum) = (ms(times[times.len() / 2]), ms(times[0]));
        let ratio = median / *alone.get_or_insert(median);
        println!("  {:<28}{median:>10.2}{minimum:>10.2}{ratio:>16.3}", way.name);
    }
    Ok(())
}

fn measure(way: &Way, payload: &[&str], dir: &Path) -> Result<Duration> {
    let words: Vec<&str> = way.words.iter().map(String::as_str).chain(payload.to_vec()).collect();
    let mut command = run(words[0], dir);
    command.args(&words[1..]);
    if payload.contains(&CLOCK) {
        let before = now();
        let said = command.stdout(Stdio::piped()).output()?.stdout;
        let began = Duration::from_nanos(std::str::from_utf8(&said)?.trim().parse()?);
        return Ok(began - before);
    }
    let before = Instant::now();
    must(&mut command)?;
    Ok(before.elapsed())
}

/// In a folder of ours, without what a coordinator may have left in the environment.
fn run(program: impl AsRef<OsStr>, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(dir).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if ["DMTCP_", "CKPT_"].iter().any(|ours| name.to_string_lossy().starts_with(ours)) {
            command.env_remove(name);
        }
    }
    command.env("CKPT_SECRET_FILE", dir.join("secret")).env("CKPT_DIR", dir);
    command
}

fn must(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|e| format!("{command:?}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}").into()) }
}

fn dmtcp() -> Option<PathBuf> {
    let named = ["DMTCP_HOME", "CKPT_TEST_DMTCP"].into_iter().filter_map(std::env::var_os);
    named.map(|home| PathBuf::from(home).join("bin")).find(|bin| bin.join("dmtcp_launch").exists())
}

fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}
