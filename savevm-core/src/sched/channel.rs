// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! When a channel that all sections share is done with the last of them, and that one is loaded.
//!
//! A section has something to send once it has stopped, and something to do once the target has it. Among those that have stopped the
//! one with the longest way to go behind the channel comes first, as [`grant_stopped`](super::SaveScheduler) has it; one that stops
//! later and has a longer way goes before the rest of another. Nothing ends sooner than in that order (Jackson's rule with
//! preemption).

use super::model::Term;
use super::units;

/// What one section asks of the channel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    /// Until it has something to send.
    pub(super) before: Term,
    /// The channel's time, at the bandwidth expected, and how far off that may be for its size.
    pub(super) moving: Term,
    /// Behind the channel.
    pub(super) after: Term,
}

/// The end of the last, where the channel is free from `free_at_us` on, and as slow as `spread_per_mille` says.
pub(super) fn last(jobs: &mut [Job], free_at_us: u64, spread_per_mille: u32) -> Term {
    let mut now_us = free_at_us;
    let mut last = Term::default();
    // Since the channel was idle: what it waited for, and what it has carried.
    let mut waited = Term::default();
    let (mut busy_us, mut sizes_us) = (free_at_us, 0);
    while let Some(next_us) = next_release(jobs) {
        if next_us > now_us {
            let waits_for = |job: &&Job| job.before.expected_us == next_us && job.moving.expected_us > 0;
            waited = jobs.iter().find(waits_for).map(|job| job.before).unwrap_or_default();
            (now_us, busy_us, sizes_us) = (next_us, 0, 0);
        }
        let coming_us = jobs.iter().filter(|job| job.moving.expected_us > 0).map(|job| job.before.expected_us);
        let coming_us = coming_us.filter(|at| *at > now_us).min().unwrap_or(u64::MAX);
        let there = |job: &&mut Job| job.moving.expected_us > 0 && job.before.expected_us <= now_us;
        let Some(job) = jobs.iter_mut().filter(there).max_by_key(|job| job.after.expected_us) else { break };
        let step_us = job.moving.expected_us.min(coming_us.saturating_sub(now_us));
        job.moving.expected_us = job.moving.expected_us.saturating_sub(step_us);
        (now_us, busy_us) = (now_us.saturating_add(step_us), busy_us.saturating_add(step_us));
        if job.moving.expected_us == 0 {
            // What one section has too much another may have too little: deviations of sizes add by their squares, that of the
            // bandwidth is the same for all.
            sizes_us = units::hypotenuse(sizes_us, job.moving.deviation_us);
            let slower_us = units::per_mille(busy_us, spread_per_mille);
            let deviation_us = units::hypotenuse(waited.deviation_us, units::hypotenuse(slower_us, sizes_us));
            let done = Term { expected_us: now_us, deviation_us }.then(job.after);
            if done.expected_us >= last.expected_us {
                last = done;
            }
        }
    }
    last
}

/// When the first that is not done has something to send.
fn next_release(jobs: &[Job]) -> Option<u64> {
    jobs.iter().filter(|job| job.moving.expected_us > 0).map(|job| job.before.expected_us).min()
}

#[cfg(test)]
mod test {
    use super::*;

    fn job(before_us: u64, moving_us: u64, after_us: u64) -> Job {
        let term = |expected_us| Term { expected_us, deviation_us: 0 };
        Job { before: term(before_us), moving: term(moving_us), after: term(after_us) }
    }

    fn end(mut jobs: impl AsMut<[Job]>, free_at_us: u64) -> u64 {
        last(jobs.as_mut(), free_at_us, 0).expected_us
    }

    #[test]
    fn nobody_sends_before_it_has_stopped() {
        assert_eq!(end([job(100, 10, 5)], 0), 115);
        assert_eq!(end([job(100, 10, 5), job(100, 10, 5)], 0), 125, "one behind the other");
        assert_eq!(end([job(100, 10, 5)], 300), 315, "the channel has something else to do");
        assert_eq!(end([job(0, 50, 0), job(100, 10, 5)], 0), 115, "it was idle for half of the time");
        assert_eq!(end([], 300), 0);
    }

    #[test]
    fn the_longest_way_goes_first_once_it_is_there() {
        assert_eq!(end([job(0, 100, 1), job(0, 100, 90)], 0), 201);
        // It comes in the middle of the other one, which goes on behind it.
        assert_eq!(end([job(0, 100, 1), job(40, 100, 90)], 0), 230);
        assert_eq!(end([job(0, 100, 90), job(40, 100, 1)], 0), 201);
    }

    #[test]
    fn what_may_be_late_is_what_was_waited_for_and_carried() {
        let term = |expected_us, deviation_us| Term { expected_us, deviation_us };
        let mut waits = [Job { before: term(1000, 30), moving: term(1000, 0), after: term(0, 0) }];
        assert_eq!(last(&mut waits, 0, 40), term(2000, 50));
        let mut queues = [Job { before: term(0, 30), moving: term(1000, 0), after: term(0, 0) }];
        assert_eq!(last(&mut queues, 1000, 40), term(2000, 80), "it is not what is waited for");
    }
}
