// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How often a section is asked for its sizes.
//!
//! On mlx5 and virtio each query is a command to the firmware, for memory it is a walk over the dirty bitmap. QEMU asks
//! tens of thousands of times a second once nothing is left to read (`spec/qemu/scheduler.md`). Here: once in a window at
//! most, and twice as rarely each time that nothing had moved.

use core::time::Duration;

/// The longest pause, in windows.
const PAUSE_WINDOWS_MAX: u32 = 16;

/// One section's queries.
#[derive(Clone, Debug, Default)]
pub(super) struct Budget {
    asked_at: Option<Duration>,
    pause_windows: u32,
}

impl Budget {
    /// When it may be asked next; now, if it never was.
    pub(super) fn due_at(&self, window: Duration) -> Duration {
        let pause = window.saturating_mul(self.pause_windows.max(1));
        self.asked_at.map_or(Duration::ZERO, |at| at.saturating_add(pause))
    }

    pub(super) fn asked(&mut self, now: Duration) {
        self.asked_at = Some(now);
    }

    /// Whether anything was read, or the answer differs from the one before.
    pub(super) fn answered(&mut self, moved: bool) {
        self.pause_windows = if moved { 1 } else { self.pause_windows.max(1).saturating_mul(2).min(PAUSE_WINDOWS_MAX) };
    }

    /// A decision waits for the answer: once in a window again.
    pub(super) fn hurry(&mut self) {
        self.pause_windows = 1;
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const WINDOW: Duration = Duration::from_millis(100);

    /// How long after a question, whose answer was that much, the next one may come.
    fn pauses(answers: &[bool]) -> alloc::vec::Vec<u32> {
        let mut budget = Budget::default();
        assert_eq!(budget.due_at(WINDOW), Duration::ZERO, "the first may come at once");
        let pause = |moved: &bool| {
            budget.asked(7 * WINDOW);
            budget.answered(*moved);
            let pause = budget.due_at(WINDOW).saturating_sub(7 * WINDOW);
            assert!(pause.as_millis() % 100 == 0, "{pause:?}");
            u32::try_from(pause.as_millis() / 100).unwrap()
        };
        answers.iter().map(pause).collect()
    }

    #[test]
    fn a_question_is_followed_by_a_pause_that_grows_while_nothing_moves() {
        assert_eq!(pauses(&[true, true, true]), [1, 1, 1]);
        assert_eq!(pauses(&[false; 6]), [2, 4, 8, 16, 16, 16]);
        assert_eq!(pauses(&[false, false, true, false]), [2, 4, 1, 2]);
    }

    #[test]
    fn a_question_without_an_answer_yet_is_not_asked_again_in_its_window() {
        let mut budget = Budget::default();
        budget.asked(3 * WINDOW);
        assert_eq!(budget.due_at(WINDOW), 4 * WINDOW);
        budget.answered(false);
        budget.hurry();
        assert_eq!(budget.due_at(WINDOW), 4 * WINDOW, "who is in a hurry waits for a window too");
    }
}
