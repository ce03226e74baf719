//! Checks of messages from the network, before the crate sees them.
//!
//! The crate trusts its peers: a well-formed message that no correct peer sends makes it panic, and a panic ends the
//! process. Each check here prevents such a panic, or rejects a field that this binding does not use.

use crate::log_cache::LogCache;
use crate::members;
use raft::eraftpb::{Entry, Message, MessageType};
use raft::{ProgressState, Raft, StateRole};

/// Larger numbers are not valid indices or terms: adding one to a valid number must not overflow.
const NUMBER_MAX: u64 = i64::MAX as u64;

/// Verdict on a message.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// Pass it to the crate.
    Step,
    /// Ignore it: peers do not send its type, or it is stale, or it cannot be served at this moment.
    Drop,
    /// No correct peer sends such a message.
    Refuse(&'static str),
}

use Verdict::{Drop, Refuse, Step};

/// Judges a message. `may_campaign`: whether this node could stand for election now. May correct a stale rejection.
pub fn judge(raft: &mut Raft<LogCache>, message: &mut Message, may_campaign: bool) -> Verdict {
    if message.to != raft.id {
        return Refuse("it is for another id");
    }
    let kind = message.get_msg_type();
    if !from_peers(kind) {
        return Drop;
    }
    if let Some(fault) = fault_of(raft.id, message) {
        return Refuse(fault);
    }
    if message.term < raft.term {
        return Step;
    }
    let leading = raft.state == StateRole::Leader && message.term == raft.term;
    match kind {
        MessageType::MsgAppend if !leading => judge_append(message),
        MessageType::MsgHeartbeat if !leading && message.commit > raft.raft_log.last_index() => {
            Refuse("commit is beyond the last index")
        }
        MessageType::MsgSnapshot if !leading => judge_snapshot(raft, message),
        MessageType::MsgAppendResponse if leading => judge_append_response(raft, message),
        // A transfer of leadership starts an election only when everything this node has is durable.
        MessageType::MsgTimeoutNow if !may_campaign => Drop,
        _ => Step,
    }
}

/// The types that peers exchange. The others are local to a node, or forward requests that must go to the leader.
fn from_peers(kind: MessageType) -> bool {
    matches!(
        kind,
        MessageType::MsgAppend
            | MessageType::MsgAppendResponse
            | MessageType::MsgRequestVote
            | MessageType::MsgRequestVoteResponse
            | MessageType::MsgRequestPreVote
            | MessageType::MsgRequestPreVoteResponse
            | MessageType::MsgSnapshot
            | MessageType::MsgHeartbeat
            | MessageType::MsgHeartbeatResponse
            | MessageType::MsgTimeoutNow
    )
}

/// Returns what is wrong with a message, regardless of the receiver's state.
fn fault_of(id: u64, message: &Message) -> Option<&'static str> {
    if message.from == 0 || message.from == id {
        return Some("from is no peer");
    }
    if message.term == 0 {
        return Some("term is 0"); // the crate takes it for a message of its own and skips the check of terms
    }
    let numbers =
        [message.term, message.log_term, message.index, message.commit, message.commit_term, message.reject_hint];
    if numbers.iter().any(|number| *number > NUMBER_MAX) {
        return Some("a number is out of range");
    }
    if message.request_snapshot != 0 {
        return Some("request_snapshot is not used");
    }
    if message.priority != 0 || message.deprecated_priority != 0 {
        return Some("priority is not used"); // a negative one makes a node of term 0 reject, which panics
    }
    None
}

fn judge_append(message: &Message) -> Verdict {
    // For an index it does not have, the crate reads term 0 and would accept entries after a gap.
    if (message.index == 0) != (message.log_term == 0) || message.log_term > message.term {
        return Refuse("log_term does not fit");
    }
    if !consecutive(message.index, message.log_term, message.term, &message.entries) {
        return Refuse("entries are not consecutive");
    }
    Step
}

/// True if the entries follow `index` one by one, with terms that never fall and end at or below `term`.
fn consecutive(index: u64, log_term: u64, term: u64, entries: &[Entry]) -> bool {
    let mut last = (index, log_term.max(1));
    for entry in entries {
        if entry.index != last.0 + 1 || entry.term < last.1 || entry.term > term {
            return false;
        }
        last = (entry.index, entry.term);
    }
    true
}

fn judge_snapshot(raft: &Raft<LogCache>, message: &Message) -> Verdict {
    let metadata = message.get_snapshot().get_metadata();
    if metadata.index == 0 || metadata.index > NUMBER_MAX {
        return Refuse("index of the snapshot is out of range");
    }
    if metadata.term == 0 || metadata.term > message.term {
        return Refuse("term of the snapshot does not fit");
    }
    let state = metadata.get_conf_state();
    if members::fault_of(state).is_some() || state.voters.is_empty() {
        return Refuse("conf_state of the snapshot cannot be");
    }
    let log = &raft.raft_log;
    if metadata.index == log.committed && !log.match_term(metadata.index, metadata.term) {
        return Refuse("snapshot contradicts what is committed");
    }
    Step
}

fn judge_append_response(raft: &mut Raft<LogCache>, message: &mut Message) -> Verdict {
    let last = raft.raft_log.last_index();
    if message.index > last || message.reject_hint > last {
        return Refuse("index is beyond the last index");
    }
    if !message.reject {
        return Step;
    }
    // Release 0.7.0 lets a late rejection set a probed follower's next index at or below what it is known to have, and
    // may then probe there forever (fixed in its repository by #557). A matched entry can never be rejected.
    let Some(progress) = raft.mut_prs().get_mut(message.from) else {
        return Step;
    };
    if progress.state == ProgressState::Replicate {
        return Step;
    }
    if message.index <= progress.matched {
        progress.recent_active = true;
        progress.resume();
        return Drop;
    }
    if message.reject_hint < progress.matched {
        message.reject_hint = progress.matched;
        message.log_term = 0;
    }
    Step
}
