//! The answers, to the letter.

use std::ffi::OsString;

use super::*;
use crate::dmtcp::command::parse;

fn say(line: &str, reply: &Reply) -> (String, String, u8) {
    let request = parse(line.split_whitespace().map(OsString::from), &|_| None);
    let Answer { stdout, stderr, code } = answer(&request, reply);
    (stdout, stderr, code)
}

fn ours(text: &str) -> (String, String, u8) {
    (text.to_owned(), String::new(), 0)
}

fn with(status: Status) -> Reply {
    Reply { status, ..Reply::default() }
}

fn running() -> Reply {
    let client = |number, program: &str, virtual_pid, real_pid, time| Client {
        number,
        program: program.to_owned(),
        virtual_pid,
        real_pid,
        host: "vm".to_owned(),
        unique_id: UniqueId { host: 0x98ff, pid: virtual_pid, time },
        state: State::Running,
    };
    let clients = vec![
        client(1, "bash", 40000, 30257, 0xfa_c0f3_ea34),
        client(5, "sleep", 44000, 31393, 0xfb_4274_a1e6),
    ];
    Reply { num_peers: 2, running: true, clients, ..Reply::default() }
}

const LIST: &str = "Client List:
#, PROG[virtPID:realPID]@HOST, DMTCP-UNIQUEPID, STATE, BARRIER
1, bash[40000:30257]@vm, 98ff-40000-fac0f3ea34, WorkerState::RUNNING, 
5, sleep[44000:31393]@vm, 98ff-44000-fb4274a1e6, WorkerState::RUNNING, 

";

#[test]
fn status_and_list() {
    let head = "Coordinator:\n  Host: localhost\n  Port: 8801\n";
    let status =
        "Status...\n  NUM_PEERS=2\n  RUNNING=yes\n  CKPT_INTERVAL=0 (checkpoint manually)\n";
    assert_eq!(say("-p 8801 -s", &running()), ours(&format!("{head}{status}")));
    let reply = Reply { interval: 2, ..Reply::default() };
    let status = "Coordinator:\n  Host: n7\n  Port: 7779 (default port)\nStatus...\n  \
                  NUM_PEERS=0\n  RUNNING=no\n  CKPT_INTERVAL=2\n";
    assert_eq!(say("-h n7 -s", &reply), ours(status));
    assert_eq!(say("-p 8801 -l", &running()), ours(&format!("{head}{LIST}")));
}

#[test]
fn the_quiet_ones_and_the_interval() {
    for line in ["-c", "-bc", "-kc", "-k", "-q"] {
        assert_eq!(say(line, &running()), ours(""), "{line}");
    }
    assert_eq!(say("-i 5", &running()), ours("Interval changed to 5\n"));
}

#[test]
fn refusals() {
    let err = |text: &str| (String::new(), text.to_owned(), 2);
    let absent = with(Status::NotFound);
    let please = "Coordinator not found. Please check port and host.\n";
    let port = "Coordinator not found. Try specifying port with '--port'.\n";
    assert_eq!(say("-p 1 -s", &absent), err(please));
    assert_eq!(say("-i 5", &absent), err(port));
    let idle = with(Status::NotRunning);
    let not = "Error, computation not in running state.  Either a checkpoint is\n \
               currently happening or there are no connected processes.\n";
    assert_eq!(say("-c", &idle), err(not));
    assert_eq!(say("-bc", &idle), err(not));
    let killed = "Computation was checkpointed and killed.\n".to_owned();
    assert_eq!(say("-kc", &idle), (killed, String::new(), 2));
    let unknown = "Unknown command, try 'dmtcp_command --help'\n";
    assert_eq!(say("-s", &with(Status::InvalidCommand)), err(unknown));
}

#[test]
fn help_and_version() {
    let text = usage(Program::Command);
    assert_eq!(say("--help", &Reply::default()), (text.clone(), String::new(), 1));
    for line in ["", "?", "bogus"] {
        assert_eq!(say(line, &Reply::default()), (String::new(), text.clone(), 1), "{line}");
    }
    let (version, _, code) = say("--version", &Reply::default());
    assert_eq!(version.lines().next(), Some("dmtcp_command (DMTCP) 5.0 compatible, ckpt 0.1.0"));
    assert_eq!(code, 1);
    assert!(introduction(Program::Launch).ends_with("\n(For help: dmtcp_launch --help)\n\n"));
    assert_eq!(without_effect(&[]), None);
    let line = without_effect(&["--modify-env", "DMTCP_PLUGIN"]);
    assert_eq!(line.as_deref(), Some("without effect here: --modify-env, DMTCP_PLUGIN"));
}

#[test]
fn json_lines() {
    let place = r#""coordinator_host":"localhost","coordinator_port":8801"#;
    let expect = |line: &str, reply: &Reply, command: &str, status: &str, more: &str, code| {
        let text = format!(
            "{{\"schema_version\":1,\"command\":\"DMT_{command}\",\
             \"command_status\":\"DMT_COORD_{status}\",{place}{more}}}\n"
        );
        assert_eq!(say(&format!("--json -p 8801 {line}"), reply), (text, String::new(), code));
    };
    let reply = running();
    let full = r#","num_peers":2,"running":true,"checkpoint_interval":0"#;
    expect("-s", &reply, "STATUS", "SUCCESS", full, 0);
    let workers = format!(",\"workers\":\"{}\"", LIST.replace('\n', "\\n"));
    expect("-l", &reply, "LIST", "SUCCESS", &workers, 0);
    expect("-c", &reply, "CHECKPOINT", "SUCCESS", r#","num_peers":2"#, 0);
    expect("-bc", &reply, "BLOCKING_CKPT", "SUCCESS", r#","num_peers":2"#, 0);
    expect("-kc", &reply, "KILL_AFTER_CKPT", "SUCCESS", r#","num_peers":2"#, 0);
    expect("-i 0", &reply, "UPDATE_CKPT_INTERVAL", "SUCCESS", r#","checkpoint_interval":0"#, 0);
    expect("-k", &reply, "KILL", "SUCCESS", "", 0);
    expect("-q", &reply, "QUIT", "SUCCESS", "", 0);
    expect("--help", &reply, "HELP", "SUCCESS", "", 0);
    expect("", &reply, "HELP", "SUCCESS", "", 0);
    expect("bogus", &reply, "INVALID_COORDINATOR_COMMAND", "INVALID_COMMAND", "", 2);
    expect("-c", &with(Status::NotRunning), "CHECKPOINT", "NOT_RUNNING", "", 2);
    expect("-s", &with(Status::NotFound), "STATUS", "NOT_FOUND", "", 2);
    expect("-s", &with(Status::InvalidCommand), "STATUS", "INVALID_COMMAND", "", 2);
    let version = version(Program::Command).replace('\n', "\\n");
    let line = format!(
        "{{\"schema_version\":1,\"command\":\"DMT_VERSION\",\
         \"command_status\":\"DMT_COORD_SUCCESS\",\"version\":\"{version}\"}}\n"
    );
    assert_eq!(say("--json --version", &reply), ours(&line));
}

#[test]
fn states() {
    use State::*;
    let all = [Unknown, Running, Presuspend, Suspended, Checkpointing, Checkpointed, Restarting];
    let names = "UNKNOWN RUNNING PRESUSPEND SUSPENDED CHECKPOINTING CHECKPOINTED RESTARTING";
    for (state, name) in all.iter().zip(names.split(' ')) {
        assert_eq!(state.to_string(), format!("WorkerState::{name}"));
    }
}

#[test]
fn usage_lists_every_listed_option() {
    let starts = [
        (Program::Launch, "Usage: dmtcp_launch [OPTIONS] <command> [args...]\n"),
        (Program::Restart, "Usage: dmtcp_restart [OPTIONS] <ckpt1.dmtcp> [ckpt2.dmtcp...]\n"),
        (Program::Coordinator, "Usage: dmtcp_coordinator [OPTIONS] [port]\n"),
        (Program::Command, "Usage: dmtcp_command [OPTIONS] COMMAND [COMMAND...]\n"),
    ];
    for (program, start) in starts {
        let text = usage(program);
        assert!(text.starts_with(start), "{text}");
        for row in rows(program).filter(|row| !row.listed.is_empty()) {
            assert!(text.contains(&format!("\n  {}\n", spelled(row))), "{program} {}", row.listed);
        }
        assert!(!text.contains("--disable-ipc-plugin") && !text.contains("--gdb"));
    }
    let port = "  -p, --coord-port PORT_NUM (environment variable DMTCP_COORD_PORT)\n";
    assert!(usage(Program::Launch).contains(port));
    for word in WORDS.iter().filter(|word| !word.listed.is_empty()) {
        assert!(usage(Program::Command).contains(&word.listed.replace(' ', ", ")));
    }
}
