// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sections whose bytes are read and sent by the same hands.

use core::time::Duration;
use std::vec;

use super::rig::{MS, device};
use crate::sched::{Config, Event, External, Profile, SaveScheduler, SectionId, Sizes, Step, Switchover, Timing};

const MIB: u64 = 1 << 20;

/// Two devices, of which the second has 1 MiB, which take no time to stop or to load, over a link whose bandwidth is no matter.
fn config(in_turn: bool, read_mib_per_s: Option<u64>) -> Config {
    let mut section = device("a");
    section.profile = Profile { read_bytes_per_s: read_mib_per_s.map(|mib| mib * MIB), ..Profile::default() };
    (section.acknowledged, section.reinitialises, section.in_turn) = (false, false, in_turn);
    let mut config = Config::new(vec![section.clone(), section]);
    config.switchover = Switchover::Manual;
    config.overhead = Timing::new(Duration::ZERO, 0);
    (config.chunk_bytes_max, config.inflight_bytes_max) = (8 * MIB, 32 * MIB);
    config.piece_bytes_max = Some(MIB);
    config.bandwidth_bytes_per_s = Some(1 << 40);
    config
}

/// Answers what is asked, until both are read.
fn begin(config: Config, first: Sizes) -> SaveScheduler {
    let mut scheduler = SaveScheduler::new(config);
    let mut reads = 0;
    for _ in 0..100 {
        match scheduler.poll(Duration::ZERO) {
            Step::Transition { section, .. } => scheduler.handle(Duration::ZERO, Event::Transitioned { section }),
            Step::Query { section } => {
                let sizes = if section == SectionId::new(0) { first } else { Sizes::new(MIB, 0, MIB) };
                scheduler.handle(Duration::ZERO, Event::Queried { section, sizes });
            }
            Step::Read { .. } => reads += 1,
            _ => break,
        }
    }
    assert_eq!(reads, 2, "both are read");
    scheduler
}

fn read(scheduler: &mut SaveScheduler, at: Duration, index: usize, bytes: u64) {
    scheduler.handle(at, Event::Read { section: SectionId::new(index), bytes });
}

fn sent(scheduler: &mut SaveScheduler, at: Duration, index: usize, bytes: u64) {
    scheduler.handle(at, Event::Sent { section: SectionId::new(index), bytes });
}

fn expected(scheduler: &SaveScheduler, now: Duration) -> Duration {
    scheduler.estimate(now, &External::default()).downtime.expected
}

#[test]
fn what_is_read_and_sent_in_turn_takes_both_times() {
    for (in_turn, wanted) in [(true, 108 * MS), (false, 72 * MS)] {
        let mut scheduler = begin(config(in_turn, None), Sizes::new(8 * MIB, 0, 80 * MIB));
        // A millisecond for a MiB, and half of one.
        read(&mut scheduler, 8 * MS, 0, 8 * MIB);
        sent(&mut scheduler, 12 * MS, 0, 8 * MIB);
        let found = expected(&scheduler, 12 * MS);
        assert!(found.abs_diff(wanted) < 4 * MS, "in turn {in_turn}: {found:?}, not {wanted:?}");
    }
}

#[test]
fn what_is_sent_in_parts_takes_until_the_last_of_them() {
    let mut scheduler = begin(config(true, None), Sizes::new(8 * MIB, 0, 80 * MIB));
    read(&mut scheduler, 8 * MS, 0, 8 * MIB);
    sent(&mut scheduler, 9 * MS, 0, 4 * MIB);
    sent(&mut scheduler, 12 * MS, 0, 4 * MIB);
    let found = expected(&scheduler, 12 * MS);
    assert!(found.abs_diff(108 * MS) < 4 * MS, "{found:?}");
}

#[test]
fn a_last_piece_that_was_sent_is_past_the_channel() {
    let mut config = config(true, Some(1000));
    (config.bandwidth_bytes_per_s, config.bandwidth_guess_bytes_per_s) = (None, Some(2000 * MIB));
    config.piece_bytes_max = Some(8 * MIB);
    let found = expected(&begin(config, Sizes::new(8 * MIB, 0, 8 * MIB)), Duration::ZERO);
    assert!(found.abs_diff(12 * MS) < 2 * MS, "8 ms to read, 4 to send: {found:?}");
}

#[test]
fn the_last_link_is_a_guess_until_something_is_said_or_seen_of_this_one() {
    for (given, guess_mib_per_s, wanted) in [(None, 2000, 120 * MS), (Some(1 << 40), 2, 80 * MS)] {
        let mut config = config(true, Some(1000));
        config.bandwidth_bytes_per_s = given;
        config.bandwidth_guess_bytes_per_s = Some(guess_mib_per_s * MIB);
        let found = expected(&begin(config, Sizes::new(8 * MIB, 0, 80 * MIB)), Duration::ZERO);
        assert!(found.abs_diff(wanted) < 4 * MS, "{given:?}, {guess_mib_per_s}: {found:?}, not {wanted:?}");
    }
}

#[test]
fn a_slow_beginning_does_not_speak_against_what_the_last_link_carried() {
    let found = [2, 2000].map(|guess_mib_per_s| {
        let mut config = config(true, Some(1000));
        (config.bandwidth_bytes_per_s, config.bandwidth_guess_bytes_per_s) = (None, Some(guess_mib_per_s * MIB));
        let mut scheduler = begin(config, Sizes::new(8 * MIB, 0, 80 * MIB));
        read(&mut scheduler, MS, 1, MIB);
        sent(&mut scheduler, 3 * MS, 1, MIB);
        expected(&scheduler, 3 * MS)
    });
    // And some, because nobody is sure of the channels yet.
    assert!(found[0].abs_diff(240 * MS) < 20 * MS, "80 ms to read, and 160 to send as begun: {found:?}");
    assert!(
        found[1].abs_diff(160 * MS) < 20 * MS,
        "120 ms to read and send, were the channels as they were: {found:?}"
    );
}

#[test]
fn what_is_settled_without_being_sent_counts_for_sending_as_for_reading() {
    let mut scheduler = begin(config(true, None), Sizes::new(8 * MIB, 0, 80 * MIB));
    // Of each MiB, half is settled by reading it: a millisecond for reading all of it, half of one for sending the rest.
    scheduler.handle(8 * MS, Event::Skipped { section: SectionId::new(0), bytes: 4 * MIB });
    read(&mut scheduler, 8 * MS, 0, 4 * MIB);
    sent(&mut scheduler, 10 * MS, 0, 2 * MIB);
    sent(&mut scheduler, 12 * MS, 0, 2 * MIB);
    let found = expected(&scheduler, 12 * MS);
    assert!(found.abs_diff(108 * MS) < 4 * MS, "{found:?}");
}

#[test]
fn a_section_that_is_slow_to_send_does_not_slow_the_others_sending() {
    let mut scheduler = begin(config(true, None), Sizes::new(8 * MIB, 0, 80 * MIB));
    read(&mut scheduler, 8 * MS, 0, 8 * MIB);
    sent(&mut scheduler, 12 * MS, 0, 8 * MIB);
    // 40 ms for a MiB: too few bytes for a speed of its own, and most of what was seen of the channels.
    read(&mut scheduler, 13 * MS, 1, MIB);
    sent(&mut scheduler, 53 * MS, 1, MIB);
    let found = expected(&scheduler, 53 * MS);
    assert!(found.abs_diff(108 * MS) < 8 * MS, "{found:?}");
}

#[test]
fn what_was_read_behind_other_bytes_says_nothing_of_sending() {
    let mut scheduler = begin(config(true, None), Sizes::new(64 * MIB, 0, 80 * MIB));
    read(&mut scheduler, 8 * MS, 0, 8 * MIB);
    let again = core::iter::from_fn(|| Some(scheduler.poll(8 * MS))).take(4);
    assert!(again.into_iter().any(|step| matches!(step, Step::Read { section, .. } if section == SectionId::new(0))));
    read(&mut scheduler, 16 * MS, 0, 8 * MIB);
    // 16 MiB in a millisecond, were the first not on its way for 9 before.
    sent(&mut scheduler, 17 * MS, 0, 16 * MIB);
    let found = expected(&scheduler, 17 * MS);
    // 64 MiB at a millisecond each, and 64 at 16 MiB in 9 ms, which is what the channels were seen to carry.
    assert!(found.abs_diff(64 * MS) < 4 * MS, "9 ms are too few to go by: {found:?}");
}

#[test]
fn how_fast_a_guest_trickles_says_nothing_of_sending() {
    // It announced 1 MiB, and 8 came: its guest made them meanwhile.
    let mut scheduler = begin(config(true, Some(1000)), Sizes::new(MIB, 0, 80 * MIB));
    read(&mut scheduler, 8 * MS, 0, 8 * MIB);
    sent(&mut scheduler, 12 * MS, 0, 8 * MIB);
    let found = expected(&scheduler, 12 * MS);
    assert!(found < 84 * MS, "80 MiB are read at a millisecond each, and nobody knows how they are sent: {found:?}");
}
