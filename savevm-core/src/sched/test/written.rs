// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is known of the target's writing, and what that says of the rest.

use core::time::Duration;
use std::vec;

use super::rig::{MS, device};
use crate::sched::{
    Config, Event, External, Profile, SaveScheduler, Section, SectionId, Sizes, Step, Sum, Switchover, Timing,
};

const MIB: u64 = 1 << 20;
fn section() -> SectionId {
    SectionId::new(0)
}

/// A device that takes no time to stop or to load, of which so much is known.
fn scheduler(read: Option<u64>, write: Option<u64>, pieces_mib: Option<u64>) -> SaveScheduler {
    let mut section: Section = device("a");
    section.profile = Profile { read_bytes_per_s: read, write_bytes_per_s: write, ..Profile::default() };
    section.acknowledged = false;
    section.reinitialises = false;
    let mut config = Config::new(vec![section]);
    config.switchover = Switchover::Manual;
    config.overhead = Timing::new(Duration::ZERO, 0);
    (config.chunk_bytes_max, config.inflight_bytes_max) = (8 * MIB, 16 * MIB);
    config.piece_bytes_max = pieces_mib.map(|mib| mib * MIB);
    config.bandwidth_bytes_per_s = Some(1 << 40);
    let mut scheduler = SaveScheduler::new(config);
    let _ = drive(&mut scheduler, Duration::ZERO, Sizes::new(64 * MIB, 0, 80 * MIB));
    scheduler
}

/// Answers what is asked, until a read is or nothing.
fn drive(scheduler: &mut SaveScheduler, now: Duration, sizes: Sizes) -> Step {
    loop {
        match scheduler.poll(now) {
            Step::Transition { section, .. } => scheduler.handle(now, Event::Transitioned { section }),
            Step::Query { section } => scheduler.handle(now, Event::Queried { section, sizes }),
            step => return step,
        }
    }
}

/// Stops the device.
fn stop(scheduler: &mut SaveScheduler, now: Duration) -> Step {
    scheduler.quiesce(now);
    let _ = drive(scheduler, now, Sizes::default());
    scheduler.stop(now);
    drive(scheduler, now, Sizes::default())
}

/// 8 MiB, read from `from` to `to`, of which so much was waiting.
fn read(scheduler: &mut SaveScheduler, to: Duration, held: Duration) {
    scheduler.handle(to, Event::Held { section: section(), time: held });
    scheduler.handle(to, Event::Read { section: section(), bytes: 8 * MIB });
    scheduler.handle(to, Event::Sent { section: section(), bytes: 8 * MIB });
}

fn expected(scheduler: &SaveScheduler, now: Duration) -> Duration {
    scheduler.estimate(now, &External::default()).downtime.expected
}

#[test]
fn waiting_for_credit_is_reading_only_while_the_targets_speed_is_not_known() {
    // 80 ms for 8 MiB, of which 72 were waiting: 72 MiB are left, in pieces of 1 MiB.
    let mut scheduler = scheduler(None, None, Some(1));
    read(&mut scheduler, 80 * MS, 72 * MS);
    let all_the_sources = expected(&scheduler, 80 * MS);
    assert!(all_the_sources.abs_diff(720 * MS) < 20 * MS, "{all_the_sources:?}");
    // The target turns out to take 10 ms for a MiB, as that read looked; and to be alone in that.
    scheduler.handle(80 * MS, Event::Credited { section: section(), bytes: 8 * MIB, busy: Some(80 * MS) });
    let the_targets = expected(&scheduler, 80 * MS);
    assert!(the_targets.abs_diff(721 * MS) < 20 * MS, "{the_targets:?}");
    let _ = scheduler.poll(80 * MS);
    scheduler.handle(88 * MS, Event::Credited { section: section(), bytes: 800 * MIB, busy: Some(80 * MS) });
    let nobodys = expected(&scheduler, 88 * MS);
    assert!(nobodys < 120 * MS, "a MiB takes a millisecond to read, and less to write: {nobodys:?}");
}

#[test]
fn a_slow_target_waits_for_a_piece_and_not_for_a_whole_read() {
    let (read, write) = (Some(50 * MIB), Some(40 * MIB));
    let in_pieces = expected(&scheduler(read, write, Some(1)), Duration::ZERO);
    let whole = expected(&scheduler(read, write, None), Duration::ZERO);
    assert!(in_pieces.abs_diff(2020 * MS) < 10 * MS, "80 MiB at 40 MiB/s behind one: {in_pieces:?}");
    assert!(whole.abs_diff(2160 * MS) < 10 * MS, "behind eight of them: {whole:?}");
}

/// Moves 8 MiB of a stopped device at once, to a target that is known to take so long for each, and says what its load was learned to be
/// when the answer comes after so long.
fn load(write_ms: Option<u32>, loaded: Duration) -> Duration {
    let write = write_ms.map(|ms| 1000 * MIB / u64::from(ms));
    let mut scheduler = scheduler(None, write, Some(1));
    read(&mut scheduler, MS, Duration::ZERO);
    assert!(matches!(stop(&mut scheduler, 1000 * MS), Step::Read { stopped: true, .. }));
    read(&mut scheduler, 1001 * MS, Duration::ZERO);
    assert!(matches!(scheduler.poll(1001 * MS), Step::Read { .. }));
    let sum = Sum::new(16 * MIB, 7);
    // Told late: it came when half of the first 8 MiB was written.
    scheduler.handle(1001 * MS, Event::Credited { section: section(), bytes: 4 * MIB, busy: None });
    scheduler.handle(1001 * MS, Event::Ended { section: section(), sum });
    assert_eq!(scheduler.poll(1001 * MS), Step::Finish { section: section(), sum });
    scheduler.handle(1001 * MS + loaded, Event::Loaded { section: section(), sum, took: None });
    assert_eq!(scheduler.poll(1001 * MS + loaded), Step::Ready);
    scheduler.learned(section()).unwrap().load.expected
}

#[test]
fn what_the_target_has_to_write_is_no_part_of_its_load() {
    assert_eq!(load(None, 90 * MS), 90 * MS, "nobody knows");
    assert!(load(Some(10), 90 * MS).abs_diff(11 * MS) <= MS, "80 ms are writing, from when the first was read");
    assert_eq!(load(Some(10), 50 * MS), Duration::ZERO, "it was faster than thought");
}

/// So many credits of 8 MiB, each so long after the one before, where 10 ms for a MiB were known.
fn learned(credits: u32, each: Duration) -> Option<u64> {
    let mut scheduler = scheduler(None, Some(100 * MIB), Some(1));
    scheduler.handle(Duration::ZERO, Event::Drained { section: section() });
    assert!(matches!(stop(&mut scheduler, Duration::ZERO), Step::Read { stopped: true, .. }));
    for number in 0..=credits {
        scheduler.handle(each * number, Event::Credited { section: section(), bytes: 8 * MIB, busy: None });
    }
    let end = each * (credits + 1);
    let sum = Sum::default();
    scheduler.handle(end, Event::Ended { section: section(), sum });
    scheduler.learned(section()).unwrap().write_bytes_per_s
}

#[test]
fn a_target_that_is_faster_than_the_last_one_was_is_not_taken_for_it() {
    assert_eq!(learned(3, 80 * MS), Some(100 * MIB), "no faster");
    assert_eq!(learned(3, 200 * MS), Some(100 * MIB), "it may have waited");
    assert_eq!(learned(1, 20 * MS), Some(100 * MIB), "once may be chance");
    assert_eq!(learned(3, 20 * MS), None);
}
