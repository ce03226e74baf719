//! The part of the log that is not yet compacted, in memory.
//!
//! The caller keeps the log on disk and passes the tail back at startup; from then on the crate reads here and never
//! waits for a disk. Payloads are `Bytes`, so handing out an entry costs a reference count, not a copy.

use crate::members;
use protobuf::Message as _;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

/// Entries from `base_index` + 1 on, and the snapshot for members that need earlier ones.
pub struct LogCache {
    hard_state: HardState,
    conf_state: ConfState,
    base_index: u64,
    base_term: u64,
    entries: VecDeque<Entry>,
    bytes: usize,
    offered: Option<Snapshot>,
    wanted: AtomicBool,
}

fn bytes_of(entry: &Entry) -> usize {
    entry.data.len() + entry.context.len()
}

impl LogCache {
    /// Starts with an empty tail after (`base_index`, `base_term`). The crate reads the states at startup.
    pub fn new(hard_state: HardState, conf_state: ConfState, base_index: u64, base_term: u64) -> Self {
        LogCache {
            hard_state,
            conf_state,
            base_index,
            base_term,
            entries: VecDeque::new(),
            bytes: 0,
            offered: None,
            wanted: AtomicBool::new(false),
        }
    }

    /// Index of the last entry, or of the base if there is none.
    pub fn last(&self) -> u64 {
        self.base_index + self.entries.len() as u64
    }

    /// Term of the last entry, or of the base if there is none.
    pub fn last_term(&self) -> u64 {
        self.entries.back().map_or(self.base_term, |entry| entry.term)
    }

    /// Bytes of all payloads held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends consecutive entries, replacing existing ones from the first new index on.
    pub fn append(&mut self, new: impl IntoIterator<Item = Entry>) {
        for entry in new {
            assert!(
                entry.index > self.base_index && entry.index <= self.last() + 1,
                "entry {} does not follow {}..{}",
                entry.index,
                self.base_index,
                self.last()
            );
            while self.last() >= entry.index {
                self.bytes -= self.entries.pop_back().map_or(0, |old| bytes_of(&old));
            }
            self.bytes += bytes_of(&entry);
            self.entries.push_back(entry);
        }
    }

    /// Forgets entries up to `index`, which must be there.
    pub fn compact(&mut self, index: u64) {
        while self.base_index < index {
            let entry = self.entries.pop_front().expect("compaction past the end of the log");
            self.bytes -= bytes_of(&entry);
            self.base_index = entry.index;
            self.base_term = entry.term;
        }
    }

    /// Restarts with an empty log after a snapshot.
    pub fn restart_at(&mut self, index: u64, term: u64) {
        self.entries.clear();
        self.bytes = 0;
        self.base_index = index;
        self.base_term = term;
    }

    /// Keeps a snapshot for followers that need compacted entries.
    pub fn offer(&mut self, snapshot: Snapshot) {
        self.offered = Some(snapshot);
    }

    /// True if since the last call a follower asked for a snapshot in vain.
    pub fn take_wanted(&self) -> bool {
        self.wanted.swap(false, Ordering::Relaxed)
    }
}

impl Storage for LogCache {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.base_index {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let max_size = max_size.into().unwrap_or(u64::MAX);
        let first = (low - self.base_index - 1) as usize;
        let mut size = 0;
        let mut found = Vec::new();
        for entry in self.entries.range(first..first + (high - low) as usize) {
            size += u64::from(entry.compute_size());
            if size > max_size && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.base_index {
            return Err(Error::Store(StorageError::Compacted));
        }
        if index == self.base_index {
            return Ok(self.base_term);
        }
        self.entries
            .get((index - self.base_index - 1) as usize)
            .map(|entry| entry.term)
            .ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base_index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        if let Some(snapshot) = &self.offered {
            let metadata = snapshot.get_metadata();
            // The entries that the follower needs next must still be in the log, and the crate at the other end ignores
            // a snapshot that does not list it.
            if metadata.index >= request_index.max(self.base_index) && members::includes(metadata.get_conf_state(), to)
            {
                return Ok(snapshot.clone());
            }
        }
        self.wanted.store(true, Ordering::Relaxed);
        Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}
