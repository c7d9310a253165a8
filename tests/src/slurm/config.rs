//! What a cluster of one's own needs besides the programs: its configuration, and ports that nobody
//! else has.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// What a test may want otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Nodes `n1`, `n2`, … All of them are this host, with sixteen processors each.
    pub nodes: usize,
    /// Seconds between a preemption and its end.
    pub grace: u32,
    /// Seconds between SIGTERM and SIGKILL at a job's limit.
    pub kill_wait: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: 1, grace: 15, kill_wait: 5 }
    }
}

/// The ports of slurmctld and, after it, of the slurmds.
pub(super) fn free_ports(count: usize) -> Vec<u16> {
    // Below those that the kernel hands out to whoever connects: a daemon that is started again
    // must get the port it had. Tests that run at the same time begin at different places.
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id() * 64;
    let ports = std::iter::from_fn(|| {
        let number = (start + TAKEN.fetch_add(1, Ordering::Relaxed)) % 16_000;
        Some(12_000 + number as u16)
    });
    ports.filter(|&port| TcpListener::bind(("0.0.0.0", port)).is_ok()).take(count).collect()
}

/// Makes the folders, the key and the files.
pub(super) fn write(base: &Path, host: &str, options: Options, ports: &[u16]) {
    for name in ["etc", "munge", "state", "spool", "log", "work"] {
        fs::create_dir_all(base.join(name)).expect("the folder is ours");
    }
    let key = base.join("munge/key");
    let mut random = fs::File::open("/dev/urandom").expect("/dev is mounted");
    let mut bytes = [0; 1024];
    std::io::Read::read_exact(&mut random, &mut bytes).expect("it never ends");
    fs::write(&key, bytes).expect("the folder is ours");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o400)).expect("it is ours");
    fs::write(base.join("etc/slurm.conf"), text(base, host, options, ports)).expect("it is ours");
    fs::write(base.join("etc/cgroup.conf"), "CgroupAutomount=no\n").expect("it is ours");
}

/// As much as possible happens at once, and nothing that only a machine's owner would want.
fn text(base: &Path, host: &str, options: Options, ports: &[u16]) -> String {
    let (b, Options { nodes, grace, kill_wait }) = (base.display(), options);
    let mut text = format!(
        "ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={b}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={b}/state
SlurmdSpoolDir={b}/spool/%n
SlurmctldPidFile={b}/slurmctld.pid
SlurmdPidFile={b}/slurmd-%n.pid
SlurmctldLogFile={b}/log/slurmctld.log
SlurmdLogFile={b}/log/slurmd-%n.log
SlurmctldDebug=debug
SlurmdDebug=info
SlurmdTimeout=100
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
ReturnToService=2
KillWait={kill_wait}
CompleteWait=0
MinJobAge=3600
MailProg=/bin/true
SlurmdParameters=config_overrides
PartitionName=debug Nodes=ALL Default=YES MaxTime=60 PriorityTier=10 State=UP
PartitionName=preempt Nodes=ALL MaxTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace} \
         State=UP
",
        ports[0]
    );
    for (number, port) in ports.iter().enumerate().skip(1).take(nodes) {
        text += &format!(
            "NodeName=n{number} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=16 \
             RealMemory=8000\n"
        );
    }
    text
}
