// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How many frames of one device, or of memory, the source lets be under way, of those it has credit for.
//!
//! A few keep both ends busy where the way is short, and more of them fall out of the cache. Over a long way the few are gone before the
//! first answer comes. And where the target is slow, more would only wait there, to be written first when the guest has stopped. So the
//! source begins with the few, and looks at how long a frame takes until it is known to be written: where that does not grow with what is
//! under way, it is the way that takes the time, and twice as many may go. Where it does grow, frames wait in a queue.

use core::time::Duration;
use std::collections::VecDeque;
use std::time::Instant;

use stream_codec::frame::CREDIT_FRAMES_MAX;

/// No more is under way: a first credit lets through no more, and each later one says that as many are written.
const FRAMES_MAX: usize = 128;
const _: () = assert!(CREDIT_FRAMES_MAX == 128, "as many as may be under way");

/// A target that says nothing for so long, with as much under way as it may be, is slow, or one that speaks more seldom.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

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

impl Reach {
    pub(super) fn new(least: u64) -> Self {
        let least = least.max(1);
        Self {
            least,
            frames: least,
            under_way: VecDeque::with_capacity(FRAMES_MAX),
            written: 0,
            least_time: None,
            changed: 0,
            answered: u64::MAX,
        }
    }

    /// Whether frame `sequence` may go.
    pub(super) const fn allows(&self, sequence: u64) -> bool {
        sequence < self.written.saturating_add(self.frames)
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
        let took = |frame: Frame| now.saturating_duration_since(frame.began);
        self.least_time = self.least_time.into_iter().chain(newest.map(took)).min();
        if let Some((took, least)) = last.map(took).zip(self.least_time) {
            self.judge(took, least, most);
        }
    }

    /// A queue as long as the least number makes for twice the least time, where a credit is for half of that number, as targets do it.
    fn judge(&mut self, took: Duration, least: Duration, most: u64) {
        if took.saturating_mul(2) < least.saturating_mul(3) {
            self.extend(most);
        } else if took > least.saturating_mul(3) {
            self.change(self.frames / 2);
        }
    }

    /// Nothing was heard for [`PATIENCE`]. A target that has spoken with no more under way does so again.
    pub(super) fn unheard(&mut self, most: u64) {
        if self.frames < self.answered {
            self.extend(most);
        }
    }

    fn extend(&mut self, most: u64) {
        self.change(self.frames.saturating_mul(2).min(most));
    }

    fn change(&mut self, frames: u64) {
        let frames = frames.max(self.least);
        if frames != self.frames {
            (self.frames, self.changed) = (frames, self.written.saturating_add(self.under_way()));
        }
    }
}

#[cfg(all(test, not(loom)))]
mod test {
    use super::*;

    /// A target that writes a frame in `write_ms`, behind a way of `way_ms` each way that takes a frame each `send_ms`; it tells of
    /// four frames at a time, and has room for 64.
    #[derive(Clone, Copy)]
    struct Link {
        way_ms: u32,
        send_ms: u32,
        write_ms: u32,
    }

    /// Sends so many frames; how many were under way at most from the last quarter on, and how long it took.
    fn send(reach: &mut Reach, frames: u64, link: Link) -> (u64, u32) {
        let epoch = Instant::now();
        let at = |ms: u32| epoch + Duration::from_millis(ms.into());
        let (mut sent_at, mut written_at, mut now, mut most) = (0_u32, 0_u32, 0_u32, 0);
        let mut credits = VecDeque::new();
        let first = reach.written;
        for sequence in first..first + frames {
            while let Some((when, written)) = credits.front().copied() {
                if reach.allows(sequence) && when > now {
                    break;
                }
                now = now.max(when);
                reach.written(written, 64, at(when));
                credits.pop_front();
            }
            assert!(reach.allows(sequence), "no credit is left to come");
            reach.begin(sequence, at(now));
            if sequence - first >= frames * 3 / 4 {
                most = most.max(sequence + 1 - reach.written);
            }
            sent_at = sent_at.max(now) + link.send_ms;
            now = now.max(sent_at);
            written_at = written_at.max(sent_at + link.way_ms) + link.write_ms;
            if (sequence + 1) % 4 == 0 {
                credits.push_back((written_at + link.way_ms, sequence + 1));
            }
        }
        for (when, written) in credits {
            now = now.max(when);
            reach.written(written, 64, at(when));
        }
        (most, now)
    }

    #[test]
    fn a_long_way_gets_more() {
        let mut reach = Reach::new(8);
        let (most, took_ms) = send(&mut reach, 1024, Link { way_ms: 10, send_ms: 1, write_ms: 0 });
        assert!((22..=64).contains(&most), "{most} under way, of which 20 are on the way");
        assert!(took_ms < 1024 * 3 / 2, "{took_ms} ms for 1024");
    }

    #[test]
    fn a_slow_target_does_not() {
        for way_ms in [0, 5] {
            let mut reach = Reach::new(8);
            let (most, _) = send(&mut reach, 256, Link { way_ms, send_ms: 1, write_ms: 8 });
            assert_eq!(most, 8, "{way_ms} ms away");
        }
    }

    #[test]
    fn a_slow_target_does_not_get_more_for_a_moment_either() {
        let mut reach = Reach::new(8);
        for frames in [8, 16, 24, 32] {
            send(&mut reach, frames, Link { way_ms: 5, send_ms: 1, write_ms: 8 });
            assert_eq!(reach.frames, 8, "{frames} more");
        }
    }

    #[test]
    fn a_target_that_becomes_slow_gets_less() {
        let mut reach = Reach::new(8);
        let link = Link { way_ms: 10, send_ms: 1, write_ms: 0 };
        assert!(send(&mut reach, 1024, link).0 > 16);
        let (most, _) = send(&mut reach, 1024, Link { write_ms: 8, ..link });
        assert!(most <= 16, "{most} under way");
        send(&mut reach, 1024, Link { write_ms: 100, ..link });
        assert_eq!(reach.frames, 8, "but no less than in the beginning");
    }

    #[test]
    fn what_began_before_a_change_does_not_bring_another() {
        let (mut reach, epoch) = (Reach::new(8), Instant::now());
        let at = |ms: u64| epoch + Duration::from_millis(ms);
        (0..8).for_each(|sequence| reach.begin(sequence, at(0)));
        reach.written(4, 64, at(10));
        (8..12).for_each(|sequence| reach.begin(sequence, at(10)));
        reach.written(8, 64, at(10));
        assert_eq!(reach.frames, 16);
        (12..24).for_each(|sequence| reach.begin(sequence, at(10)));
        reach.written(12, 64, at(20));
        assert_eq!(reach.frames, 16, "the last of these began while 8 might be under way");
        reach.written(24, 64, at(20));
        assert_eq!(reach.frames, 32);
    }

    #[test]
    fn who_never_had_to_wait_is_given_no_more() {
        let mut reach = Reach::new(8);
        let (most, _) = send(&mut reach, 256, Link { way_ms: 5, send_ms: 20, write_ms: 0 });
        assert!(most <= 8 && reach.frames == 8);
    }

    #[test]
    fn a_frame_goes_when_it_is_said_last_that_it_does() {
        let (mut reach, epoch) = (Reach::new(8), Instant::now());
        let at = |ms: u64| epoch + Duration::from_millis(ms);
        reach.begin(0, at(0));
        reach.begin(0, at(100));
        reach.begin(1, at(100));
        reach.written(1, 64, at(110));
        assert_eq!((reach.least_time, reach.under_way()), (Some(Duration::from_millis(10)), 1));
    }

    #[test]
    fn it_ends_at_what_the_target_has_room_for() {
        let mut reach = Reach::new(8);
        (0..10).for_each(|_| reach.unheard(20));
        assert_eq!(reach.frames, 20);
        (0..10).for_each(|_| reach.unheard(4));
        assert_eq!(reach.frames, 8, "credit is what holds it then");
    }

    #[test]
    fn a_target_that_can_be_heard_is_waited_for() {
        let (mut reach, now) = (Reach::new(8), Instant::now());
        (0..8).for_each(|sequence| reach.begin(sequence, now));
        reach.unheard(64);
        (8..16).for_each(|sequence| reach.begin(sequence, now));
        reach.written(10, 64, now + Duration::from_secs(3));
        reach.written(11, 64, now + Duration::from_secs(4));
        let frames = reach.frames;
        reach.unheard(64);
        assert_eq!((frames, reach.frames), (16, 16), "it tells when 16 are under way");
    }
}
