// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the devices of a source learn from each other about using all channels.
//!
//! Where there is no doubt a device tries for itself ([`spread`](super::spread)). Else one tries for all: what it finds out is mostly the
//! others' case too, and chunks on their way by all channels cost most where every device sends them. What was found out while the guest
//! ran is no reason to do without it in the downtime, but for the device that found it out.

use core::sync::atomic::{AtomicU32, Ordering};

/// What the devices of one side learn from each other.
#[derive(Debug, Default)]
pub(crate) struct Trials {
    under_way: AtomicU32,
    failed: AtomicU32,
}

impl Trials {
    /// Begins one, if none is under way, and none has failed but those that are known.
    pub(super) fn begin(&self, known: u32) -> bool {
        let is_first = self.under_way.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        let is_open = is_first && self.failed() == known;
        if is_first && !is_open {
            self.end();
        }
        is_open
    }

    /// Begins one, whatever else there is.
    pub(super) fn begin_beside(&self) {
        self.under_way.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn fail(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.under_way.fetch_sub(1, Ordering::AcqRel);
    }

    pub(super) fn failed(&self) -> u32 {
        self.failed.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(loom)))]
mod test {
    use std::vec::Vec;

    use super::super::spread::test::{Rig, lap, laps};
    use super::super::spread::{CLEAR_CHUNKS, PAUSE_CHUNKS, SAMPLE_CHUNKS, SETTLE_CHUNKS, Spread};
    use super::*;

    #[test]
    fn one_tries_for_all_and_the_others_take_its_word() {
        let trials = Trials::default();
        let mut devices: Vec<_> = (0..4).map(|_| Rig(Spread::new(), &trials)).collect();
        let mut spread_chunks = [0_u32; 4];
        for _ in 0..400 {
            for (device, chunks) in devices.iter_mut().zip(&mut spread_chunks) {
                *chunks += u32::from(device.is_spread());
                device.lap(lap(3, 3, 0));
            }
            assert!(devices.iter().filter(|device| device.is_spread()).count() <= 1);
        }
        assert_eq!(spread_chunks, [SETTLE_CHUNKS + SAMPLE_CHUNKS, 0, 0, 0], "the first one tried, and rests");
    }

    #[test]
    fn where_it_helps_one_after_the_other_spreads() {
        let trials = Trials::default();
        let mut devices: Vec<_> = (0..4).map(|_| Rig(Spread::new(), &trials)).collect();
        for _ in 0..200 {
            for device in &mut devices {
                let whole = if device.is_spread() { 1 } else { 3 };
                device.lap(lap(whole, whole, 0));
            }
        }
        assert!(devices.iter().all(Rig::is_spread));
    }

    #[test]
    fn who_leaves_no_doubt_tries_whatever_others_do_or_found() {
        let trials = Trials::default();
        let [mut quick, mut slow] = [(); 2].map(|()| Rig(Spread::new(), &trials));
        laps(&mut quick, SAMPLE_CHUNKS, lap(3, 3, 0));
        assert!(quick.is_spread());
        laps(&mut slow, CLEAR_CHUNKS, lap(10, 9, 0));
        assert!(slow.is_spread(), "beside the other");
        laps(&mut quick, SETTLE_CHUNKS + SAMPLE_CHUNKS, lap(3, 3, 0));
        let mut later = Rig(Spread::new(), &trials);
        laps(&mut later, CLEAR_CHUNKS, lap(10, 9, 0));
        assert!(later.is_spread(), "and though it did not help the other");
        let mut heeding = Rig(Spread::new(), &trials);
        laps(&mut heeding, SAMPLE_CHUNKS, lap(3, 3, 0));
        laps(&mut heeding, SAMPLE_CHUNKS, lap(3, 3, 0));
        assert!(!heeding.is_spread());
        laps(&mut heeding, CLEAR_CHUNKS, lap(10, 9, 0));
        assert!(heeding.is_spread(), "and also who had taken its word");
    }

    #[test]
    fn who_was_helped_takes_nobodys_word_when_it_no_longer_is() {
        let trials = Trials::default();
        let [mut helped, mut other] = [(); 2].map(|()| Rig(Spread::new(), &trials));
        laps(&mut helped, SAMPLE_CHUNKS, lap(3, 3, 0));
        laps(&mut helped, SETTLE_CHUNKS + SAMPLE_CHUNKS, lap(1, 1, 0));
        laps(&mut other, SAMPLE_CHUNKS + SETTLE_CHUNKS + SAMPLE_CHUNKS, lap(3, 3, 0));
        assert!(helped.is_spread() && !other.is_spread());
        laps(&mut helped, SETTLE_CHUNKS + SAMPLE_CHUNKS, lap(3, 3, 0));
        assert!(!helped.is_spread());
        laps(&mut helped, SAMPLE_CHUNKS, lap(3, 3, 0));
        assert!(helped.is_spread());
    }

    #[test]
    fn nobody_waits_for_a_trial_in_which_no_chunk_goes() {
        let trials = Trials::default();
        let [mut first, mut second] = [(); 2].map(|()| Rig(Spread::new(), &trials));
        laps(&mut first, SAMPLE_CHUNKS, lap(3, 3, 0));
        laps(&mut second, SAMPLE_CHUNKS, lap(3, 3, 0));
        assert!(first.is_spread() && !second.is_spread());
        first.0.pause(&trials);
        laps(&mut second, SAMPLE_CHUNKS, lap(3, 3, 0));
        assert!(second.is_spread());
        laps(&mut first, SETTLE_CHUNKS + SAMPLE_CHUNKS, lap(3, 3, 0));
        assert!(!first.is_spread(), "what it had begun tells in the end");
        let mut third = Rig(Spread::new(), &trials);
        third.0.begin_anew(&trials);
        laps(&mut third, SAMPLE_CHUNKS, lap(3, 3, 0));
        assert!(!third.is_spread(), "the second one's goes on");
    }

    #[test]
    fn the_downtime_is_worth_a_trial_to_all_but_the_one_that_has_failed() {
        let trials = Trials::default();
        let mut devices = [(); 3].map(|()| Rig(Spread::new(), &trials));
        let [failed, heeding, fresh] = &mut devices;
        laps(failed, SAMPLE_CHUNKS + SETTLE_CHUNKS + SAMPLE_CHUNKS, lap(3, 3, 0));
        laps(heeding, 2 * SAMPLE_CHUNKS, lap(3, 3, 0));
        assert!(!failed.is_spread() && !heeding.is_spread());
        for device in [failed, heeding, fresh] {
            device.0.begin_anew(&trials);
            laps(device, SAMPLE_CHUNKS, lap(3, 3, 0));
            laps(device, SETTLE_CHUNKS + SAMPLE_CHUNKS, lap(1, 1, 0));
        }
        assert_eq!(devices.map(|device| device.is_spread()), [false, true, true]);
    }

    #[test]
    fn who_heeds_others_tries_after_them_and_rests_no_longer_for_it() {
        let trials = Trials::default();
        let mut devices: Vec<_> = (0..2).map(|_| Rig(Spread::new(), &trials)).collect();
        let mut began = [(); 2].map(|()| Vec::new());
        for round in 0..10 * PAUSE_CHUNKS {
            for (device, began) in devices.iter_mut().zip(&mut began) {
                let was_spread = device.is_spread();
                device.lap(lap(3, 3, 0));
                if device.is_spread() && !was_spread {
                    began.push(round);
                }
            }
        }
        let [first, second] = began;
        assert!((2..=5).contains(&first.len()) && (2..=5).contains(&second.len()), "{first:?}, {second:?}");
    }
}
