//! In which order processes are made, so that parents, sessions and groups come out right.
//!
//! A process inherits its parent and its session from the one that forks it. Most processes are
//! made by their own parent; a child that is in its parent's *earlier* session is made before the
//! parent calls setsid(2). An orphan is made by the leader of its session, or in the place of a
//! leader that is no more, by a helper with the leader's number that ends when all is done: either
//! way it then falls to the stand-in, as it had fallen to the launcher.

use std::collections::{HashMap, HashSet};

use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::{Life, Process, Snapshot};

/// Index in [`Tree::nodes`].
pub(crate) type Index = usize;

/// What a node of the tree turns into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The stand-in for the launcher.
    StandIn,
    /// The snapshot's process of this index, which lives.
    Process(usize),
    /// A zombie with this wait status.
    Zombie(i32),
    /// Holds a session's or group's number until all have joined, and ends.
    Helper,
}

/// A process to be made.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) role: Role,
    /// Number that it had; `None` if any will do.
    pub(crate) pid: Option<i32>,
    /// It calls setsid(2).
    pub(crate) leads_session: bool,
    /// Process group to join; its own number makes it a leader; `None` keeps the inherited one.
    pub(crate) group: Option<i32>,
    /// Made before it calls setsid(2).
    pub(crate) early: Vec<Index>,
    /// Made after that.
    pub(crate) late: Vec<Index>,
    /// Made through a process in between that ends at once, so that the stand-in becomes its
    /// parent.
    pub(crate) orphan: bool,
}

/// All processes to be made.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    pub(crate) nodes: Vec<Node>,
    /// The first to be made: the stand-in, or the helper that holds its session.
    pub(crate) first: Index,
    pub(crate) stand_in: Index,
}

/// Whether the numbers of the launcher's session and group are given back too. That is so where
/// all numbers are free (an own PID namespace); elsewhere those belong to a shell that lives, and
/// the job is in the restorer's session and group as it was in the launcher's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outside {
    Numbered,
    Inherited,
}

struct Builder<'a> {
    nodes: Vec<Node>,
    node_of: HashMap<i32, Index>,
    process_of: HashMap<i32, &'a Process>,
    stand_in: Index,
    launcher: i32,
    /// The session and group that lie outside the job.
    session: i32,
    group: i32,
}

/// Plans the tree of a snapshot.
///
/// # Errors
///
/// [`ErrorKind::Unsupported`]: a layout of sessions that no order of forks brings about.
pub(crate) fn plan(snapshot: &Snapshot, outside: Outside) -> Result<Tree> {
    let launcher = &snapshot.launcher;
    let stand_in = Node {
        role: Role::StandIn,
        pid: Some(launcher.pid),
        leads_session: false,
        group: None,
        early: Vec::new(),
        late: Vec::new(),
        orphan: false,
    };
    let mut builder = Builder {
        nodes: vec![stand_in],
        node_of: HashMap::from([(launcher.pid, 0)]),
        process_of: snapshot.processes.iter().map(|process| (process.pid, process)).collect(),
        stand_in: 0,
        launcher: launcher.pid,
        session: launcher.session,
        group: launcher.group,
    };
    let first = builder.outside(outside);
    for (index, process) in snapshot.processes.iter().enumerate() {
        let role = match process.life {
            Life::Alive(_) => Role::Process(index),
            Life::Zombie(status) => Role::Zombie(status),
        };
        let node = builder.node(role, process, outside);
        builder.node_of.insert(process.pid, node);
    }
    for process in &snapshot.processes {
        builder.attach(process)?;
    }
    builder.lead_groups(outside);
    let tree = Tree { nodes: builder.nodes, first, stand_in: 0 };
    tree.check()?;
    Ok(tree)
}

impl Builder<'_> {
    fn helper(&mut self, pid: i32, leads_session: bool) -> Index {
        self.nodes.push(Node {
            role: Role::Helper,
            pid: Some(pid),
            leads_session,
            group: (!leads_session).then_some(pid),
            early: Vec::new(),
            late: Vec::new(),
            orphan: false,
        });
        self.node_of.insert(pid, self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    /// Gives the stand-in the launcher's session and group; returns the first node to be made.
    fn outside(&mut self, outside: Outside) -> Index {
        // A zero is a session or group that was not visible from where the job was. One that a process of
        // the job leads comes with that one.
        let comes = |number: i32| number == 0 || self.process_of.contains_key(&number);
        if outside == Outside::Inherited || comes(self.session) {
            return self.stand_in;
        }
        let mut first = self.stand_in;
        let group = Some(self.group).filter(|&group| !comes(group));
        if self.session == self.launcher {
            self.nodes[self.stand_in].leads_session = true;
        } else {
            let helper = self.helper(self.session, true);
            self.nodes[helper].late.push(self.stand_in);
            first = helper;
        }
        self.nodes[self.stand_in].group = group;
        first
    }

    fn node(&mut self, role: Role, process: &Process, outside: Outside) -> Index {
        let of_outside = process.group == self.group && process.session == self.session;
        let inherited = outside == Outside::Inherited && of_outside;
        self.nodes.push(Node {
            role,
            pid: Some(process.pid),
            leads_session: process.session == process.pid,
            group: (!inherited && process.group != 0).then_some(process.group),
            early: Vec::new(),
            late: Vec::new(),
            orphan: false,
        });
        self.nodes.len() - 1
    }

    /// The session of the process that makes `pid`, before it calls setsid(2) itself.
    fn earlier_session(&self, process: &Process) -> i32 {
        self.process_of.get(&process.parent).map_or(self.session, |parent| parent.session)
    }

    /// Decides who makes a process.
    fn attach(&mut self, process: &Process) -> Result<()> {
        let node = self.node_of[&process.pid];
        let own = process.session == process.pid;
        if let Some(&parent) = self.process_of.get(&process.parent) {
            let maker = self.node_of[&parent.pid];
            if own || process.session == parent.session {
                self.nodes[maker].late.push(node);
                return Ok(());
            }
            let leads = parent.session == parent.pid;
            if leads && process.session == self.earlier_session(parent) {
                self.nodes[maker].early.push(node);
                return Ok(());
            }
            let what = format!(
                "process {} is in session {}, and its parent {} in {}: no order of forks does that",
                process.pid, process.session, parent.pid, parent.session
            );
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        if own || process.session == self.session {
            self.nodes[self.stand_in].late.push(node);
            return Ok(());
        }
        self.nodes[node].orphan = true;
        let leader = match self.node_of.get(&process.session) {
            Some(&leader) => leader,
            None => {
                let helper = self.helper(process.session, true);
                self.nodes[self.stand_in].late.push(helper);
                helper
            }
        };
        self.nodes[leader].late.push(node);
        Ok(())
    }

    /// Groups whose leader is no more get a helper in the leader's place, beside their first
    /// member.
    fn lead_groups(&mut self, outside: Outside) {
        let members: Vec<(Index, i32)> = self
            .nodes
            .iter()
            .enumerate()
            .filter_map(|(index, node)| Some((index, node.group?)))
            .filter(|&(index, group)| self.nodes[index].pid != Some(group))
            .collect();
        for (member, group) in members {
            if self.node_of.contains_key(&group) {
                continue;
            }
            let helper = self.helper(group, false);
            self.nodes[helper].orphan = true;
            let maker = (0..self.nodes.len()).find_map(|maker| {
                let node = &self.nodes[maker];
                let early = node.early.iter().position(|&child| child == member);
                let late = node.late.iter().position(|&child| child == member);
                early.map(|at| (maker, true, at)).or(late.map(|at| (maker, false, at)))
            });
            match maker {
                Some((maker, true, at)) => self.nodes[maker].early.insert(at, helper),
                Some((maker, false, at)) => self.nodes[maker].late.insert(at, helper),
                // The stand-in itself is the first: its helper is its child, and has its session.
                None => {
                    debug_assert!(outside == Outside::Numbered);
                    self.nodes[helper].orphan = false;
                    self.nodes[self.stand_in].late.insert(0, helper);
                }
            }
        }
    }
}

impl Tree {
    /// Every node is made exactly once: what is read from an image may hold circles.
    fn check(&self) -> Result<()> {
        let mut seen = HashSet::from([self.first]);
        let mut queue = vec![self.first];
        while let Some(index) = queue.pop() {
            let node = &self.nodes[index];
            for &child in node.early.iter().chain(&node.late) {
                if !seen.insert(child) {
                    return Err(Error::new(ErrorKind::Damaged, "the process tree has a circle"));
                }
                queue.push(child);
            }
        }
        if seen.len() == self.nodes.len() {
            Ok(())
        } else {
            let what = "the process tree has parts that hang on nothing";
            Err(Error::new(ErrorKind::Damaged, what))
        }
    }
}
