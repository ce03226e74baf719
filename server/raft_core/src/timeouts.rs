//! Election timeouts from a seed, so that the same calls always give the same bytes.
//!
//! The crate draws a new timeout from the thread's random generator at each reset. Its range is so wide that
//! its timeouts can be distinguished from those set here; the node then replaces them (`RaftNode::settle`).

/// Upper end of the range the crate itself draws from. One draw in 2^57 or fewer hits the range used here.
pub const CRATE_TICKS_MAX: usize = usize::MAX >> 2;

/// Draws timeouts in [election ticks, 2 × election ticks) by SplitMix64.
pub struct Timeouts {
    state: u64,
    election_ticks: u64,
    current: usize,
}

impl Timeouts {
    /// Starts the sequence of a seed. `election_ticks` is at least 1.
    pub fn new(seed: u64, election_ticks: usize) -> Self {
        Timeouts { state: seed, election_ticks: election_ticks as u64, current: 0 }
    }

    /// The timeout drawn last, in ticks.
    pub fn current(&self) -> usize {
        self.current
    }

    /// Draws the next timeout, in ticks.
    pub fn draw(&mut self) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        self.current = (self.election_ticks + mixed % self.election_ticks) as usize;
        self.current
    }
}
