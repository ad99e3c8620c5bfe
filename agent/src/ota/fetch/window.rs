//! Which chunks to ask for, and when to ask again. Pure: time is monotonic milliseconds.
//!
//! Chunks asked for and not here yet are named as present in the next want, so that the server sends what follows them;
//! when they are overdue they count as lost and are asked for again, after twice the time at every turn without progress.

use std::collections::BTreeMap;

use flotilla_protocol::chunks::{Bitmap, CHUNK_BYTES};

const FIRST_TIMEOUT_MS: u64 = 3_000;
const MAX_TIMEOUT_MS: u64 = 60_000;
/// Longest bitmap in a want, in chunks.
const MAX_SPAN: u32 = 8 * 1024;

/// What to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    pub first: u32,
    /// From `first` on, least significant bit first.
    pub present: Vec<u8>,
    pub credit: u16,
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct Window {
    size: u32,
    timeout_ms: u64,
    asked: BTreeMap<u32, u64>,
}

impl Window {
    pub fn new(size: u16) -> Self {
        Self {
            size: u32::from(size.max(1)),
            timeout_ms: FIRST_TIMEOUT_MS,
            asked: BTreeMap::new(),
        }
    }

    /// Asks when half of the window is free. `allowance` caps the chunks asked for now; `spread` is a random number
    /// below 1,000 that moves timeouts of many devices apart.
    pub fn ask(&mut self, have: &Bitmap, now: u64, allowance: u32, spread: u64) -> Option<Ask> {
        self.expire(now);
        let outstanding = u32::try_from(self.asked.len()).unwrap_or(u32::MAX);
        let free = self.size.saturating_sub(outstanding);
        if free == 0 || (outstanding > 0 && free * 2 < self.size) || allowance == 0 {
            return None;
        }
        let credit = free.min(allowance);
        let wanted: Vec<u32> = have
            .missing()
            .filter(|index| !self.asked.contains_key(index))
            .take(credit as usize)
            .collect();
        let (first, last) = (*wanted.first()?, *wanted.last()?);
        // What lies beyond the bitmap's end would count as missing: only ask as far as it reaches.
        let last = last.min(first.saturating_add(MAX_SPAN - 1));
        let span = last - first + 1;
        let mut present = vec![0u8; (span as usize).div_ceil(8)];
        let mut credit = 0u16;
        for offset in 0..span {
            let index = first + offset;
            if have.get(index) || self.asked.contains_key(&index) {
                if let Some(byte) = present.get_mut(offset as usize / 8) {
                    *byte |= 1 << (offset % 8);
                }
            } else {
                credit = credit.saturating_add(1);
            }
        }
        let due = now.saturating_add(self.timeout_ms).saturating_add(spread);
        for index in wanted.into_iter().take_while(|index| *index <= last) {
            self.asked.insert(index, due);
        }
        Some(Ask { first, present, credit })
    }

    /// A chunk came (good or bad): it is no longer awaited.
    pub fn arrived(&mut self, index: u32, now: u64) {
        if self.asked.remove(&index).is_none() {
            return;
        }
        self.timeout_ms = FIRST_TIMEOUT_MS;
        // While chunks keep coming, those behind them are late, not lost.
        let due = now.saturating_add(self.timeout_ms);
        for at in self.asked.values_mut() {
            *at = (*at).max(due);
        }
    }

    /// The connection is new: nothing is on its way.
    pub fn reset(&mut self) {
        self.asked.clear();
        self.timeout_ms = FIRST_TIMEOUT_MS;
    }

    /// When to look again, if anything is awaited.
    pub fn next_timeout(&self) -> Option<u64> {
        self.asked.values().min().copied()
    }

    fn expire(&mut self, now: u64) {
        let before = self.asked.len();
        self.asked.retain(|_, due| *due > now);
        if self.asked.len() < before {
            self.timeout_ms = self.timeout_ms.saturating_mul(2).min(MAX_TIMEOUT_MS);
        }
    }
}

/// Keeps to a number of bytes per second, by delaying what is asked for.
#[derive(Debug, Clone)]
pub struct Pacer {
    bytes_per_s: u64,
    free_at: u64,
}

impl Pacer {
    /// 0 is unlimited.
    pub fn new(bytes_per_s: u64) -> Self {
        Self {
            bytes_per_s,
            free_at: 0,
        }
    }

    /// Chunks that may be asked for now.
    pub fn allowance(&self, now: u64) -> u32 {
        if self.bytes_per_s == 0 {
            return u32::MAX;
        }
        if now < self.free_at {
            return 0;
        }
        // Half a second's worth, and one at least.
        let chunks = self.bytes_per_s / 2 / u64::from(CHUNK_BYTES);
        u32::try_from(chunks.max(1)).unwrap_or(u32::MAX)
    }

    /// Chunks were asked for.
    pub fn spend(&mut self, chunks: u16, now: u64) {
        let bytes = u64::from(chunks) * u64::from(CHUNK_BYTES);
        let Some(ms) = bytes.saturating_mul(1000).checked_div(self.bytes_per_s) else {
            return;
        };
        self.free_at = self.free_at.max(now).saturating_add(ms);
    }

    pub fn next_allowed(&self) -> u64 {
        self.free_at
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a server makes of a want: the first `credit` chunks that are not named as present.
    fn answer(ask: &Ask, count: u32) -> Vec<u32> {
        (ask.first..count)
            .filter(|index| {
                let offset = (index - ask.first) as usize;
                ask.present
                    .get(offset / 8)
                    .is_none_or(|byte| byte & (1 << (offset % 8)) == 0)
            })
            .take(ask.credit as usize)
            .collect()
    }

    proptest! {
        /// Over a network that loses and delays at will, every chunk comes, none is asked for while it may be on its way,
        /// and never more are on their way than the window holds.
        #[test]
        fn everything_comes_and_nothing_twice_without_loss(
            count in 1u32..300, size in 1u16..40, loss in 0u32..70, seed: u64, there in proptest::collection::vec(0u32..300, 0..60)
        ) {
            let mut have = Bitmap::new(count);
            for index in there { have.set(index); }
            let start = have.present();
            let mut window = Window::new(size);
            let (mut now, mut sent, mut random) = (0u64, 0u32, seed | 1);
            let mut next = || { random ^= random << 13; random ^= random >> 7; random ^= random << 17; random };
            let mut way: Vec<u32> = Vec::new();
            for _ in 0..200_000 {
                if have.is_complete() { break }
                if let Some(ask) = window.ask(&have, now, u32::MAX, 0) {
                    let indices = answer(&ask, count);
                    prop_assert_eq!(indices.len(), ask.credit as usize);
                    for index in indices {
                        prop_assert!(!have.get(index) && !way.contains(&index));
                        sent += 1;
                        if next() % 100 >= u64::from(loss) { way.push(index) }
                    }
                    prop_assert!(way.len() <= size as usize);
                }
                if way.is_empty() {
                    now = window.next_timeout().map_or(now, |at| at.max(now));
                } else {
                    let index = way.swap_remove(usize::try_from(next() % way.len() as u64).unwrap());
                    now += next() % 20;
                    window.arrived(index, now);
                    have.set(index);
                }
            }
            prop_assert!(have.is_complete());
            if loss == 0 { prop_assert_eq!(sent, count - start); }
        }

        #[test]
        fn the_pace_is_kept(rate in 1_000u64..10_000_000, steps in 1usize..60) {
            let mut pacer = Pacer::new(rate);
            let (mut now, mut bytes) = (0u64, 0u64);
            for _ in 0..steps {
                now = now.max(pacer.next_allowed());
                let chunks = u16::try_from(pacer.allowance(now).min(16)).unwrap();
                prop_assert!(chunks > 0);
                pacer.spend(chunks, now);
                bytes += u64::from(chunks) * u64::from(CHUNK_BYTES);
            }
            let took = pacer.next_allowed();
            prop_assert!(bytes * 1000 <= rate * (took + steps as u64), "{bytes} bytes in {took} ms at {rate}/s");
        }
    }
}
