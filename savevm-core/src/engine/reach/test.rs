// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use std::vec::Vec;

use super::*;

/// A target that writes a frame in `write_ms`, but its first ones in `slow_ms`, behind a way of `way_ms` each way that takes a frame
/// each `send_ms`; it tells of four frames at a time, and has room for 64.
#[derive(Clone, Copy, Default)]
struct Link {
    way_ms: u32,
    send_ms: u32,
    write_ms: u32,
    slow_frames: u64,
    slow_ms: u32,
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
        let is_slow = sequence < link.slow_frames;
        written_at = written_at.max(sent_at + link.way_ms) + if is_slow { link.slow_ms } else { link.write_ms };
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
    let (most, took_ms) = send(&mut reach, 1024, Link { way_ms: 10, send_ms: 1, ..Link::default() });
    assert!((22..=64).contains(&most), "{most} under way, of which 20 are on the way");
    assert!(took_ms < 1024 * 3 / 2, "{took_ms} ms for 1024");
}

#[test]
fn a_slow_target_does_not() {
    for way_ms in [0, 5] {
        let mut reach = Reach::new(8);
        let (most, _) = send(&mut reach, 256, Link { way_ms, send_ms: 1, write_ms: 8, ..Link::default() });
        assert_eq!(most, 8, "{way_ms} ms away");
        assert!(matches!(reach.look, Look::Never), "{way_ms} ms away, it waits for nothing");
    }
}

#[test]
fn a_slow_target_does_not_get_more_for_a_moment_either() {
    let mut reach = Reach::new(8);
    for frames in [8, 16, 24, 32] {
        send(&mut reach, frames, Link { way_ms: 5, send_ms: 1, write_ms: 8, ..Link::default() });
        assert_eq!(reach.frames, 8, "{frames} more");
    }
}

#[test]
fn a_target_that_becomes_slow_gets_less() {
    let mut reach = Reach::new(8);
    let link = Link { way_ms: 10, send_ms: 1, ..Link::default() };
    assert!(send(&mut reach, 1024, link).0 > 16);
    let (most, _) = send(&mut reach, 1024, Link { write_ms: 8, ..link });
    assert!(most <= 16, "{most} under way");
    send(&mut reach, 1024, Link { write_ms: 100, ..link });
    assert_eq!(reach.frames, 8, "but no less than in the beginning");
}

/// Each frame that may go begins, and all of them are written in so many milliseconds: how many.
fn round(reach: &mut Reach, now: &mut Instant, took_ms: u64) -> u64 {
    let (first, mut next) = (reach.next(), reach.next());
    while reach.allows(next) {
        reach.begin(next, *now);
        next += 1;
    }
    *now += Duration::from_millis(took_ms);
    reach.written(next, 64, *now);
    next - first
}

#[test]
fn more_goes_once_half_of_the_least_took_as_long() {
    let (mut reach, mut now) = (Reach::new(8), Instant::now());
    let rounds: Vec<_> = (0..5).map(|_| round(&mut reach, &mut now, 10)).collect();
    assert_eq!(rounds, [8, 4, 16, 32, 64]);
}

#[test]
fn what_began_before_a_look_is_no_part_of_it() {
    let (mut reach, epoch) = (Reach::new(8), Instant::now());
    let at = |ms: u64| epoch + Duration::from_millis(ms);
    (0..8).for_each(|sequence| reach.begin(sequence, at(0)));
    reach.written(4, 64, at(10));
    (8..12).for_each(|sequence| reach.begin(sequence, at(10)));
    reach.written(8, 64, at(10));
    reach.written(12, 64, at(20));
    assert!(matches!(reach.look, Look::Now { .. }), "{:?}", reach.look);
}

#[test]
fn nobody_looks_for_what_cannot_be_had() {
    let (mut reach, mut now) = (Reach::new(8), Instant::now());
    for _ in 0..4 {
        (reach.next()..reach.next() + 8).for_each(|sequence| reach.begin(sequence, now));
        now += FRESH;
        let all = reach.next();
        reach.written(all, 8, now);
        assert!(matches!(reach.look, Look::Never), "{:?}", reach.look);
    }
}

#[test]
fn a_slow_beginning_is_not_a_long_way() {
    for (slow_frames, slow_ms) in [(1, 20), (1, 900), (8, 50), (12, 300)] {
        let mut reach = Reach::new(8);
        let link = Link { send_ms: 1, write_ms: 3, slow_frames, slow_ms, ..Link::default() };
        let (most, _) = send(&mut reach, 256, link);
        assert_eq!(most, 8, "{slow_frames} of {slow_ms} ms, then 3 ms");
    }
}

#[test]
fn what_was_given_by_mistake_is_taken_back() {
    let (mut reach, mut now) = (Reach::new(8), Instant::now());
    assert_eq!([(); 4].map(|()| round(&mut reach, &mut now, 100)), [8, 4, 16, 32]);
    while reach.frames > 8 {
        let took_ms = 3 * reach.most();
        round(&mut reach, &mut now, took_ms);
        assert!(reach.written < 5000, "{} under way", reach.frames);
    }
}

#[test]
fn a_long_way_is_looked_at_again_and_keeps_what_it_has() {
    let (mut reach, mut now) = (Reach::new(8), Instant::now());
    let rounds: Vec<_> = (0..400).map(|_| round(&mut reach, &mut now, 40)).collect();
    assert_eq!(rounds.iter().filter(|frames| **frames == 4).count(), 4, "in 16 s, {rounds:?}");
    assert_eq!(rounds.iter().skip(4).filter(|frames| ![4, 64].contains(*frames)).count(), 0, "{rounds:?}");
}

#[test]
fn what_began_before_a_change_does_not_bring_another() {
    let (mut reach, mut now) = (Reach::new(8), Instant::now());
    round(&mut reach, &mut now, 10);
    round(&mut reach, &mut now, 10);
    assert_eq!(reach.frames, 16);
    let (first, at) = (reach.next(), |ms: u64| now + Duration::from_millis(ms));
    (first..first + 16).for_each(|sequence| reach.begin(sequence, at(0)));
    reach.written(first + 4, 64, at(8));
    (first + 16..first + 20).for_each(|sequence| reach.begin(sequence, at(8)));
    reach.written(first + 16, 64, at(10));
    assert_eq!(reach.frames, 32);
    reach.written(first + 20, 64, at(10));
    assert_eq!(reach.frames, 32, "the last of these began while 16 might be under way");
}

#[test]
fn a_pause_is_not_taken_for_a_queue() {
    let (mut reach, mut now) = (Reach::new(8), Instant::now());
    assert_eq!([(); 5].map(|()| round(&mut reach, &mut now, 10)), [8, 4, 16, 32, 64]);
    let (first, at) = (reach.next(), |ms: u64| now + Duration::from_millis(ms));
    (first..first + 64).for_each(|sequence| reach.begin(sequence, at(0)));
    reach.written(first + 62, 64, at(10));
    (first + 64..first + 66).for_each(|sequence| reach.begin(sequence, at(500)));
    reach.written(first + 66, 64, at(510));
    assert_eq!(reach.frames, 64, "two were told of with those behind them");
}

#[test]
fn who_never_had_to_wait_is_given_no_more() {
    let mut reach = Reach::new(8);
    let (most, _) = send(&mut reach, 256, Link { way_ms: 5, send_ms: 20, ..Link::default() });
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
    reach.unheard(PATIENCE / 2, 20);
    assert_eq!(reach.frames, 8, "it has time to answer");
    (0..10).for_each(|_| reach.unheard(PATIENCE, 20));
    assert_eq!(reach.frames, 20);
    (0..10).for_each(|_| reach.unheard(PATIENCE, 4));
    assert_eq!(reach.frames, 8, "credit is what holds it then");
}

#[test]
fn a_target_that_can_be_heard_is_waited_for() {
    let (mut reach, now) = (Reach::new(8), Instant::now());
    (0..8).for_each(|sequence| reach.begin(sequence, now));
    reach.unheard(PATIENCE, 64);
    (8..16).for_each(|sequence| reach.begin(sequence, now));
    reach.written(10, 64, now + Duration::from_secs(3));
    reach.written(11, 64, now + Duration::from_secs(4));
    let frames = reach.frames;
    reach.unheard(PATIENCE, 64);
    assert_eq!((frames, reach.frames), (16, 16), "it tells when 16 are under way");
}

#[test]
fn a_target_that_has_become_slow_is_waited_for() {
    let (mut reach, mut now) = (Reach::new(8), Instant::now());
    assert_eq!([(); 4].map(|()| round(&mut reach, &mut now, 10)), [8, 4, 16, 32]);
    reach.answered = u64::MAX;
    round(&mut reach, &mut now, 900);
    assert_eq!(reach.frames, 32);
    reach.unheard(PATIENCE, 64);
    assert_eq!(reach.frames, 32);
}

#[test]
fn a_target_that_speaks_more_seldom_than_before_is_not_waited_for_for_ever() {
    let (mut reach, now) = (Reach::new(8), Instant::now());
    (0..8).for_each(|sequence| reach.begin(sequence, now));
    reach.written(3, 64, now);
    let silent = |reach: &mut Reach, seconds| reach.unheard(PATIENCE * seconds, 64);
    (1..4).for_each(|seconds| silent(&mut reach, seconds));
    assert_eq!(reach.frames, 8);
    (4..7).for_each(|seconds| silent(&mut reach, seconds));
    assert_eq!(reach.frames, 64);
}

#[test]
fn a_target_that_does_not_answer_half_of_the_least_gets_more_without() {
    let (mut reach, mut now) = (Reach::new(8), Instant::now());
    round(&mut reach, &mut now, 10);
    assert_eq!(reach.most(), 4);
    reach.unheard(PATIENCE / 2, 64);
    assert_eq!(reach.most(), 4, "it may be on its way");
    reach.unheard(PATIENCE, 64);
    assert_eq!(reach.most(), 8);
    let rounds: Vec<_> = (0..3).map(|_| round(&mut reach, &mut now, 10)).collect();
    assert_eq!(rounds, [8, 16, 32]);
}

#[test]
fn what_such_a_target_tells_of_late_says_nothing_of_the_way() {
    let (mut reach, mut now) = (Reach::new(8), Instant::now());
    assert_eq!([(); 5].map(|()| round(&mut reach, &mut now, 10)), [8, 4, 16, 32, 64]);
    now += FRESH;
    round(&mut reach, &mut now, 10);
    let first = reach.next();
    (first..first + 4).for_each(|sequence| reach.begin(sequence, now));
    assert_eq!(reach.most(), 4);
    reach.unheard(PATIENCE, 64);
    reach.written(first + 4, 64, now + PATIENCE);
    assert_eq!(reach.most(), 64);
}

#[test]
fn a_target_that_takes_its_time_is_given_it_when_it_is_looked_at() {
    let (mut reach, mut now) = (Reach::new(8), Instant::now());
    round(&mut reach, &mut now, 3000);
    reach.unheard(PATIENCE * 5, 64);
    assert_eq!(reach.most(), 4);
    reach.unheard(PATIENCE * 6, 64);
    assert_eq!(reach.most(), 8);
}
