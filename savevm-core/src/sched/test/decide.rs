// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! When to switch over, and when to say that it cannot be.

use core::time::Duration;
use std::vec;

use vfio_mig_fsm::Capabilities;

use super::rig::{Fake, MS, Rig, device, fake, memory};
use crate::sched::{
    Cause, Config, Decision, Event, External, Hold, Kind, Outcome, Phase, SaveScheduler, Section, Sizes, Step, Timing,
    Trend, Verdict, Why,
};

/// A device whose costs are known exactly.
fn known() -> Section {
    let mut section = device("a");
    section.profile.stop = Timing::new(10 * MS, 0);
    section.profile.load = Timing::new(20 * MS, 0);
    section.profile.size_spread_per_mille = 0;
    section
}

fn endless(dirty_bytes: u64) -> Fake {
    let mut fake = fake(0, dirty_bytes, 0);
    fake.dirties_for_ever = true;
    fake
}

#[test]
fn an_idle_guest_with_16_mib_of_stop_copy_switches_within_3_windows() {
    let config = Config::new(vec![memory(), device("a")]);
    let mut rig = Rig::new(config, vec![fake(512 << 20, 0, 0), fake(0, 0, 16 << 20)], 10_000_000_000);
    let _ = rig.run(Duration::from_secs(20));
    let ram_out = rig
        .steps
        .iter()
        .rev()
        .find(|(_, step)| matches!(step, Step::Read { section, stopped: false, .. } if section.index() == 0));
    let switched = rig.decided(|decision| matches!(decision, Decision::Switch(Why::Fits, _))).expect("a switchover");
    let since = switched.saturating_sub(ram_out.expect("memory is read").0);
    assert!(since <= 300 * MS, "switched {since:?} after memory was out");
    assert_eq!(rig.scheduler.phase(), Phase::Ready);
}

#[test]
fn the_stop_copy_size_counts() {
    // 100 MB at 100 MB/s are a second, whatever pre-copy has drained.
    let mut config = Config::new(vec![known()]);
    config.bandwidth_bytes_per_s = Some(100_000_000);
    config.policy.precopy_max = Duration::from_secs(3);
    let mut rig = Rig::new(config, vec![fake(0, 0, 100_000_000)], 100_000_000);
    assert_eq!(rig.run(Duration::from_secs(10)), Step::Ended);
    assert_eq!(rig.scheduler.outcome(), Some(Outcome::Aborted(Cause::Late)));
    assert_eq!(rig.decided(|decision| matches!(decision, Decision::Switch(..))), None);
}

#[test]
fn the_estimate_has_every_cost_and_adds_the_callers() {
    let mut config = Config::new(vec![known(), known()]);
    config.overhead = Timing::new(5 * MS, 0);
    config.bandwidth_bytes_per_s = Some(100_000_000);
    let mut rig = Rig::new(config, vec![fake(0, 0, 1_000_000), fake(0, 0, 3_000_000)], 100_000_000);
    let _ = rig.run(50 * MS);
    let near = |found: Duration, wanted: Duration| found.abs_diff(wanted) <= 2 * MS;
    // Two devices beside each other: 5 + 10 in which both stop and have nothing to send + 4 MB at 100 MB/s + the last one's load of 20.
    let alone = rig.scheduler.estimate(rig.now, &External::default()).downtime.expected;
    assert!(near(alone, 75 * MS), "{alone:?}");
    // Stopping hides behind what the caller sends.
    let with = rig.scheduler.estimate(rig.now, &External::new(10_000_000, 7 * MS)).downtime.expected;
    assert!(near(with, 172 * MS), "{with:?}");
    let fixed = rig.scheduler.estimate(rig.now, &External::default()).fixed.expected;
    assert!(near(fixed, 35 * MS), "stopping and loading: {fixed:?}");
}

/// Memory that is zero is looked through at length and yields next to nothing, which says neither that much is left nor that what is left
/// takes long.
#[test]
fn zeros_neither_stay_in_the_sizes_nor_slow_the_rest() {
    const MIB: u64 = 1 << 20;
    let mut config = Config::new(vec![memory()]);
    config.switchover = crate::sched::Switchover::Manual;
    (config.chunk_bytes_max, config.bandwidth_bytes_per_s) = (8 * MIB, Some(2_000_000_000));
    let mut scheduler = SaveScheduler::new(config);
    let section = crate::sched::SectionId::new(0);
    let asked = |scheduler: &mut SaveScheduler, at: Duration, bytes: u64| {
        assert_eq!(scheduler.poll(at), Step::Query { section });
        scheduler.handle(at, Event::Queried { section, sizes: Sizes::new(0, bytes, bytes) });
    };
    assert!(matches!(scheduler.poll(MS), Step::Transition { .. }));
    scheduler.handle(MS, Event::Transitioned { section });
    asked(&mut scheduler, MS, 1024 * MIB);
    assert!(matches!(scheduler.poll(MS), Step::Read { .. }));
    scheduler.handle(500 * MS, Event::Skipped { section, bytes: 1016 * MIB });
    scheduler.handle(500 * MS, Event::Read { section, bytes: 8 * MIB });
    scheduler.handle(504 * MS, Event::Sent { section, bytes: 8 * MIB });
    let left = scheduler.estimate(504 * MS, &External::default());
    assert_eq!(left.pending_bytes, 0, "all of it was looked at");
    // The guest has written again what is not zero.
    asked(&mut scheduler, 504 * MS, 8 * MIB);
    let again = scheduler.estimate(504 * MS, &External::default()).downtime.expected;
    assert!(again < 20 * MS, "{again:?} for 8 MiB, of which a GiB was looked through in half a second");
}

/// What is expected of 16 MiB that come when the guest stands, of a device that has 8 MiB at first, read in so many milliseconds, and
/// then what its guest makes: 2 MiB in each read of 100 ms.
fn expected_after_trickles(initial_ms: u32, announced: bool, known: Option<u64>) -> Duration {
    const MIB: u64 = 1 << 20;
    let mut section = device("a");
    section.profile.read_bytes_per_s = known;
    let mut config = Config::new(vec![section]);
    config.switchover = crate::sched::Switchover::Manual;
    (config.chunk_bytes_max, config.bandwidth_bytes_per_s) = (8 * MIB, Some(2_000_000_000));
    let mut scheduler = SaveScheduler::new(config);
    let section = crate::sched::SectionId::new(0);
    let initial_bytes = if announced { 8 * MIB } else { 0 };
    let (mut at, mut reads, mut first) = (Duration::ZERO, 0, true);
    for polls in 0.. {
        if reads == 11 {
            break;
        }
        assert!(polls < 1000, "after a thousand polls there are {reads} reads, at {at:?}");
        match scheduler.poll(at) {
            Step::Transition { .. } => scheduler.handle(at, Event::Transitioned { section }),
            Step::Query { .. } => {
                let dirty_bytes = if first { initial_bytes } else { MIB / 16 };
                let sizes = Sizes::new(0, dirty_bytes, dirty_bytes + 16 * MIB);
                first = false;
                scheduler.handle(at, Event::Queried { section, sizes });
            }
            Step::Read { .. } => {
                let (bytes, takes) = if reads == 0 { (8 * MIB, MS * initial_ms) } else { (2 * MIB, 100 * MS) };
                at += takes;
                reads += 1;
                scheduler.handle(at, Event::Read { section, bytes });
                scheduler.handle(at + MS, Event::Sent { section, bytes });
            }
            Step::Wait { until } => at = until.unwrap_or(at + MS).max(at + MS),
            _ => at += MS,
        }
    }
    scheduler.estimate(at, &External::default()).downtime.expected
}

#[test]
fn a_device_is_not_as_slow_as_its_guest() {
    // 60 ms to stop and to load, whatever there is; 16 MiB at 1 GiB/s, not at the guest's 20 MiB/s.
    let found = expected_after_trickles(8, true, None);
    assert!((60 * MS..100 * MS).contains(&found), "{found:?}");
}

#[test]
fn a_device_that_is_slow_stays_slow() {
    // What was there at first came at 20 MiB/s.
    let slow = expected_after_trickles(400, true, None);
    assert!(slow > 800 * MS, "{slow:?}");
    // It never said what there is: then what was seen is all that is known.
    let unknown = expected_after_trickles(400, false, None);
    assert!(unknown > 800 * MS, "{unknown:?}");
    // What an earlier migration saw was no trickle.
    let known = expected_after_trickles(400, false, Some(1 << 30));
    assert!((60 * MS..100 * MS).contains(&known), "{known:?}");
}

/// When the last chunk is written, were reading and writing all that takes time.
fn pipeline(bytes: u64, chunk_bytes: u64, read_bytes_per_s: u64, write_bytes_per_s: u64) -> Duration {
    let takes = |piece: u64, speed: u64| Duration::from_secs(piece) / u32::try_from(speed).unwrap();
    let (mut left, mut read, mut written) = (bytes, Duration::ZERO, Duration::ZERO);
    while left > 0 {
        let piece = left.min(chunk_bytes);
        left -= piece;
        read += takes(piece, read_bytes_per_s);
        written = written.max(read) + takes(piece, write_bytes_per_s);
    }
    written
}

#[test]
fn the_last_chunk_takes_its_own_time_not_that_of_a_whole_one() {
    const CHUNK: u64 = 40_000_000;
    for bytes in [1_000_000, CHUNK, CHUNK + 1_000_000, 2 * CHUNK + CHUNK / 2, 3 * CHUNK] {
        for (read, write) in [(100_000_000, 400_000_000), (400_000_000, 100_000_000), (200_000_000, 200_000_000)] {
            let mut section = known();
            (section.profile.read_bytes_per_s, section.profile.write_bytes_per_s) = (Some(read), Some(write));
            let mut config = Config::new(vec![section]);
            config.chunk_bytes_max = CHUNK;
            config.inflight_bytes_max = 4 * CHUNK;
            config.bandwidth_bytes_per_s = Some(1_000_000_000_000);
            config.downtime_max = Duration::ZERO;
            let mut rig = Rig::new(config, vec![fake(0, 0, bytes)], 1_000_000_000);
            let _ = rig.run(20 * MS);
            let found = rig.scheduler.estimate(rig.now, &External::default()).downtime.expected;
            let wanted = rig.scheduler.config().overhead.expected + 30 * MS + pipeline(bytes, CHUNK, read, write);
            assert!(found.abs_diff(wanted) <= 3 * MS, "{bytes} at {read} and {write}: {found:?}, not {wanted:?}");
        }
    }
}

#[test]
fn the_last_chunk_is_written_behind_the_channel() {
    let mut section = known();
    section.profile.write_bytes_per_s = Some(400_000_000);
    let mut config = Config::new(vec![section]);
    config.overhead = Timing::new(Duration::ZERO, 0);
    config.chunk_bytes_max = 40_000_000;
    config.inflight_bytes_max = 160_000_000;
    config.bandwidth_bytes_per_s = Some(100_000_000);
    config.downtime_max = Duration::ZERO;
    let mut rig = Rig::new(config, vec![fake(0, 0, 100_000_000)], 100_000_000);
    let _ = rig.run(20 * MS);
    let found = rig.scheduler.estimate(rig.now, &External::default()).downtime.expected;
    // 10 until it has stopped, a second on the channel, the last 20 MB into the device, and 20 of loading.
    assert!(found.abs_diff(1080 * MS) <= 3 * MS, "{found:?}");
}

#[test]
fn the_last_device_to_run_at_the_target_counts() {
    let (mut quick, mut slow) = (known(), known());
    quick.profile.run = Timing::new(30 * MS, 0);
    slow.profile.run = Timing::new(70 * MS, 0);
    let mut config = Config::new(vec![quick, slow]);
    config.overhead = Timing::new(Duration::ZERO, 0);
    config.downtime_max = Duration::ZERO;
    let mut rig = Rig::new(config, vec![fake(0, 0, 0), fake(0, 0, 0)], 1_000_000_000);
    let _ = rig.run(20 * MS);
    let found = rig.scheduler.estimate(rig.now, &External::default()).fixed.expected;
    assert!(found.abs_diff(100 * MS) <= MS, "10 of stopping, 20 of loading, 70 of running: {found:?}");
}

#[test]
fn sections_move_beside_each_other() {
    let mut section = known();
    section.profile.read_bytes_per_s = Some(100_000_000);
    let mut config = Config::new(vec![section.clone(), section]);
    config.overhead = Timing::new(Duration::ZERO, 0);
    config.bandwidth_bytes_per_s = Some(100_000_000_000);
    config.downtime_max = Duration::ZERO;
    let mut rig = Rig::new(config, vec![fake(0, 0, 10_000_000), fake(0, 0, 10_000_000)], 100_000_000_000);
    let _ = rig.run(20 * MS);
    let found = rig.scheduler.estimate(rig.now, &External::default()).downtime.expected;
    // 10 of stopping, 100 of reading, 20 of loading; the later of two that are equally unsure is a little later.
    assert!((128 * MS..145 * MS).contains(&found), "{found:?}");
}

#[test]
fn memory_waits_for_the_devices_to_stop() {
    let (mut ram, mut slow) = (memory(), known());
    ram.profile.load = Timing::new(50 * MS, 0);
    slow.profile.stop = Timing::new(100 * MS, 0);
    let mut config = Config::new(vec![ram, slow]);
    config.overhead = Timing::new(Duration::ZERO, 0);
    config.downtime_max = Duration::ZERO;
    let mut rig = Rig::new(config, vec![fake(0, 0, 0), fake(0, 0, 0)], 1_000_000_000);
    let _ = rig.run(20 * MS);
    let estimate = rig.scheduler.estimate(rig.now, &External::default());
    for found in [estimate.fixed.expected, estimate.downtime.expected] {
        assert!(found.abs_diff(150 * MS) <= 2 * MS, "{found:?}: the device has stopped after 100, memory loads for 50");
    }
}

#[test]
fn what_the_guest_makes_while_devices_go_quiet_counts() {
    let mut slow = known();
    slow.profile.quiesce = Timing::new(Duration::from_secs(1), 0);
    let mut config = Config::new(vec![memory(), slow]);
    config.switchover = crate::sched::Switchover::Manual;
    let mut rig = Rig::new(config, vec![fake(0, 0, 0), fake(0, 0, 0)], 1_000_000_000);
    for window in 0..40_u64 {
        let _ = rig.run(Duration::from_millis(100 * window));
        rig.sections[0].dirty_bytes += 1_000_000;
    }
    let left = rig.scheduler.estimate(rig.now, &External::default()).pending_bytes;
    assert!((8_000_000..14_000_000).contains(&left), "{left} bytes after a second at 10 MB/s");
}

#[test]
fn a_promise_is_as_sure_as_was_asked_for() {
    let with = |confidence_per_mille: u32| {
        let mut section = known();
        section.profile.load = Timing::new(200 * MS, 500);
        let mut config = Config::new(vec![section]);
        config.confidence_per_mille = confidence_per_mille;
        config.policy.infeasible = Verdict::Wait;
        config.policy.precopy_max = Duration::from_secs(5);
        let mut rig = Rig::new(config, vec![fake(1 << 20, 0, 0)], 1_000_000_000);
        let _ = rig.run(Duration::from_secs(3));
        let is_infeasible = rig.decided(|decision| matches!(decision, Decision::Infeasible(_))).is_some();
        (is_infeasible, rig.decided(|decision| matches!(decision, Decision::Switch(..))).is_some())
    };
    // 232 ms are expected, and 233 ms are two deviations and a third.
    assert_eq!(with(990), (true, false));
    assert_eq!(with(500), (false, true));
}

#[test]
fn sizes_that_are_unsure_widen_the_promise_less_when_there_are_many() {
    let spread = |sections: usize| {
        let mut section = known();
        section.profile.size_spread_per_mille = 120;
        let mut config = Config::new(vec![section; sections]);
        config.overhead = Timing::new(Duration::ZERO, 0);
        config.bandwidth_bytes_per_s = Some(100_000_000);
        config.downtime_max = Duration::ZERO;
        let bytes = 100_000_000 / u64::try_from(sections).unwrap();
        let mut rig = Rig::new(config, vec![fake(0, 0, bytes); sections], 100_000_000);
        let _ = rig.run(20 * MS);
        let interval = rig.scheduler.estimate(rig.now, &External::default()).downtime;
        interval.p95.saturating_sub(interval.expected).as_secs_f64() / interval.expected.as_secs_f64()
    };
    // 1.645 deviations: of 12 % and the 2 % of a given bandwidth; with four, of half of the 12 %.
    let (one, four) = (spread(1), spread(4));
    assert!((0.17..0.23).contains(&one), "{one}");
    assert!((0.08..0.13).contains(&four), "{four}");
}

#[test]
fn what_cannot_be_is_said_before_anything_is_transferred() {
    let mut section = device("a");
    section.profile.load = Timing::new(400 * MS, 50);
    let mut rig = Rig::new(Config::new(vec![section]), vec![fake(1 << 20, 0, 0)], 1_000_000_000);
    assert_eq!(rig.run(Duration::from_secs(5)), Step::Ended);
    assert_eq!(rig.scheduler.outcome(), Some(Outcome::Aborted(Cause::Infeasible)));
    assert!(rig.decided(|decision| matches!(decision, Decision::Infeasible(_))).is_some());
    assert_eq!(rig.first(|step| matches!(step, Step::Read { .. })), None, "bytes were moved for nothing");
}

fn with_trend(set: impl Fn(&mut Config)) -> Rig {
    let mut config = Config::new(vec![memory()]);
    config.bandwidth_bytes_per_s = Some(10_000_000);
    config.policy.precopy_max = Duration::from_secs(30);
    set(&mut config);
    let mut rig = Rig::new(config, vec![endless(50 << 20)], 10_000_000);
    let _ = rig.run(Duration::from_secs(20));
    rig
}

#[test]
fn level_is_waited_for_switched_or_given_up_as_told() {
    let waiting = with_trend(|config| config.policy.level = Verdict::Wait);
    assert_eq!(waiting.scheduler.phase(), Phase::Precopy);
    let level = |decision: &Decision| matches!(decision, Decision::Iterate(Hold::Downtime { trend: Trend::Level }, _));
    assert!(waiting.decided(level).is_some());

    let switched = with_trend(|config| config.policy.level = Verdict::Switch);
    let why = |decision: &Decision| matches!(decision, Decision::Switch(Why::Trend(Trend::Level), _));
    assert!(switched.decided(why).is_some());

    let given_up = with_trend(|config| config.policy.level = Verdict::Abort);
    assert_eq!(given_up.scheduler.outcome(), Some(Outcome::Aborted(Cause::Trend(Trend::Level))));
}

#[test]
fn falling_is_read_on_and_rising_is_not() {
    // 50 MB at 10 MB/s: it falls for five seconds, and then it fits. No policy for level or rising cuts in.
    let mut config = Config::new(vec![memory()]);
    (config.policy.level, config.policy.rising) = (Verdict::Abort, Verdict::Abort);
    let mut rig = Rig::new(config, vec![fake(50_000_000, 0, 0)], 10_000_000);
    assert_eq!(rig.run(Duration::from_secs(20)), Step::Ready);

    let mut config = Config::new(vec![memory()]);
    config.policy.rising = Verdict::Abort;
    let mut rig = Rig::new(config, vec![fake(20_000_000, 0, 0)], 10_000_000);
    for window in 0..40_u64 {
        let _ = rig.run(Duration::from_millis(100 * window));
        rig.sections[0].dirty_bytes += 3_000_000;
    }
    assert_eq!(rig.scheduler.outcome(), Some(Outcome::Aborted(Cause::Trend(Trend::Rising))));
}

#[test]
fn pre_copy_ends() {
    let late = |verdict| {
        with_trend(|config| {
            config.policy.precopy_max = Duration::from_secs(2);
            config.policy.late = verdict;
        })
    };
    assert_eq!(late(Verdict::Abort).scheduler.outcome(), Some(Outcome::Aborted(Cause::Late)));
    assert!(late(Verdict::Switch).decided(|decision| matches!(decision, Decision::Switch(Why::Late, _))).is_some());
}

#[test]
fn a_promise_that_no_longer_holds_behind_the_barrier_is_withdrawn() {
    // Going quiet takes long, and the guest dirties much meanwhile, once.
    let mut slow = fake(1 << 20, 0, 0);
    slow.transition = 50 * MS;
    let mut rig = Rig::new(Config::new(vec![memory(), device("a")]), vec![fake(1 << 20, 0, 0), slow], 100_000_000);
    rig.run_until_decided(|decision| matches!(decision, Decision::Switch(..)));
    rig.sections[0].dirty_bytes += 200_000_000;
    assert_eq!(rig.run(Duration::from_secs(30)), Step::Ready);
    let back = rig.decided(|decision| *decision == Decision::GoBack).expect("two seconds of memory are left");
    let paused = rig.first(|step| *step == Step::PauseGuest).unwrap();
    assert!(paused > back + Duration::from_secs(1), "paused at {paused:?}, back at {back:?}: it was read first");
}

#[test]
fn nobody_decides_by_old_sizes() {
    // Nothing moves, so the device is asked ever more rarely. Then the last acknowledgement comes.
    let mut rig = Rig::new(Config::new(vec![device("a")]), vec![fake(1 << 20, 0, 0)], 1_000_000_000);
    rig.acknowledges = false;
    let at = Duration::from_secs(3);
    let _ = rig.run(at);
    rig.now = at;
    let asked = *rig.sections[0].queries.last().unwrap();
    assert!(at - asked > 300 * MS, "asked at {asked:?}");
    rig.sections[0].stop_bytes = 1 << 40;
    let section = crate::sched::SectionId::new(0);
    rig.scheduler.handle(rig.now, Event::Acknowledged { section, generation: 1 });
    let _ = rig.run(Duration::from_secs(6));
    assert_eq!(rig.decided(|decision| matches!(decision, Decision::Switch(..))), None, "a terabyte is left");
    assert!(rig.decided(|decision| matches!(decision, Decision::Iterate(Hold::Sizes { .. }, _))).is_some());
}

#[test]
fn the_caller_may_decide() {
    let mut config = Config::new(vec![device("a")]);
    config.switchover = crate::sched::Switchover::Manual;
    let mut rig = Rig::new(config, vec![fake(1 << 20, 0, 1 << 20)], 1_000_000_000);
    let _ = rig.run(Duration::from_secs(2));
    assert_eq!(rig.scheduler.phase(), Phase::Precopy);
    rig.scheduler.quiesce(rig.now);
    let _ = rig.run(Duration::from_secs(3));
    assert_eq!(rig.scheduler.phase(), Phase::Quiet);
    rig.scheduler.handle(rig.now, Event::Resume);
    let _ = rig.run(Duration::from_secs(4));
    assert_eq!(rig.scheduler.phase(), Phase::Precopy, "not paused yet: there is a way back");
    rig.scheduler.quiesce(rig.now);
    let _ = rig.run(Duration::from_secs(5));
    rig.scheduler.stop(rig.now);
    assert_eq!(rig.run(Duration::from_secs(6)), Step::Ready);
}

#[test]
fn sections_that_cannot_be_read_while_running_switch_at_once() {
    let section = Section::new("a", Kind::VmState, Capabilities::StopCopy);
    let mut rig = Rig::new(Config::new(vec![section]), vec![fake(0, 0, 1 << 20)], 1_000_000_000);
    assert_eq!(rig.run(Duration::from_secs(2)), Step::Ready);
    assert!(rig.now < 100 * MS, "it took {:?}", rig.now);
    let _: SaveScheduler = rig.scheduler;
}
