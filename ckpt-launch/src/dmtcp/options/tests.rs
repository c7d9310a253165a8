//! Every row of the table, in every spelling; then the structs as wholes.

use super::*;
use crate::dmtcp::table::{Env, ROWS, Row, Takes, rows};

fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

fn nothing(_: &str) -> Option<OsString> {
    None
}

/// An environment of `NAME=value` words.
fn environment(line: &str) -> impl Fn(&str) -> Option<OsString> + use<> {
    let pairs: Vec<_> =
        line.split_whitespace().filter_map(|w| w.split_once('=')).map(own).collect();
    move |name| pairs.iter().find(|(n, _)| n == name).map(|(_, value)| value.into())
}

fn own((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// An argument that this row can have.
fn sample(row: &Row) -> &'static str {
    match (row.takes, row.meaning) {
        (Takes::Nothing, _) => "",
        (Takes::Number(_), _) => "5",
        (Takes::Text(_), Meaning::Bind) => "10.0.0.1",
        (Takes::Text(_), _) => "-odd",
    }
}

/// Parses with the program's own function; the Debug text stands for the struct.
fn parsed(program: Program, line: &str, lookup: Lookup<'_>) -> String {
    let dir = line.starts_with("-r ") || line.starts_with("--restartdir");
    let image = if dir { "" } else { " x.dmtcp" };
    match program {
        Program::Launch => format!("{:?}", launch(words(&format!("{line} prog")), lookup)),
        Program::Restart => format!("{:?}", restart(words(&format!("{line}{image}")), lookup)),
        _ => format!("{:?}", coordinator(words(line), lookup)),
    }
}

/// What the [`sample`] of an option makes of the struct, as Debug shows it.
fn field(program: Program, meaning: Meaning) -> &'static str {
    match meaning {
        Meaning::Host => "host: \"-odd\"",
        Meaning::Port if program == Program::Coordinator => ", port: 5,",
        Meaning::Port => "port: Some(5)",
        Meaning::PortFile => "port_file: Some(\"-odd\")",
        Meaning::Mode(Mode::Join) => "mode: Join",
        Meaning::Mode(Mode::New) => "mode: New",
        Meaning::Mode(Mode::Any) => "mode: Any",
        Meaning::Interval => "interval: Some(5)",
        Meaning::Gzip(true) => "gzip: Some(true)",
        Meaning::Gzip(false) => "gzip: Some(false)",
        Meaning::CkptDir => "ckptdir: Some(\"-odd\")",
        Meaning::OpenFiles => "ckpt_open_files: true",
        Meaning::Overwrite => "allow_file_overwrite: true",
        Meaning::Unique(true) => "unique_filenames: true",
        Meaning::Unique(false) => "unique_filenames: false",
        Meaning::TmpDir => "tmpdir: \"-odd\"",
        Meaning::Quiet => "quiet: 1",
        Meaning::LogFile => "coord_logfile: Some(\"-odd\")",
        Meaning::RestartDir => "images: In(\"-odd\")",
        Meaning::NoStrictChecking => "no_strict_checking: true",
        Meaning::ExitOnLast => "exit_on_last: true",
        Meaning::KillAfterCkpt => "kill_after_ckpt: true",
        Meaning::Timeout => " timeout: Some(5s)",
        Meaning::StaleTimeout => "stale_timeout: Some(5s)",
        Meaning::Daemon => "daemon: true",
        Meaning::StatusFile => "status_file: Some(\"-odd\")",
        Meaning::Bind => "bind: 10.0.0.1",
        Meaning::SecretFile => "secret_file: Some(\"-odd\")",
        Meaning::Json | Meaning::Help | Meaning::Version | Meaning::Nothing => "Ok(",
    }
}

fn every(mut check: impl FnMut(Program, &'static Row, &'static str)) {
    for row in ROWS {
        for &program in row.programs.iter().filter(|&&program| program != Program::Command) {
            row.spellings().for_each(|name| check(program, row, name));
        }
    }
}

#[test]
fn every_spelling_means_its_row() {
    every(|program, row, name| {
        let value = sample(row);
        let mut forms = vec![format!("{name} {value}")];
        if row.takes != Takes::Nothing && name.starts_with("--") {
            forms.push(format!("{name}={value}"));
        }
        if matches!(row.takes, Takes::Number(_)) && name.len() == 2 {
            forms.push(format!("{name}{value}"));
        }
        let default = parsed(program, "", &nothing);
        for form in forms {
            let got = parsed(program, &form, &nothing);
            match row.meaning {
                Meaning::Help => assert_eq!(got, "Ok(Help)", "{program} {form}"),
                Meaning::Version => assert_eq!(got, "Ok(Version)", "{program} {form}"),
                Meaning::Nothing => {
                    let expected = format!("ignored: [{name:?}]");
                    assert_eq!(got, default.replace("ignored: []", &expected), "{program} {form}");
                }
                meaning => {
                    let field = field(program, meaning);
                    assert!(got.contains(field), "{program} {form}: no {field} in {got}");
                }
            }
            if row.takes != Takes::Nothing {
                let bare = scan::<()>(program, words(name), &nothing);
                assert!(bare.is_err(), "{program} {name} without argument");
            }
        }
    });
}

#[test]
fn no_spelling_has_two_meanings() {
    use Program::{Command, Coordinator, Launch, Restart};
    for program in [Launch, Restart, Coordinator, Command] {
        let mut names: Vec<_> = rows(program).flat_map(Row::spellings).collect();
        names.sort_unstable();
        let twice = names.windows(2).find(|pair| pair[0] == pair[1]);
        assert_eq!(twice, None, "{program}");
    }
}

#[test]
fn every_variable_stands_for_its_row_and_yields_to_the_flag() {
    every(|program, row, name| {
        let value = sample(row);
        for (nth, env) in row.env.iter().enumerate() {
            let setting = match env {
                Env::Value(_) if row.meaning == Meaning::Quiet => "DMTCP_QUIET=1".to_owned(),
                Env::Value(name) => format!("{name}={value}"),
                Env::Is(name, value) => format!("{name}={value}"),
                Env::Set(name) => format!("{name}="),
            };
            let alone = parsed(program, "", &environment(&setting));
            let flag = parsed(program, &format!("{name} {value}"), &nothing);
            let flag = flag.replace(&format!("{name:?}"), &format!("{:?}", env.name()));
            assert_eq!(alone, flag, "{program} {setting}");

            // The flag wins, and so does the variable that comes first.
            let other = format!("{}=77", env.name());
            if matches!(env, Env::Value(_)) && row.meaning != Meaning::Quiet {
                let both = parsed(program, &format!("{name} {value}"), &environment(&other));
                assert_eq!(
                    both,
                    parsed(program, &format!("{name} {value}"), &nothing),
                    "{setting}"
                );
                if nth > 0 {
                    let first = format!("{}={value} {other}", row.env[0].name());
                    let alone = environment(&format!("{}={value}", row.env[0].name()));
                    assert_eq!(
                        parsed(program, "", &environment(&first)),
                        parsed(program, "", &alone)
                    );
                }
            }
        }
    });
}

#[test]
fn a_flag_wins_over_the_variable_that_says_the_opposite() {
    let env = environment("DMTCP_GZIP=0 DMTCP_UNIQUE_CKPT_PLUGIN=1 DMTCP_CKPT_OPEN_FILES=0");
    let line = "--gzip --disable-unique-checkpoint-filenames -j --new-coordinator prog";
    let Ok(Parsed::Run(options)) = launch(words(line), &env) else { panic!() };
    assert_eq!((options.gzip, options.unique_filenames), (Some(true), false));
    assert!(options.ckpt_open_files);
    assert_eq!(options.meeting.settled(), (Mode::New, 0));
}

#[test]
fn launch_as_a_whole() {
    let line = "-h node7 -p0 --port-file p -i5 --no-gzip --ckptdir --gzip -t /t -q -q -q -j --bind=::1 \
                --no-plugins --ckpt-signal 10 --secret-file s --coord-logfile l -- -q --help";
    let env = environment("DMTCP_COORD_PORT=1 DMTCP_PLUGIN=x.so DMTCP_SSH_PLUGIN=1 DMTCP_HOST=no");
    let expected = LaunchOptions {
        common: Common {
            port_file: Some("p".into()),
            interval: Some(5),
            ckptdir: Some("--gzip".into()),
            tmpdir: "/t".into(),
            quiet: 2,
            coord_logfile: Some("l".into()),
            bind: IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
            secret_file: Some("s".into()),
            ignored: vec!["--no-plugins", "--ckpt-signal", "DMTCP_PLUGIN"],
        },
        meeting: Meeting { host: "node7".to_owned(), port: Some(0), mode: Mode::Join },
        gzip: Some(false),
        ckpt_open_files: false,
        allow_file_overwrite: false,
        unique_filenames: false,
        command: words("-q --help"),
    };
    assert_eq!(launch(words(line), &env).unwrap(), Parsed::Run(expected));
}

#[test]
fn the_commands_own_words_are_left_alone() {
    let got = launch(words("-q prog -i5 --bogus -- --port 7"), &nothing);
    let Ok(Parsed::Run(options)) = got else { panic!("{got:?}") };
    assert_eq!(options.command, words("prog -i5 --bogus -- --port 7"));
    assert_eq!(options.meeting.settled(), (Mode::New, DEFAULT_PORT));
    assert_eq!(launch(words("-q"), &nothing).unwrap(), Parsed::Help);
    assert_eq!(launch(words(""), &nothing).unwrap(), Parsed::Nothing);
    assert_eq!(restart(words(""), &nothing).unwrap(), Parsed::Nothing);
}

#[test]
fn images() {
    let images = |line| match restart(words(line), &nothing) {
        Ok(Parsed::Run(options)) => options.images,
        other => panic!("{line}: {other:?}"),
    };
    assert_eq!(images("-r d"), Images::In("d".into()));
    assert_eq!(
        images("-j b.dmtcp a_files a.dmtcp"),
        Images::Named(vec!["b.dmtcp".into(), "a.dmtcp".into()])
    );
    for bad in ["-j", "a_files", "a.ckpt", "-r d a.dmtcp"] {
        assert!(restart(words(bad), &nothing).is_err(), "{bad}");
    }
}

#[test]
fn coordinator_as_a_whole() {
    let run = |line| match coordinator(words(line), &environment("DMTCP_QUIET=1")) {
        Ok(Parsed::Run(options)) => options,
        other => panic!("{line}: {other:?}"),
    };
    let plain = run("");
    assert_eq!((plain.port, plain.timeout), (DEFAULT_PORT, None));
    assert_eq!(plain.stale_timeout, Some(Duration::from_secs(28800)));
    assert_eq!(run("-p 5 --timeout 0 8000").port, 8000);
    assert_eq!(run("--stale-timeout -1").stale_timeout, None);
    assert_eq!(run("--stale-timeout 9").stale_timeout, Some(Duration::from_secs(9)));
    assert_eq!(run("--timeout 9").timeout, Some(Duration::from_secs(9)));
    assert_eq!((plain.common.quiet, run("-q").common.quiet), (1, 1));
    for bad in ["x", "7779 --daemon", "-x", "70000", "--host h"] {
        assert!(coordinator(words(bad), &nothing).is_err(), "{bad}");
    }
}

#[test]
fn errors_name_what_is_wrong() {
    let error = |line, env| launch(words(line), &environment(env)).unwrap_err().to_string();
    assert_eq!(error("--bogus x", ""), "Invalid Argument: --bogus; see dmtcp_launch --help");
    assert_eq!(error("-p 7x x", ""), "Invalid Argument: -p 7x; see dmtcp_launch --help");
    assert_eq!(error("--gzip=1 x", ""), "Invalid Argument: --gzip=1; see dmtcp_launch --help");
    assert_eq!(
        error("--ckptdir", ""),
        "Invalid Argument: --ckptdir without its PATH; see dmtcp_launch --help"
    );
    assert_eq!(
        error("x", "DMTCP_CHECKPOINT_INTERVAL=soon"),
        "Invalid Argument: DMTCP_CHECKPOINT_INTERVAL soon; see dmtcp_launch --help"
    );
    assert_eq!(Program::Launch.failure_code(&nothing), 99);
    assert_eq!(Program::Restart.failure_code(&environment("DMTCP_FAIL_RC=42")), 42);
    assert_eq!(Program::Coordinator.failure_code(&environment("DMTCP_FAIL_RC=42")), 1);
}
