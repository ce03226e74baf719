//! Objects read by Python: frozen, of numbers, words and bytes.

use crate::codec;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use raft::eraftpb::{self, Entry, Message};
use raft::{ProgressState, ReadState, StateRole};

/// The word for a role.
pub fn role(state: StateRole) -> &'static str {
    match state {
        StateRole::Follower => "follower",
        StateRole::PreCandidate => "precandidate",
        StateRole::Candidate => "candidate",
        StateRole::Leader => "leader",
    }
}

/// Work to do, in this order: see codeq_raft_core.pyi.
#[pyclass(frozen, get_all, module = "codeq_raft_core")]
pub struct Ready {
    pub number: u64,
    pub must_sync: bool,
    pub hard_state: Option<(u64, u64, u64)>,
    pub soft_state: Option<(u64, &'static str)>,
    pub entries: Py<PyList>,
    pub snapshot: Option<Py<Snapshot>>,
    pub messages: Py<PyList>,
    pub persisted_messages: Py<PyList>,
    pub committed: Py<PyList>,
    pub read_states: Py<PyList>,
}

/// The state of the group at an index, in its owner's format.
#[pyclass(frozen, get_all, module = "codeq_raft_core")]
pub struct Snapshot {
    pub index: u64,
    pub term: u64,
    pub conf_state: Py<PyBytes>,
    pub data: Py<PyBytes>,
}

impl Snapshot {
    /// Extracts the parts of the crate's snapshot.
    pub fn of(py: Python<'_>, snapshot: &eraftpb::Snapshot) -> PyResult<Py<Self>> {
        let metadata = snapshot.get_metadata();
        Py::new(
            py,
            Snapshot {
                index: metadata.index,
                term: metadata.term,
                conf_state: codec::encode(py, metadata.get_conf_state())?.unbind(),
                data: PyBytes::new(py, &snapshot.data).unbind(),
            },
        )
    }
}

/// Members of a group, as raft ids in ascending order.
#[pyclass(frozen, get_all, eq, module = "codeq_raft_core")]
#[derive(PartialEq)]
pub struct ConfState {
    pub voters: Vec<u64>,
    pub learners: Vec<u64>,
    pub voters_outgoing: Vec<u64>,
    pub learners_next: Vec<u64>,
    pub auto_leave: bool,
}

#[pymethods]
impl ConfState {
    fn __repr__(&self) -> String {
        format!(
            "ConfState(voters={:?}, learners={:?}, voters_outgoing={:?}, learners_next={:?}, auto_leave={})",
            self.voters,
            self.learners,
            self.voters_outgoing,
            self.learners_next,
            if self.auto_leave { "True" } else { "False" },
        )
    }
}

/// State of a node.
#[pyclass(frozen, get_all, eq, module = "codeq_raft_core")]
#[derive(PartialEq)]
pub struct Status {
    pub role: &'static str,
    pub leader: u64,
    pub term: u64,
    pub vote: u64,
    pub commit: u64,
    pub applied: u64,
    pub first_index: u64,
    pub last_index: u64,
    pub log_bytes: u64,
    pub transferring: u64,
}

#[pymethods]
impl Status {
    fn __repr__(&self) -> String {
        format!(
            "Status(role={:?}, leader={}, term={}, vote={}, commit={}, applied={}, first_index={}, last_index={}, log_bytes={}, transferring={})",
            self.role, self.leader, self.term, self.vote, self.commit, self.applied, self.first_index,
            self.last_index, self.log_bytes, self.transferring,
        )
    }
}

/// A leader's knowledge of one member.
#[pyclass(frozen, get_all, eq, module = "codeq_raft_core")]
#[derive(PartialEq)]
pub struct Progress {
    pub id: u64,
    pub matched: u64,
    pub next_index: u64,
    pub state: &'static str,
    pub recent_active: bool,
    pub pending_snapshot: u64,
    pub is_learner: bool,
}

#[pymethods]
impl Progress {
    fn __repr__(&self) -> String {
        format!(
            "Progress(id={}, matched={}, next_index={}, state={:?}, recent_active={}, pending_snapshot={}, is_learner={})",
            self.id,
            self.matched,
            self.next_index,
            self.state,
            if self.recent_active { "True" } else { "False" },
            self.pending_snapshot,
            if self.is_learner { "True" } else { "False" },
        )
    }
}

/// The word for how a leader replicates to a member.
pub fn progress_state(state: ProgressState) -> &'static str {
    match state {
        ProgressState::Probe => "probe",
        ProgressState::Replicate => "replicate",
        ProgressState::Snapshot => "snapshot",
    }
}

/// Messages as (to, type, bytes), ordered by receiver, because the crate iterates over its members in the order of a
/// hash table; messages to one receiver keep their order.
pub fn messages(py: Python<'_>, mut messages: Vec<Message>) -> PyResult<Py<PyList>> {
    messages.sort_by_key(|message| message.to);
    let list = PyList::empty(py);
    for message in &messages {
        let kind = format!("{:?}", message.get_msg_type());
        list.append((message.to, kind, codec::encode(py, message)?))?;
    }
    Ok(list.unbind())
}

/// Entries to persist as (index, term, the whole entry).
pub fn new_entries(py: Python<'_>, entries: &[Entry]) -> PyResult<Py<PyList>> {
    let list = PyList::empty(py);
    for entry in entries {
        list.append((entry.index, entry.term, codec::encode(py, entry)?))?;
    }
    Ok(list.unbind())
}

/// Entries to apply as (index, term, type, data, context).
pub fn committed(py: Python<'_>, entries: &[Entry]) -> PyResult<Py<PyList>> {
    let list = PyList::empty(py);
    for entry in entries {
        let (data, context) = (PyBytes::new(py, &entry.data), PyBytes::new(py, &entry.context));
        list.append((entry.index, entry.term, entry.entry_type as i32, data, context))?;
    }
    Ok(list.unbind())
}

/// Answers to ReadIndex as (index, context).
pub fn read_states(py: Python<'_>, states: &[ReadState]) -> PyResult<Py<PyList>> {
    let list = PyList::empty(py);
    for state in states {
        list.append((state.index, PyBytes::new(py, &state.request_ctx)))?;
    }
    Ok(list.unbind())
}
