//! Members of a group: reading, checking and changing the conf state.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState};
use std::collections::HashSet;

/// Says why a conf state is invalid, or None. The crate panics when it restores a snapshot with an invalid one.
pub fn fault_of(state: &ConfState) -> Option<&'static str> {
    let sets = [&state.voters, &state.learners, &state.voters_outgoing, &state.learners_next]
        .map(|ids| ids.iter().copied().collect::<HashSet<u64>>());
    let [voters, learners, outgoing, next] = &sets;
    let listed = state.voters.len() + state.learners.len() + state.voters_outgoing.len() + state.learners_next.len();
    if listed != sets.iter().map(HashSet::len).sum::<usize>() {
        return Some("an id is listed twice");
    }
    if sets.iter().any(|ids| ids.contains(&0)) {
        return Some("an id is 0");
    }
    if voters.is_empty() && (listed > 0 || state.auto_leave) {
        return Some("there is no voter");
    }
    if !learners.is_disjoint(voters) || !learners.is_disjoint(outgoing) {
        return Some("a learner is a voter too");
    }
    if !next.is_subset(outgoing) || !next.is_disjoint(voters) {
        return Some("learners_next are not leaving voters");
    }
    if outgoing.is_empty() && state.auto_leave {
        return Some("auto_leave without voters_outgoing");
    }
    None
}

/// Raises ValueError for an invalid conf state.
pub fn check(state: &ConfState) -> PyResult<()> {
    match fault_of(state) {
        Some(fault) => Err(PyValueError::new_err(format!("conf_state: {fault}"))),
        None => Ok(()),
    }
}

/// True if `id` can use a snapshot with this conf state: the crate ignores one that does not list its receiver.
pub fn includes(state: &ConfState, id: u64) -> bool {
    [&state.voters, &state.learners, &state.voters_outgoing].iter().any(|ids| ids.contains(&id))
}

/// The same conf state with each list in ascending order, so that all members store the same bytes.
pub fn sorted(mut state: ConfState) -> ConfState {
    state.voters.sort_unstable();
    state.learners.sort_unstable();
    state.voters_outgoing.sort_unstable();
    state.learners_next.sort_unstable();
    state
}

/// Builds a change from pairs of kind and id. One change is simple; several use joint consensus, which ends by itself.
pub fn change_of(pairs: &[(String, u64)]) -> PyResult<ConfChangeV2> {
    if pairs.is_empty() {
        return Err(PyValueError::new_err("changes: empty"));
    }
    let mut seen = HashSet::new();
    let mut change = ConfChangeV2::default();
    for (kind, id) in pairs {
        let kind = match kind.as_str() {
            "voter" => ConfChangeType::AddNode,
            "learner" => ConfChangeType::AddLearnerNode,
            "remove" => ConfChangeType::RemoveNode,
            _ => return Err(PyValueError::new_err(format!("changes: {kind:?} is none of voter, learner, remove"))),
        };
        if *id == 0 || !seen.insert(*id) {
            return Err(PyValueError::new_err(format!("changes: id {id} is 0 or named twice")));
        }
        let mut single = ConfChangeSingle::default();
        single.set_change_type(kind);
        single.node_id = *id;
        change.mut_changes().push(single);
    }
    Ok(change)
}
