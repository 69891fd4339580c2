// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Threads that lend the one that leads them a hand, whenever it has work for several.

use crate::sync::{Condvar, Mutex, lock, wait};

/// The roll of those who may help.
#[derive(Debug, Default)]
pub(crate) struct Hands {
    roll: Mutex<Roll>,
    /// For those who wait to be called.
    called: Condvar,
    /// For the one who leads.
    left: Condvar,
}

#[derive(Debug, Default)]
struct Roll {
    wanted: usize,
    at_work: usize,
    is_closed: bool,
}

impl Hands {
    /// Works, beside up to so many others, and comes back when all of them have finished. Who has not begun by then is not waited
    /// for: a thread that wakes late, or could not be had, holds nothing up.
    pub(crate) fn together<R>(&self, others: usize, work: impl FnOnce() -> R) -> R {
        if others > 0 {
            lock(&self.roll).wanted = others;
            self.called.notify_all();
        }
        let result = work();
        let mut roll = lock(&self.roll);
        roll.wanted = 0;
        while roll.at_work > 0 {
            roll = wait(&self.left, roll);
        }
        result
    }

    /// What a helper's thread does: works whenever it is wanted, until nobody leads any more.
    pub(crate) fn help(&self, work: impl Fn()) {
        while self.come() {
            let _at_work = AtWork(self);
            work();
        }
    }

    fn come(&self) -> bool {
        let mut roll = lock(&self.roll);
        while roll.wanted == 0 && !roll.is_closed {
            roll = wait(&self.called, roll);
        }
        if roll.is_closed {
            return false;
        }
        roll.wanted = roll.wanted.saturating_sub(1);
        roll.at_work = roll.at_work.saturating_add(1);
        true
    }

    /// Nobody is called any more.
    pub(crate) fn close(&self) {
        lock(&self.roll).is_closed = true;
        self.called.notify_all();
    }
}

/// Dropped also where the work panics, or the one who leads would wait for ever.
struct AtWork<'h>(&'h Hands);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        let mut roll = lock(&self.0.roll);
        roll.at_work = roll.at_work.saturating_sub(1);
        let is_last = roll.at_work == 0;
        drop(roll);
        if is_last {
            self.0.left.notify_one();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod test {
    use core::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    #[test]
    fn all_that_are_wanted_work_at_the_same_time_and_the_leader_waits_for_them() {
        let (hands, together, finished) = (Hands::default(), Barrier::new(3), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    hands.help(|| {
                        together.wait();
                        thread::yield_now();
                        finished.fetch_add(1, Ordering::Relaxed);
                    });
                });
            }
            for round in 1..=100 {
                hands.together(2, || together.wait());
                assert_eq!(finished.load(Ordering::Relaxed), 2 * round);
            }
            hands.close();
        });
    }

    #[test]
    fn nobody_is_waited_for_who_is_not_there_or_was_not_called() {
        let hands = Hands::default();
        assert_eq!(hands.together(3, || 7), 7);
        let helped = AtomicUsize::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                hands.help(|| {
                    helped.fetch_add(1, Ordering::Relaxed);
                });
            });
            hands.together(0, || thread::sleep(core::time::Duration::from_millis(5)));
            hands.close();
        });
        assert_eq!(helped.load(Ordering::Relaxed), 0, "what was not called for is not left over");
    }

    #[test]
    fn a_helper_that_panics_is_not_waited_for() {
        let (hands, both) = (Hands::default(), Barrier::new(2));
        thread::scope(|scope| {
            let helper = scope.spawn(|| {
                hands.help(|| {
                    both.wait();
                    panic!("as a test");
                });
            });
            hands.together(1, || both.wait());
            assert!(helper.join().is_err());
        });
    }
}
