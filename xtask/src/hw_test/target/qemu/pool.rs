// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Several tests at once: most of their time processes start, or devices are slow on purpose.

use core::num::NonZeroUsize;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

/// As many as keep this machine busy while some of them wait.
pub(super) fn default_jobs() -> NonZeroUsize {
    let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    NonZeroUsize::new(processors.saturating_mul(2)).unwrap_or(NonZeroUsize::MIN)
}

/// Does `work` on every item, in order, on up to `jobs` threads, and hands over on this one what came of each, as it comes.
/// Nothing is begun after `limit`: false if that left something undone.
pub(super) fn each<T: Sync, R: Send>(
    items: &[T],
    jobs: NonZeroUsize,
    limit: Duration,
    work: impl Fn(&T) -> R + Sync,
    mut done: impl FnMut(&T, R),
) -> bool {
    let (begin, next) = (Instant::now(), AtomicUsize::new(0));
    let mut count = 0usize;
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        for _ in 0..jobs.get().min(items.len()) {
            let (sender, work, next) = (sender.clone(), &work, &next);
            scope.spawn(move || {
                while begin.elapsed() <= limit {
                    let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
                    // The receiver outlives all threads.
                    let _ = sender.send((item, work(item)));
                }
            });
        }
        drop(sender);
        for (item, result) in receiver {
            done(item, result);
            count = count.saturating_add(1);
        }
    });
    count == items.len()
}

#[cfg(test)]
mod test {
    use std::sync::Barrier;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn jobs(count: usize) -> NonZeroUsize {
        NonZeroUsize::new(count).unwrap()
    }

    #[test]
    fn as_many_run_at_once_as_were_asked_for() {
        // With fewer threads nobody would ever pass.
        let together = Barrier::new(3);
        let work = |item: &u32| {
            together.wait();
            item * 2
        };
        let mut results = Vec::new();
        assert!(each(&[1, 2, 3], jobs(3), LIMIT, work, |item, result| results.push((*item, result))));
        results.sort_unstable();
        assert_eq!(results, [(1, 2), (2, 4), (3, 6)]);
    }

    #[test]
    fn nothing_begins_after_the_limit() {
        let mut results = Vec::new();
        let work = |item: &u32| {
            thread::sleep(Duration::from_millis(20));
            *item
        };
        let finished = each(&[1, 2, 3], jobs(1), Duration::from_millis(10), work, |_, result| results.push(result));
        assert!(!finished);
        // On a busy machine the first is too late, too.
        assert!(matches!(results[..], [] | [1]), "{results:?}");
    }
}
