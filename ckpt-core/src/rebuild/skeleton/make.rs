//! A process of the family makes another, with its number.

use std::io;

use super::super::tree::{Index, Node, Role};
use super::super::turns::Turns;
use super::Family;
use crate::error::{Error, ErrorKind};
use crate::os::numbers;
use crate::os::spawn::{self, Fork};

impl Family<'_> {
    /// Makes the node with its number and returns that of the new process.
    pub(super) fn make(&self, index: Index) -> io::Result<i32> {
        let Some(turns) = self.turns else { return self.fork(index, chosen) };
        self.board.await_turn(turns.place(index));
        let made = self.fork(index, |node| awaited(node, turns));
        self.board.end_turn();
        made
    }

    /// Children in the order in which they are made.
    pub(super) fn in_order(&self, children: &[Index]) -> Vec<Index> {
        let mut children = children.to_vec();
        if let Some(turns) = self.turns {
            children.sort_by_key(|&child| turns.place(child));
        }
        children
    }

    fn fork(&self, index: Index, fork: impl Fn(&Node) -> io::Result<Fork>) -> io::Result<i32> {
        let node = &self.recipe.tree.nodes[index];
        if node.orphan {
            return self.fork_orphan(index, fork);
        }
        match fork(node) {
            Ok(Fork::Parent(pid)) => Ok(pid),
            Ok(Fork::Child) => self.live(index),
            // Outside a namespace the launcher's number may be taken: any other serves.
            Err(_) if node.role == Role::StandIn && self.recipe.namespace.is_none() => {
                match spawn::fork(0, None)? {
                    Fork::Parent(pid) => Ok(pid),
                    Fork::Child => self.live(index),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// A process in between makes the node and ends, which leaves it to the stand-in.
    fn fork_orphan(
        &self,
        index: Index,
        fork: impl Fn(&Node) -> io::Result<Fork>,
    ) -> io::Result<i32> {
        let anywhere = match self.turns {
            None => spawn::fork(0, None),
            // It is there while the node waits for its number.
            Some(turns) => numbers::fork_beside(|number| turns.wants(number)),
        };
        let between = match anywhere? {
            Fork::Parent(pid) => pid,
            Fork::Child => match fork(&self.recipe.tree.nodes[index]) {
                Ok(Fork::Child) => self.live(index),
                Ok(Fork::Parent(_)) => spawn::exit(0),
                Err(error) => {
                    self.board.fail(index as u32, 0, &error);
                    spawn::exit(1)
                }
            },
        };
        spawn::reap(between)?;
        Ok(0)
    }
}

fn chosen(node: &Node) -> io::Result<Fork> {
    let leaving = numbers::Leaving::new();
    loop {
        match spawn::fork(0, node.pid) {
            // The stand-in's number may be that of somebody who stays.
            Err(error)
                if node.role != Role::StandIn
                    && leaving.may_go(error.raw_os_error().unwrap_or_default()) => {}
            made => return made,
        }
    }
}

fn awaited(node: &Node, turns: &Turns) -> io::Result<Fork> {
    match node.pid {
        // The stand-in's number is a courtesy, not worth a search.
        Some(pid) if node.role != Role::StandIn => numbers::fork_until(pid),
        _ => numbers::fork_beside(|number| turns.wants(number)),
    }
}

/// Why a number was waited for in vain.
pub(super) fn never_came(number: i32, error: &io::Error) -> Option<Error> {
    match error.raw_os_error()? {
        libc::ETIMEDOUT => {
            let what = format!(
                "the number {number} did not come by in time: a session has it, or others get it \
                 first"
            );
            Some(Error::new(ErrorKind::Busy, what))
        }
        libc::ERANGE => {
            let what = format!("the number {number} is handed out here no more");
            Some(Error::new(ErrorKind::Unsupported, what))
        }
        _ => None,
    }
}
