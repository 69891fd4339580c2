// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What comes before what, and how it is undone.

use core::time::Duration;
use std::vec;

use vfio_mig_fsm::State;

use super::rig::{MS, Rig, device, fake, memory};
use crate::sched::{Cause, Config, Decision, Event, Outcome, Phase, Restored, SectionId, Sizes, Step};

fn two() -> Rig {
    let mut slow = fake(1 << 20, 0, 4 << 20);
    slow.transition = 50 * MS;
    let config = Config::new(vec![device("slow"), device("quick")]);
    Rig::new(config, vec![slow, fake(1 << 20, 0, 4 << 20)], 1_000_000_000)
}

fn is_request(step: &Step, wanted: State) -> bool {
    matches!(step, Step::Transition { to, .. } if *to == wanted)
}

#[test]
fn all_are_quiet_before_the_guest_is_paused_and_it_is_paused_before_any_stops() {
    let mut rig = two();
    assert_eq!(rig.run(Duration::from_secs(5)), Step::Ready);
    let quiet = rig.first(|step| is_request(step, State::PreCopyP2p)).unwrap();
    let paused = rig.first(|step| *step == Step::PauseGuest).unwrap();
    let stopped = rig.first(|step| is_request(step, State::StopCopy)).unwrap();
    assert!(paused >= quiet + 50 * MS, "the slow one was waited for: quiet {quiet:?}, paused {paused:?}");
    assert!(stopped >= paused + MS, "stopped {stopped:?} before the vCPUs stood");
}

#[test]
fn one_device_that_is_not_quiet_yet_keeps_the_guest_running() {
    let mut rig = two();
    rig.run_until_decided(|decision| matches!(decision, Decision::Switch(..)));
    // From here on what happens is what is said, each time so late that everybody may be asked again.
    let mut moment = |event: Event| {
        rig.now += 200 * MS;
        rig.scheduler.handle(rig.now, event);
        let steps: vec::Vec<Step> = (0..10).map(|_| rig.scheduler.poll(rig.now)).collect();
        (rig.scheduler.phase(), steps)
    };
    let [slow, quick] = [0, 1].map(SectionId::new);
    let (phase, steps) = moment(Event::Transitioned { section: quick });
    assert_eq!(phase, Phase::Quiescing, "the slow one is on its way: {steps:?}");
    assert!(steps.contains(&Step::Query { section: quick }), "the quick one is there: {steps:?}");
    let sizes = Sizes::new(0, 0, 4 << 20);
    let (phase, steps) = moment(Event::Queried { section: quick, sizes });
    assert_eq!(phase, Phase::Quiescing, "the slow one is still on its way: {steps:?}");
    let (phase, steps) = moment(Event::Transitioned { section: slow });
    assert_eq!(phase, Phase::Quiescing, "it is quiet, and not asked yet: {steps:?}");
    let (phase, steps) = moment(Event::Queried { section: slow, sizes });
    assert!(phase == Phase::Quiet && steps.contains(&Step::PauseGuest), "{phase:?}: {steps:?}");
}

#[test]
fn behind_the_barrier_each_device_that_may_have_begun_anew_is_asked_once() {
    let mut never = device("never");
    never.reinitialises = false;
    let config = Config::new(vec![device("slow"), device("quick"), never]);
    let mut rig = Rig::new(config, [two().sections, vec![fake(1 << 20, 0, 0)]].concat(), 1_000_000_000);
    assert_eq!(rig.run(Duration::from_secs(5)), Step::Ready);
    let quiet = rig.first(|step| is_request(step, State::PreCopyP2p)).unwrap();
    let paused = rig.first(|step| *step == Step::PauseGuest).unwrap();
    let asked = |fake: &super::rig::Fake| fake.queries.iter().filter(|at| (quiet..=paused).contains(*at)).count();
    assert_eq!(rig.sections.iter().map(asked).collect::<vec::Vec<_>>(), [1, 1, 0]);
}

#[test]
fn transitions_run_beside_each_other() {
    let mut rig = two();
    let _ = rig.run(Duration::from_secs(5));
    for to in [State::PreCopy, State::PreCopyP2p, State::StopCopy] {
        let at: vec::Vec<_> = rig.steps.iter().filter(|(_, step)| is_request(step, to)).map(|(at, _)| *at).collect();
        assert_eq!(at.len(), 2);
        assert!(at[1] - at[0] < 10 * MS, "{to}: the second waited for the first: {at:?}");
    }
}

#[test]
fn a_stopped_section_is_drained_while_another_still_stops() {
    let mut rig = two();
    let _ = rig.run(Duration::from_secs(5));
    let stopped = rig.first(|step| is_request(step, State::StopCopy)).unwrap();
    let drained = rig.first(|step| matches!(step, Step::Read { stopped: true, .. })).unwrap();
    assert!(drained < stopped + 20 * MS, "{drained:?}, and stopping began at {stopped:?}");
}

#[test]
fn memory_stops_when_every_device_has_and_quick_devices_are_drained_before() {
    let mut slow = fake(0, 0, 4 << 20);
    slow.transition = 50 * MS;
    let config = Config::new(vec![memory(), device("slow"), device("quick")]);
    let sections = vec![fake(8 << 20, 0, 1 << 20), slow, fake(0, 0, 4 << 20)];
    let mut rig = Rig::new(config, sections, 1_000_000_000);
    assert_eq!(rig.run(Duration::from_secs(5)), Step::Ready);
    let stops = |wanted: usize| {
        rig.first(|step| matches!(step, Step::Transition { section, to: State::StopCopy } if section.index() == wanted))
            .unwrap()
    };
    let drained = |wanted: usize| {
        rig.first(|step| matches!(step, Step::Read { section, stopped: true, .. } if section.index() == wanted))
            .unwrap()
    };
    assert!(stops(0) >= stops(1) + 50 * MS, "memory stopped at {:?}, the slow device from {:?}", stops(0), stops(1));
    assert!(drained(2) < stops(0), "the quick device waited for memory: {:?}, {:?}", drained(2), stops(0));
}

#[test]
fn devices_are_drained_beside_memorys_last_round() {
    // Where the channel is not what all wait for: it goes to the longest way first.
    let config = Config::new(vec![memory(), device("a")]);
    let mut rig = Rig::new(config, vec![fake(0, 0, 512 << 20), fake(0, 0, 512 << 20)], 1_000_000_000_000);
    let _ = rig.run(50 * MS);
    rig.scheduler.quiesce(rig.now);
    assert_eq!(rig.run(Duration::from_secs(5)), Step::Ready);
    let reads = |wanted: usize| {
        let is_read =
            move |step: &Step| matches!(step, Step::Read { section, stopped: true, .. } if section.index() == wanted);
        let at: vec::Vec<_> = rig.steps.iter().filter(|(_, step)| is_read(step)).map(|(at, _)| *at).collect();
        (at[0], at[at.len() - 1])
    };
    let (memory, device) = (reads(0), reads(1));
    assert!(memory.0 < device.1 && device.0 < memory.1, "one after the other: {memory:?}, {device:?}");
}

#[test]
fn nothing_read_while_the_guest_ran_is_under_way_when_it_is_paused() {
    // Memory has no quiet state, so it is read until the very pause, here without a gap.
    let mut endless = fake(0, 64 << 20, 0);
    endless.dirties_for_ever = true;
    // The device is asked and answers in the middle of a read of memory.
    let mut odd = fake(1 << 20, 0, 0);
    odd.transition = 3 * MS + Duration::from_micros(5);
    let config = Config::new(vec![memory(), device("a")]);
    let mut rig = Rig::new(config, vec![endless, odd], 1_000_000_000_000);
    assert_eq!(rig.run(Duration::from_secs(5)), Step::Ready);
    assert_eq!(rig.reads_at_pause, Some(0));
}

#[test]
fn the_longest_way_to_go_is_drained_first() {
    let mut long = device("long");
    long.profile.load.expected = 150 * MS;
    let mut config = Config::new(vec![device("short"), long]);
    config.downtime_max = Duration::from_secs(2);
    let mut rig = Rig::new(config, vec![fake(0, 0, 8 << 20), fake(0, 0, 8 << 20)], 100_000_000);
    let _ = rig.run(Duration::from_secs(5));
    let finished = |wanted: usize| {
        rig.first(|step| matches!(step, Step::Finish { section, .. } if section.index() == wanted)).unwrap()
    };
    assert!(finished(1) < finished(0));
}

#[test]
fn ready_needs_the_targets_word_on_every_section() {
    let mut rig = two();
    rig.load = Duration::from_secs(100);
    let _ = rig.run(Duration::from_secs(20));
    assert_eq!(rig.scheduler.phase(), Phase::Stopped);
    assert!(rig.scheduler.clone().commit(rig.now).is_err());
    assert_eq!(rig.run(Duration::from_secs(200)), Step::Ready);
    assert!(rig.scheduler.clone().commit(rig.now).is_ok());
}

#[test]
fn another_digest_is_a_failure() {
    let mut rig = two();
    rig.corrupts = true;
    assert_eq!(rig.run(Duration::from_secs(5)), Step::Ended);
    let outcome = rig.scheduler.outcome();
    assert!(matches!(outcome, Some(Outcome::Aborted(Cause::Mismatch { .. }))), "{outcome:?}");
    assert!(rig.first(|step| *step == Step::ResumeGuest).is_some(), "the guest stands");
}

#[test]
fn an_end_is_said_when_everything_was_sent() {
    // 16 MiB are read at once, and take 1.7 s to send.
    let mut config = Config::new(vec![device("a")]);
    config.inflight_bytes_max = 64 << 20;
    config.downtime_max = Duration::from_secs(10);
    let mut rig = Rig::new(config, vec![fake(0, 0, 16 << 20)], 10_000_000);
    assert_eq!(rig.run(Duration::from_secs(9)), Step::Ready);
    let read = rig.first(|step| matches!(step, Step::Read { stopped: true, .. })).unwrap();
    let finished = rig.first(|step| matches!(step, Step::Finish { .. })).unwrap();
    assert!(finished >= read + 1600 * MS, "said at {finished:?}, read from {read:?}");
}

#[test]
fn the_first_cause_is_the_one_reported() {
    let mut rig = two();
    let _ = rig.run(100 * MS);
    rig.scheduler.handle(rig.now, Event::LinkFailed);
    rig.scheduler.handle(rig.now, Event::Cancel);
    assert_eq!(rig.run(Duration::from_secs(9)), Step::Ended);
    assert_eq!(rig.scheduler.outcome(), Some(Outcome::Aborted(Cause::Link)));
}

#[test]
fn an_abort_brings_all_home_from_every_phase() {
    for end in [0, 1, 5, 30, 60, 100, 150, 155, 160, 170, 200, 1000] {
        let mut rig = two();
        let _ = rig.run(MS * end);
        rig.scheduler.abort(rig.now);
        assert_eq!(rig.run(Duration::from_secs(9)), Step::Ended, "aborted after {end} ms");
        assert_eq!(rig.scheduler.outcome(), Some(Outcome::Aborted(Cause::Cancelled)));
        for index in 0..2 {
            let restored = rig.scheduler.restored(SectionId::new(index)).unwrap();
            assert!(matches!(restored, Restored::Returned | Restored::Untouched), "{end} ms: {restored:?}");
        }
        let paused = rig.first(|step| *step == Step::PauseGuest).is_some();
        let resumed = rig.first(|step| *step == Step::ResumeGuest).is_some();
        assert_eq!(paused, resumed, "aborted after {end} ms");
    }
}

#[test]
fn none_runs_before_all_that_stopped_are_quiet_again() {
    let mut rig = two();
    rig.load = Duration::from_secs(100);
    let _ = rig.run(Duration::from_secs(5));
    rig.scheduler.abort(rig.now);
    let _ = rig.run(Duration::from_secs(9));
    assert_eq!(rig.requests(State::RunningP2p), 2);
    let aside = rig.first(|step| is_request(step, State::RunningP2p)).unwrap();
    let runs = rig.first(|step| is_request(step, State::Running)).unwrap();
    assert!(runs >= aside + 50 * MS, "the slow one was waited for");
}

#[test]
fn a_section_without_a_way_back_is_reset_and_reported() {
    let mut rig = two();
    rig.sections[1].refuses = Some(State::Running);
    let _ = rig.run(100 * MS);
    rig.scheduler.abort(rig.now);
    assert_eq!(rig.run(Duration::from_secs(9)), Step::Ended);
    assert_eq!(rig.scheduler.restored(SectionId::new(0)), Some(Restored::Returned));
    assert_eq!(rig.scheduler.restored(SectionId::new(1)), Some(Restored::Reset));
}

#[test]
fn a_section_in_error_is_reset_and_nothing_is_requested_of_it() {
    let mut rig = two();
    (rig.sections[0].refuses, rig.sections[0].lands_in) = (Some(State::PreCopyP2p), Some(State::Error));
    assert_eq!(rig.run(Duration::from_secs(9)), Step::Ended);
    let section = SectionId::new(0);
    let of_it = |step: &Step| match *step {
        Step::Transition { section: found, to } if found == section => Some(to),
        _ => None,
    };
    let requests: vec::Vec<State> = rig.steps.iter().filter_map(|(_, step)| of_it(step)).collect();
    assert_eq!(requests, [State::PreCopy, State::PreCopyP2p]);
    assert_eq!(rig.scheduler.restored(section), Some(Restored::Reset));
}

#[test]
fn behind_the_commit_nothing_runs_here_again() {
    let mut rig = two();
    assert_eq!(rig.run(Duration::from_secs(5)), Step::Ready);
    let mut committed = rig.scheduler.clone().commit(rig.now).unwrap();
    assert_eq!(committed.poll(rig.now), Step::TellCommit);
    committed.handle(rig.now, Event::Cancel);
    assert_eq!(committed.poll(rig.now), Step::Wait { until: None });
    committed.handle(rig.now, Event::LinkFailed);
    assert_eq!(committed.outcome(), Some(Outcome::InDoubt(Cause::Link)));
    for _ in 0..2 {
        let step = committed.poll(rig.now);
        let Step::Transition { section, to: State::Stop } = step else { panic!("{step:?}") };
        committed.handle(rig.now, Event::Transitioned { section });
    }
    assert_eq!(committed.poll(rig.now), Step::Ended);

    let back = rig.scheduler.commit(rig.now).unwrap().never_sent(rig.now);
    assert_eq!(back.phase(), Phase::Undoing, "a commit that never left is no commit");
}

#[test]
fn what_was_predicted_is_compared_with_what_happened() {
    let mut rig = two();
    assert_eq!(rig.run(Duration::from_secs(5)), Step::Ready);
    let mut committed = rig.scheduler.commit(rig.now).unwrap();
    let _ = committed.poll(rig.now);
    let since = committed.scheduler().stopped_at().unwrap();
    committed.handle(since + 123 * MS, Event::Confirmed);
    let Some(Outcome::Done { predicted, downtime }) = committed.outcome() else { panic!("it is not done") };
    assert_eq!(downtime, 123 * MS);
    assert!(predicted.low < predicted.expected && predicted.expected < predicted.p95 && !predicted.low.is_zero());
}

#[test]
fn a_migration_teaches_what_each_section_takes() {
    let mut rig = two();
    let section = SectionId::new(0);
    let _ = rig.run(50 * MS);
    rig.scheduler.handle(rig.now, Event::Credited { section, bytes: 8 << 20, busy: Some(80 * MS) });
    assert_eq!(rig.run(Duration::from_secs(5)), Step::Ready);
    let (learned, quick) = (rig.scheduler.learned(section).unwrap(), rig.scheduler.learned(SectionId::new(1)).unwrap());
    // 20 ms were no more than a guess.
    assert!(learned.stop.expected.abs_diff(50 * MS) <= MS, "stopping took 50 ms: {learned:?}");
    assert!(learned.quiesce.expected > 30 * MS, "so did going quiet: {learned:?}");
    assert!(learned.load.expected < 30 * MS, "loading took 5 ms, 40 were believed: {learned:?}");
    assert_eq!(learned.write_bytes_per_s, Some((8 << 20) * 1000 / 80), "as the target told");
    assert!(learned.read_bytes_per_s.is_some(), "5 MiB were read");
    assert!(quick.stop.expected < 15 * MS && quick.write_bytes_per_s.is_none(), "each for itself: {quick:?}");
}

#[test]
fn the_targets_silence_or_refusal_behind_the_commit_is_no_success() {
    let section = None;
    for (event, cause) in [(Event::LinkFailed, Cause::Link), (Event::PeerFailed { section }, Cause::Peer { section })] {
        let mut rig = two();
        assert_eq!(rig.run(Duration::from_secs(5)), Step::Ready);
        let mut committed = rig.scheduler.commit(rig.now).unwrap();
        let _ = committed.poll(rig.now);
        committed.handle(rig.now, event);
        assert_eq!(committed.outcome(), Some(Outcome::InDoubt(cause)));
        committed.handle(rig.now, Event::Confirmed);
        assert_eq!(committed.outcome(), Some(Outcome::InDoubt(cause)), "it stays so");
    }
}

#[test]
fn a_switchover_that_takes_too_long_is_undone() {
    let mut config = Config::new(vec![device("a"), memory()]);
    config.policy.switchover_max = Some(500 * MS);
    let mut rig = Rig::new(config, vec![fake(0, 0, 1 << 20), fake(1 << 20, 0, 0)], 1_000_000_000);
    rig.load = Duration::from_secs(10);
    assert_eq!(rig.run(Duration::from_secs(5)), Step::Ended);
    assert_eq!(rig.scheduler.outcome(), Some(Outcome::Aborted(Cause::Switchover)));
}
