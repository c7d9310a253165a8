//! In which order numbers are waited for, where they cannot be chosen.
//!
//! The kernel hands them out in turn, and a turn through all may take half a minute. So whatever can
//! be had in one turn is: the processes are made in the order in which their numbers come by, as far
//! as parents, which come before their children, allow. One searches at a time; two would take each
//! other's numbers.

use std::collections::HashSet;

use super::tree::{Index, Node, Tree};
use crate::os::numbers;

/// When each node of a tree is made: its place in the order, by its index.
#[derive(Debug, Clone)]
pub(crate) struct Turns {
    places: Vec<u32>,
    wanted: HashSet<i32>,
}

impl Turns {
    /// For numbers that come after `last`.
    pub(crate) fn of(tree: &Tree, last: i32, max: i32) -> Self {
        let mut waiting: Vec<(Index, Vec<Index>, Vec<Index>)> = Vec::new();
        let mut places = vec![0; tree.nodes.len()];
        let mut made = |index: Index, place: usize, waiting: &mut Vec<_>| {
            places[index] = place as u32;
            let node = &tree.nodes[index];
            waiting.push((index, node.early.clone(), node.late.clone()));
        };
        made(tree.first, 0, &mut waiting);
        let mut last = last;
        for place in 1.. {
            // The early ones of a parent come before its late ones.
            let open = waiting.iter().enumerate().flat_map(|(parent, (_, early, late))| {
                let due = if early.is_empty() { late } else { early };
                due.iter().map(move |&index| (parent, index))
            });
            let distance = |index: Index| {
                let node: &Node = &tree.nodes[index];
                node.pid.map_or(0, |pid| numbers::gap(last, pid, max))
            };
            let Some((parent, index)) = open.min_by_key(|&(_, index)| distance(index)) else {
                break;
            };
            let (_, early, late) = &mut waiting[parent];
            early.retain(|&other| other != index);
            late.retain(|&other| other != index);
            made(index, place, &mut waiting);
            last = tree.nodes[index].pid.unwrap_or(last);
        }
        // The stand-in's number is a courtesy, and may be its launcher's, which lives.
        let wanted = tree.nodes.iter().enumerate().filter(|&(at, _)| at != tree.stand_in);
        let wanted = wanted.filter_map(|(_, node)| node.pid).collect();
        Self { places, wanted }
    }

    /// A node's place in the order.
    pub(crate) fn place(&self, index: Index) -> u32 {
        self.places[index]
    }

    /// The node at a place.
    pub(crate) fn at(&self, place: u32) -> Option<Index> {
        self.places.iter().position(|&other| other == place)
    }

    /// Whether a process of the job is to have this number.
    pub(crate) fn wants(&self, number: i32) -> bool {
        self.wanted.contains(&number)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::Role;
    use super::*;

    fn node(pid: i32, early: &[Index], late: &[Index]) -> Node {
        Node {
            role: Role::Process(0),
            pid: Some(pid),
            leads_session: false,
            group: None,
            early: early.to_vec(),
            late: late.to_vec(),
            orphan: false,
        }
    }

    #[test]
    fn one_turn_where_parents_allow() {
        let nodes = vec![
            node(100, &[], &[1, 2]),
            node(900, &[4], &[3]),
            node(910, &[], &[5]),
            node(905, &[], &[]),
            node(930, &[], &[]),
            node(920, &[], &[]),
        ];
        let tree = Tree { nodes, first: 0, stand_in: 0 };
        let order = |last| {
            let turns = Turns::of(&tree, last, 32768);
            let mut order: Vec<Index> = (0..6).collect();
            order.sort_by_key(|&index| turns.place(index));
            order
        };
        // 905 waits for 930, which its parent makes in another session.
        assert_eq!(order(500), [0, 1, 2, 5, 4, 3]);
        // 900 has just gone by: its family waits for the next turn.
        assert_eq!(order(903), [0, 2, 5, 1, 4, 3]);
        assert!(Turns::of(&tree, 1, 32768).wants(920));
        assert!(!Turns::of(&tree, 1, 32768).wants(100));
    }
}
