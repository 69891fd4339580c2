// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What comes before what, and how it is undone.

use core::time::Duration;
use std::vec;

use vfio_mig_fsm::State;

use super::rig::{MS, Rig, device, fake, memory};
use crate::sched::{Cause, Config, Event, Outcome, Phase, Restored, SectionId, Step};

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
    let learned = committed.scheduler().learned(SectionId::new(0)).unwrap();
    assert!(learned.stop.expected > 30 * MS, "stopping took 50 ms, 20 were believed: {learned:?}");
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
