//! One member of one group: `RaftNode`, the crate's `RawNode` behind numbers and bytes.

use crate::admission::{self, Verdict};
use crate::codec;
use crate::log_cache::LogCache;
use crate::members;
use crate::timeouts::{Timeouts, CRATE_TICKS_MAX};
use crate::values::{self, Progress, Ready, Status};
use crate::ProposalRefused;
use bytes::Bytes;
use protobuf::Message as _;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use raft::eraftpb::{ConfChange, ConfChangeV2, ConfState, Entry, EntryType, HardState, Message, MessageType, Snapshot};
use raft::{Changer, Config, RawNode, ReadOnlyOption, SnapshotStatus, StateRole};

/// One member of one group. It does no I/O, has no clock and no thread: see codeq_raft_core.pyi.
#[pyclass(module = "codeq_raft_core")]
pub struct RaftNode {
    raw: RawNode<LogCache>,
    timeouts: Timeouts,
    /// Number of the last Ready handed out.
    ready_number: u64,
    /// Number of the last Ready with entries or a snapshot, until it is durable; else 0.
    saving: u64,
    /// Index of the snapshot handed out last, until it is applied; else 0.
    installing: u64,
}

fn invalid(what: impl ToString) -> PyErr {
    PyValueError::new_err(what.to_string())
}

fn refused(why: &'static str) -> PyErr {
    ProposalRefused::new_err(why)
}

impl RaftNode {
    /// True if this node could stand for election: a voter whose whole log is durable and whose rows are in place.
    ///
    /// Without this check the crate would panic: a sole voter wins at once, and winning asserts that everything is
    /// durable; and while a snapshot is being installed, the entries that it scans before a campaign are gone. The
    /// crate's own idea of what is durable is not enough: an entry that was overwritten and came back counts as soon as
    /// its first copy is durable.
    fn may_campaign(&self) -> bool {
        let raft = &self.raw.raft;
        raft.promotable()
            && self.saving == 0
            && self.installing == 0
            && raft.raft_log.persisted == raft.raft_log.last_index()
    }

    /// Replaces a timeout drawn by the crate with one from the seed.
    fn settle(&mut self) {
        if self.raw.raft.randomized_election_timeout() != self.timeouts.current() {
            let ticks = self.timeouts.draw();
            self.raw.raft.set_randomized_election_timeout(ticks);
        }
    }

    fn require_leader(&self) -> PyResult<()> {
        match self.raw.raft.state {
            StateRole::Leader => Ok(()),
            _ => Err(refused("this node does not lead")),
        }
    }

    fn append(&mut self, kind: EntryType, data: Bytes, context: Bytes) -> PyResult<u64> {
        self.require_leader()?;
        if self.raw.raft.lead_transferee.is_some() {
            return Err(refused("leadership is being handed over"));
        }
        let mut entry = Entry::default();
        entry.set_entry_type(kind);
        entry.data = data;
        entry.context = context;
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.raw.raft.id;
        message.set_entries(vec![entry].into());
        match self.raw.raft.step(message) {
            Ok(()) => Ok(self.raw.raft.raft_log.last_index()),
            Err(raft::Error::ProposalDropped) => Err(refused("too many bytes are not committed yet")),
            Err(error) => Err(invalid(error)),
        }
    }
}

#[pymethods]
impl RaftNode {
    #[new]
    #[pyo3(signature = (id, *, seed, term, vote, commit, conf_state, base_index, base_term, entries, applied,
        election_ticks, heartbeat_ticks, message_bytes_max, inflight_max, uncommitted_bytes_max, committed_bytes_max))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        id: u64,
        seed: u64,
        term: u64,
        vote: u64,
        commit: u64,
        conf_state: &[u8],
        base_index: u64,
        base_term: u64,
        entries: Vec<Bound<'_, PyBytes>>,
        applied: u64,
        election_ticks: u32,
        heartbeat_ticks: u32,
        message_bytes_max: u64,
        inflight_max: usize,
        uncommitted_bytes_max: u64,
        committed_bytes_max: u64,
    ) -> PyResult<Self> {
        let hard_state = HardState { term, vote, commit, ..HardState::default() };
        let conf_state: ConfState = codec::decode(conf_state, "conf state")?;
        members::check(&conf_state)?;
        let mut log = LogCache::new(hard_state, conf_state, base_index, base_term);
        for bytes in entries {
            let entry: Entry = codec::decode(bytes.as_bytes(), "log entry")?;
            if entry.index != log.last() + 1 || entry.term < log.last_term() || entry.term == 0 {
                return Err(invalid(format!(
                    "entries: ({}, term {}) does not follow ({}, term {})",
                    entry.index,
                    entry.term,
                    log.last(),
                    log.last_term()
                )));
            }
            log.append([entry]);
        }
        if (base_index == 0) != (base_term == 0) || term < log.last_term() {
            return Err(invalid("term is below that of the log, or base_index and base_term do not fit"));
        }
        if !(base_index <= applied && applied <= commit && commit <= log.last()) {
            return Err(invalid(format!(
                "base_index {base_index} <= applied {applied} <= commit {commit} <= last index {} does not hold",
                log.last()
            )));
        }
        let config = Config {
            id,
            applied,
            election_tick: election_ticks as usize,
            max_election_tick: CRATE_TICKS_MAX,
            heartbeat_tick: heartbeat_ticks as usize,
            max_size_per_msg: message_bytes_max,
            max_inflight_msgs: inflight_max,
            max_uncommitted_size: uncommitted_bytes_max,
            max_committed_size_per_ready: committed_bytes_max,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            ..Config::default()
        };
        config.validate().map_err(invalid)?;
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let mut node = RaftNode {
            raw: RawNode::new(&config, log, &logger).map_err(invalid)?,
            timeouts: Timeouts::new(seed, election_ticks as usize),
            ready_number: 0,
            saving: 0,
            installing: 0,
        };
        node.settle();
        Ok(node)
    }

    fn tick(&mut self) {
        if self.raw.raft.state == StateRole::Leader || self.may_campaign() {
            self.raw.tick();
            self.settle();
        } else {
            self.raw.raft.election_elapsed += 1;
        }
    }

    fn step(&mut self, message: &[u8]) -> PyResult<()> {
        let mut message: Message = codec::decode(message, "raft message")?;
        let may_campaign = self.may_campaign();
        match admission::judge(&mut self.raw.raft, &mut message, may_campaign) {
            Verdict::Drop => return Ok(()),
            Verdict::Refuse(fault) => {
                let kind = message.get_msg_type();
                return Err(invalid(format!("{kind:?} from {}: {fault}", message.from)));
            }
            Verdict::Step => {}
        }
        let outcome = self.raw.step(message);
        self.settle();
        match outcome {
            Ok(()) | Err(raft::Error::StepPeerNotFound) => Ok(()),
            Err(error) => Err(invalid(error)),
        }
    }

    fn campaign(&mut self) -> PyResult<()> {
        if self.raw.raft.state == StateRole::Leader {
            return Ok(());
        }
        if !self.may_campaign() {
            return Err(refused("this node cannot stand for election now"));
        }
        let outcome = self.raw.campaign();
        self.settle();
        outcome.map_err(invalid)
    }

    fn propose(&mut self, data: &[u8]) -> PyResult<u64> {
        if data.is_empty() {
            return Err(invalid("data: empty"));
        }
        self.append(EntryType::EntryNormal, Bytes::copy_from_slice(data), Bytes::new())
    }

    fn propose_members(&mut self, changes: Vec<(String, u64)>, context: &[u8]) -> PyResult<u64> {
        let change = members::change_of(&changes)?;
        self.require_leader()?;
        let raft = &self.raw.raft;
        // The crate would replace a change that it does not accept with an empty entry.
        if raft.has_pending_conf() {
            return Err(refused("an earlier change of members may not be applied yet"));
        }
        if !raft.prs().conf().to_conf_state().voters_outgoing.is_empty() {
            return Err(refused("an earlier change of members is not finished"));
        }
        let mut changer = Changer::new(raft.prs());
        match change.enter_joint() {
            Some(auto_leave) => changer.enter_joint(auto_leave, change.get_changes()),
            None => changer.simple(change.get_changes()),
        }
        .map_err(invalid)?;
        let data = change.write_to_bytes().map_err(invalid)?;
        self.append(EntryType::EntryConfChangeV2, data.into(), Bytes::copy_from_slice(context))
    }

    fn read_index(&mut self, context: &[u8]) -> PyResult<()> {
        self.require_leader()?;
        if context.is_empty() {
            return Err(invalid("context: empty"));
        }
        if !self.raw.raft.commit_to_current_term() {
            return Err(refused("nothing of this term is committed yet"));
        }
        self.raw.read_index(context.to_vec());
        Ok(())
    }

    fn transfer_leader(&mut self, to: u64) -> PyResult<()> {
        self.require_leader()?;
        if !self.raw.raft.prs().conf().voters().contains(to) {
            return Err(refused("leadership goes to voters only"));
        }
        self.raw.transfer_leader(to);
        Ok(())
    }

    fn report_unreachable(&mut self, id: u64) {
        self.raw.report_unreachable(id);
    }

    fn report_snapshot(&mut self, id: u64, ok: bool) {
        let status = if ok { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raw.report_snapshot(id, status);
    }

    fn ready(&mut self, py: Python<'_>) -> PyResult<Option<Ready>> {
        if !self.raw.has_ready() {
            return Ok(None);
        }
        let mut ready = self.raw.ready();
        self.ready_number = ready.number();
        let installed = match ready.snapshot().get_metadata().index {
            0 => None,
            index => {
                self.installing = index;
                let snapshot = ready.snapshot();
                self.raw.mut_store().restart_at(index, snapshot.get_metadata().term);
                Some(values::Snapshot::of(py, snapshot)?)
            }
        };
        let value = Ready {
            number: ready.number(),
            must_sync: ready.must_sync(),
            hard_state: ready.hs().map(|state| (state.term, state.vote, state.commit)),
            soft_state: ready.ss().map(|state| (state.leader_id, values::role(state.raft_state))),
            entries: values::new_entries(py, ready.entries())?,
            snapshot: installed,
            messages: values::messages(py, ready.take_messages())?,
            persisted_messages: values::messages(py, ready.take_persisted_messages())?,
            committed: values::committed(py, &ready.take_committed_entries())?,
            read_states: values::read_states(py, &ready.take_read_states())?,
        };
        if value.snapshot.is_some() || !ready.entries().is_empty() {
            self.saving = value.number;
        }
        self.raw.mut_store().append(ready.take_entries());
        self.raw.advance_append_async(ready);
        Ok(Some(value))
    }

    fn on_persisted(&mut self, number: u64) -> PyResult<()> {
        if number > self.ready_number {
            return Err(invalid(format!("number {number} is above the last one, {}", self.ready_number)));
        }
        self.raw.on_persist_ready(number);
        if number >= self.saving {
            self.saving = 0;
        }
        Ok(())
    }

    fn on_applied(&mut self, index: u64) {
        self.raw.advance_apply_to(index);
        if index >= self.installing {
            self.installing = 0;
        }
    }

    fn apply_members<'py>(&mut self, py: Python<'py>, entry_type: i32, data: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let state = match entry_type {
            1 => self.raw.apply_conf_change(&codec::decode::<ConfChange>(data, "change of members")?),
            2 => self.raw.apply_conf_change(&codec::decode::<ConfChangeV2>(data, "change of members")?),
            _ => return Err(invalid(format!("entry_type: {entry_type} changes no members"))),
        }
        .map_err(invalid)?;
        // A leader that is no longer a voter has no progress of its own, which the crate assumes whenever a leader
        // commits or persists.
        if self.raw.raft.state == StateRole::Leader && !self.raw.raft.promotable() {
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, 0);
            self.settle();
        }
        codec::encode(py, &members::sorted(state))
    }

    fn offer_snapshot(&mut self, index: u64, term: u64, conf_state: &[u8], data: &[u8]) -> PyResult<()> {
        let state: ConfState = codec::decode(conf_state, "conf state")?;
        members::check(&state)?;
        if index == 0 || term == 0 || index > self.raw.raft.raft_log.committed {
            return Err(invalid(format!("index {index}, term {term}: not a committed place")));
        }
        let mut snapshot = Snapshot { data: Bytes::copy_from_slice(data), ..Snapshot::default() };
        let metadata = snapshot.mut_metadata();
        metadata.index = index;
        metadata.term = term;
        metadata.set_conf_state(state);
        self.raw.mut_store().offer(snapshot);
        Ok(())
    }

    fn snapshot_wanted(&self) -> bool {
        self.raw.store().take_wanted()
    }

    fn compact(&mut self, index: u64) -> PyResult<()> {
        let applied = self.raw.raft.raft_log.applied;
        if index > applied {
            return Err(invalid(format!("index {index} is above the applied one, {applied}")));
        }
        self.raw.mut_store().compact(index);
        Ok(())
    }

    fn term_of(&self, index: u64) -> PyResult<u64> {
        match self.raw.raft.raft_log.term(index) {
            Ok(term) if term > 0 || index == 0 => Ok(term),
            _ => Err(invalid(format!("index {index} is not in the log"))),
        }
    }

    #[getter]
    fn status(&self) -> Status {
        let raft = &self.raw.raft;
        Status {
            role: values::role(raft.state),
            leader: raft.leader_id,
            term: raft.term,
            vote: raft.vote,
            commit: raft.raft_log.committed,
            applied: raft.raft_log.applied,
            first_index: raft.raft_log.first_index(),
            last_index: raft.raft_log.last_index(),
            log_bytes: self.raw.store().bytes() as u64,
            transferring: raft.lead_transferee.unwrap_or(0),
        }
    }

    fn progress(&self) -> Vec<Progress> {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Leader {
            return Vec::new();
        }
        let learners = raft.prs().conf().learners();
        let mut members: Vec<Progress> = raft
            .prs()
            .iter()
            .map(|(id, progress)| Progress {
                id: *id,
                matched: progress.matched,
                next_index: progress.next_idx,
                state: values::progress_state(progress.state),
                recent_active: progress.recent_active,
                pending_snapshot: progress.pending_snapshot,
                is_learner: learners.contains(id),
            })
            .collect();
        members.sort_unstable_by_key(|progress| progress.id);
        members
    }
}
