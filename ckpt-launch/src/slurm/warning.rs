//! The `--signal` of a job: which signal Slurm sends how long before the end, and to whom. Slurm does
//! not tell it; the batch script does, or the variable that sbatch(1) reads.

/// What `--signal=[R][B:]SIGNAL[@SECONDS]` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Warning {
    /// Only the batch shell gets it; else every process of every step, but not the batch shell.
    pub to_the_shell: bool,
    /// Its number.
    pub signal: i32,
    /// Seconds before the end at which it comes, or up to [`EARLY`] before that.
    pub ahead: u64,
}

/// slurmctld looks at its jobs every so often, seconds.
pub const EARLY: u64 = 30;

/// Seconds before the end if nothing is said.
const USUAL: u64 = 60;

impl Warning {
    /// Reads the option's value.
    pub fn parse(text: &str) -> Option<Self> {
        let (signal, ahead) = match text.trim().split_once('@') {
            Some((signal, ahead)) => (signal, ahead.trim().parse().ok()?),
            None => (text.trim(), USUAL),
        };
        let (flags, signal) = signal.rsplit_once(':').unwrap_or(("", signal));
        Some(Self { to_the_shell: flags.contains(['B', 'b']), signal: number(signal)?, ahead })
    }

    /// Finds it in the `#SBATCH` lines of a batch script; the last one holds, as for sbatch(1), which
    /// reads up to the first command.
    pub fn in_script(script: &str) -> Option<Self> {
        let options = script
            .lines()
            .map(str::trim_start)
            .take_while(|line| line.is_empty() || line.starts_with('#'))
            .filter_map(|line| line.strip_prefix("#SBATCH"));
        options
            .filter_map(|line| {
                let mut words = line.split_ascii_whitespace().take_while(|word| *word != "#");
                let value = loop {
                    let word = words.next()?;
                    match word.strip_prefix("--signal=") {
                        Some(value) => break value,
                        None if word == "--signal" => break words.next()?,
                        None => {}
                    }
                };
                Self::parse(value.trim_matches(['"', '\'']))
            })
            .last()
    }
}

/// The number of a signal by its name, with or without SIG, or by its number.
fn number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    full.parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let is = |text: &str, to_the_shell, signal, ahead| {
            let wanted = Warning { to_the_shell, signal, ahead };
            assert_eq!(Warning::parse(text), Some(wanted), "{text}");
        };
        is("B:USR1@60", true, libc::SIGUSR1, 60);
        is("USR2@300", false, libc::SIGUSR2, 300);
        is("SIGTERM", false, libc::SIGTERM, 60);
        is("RB:10@5", true, 10, 5);
        is("R:int@7", false, libc::SIGINT, 7);
        for bad in ["", "B:", "B:USR1@x", "NONE@5", "0", "99@5"] {
            assert_eq!(Warning::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn scripts() {
        let script = "#!/bin/bash\n#SBATCH --time=5 --signal=USR1@30\n# --signal=INT\n\n\
                      #SBATCH --signal \"B:TERM@120\"\necho\n#SBATCH --signal=USR2@1\n";
        let found = Warning::in_script(script);
        let wanted = Warning { to_the_shell: true, signal: libc::SIGTERM, ahead: 120 };
        assert_eq!(found, Some(wanted));
        assert_eq!(Warning::in_script("#!/bin/sh\n##SBATCH --signal=USR1@30\n"), None);
    }
}
