// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How many frames of one device, or of memory, the source lets be under way, of those it has credit for.
//!
//! A few keep both ends busy where the way is short, and more of them fall out of the cache. Over a long way the few are gone before the
//! first answer comes. And where the target is slow, more would only wait there, to be written first when the guest has stopped. So the
//! source begins with the few, and looks at how long a frame takes until it is known to be written: where that does not grow with what is
//! under way, it is the way that takes the time, and twice as many may go. Where it does grow, frames wait in a queue.
//!
//! What the way takes can only be seen when nothing waits, and a first write may be slow for reasons of its own. So before more goes, and
//! every few seconds from then on, a round of half the few is looked at.

use core::time::Duration;
use std::collections::VecDeque;
use std::time::Instant;

use stream_codec::frame::CREDIT_FRAMES_MAX;

/// No more is under way: a first credit lets through no more, and each later one says that as many are written.
const FRAMES_MAX: usize = 128;
const _: () = assert!(CREDIT_FRAMES_MAX == 128, "as many as may be under way");

/// A target that says nothing for so long, with as much under way as it may be, is slow, or one that speaks more seldom.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// For so long it may say nothing with no more under way than it has spoken with before.
const PATIENCE_MAX: Duration = Duration::from_secs(4);
/// So long a look at the least time holds good.
const FRESH: Duration = Duration::from_secs(5);

/// The account of one device.
#[derive(Debug)]
pub(super) struct Reach {
    /// Enough for a short way.
    least: u64,
    frames: u64,
    under_way: VecDeque<Frame>,
    written: u64,
    /// The least that it took from the beginning of a frame until it was known to be written.
    least_time: Option<Duration>,
    look: Look,
    /// The first frame that began after the last change of their number: one before says nothing of that.
    changed: u64,
    /// The least that was under way when a credit came.
    answered: u64,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    began: Instant,
    /// With it as many were under way as might be: had there been a queue, it was at the end of one.
    is_last: bool,
}

/// A round with half the least number under way, too few for a queue: what it takes is the way.
#[derive(Clone, Copy, Debug)]
enum Look {
    Never,
    /// On account of a frame that took so long.
    Now {
        took: Duration,
    },
    At(Instant),
    /// This target does not answer so few.
    Vain,
}

impl Reach {
    pub(super) fn new(least: u64) -> Self {
        let least = least.max(1);
        Self {
            least,
            frames: least,
            under_way: VecDeque::with_capacity(FRAMES_MAX),
            written: 0,
            least_time: None,
            look: Look::Never,
            changed: 0,
            answered: u64::MAX,
        }
    }

    /// Whether frame `sequence` may go.
    pub(super) const fn allows(&self, sequence: u64) -> bool {
        sequence < self.written.saturating_add(self.most())
    }

    const fn most(&self) -> u64 {
        match self.look {
            Look::Now { .. } if self.least > 1 => self.least / 2,
            Look::Now { .. } => self.least,
            _ => self.frames,
        }
    }

    /// It goes, unless there turns out to be nothing for it: then this is said of the same frame again.
    pub(super) fn begin(&mut self, sequence: u64, now: Instant) {
        if self.written.saturating_add(self.under_way()) == sequence.saturating_add(1) {
            self.under_way.pop_back();
        }
        if self.written.saturating_add(self.under_way()) == sequence && self.under_way.len() < FRAMES_MAX {
            let is_last = !self.allows(sequence.saturating_add(1));
            self.under_way.push_back(Frame { began: now, is_last });
        }
    }

    fn under_way(&self) -> u64 {
        u64::try_from(self.under_way.len()).unwrap_or(u64::MAX)
    }

    /// So many are written, of which the target has room for `most` under way.
    pub(super) fn written(&mut self, frames: u64, most: u64, now: Instant) {
        self.answered = self.answered.min(self.under_way());
        let (mut newest, mut last) = (None, None);
        while self.written < frames {
            newest = self.under_way.pop_front();
            let is_new = self.written >= self.changed;
            last = newest.filter(|frame| frame.is_last && is_new).or(last);
            self.written = self.written.saturating_add(1);
        }
        let Some(newest) = newest else { return };
        let took = |frame: Frame| now.saturating_duration_since(frame.began);
        self.least_time = self.least_time.into_iter().chain([took(newest)]).min();
        // A frame that was told of only with others which came much later was written long before.
        let is_telling =
            |last: &Frame| newest.began.saturating_duration_since(last.began).saturating_mul(2) <= took(*last);
        let Some(last) = last.filter(is_telling) else { return };
        if let Look::Now { took } = self.look {
            self.look = Look::At(now);
            self.judge(took, most, now);
        } else {
            self.judge(took(last), most, now);
        }
    }

    /// A queue as long as the least number makes for twice the time of half of it, where a credit is for that half, as targets do it.
    fn judge(&mut self, took: Duration, most: u64, now: Instant) {
        let Some(least) = self.least_time else { return };
        let is_way = took.saturating_mul(2) < least.saturating_mul(3);
        let more = self.frames.saturating_mul(2).min(most);
        if took > least.saturating_mul(3) {
            self.change(self.frames / 2);
            self.answered = self.answered.min(self.frames);
        } else if !self.has_looked(now) && (self.frames > self.least || is_way && more > self.frames) {
            self.look = Look::Now { took };
            self.changed = self.next();
        } else if is_way {
            self.change(more);
        }
    }

    fn has_looked(&self, now: Instant) -> bool {
        match self.look {
            Look::At(at) => now.saturating_duration_since(at) < FRESH,
            Look::Vain => true,
            Look::Never | Look::Now { .. } => false,
        }
    }

    /// Nothing was heard for so long, with as much under way as may be. A target that has spoken with no more under way does so again, or
    /// it has changed its ways.
    pub(super) fn unheard(&mut self, silence: Duration, most: u64) {
        if let Look::Now { took } = self.look {
            if silence >= PATIENCE.max(took.saturating_mul(2)) {
                (self.look, self.changed) = (Look::Vain, self.next());
            }
            return;
        }
        if silence >= PATIENCE_MAX {
            self.answered = u64::MAX;
        }
        if silence >= PATIENCE && self.frames < self.answered {
            self.change(self.frames.saturating_mul(2).min(most));
        }
    }

    /// The first frame that has not begun.
    fn next(&self) -> u64 {
        self.written.saturating_add(self.under_way())
    }

    fn change(&mut self, frames: u64) {
        let frames = frames.max(self.least);
        if frames != self.frames {
            (self.frames, self.changed) = (frames, self.next());
        }
    }
}

#[cfg(all(test, not(loom)))]
mod test;
