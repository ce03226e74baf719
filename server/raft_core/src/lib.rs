//! `codeq_raft_core`: consensus for codeq, the crate raft behind numbers and bytes.
//!
//! - `node`: `RaftNode`, one member of one group
//! - `admission`: which messages from the network the crate may see
//! - `log_cache`: the tail of the log, in memory
//! - `members`: configuration states and membership changes
//! - `timeouts`: election timeouts from a seed
//! - `values`: objects read by Python
//! - `codec`: protobuf in and out
//!
//! Python calls in; nothing here calls Python back, starts a thread, reads a clock or touches a disk. A panic means
//! that a promise of this node to others is in doubt, so it ends the process, whatever the build profile: the hook
//! prints and aborts before unwinding could reach Python as an exception that somebody catches.

mod admission;
mod codec;
mod log_cache;
mod members;
mod node;
mod timeouts;
mod values;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use raft::eraftpb::{self, Message};

pyo3::create_exception!(
    codeq_raft_core,
    ProposalRefused,
    pyo3::exceptions::PyException,
    "This node cannot do that now; nothing was appended."
);

/// Encodes a conf state of voters and learners. Raises ValueError for ids that cannot form one.
#[pyfunction]
fn conf_state(py: Python<'_>, voters: Vec<u64>, learners: Vec<u64>) -> PyResult<Bound<'_, PyBytes>> {
    let state = eraftpb::ConfState { voters, learners, ..Default::default() };
    members::check(&state)?;
    codec::encode(py, &members::sorted(state))
}

/// Parses a conf state. Raises ValueError for malformed bytes.
#[pyfunction]
fn read_conf_state(conf_state: &[u8]) -> PyResult<values::ConfState> {
    let state: eraftpb::ConfState = codec::decode(conf_state, "conf state")?;
    members::check(&state)?;
    let state = members::sorted(state);
    Ok(values::ConfState {
        voters: state.voters,
        learners: state.learners,
        voters_outgoing: state.voters_outgoing,
        learners_next: state.learners_next,
        auto_leave: state.auto_leave,
    })
}

/// Returns the snapshot in a message, or None. Raises ValueError for bytes that are not a message.
#[pyfunction]
fn snapshot_of(py: Python<'_>, message: &[u8]) -> PyResult<Option<Py<values::Snapshot>>> {
    let message: Message = codec::decode(message, "raft message")?;
    if message.get_msg_type() != eraftpb::MessageType::MsgSnapshot {
        return Ok(None);
    }
    values::Snapshot::of(py, message.get_snapshot()).map(Some)
}

/// Prints what happened and ends the process.
fn end_the_process_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        eprintln!("codeq_raft_core: {info}; the process ends, because what this node promised is in doubt");
        std::process::abort();
    }));
}

#[pymodule]
fn codeq_raft_core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    end_the_process_on_panic();
    module.add_class::<node::RaftNode>()?;
    module.add_class::<values::Ready>()?;
    module.add_class::<values::Snapshot>()?;
    module.add_class::<values::ConfState>()?;
    module.add_class::<values::Status>()?;
    module.add_class::<values::Progress>()?;
    module.add("ProposalRefused", module.py().get_type::<ProposalRefused>())?;
    module.add_function(wrap_pyfunction!(conf_state, module)?)?;
    module.add_function(wrap_pyfunction!(read_conf_state, module)?)?;
    module.add_function(wrap_pyfunction!(snapshot_of, module)?)?;
    Ok(())
}
