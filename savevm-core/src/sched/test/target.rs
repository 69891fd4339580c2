// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The target's side.

use core::time::Duration;
use std::vec;
use std::vec::Vec;

use vfio_mig_fsm::{Capabilities, State};

use crate::sched::{Cause, LoadEvent, LoadScheduler, LoadSection, LoadStep, Restored, SectionId, Sum};

const NOW: Duration = Duration::ZERO;

fn opened(count: usize) -> LoadScheduler {
    let mut scheduler = LoadScheduler::new(vec![LoadSection::new(Capabilities::P2pPreCopy); count]);
    for step in steps(&mut scheduler) {
        if let LoadStep::Transition { section, to } = step {
            assert_eq!(to, State::Resuming);
            scheduler.handle(NOW, LoadEvent::Transitioned { section });
        }
    }
    let accepted = steps(&mut scheduler);
    assert_eq!(accepted.len(), count, "{accepted:?}");
    scheduler
}

fn steps(scheduler: &mut LoadScheduler) -> Vec<LoadStep> {
    core::iter::from_fn(|| Some(scheduler.poll(NOW)))
        .take_while(|step| !matches!(step, LoadStep::Wait | LoadStep::Loaded | LoadStep::Ended))
        .collect()
}

fn arrive(scheduler: &mut LoadScheduler, section: usize, sequence: u64, bytes: u64) {
    scheduler.handle(NOW, LoadEvent::Arrived { section: SectionId::new(section), sequence, bytes });
}

fn write_all(scheduler: &mut LoadScheduler) -> Vec<u64> {
    let mut written = Vec::new();
    while let Some(LoadStep::Write { section, sequence, .. }) =
        steps(scheduler).into_iter().find(|step| matches!(step, LoadStep::Write { .. }))
    {
        written.push(sequence);
        scheduler.handle(NOW, LoadEvent::Written { section, digest: sequence });
    }
    written
}

#[test]
fn chunks_are_written_in_order_whatever_the_order_of_arrival() {
    let mut scheduler = opened(1);
    for sequence in [2, 3, 1] {
        arrive(&mut scheduler, 0, sequence, 10);
    }
    assert_eq!(write_all(&mut scheduler), [0; 0], "the first is missing");
    arrive(&mut scheduler, 0, 0, 10);
    assert_eq!(write_all(&mut scheduler), [0, 1, 2, 3]);
}

#[test]
fn more_than_the_window_is_refused() {
    let mut scheduler = opened(1);
    arrive(&mut scheduler, 0, u64::MAX - 1, 3 << 20);
    assert_eq!(scheduler.cause(), None, "a number far ahead costs nothing");
    arrive(&mut scheduler, 0, 0, (1 << 20) + 1);
    assert_eq!(scheduler.cause(), Some(Cause::Overrun { section: SectionId::new(0) }));
}

#[test]
fn a_repeated_chunk_is_refused() {
    for again in [0, 1] {
        let mut scheduler = opened(1);
        arrive(&mut scheduler, 0, 0, 10);
        arrive(&mut scheduler, 0, 1, 10);
        assert_eq!(steps(&mut scheduler).len(), 1);
        arrive(&mut scheduler, 0, again, 10);
        assert_eq!(scheduler.cause(), Some(Cause::Contract { section: SectionId::new(0) }));
    }
}

fn end(scheduler: &mut LoadScheduler, section: usize, chunks: u64, sum: Sum) {
    scheduler.handle(NOW, LoadEvent::SectionEnd { section: SectionId::new(section), chunks, sum });
}

#[test]
fn a_short_state_is_not_completed() {
    let mut scheduler = opened(1);
    arrive(&mut scheduler, 0, 0, 10);
    write_all(&mut scheduler);
    end(&mut scheduler, 0, 2, Sum::new(20, 1));
    assert_eq!(steps(&mut scheduler), [], "one chunk is missing");
    let mut scheduler = opened(1);
    arrive(&mut scheduler, 0, 0, 10);
    write_all(&mut scheduler);
    end(&mut scheduler, 0, 1, Sum::new(20, 0));
    assert!(matches!(scheduler.cause(), Some(Cause::Mismatch { .. })), "{:?}", scheduler.cause());
}

fn complete_stage(scheduler: &mut LoadScheduler) -> Vec<usize> {
    let mut asked = Vec::new();
    for step in steps(scheduler) {
        if let LoadStep::Transition { section, to: State::Stop } = step {
            asked.push(section.index());
        }
    }
    for index in &asked {
        scheduler.handle(NOW, LoadEvent::Transitioned { section: SectionId::new(*index) });
    }
    asked
}

#[test]
fn one_stage_completes_beside_each_other_and_stages_one_after_the_other() {
    let mut sections = vec![LoadSection::new(Capabilities::P2pPreCopy); 3];
    sections[0].stage = 1;
    let mut scheduler = LoadScheduler::new(sections);
    for step in steps(&mut scheduler) {
        if let LoadStep::Transition { section, .. } = step {
            scheduler.handle(NOW, LoadEvent::Transitioned { section });
        }
    }
    for index in 0..3 {
        end(&mut scheduler, index, 0, Sum::default());
    }
    assert_eq!(complete_stage(&mut scheduler), [1, 2]);
    assert!(scheduler.clone().take_over().is_err(), "not everything is loaded");
    assert_eq!(complete_stage(&mut scheduler), [0]);
    let told = steps(&mut scheduler);
    assert!(matches!(told[..], [LoadStep::Acknowledge { .. }]), "{told:?}");
    let mut owner = scheduler.take_over().unwrap();
    // All to P2P before any runs.
    for to in [State::RunningP2p, State::Running] {
        for index in 0..3 {
            let section = SectionId::new(index);
            assert_eq!(owner.poll(NOW), LoadStep::Transition { section, to });
        }
        assert_eq!(owner.poll(NOW), LoadStep::Wait);
        for index in 0..3 {
            owner.handle(NOW, LoadEvent::Transitioned { section: SectionId::new(index) });
        }
    }
    assert_eq!(owner.poll(NOW), LoadStep::Confirm);
    assert_eq!(owner.poll(NOW), LoadStep::Ended);
}

#[test]
fn initial_bytes_are_acknowledged_once_they_are_in_the_device() {
    let mut scheduler = opened(1);
    let section = SectionId::new(0);
    arrive(&mut scheduler, 0, 0, 10);
    scheduler.handle(NOW, LoadEvent::InitialComplete { section, generation: 4, chunks: 1 });
    let before = steps(&mut scheduler);
    assert!(matches!(before[..], [LoadStep::Write { .. }]), "{before:?}");
    scheduler.handle(NOW, LoadEvent::Written { section, digest: 0 });
    assert!(steps(&mut scheduler).contains(&LoadStep::AcknowledgeInitial { section, generation: 4 }));
}

#[test]
fn the_first_cause_is_reported_and_all_are_reset() {
    let mut scheduler = opened(2);
    arrive(&mut scheduler, 1, 0, 10);
    assert_eq!(steps(&mut scheduler).len(), 1);
    scheduler.handle(NOW, LoadEvent::Failed { section: SectionId::new(1) });
    scheduler.handle(NOW, LoadEvent::LinkFailed);
    assert_eq!(scheduler.cause(), Some(Cause::Section { section: SectionId::new(1) }));
    let undoing = steps(&mut scheduler);
    assert_eq!(undoing[0], LoadStep::TellAbort);
    assert_eq!(undoing.len(), 3, "{undoing:?}");
    scheduler.handle(NOW, LoadEvent::Reset { section: SectionId::new(0) });
    scheduler.handle(NOW, LoadEvent::ResetFailed { section: SectionId::new(1) });
    assert_eq!(scheduler.poll(NOW), LoadStep::Ended);
    assert_eq!(scheduler.restored(SectionId::new(0)), Some(Restored::Reset));
    assert_eq!(scheduler.restored(SectionId::new(1)), Some(Restored::Lost));
}

#[test]
fn nothing_is_written_before_the_section_resumes() {
    let mut scheduler = LoadScheduler::new(vec![LoadSection::new(Capabilities::P2pPreCopy)]);
    let section = SectionId::new(0);
    arrive(&mut scheduler, 0, 0, 10);
    let begun = steps(&mut scheduler);
    assert_eq!(begun, [LoadStep::Transition { section, to: State::Resuming }], "neither written nor accepted");
    scheduler.handle(NOW, LoadEvent::Transitioned { section });
    let then = steps(&mut scheduler);
    assert_eq!(then, [LoadStep::Accept { section }, LoadStep::Write { section, sequence: 0, bytes: 10 }]);
}

/// Everything is written, completed and acknowledged.
fn loaded(count: usize) -> LoadScheduler {
    let mut scheduler = opened(count);
    (0..count).for_each(|index| end(&mut scheduler, index, 0, Sum::default()));
    assert_eq!(complete_stage(&mut scheduler).len(), count);
    assert_eq!(steps(&mut scheduler).len(), count, "an acknowledgement each");
    scheduler
}

#[test]
fn the_guest_is_not_taken_over_before_all_are_acknowledged() {
    let mut scheduler = opened(2);
    end(&mut scheduler, 0, 0, Sum::default());
    assert_eq!(complete_stage(&mut scheduler), [0]);
    assert_eq!(steps(&mut scheduler).len(), 1, "its acknowledgement");
    assert!(scheduler.clone().take_over().is_err(), "the other one has nothing yet");
    end(&mut scheduler, 1, 0, Sum::default());
    assert_eq!(complete_stage(&mut scheduler), [1]);
    assert!(scheduler.clone().take_over().is_err(), "its acknowledgement is not out");
    assert_eq!(steps(&mut scheduler).len(), 1);
    assert!(scheduler.take_over().is_ok());
}

#[test]
fn with_everything_acknowledged_only_the_source_decides() {
    let mut scheduler = loaded(1);
    scheduler.handle(NOW, LoadEvent::Cancel);
    assert_eq!((scheduler.cause(), scheduler.poll(NOW)), (None, LoadStep::Loaded));
    assert!(scheduler.clone().take_over().is_ok());

    // The last word is not out: there is still a choice.
    let mut scheduler = opened(1);
    end(&mut scheduler, 0, 0, Sum::default());
    complete_stage(&mut scheduler);
    assert!(scheduler.clone().take_over().is_err(), "the acknowledgement is not out");
    scheduler.handle(NOW, LoadEvent::Cancel);
    assert_eq!(scheduler.cause(), Some(Cause::Cancelled));
}

#[test]
fn a_device_is_not_reset_beside_a_write_and_not_at_all_if_untouched() {
    let mut scheduler = LoadScheduler::new(vec![LoadSection::new(Capabilities::P2pPreCopy); 1]);
    scheduler.handle(NOW, LoadEvent::Cancel);
    assert_eq!(steps(&mut scheduler), [LoadStep::TellAbort]);
    assert_eq!(scheduler.restored(SectionId::new(0)), Some(Restored::Untouched));

    let mut scheduler = opened(1);
    arrive(&mut scheduler, 0, 0, 10);
    assert_eq!(steps(&mut scheduler).len(), 1, "a write is under way");
    scheduler.handle(NOW, LoadEvent::LinkFailed);
    assert_eq!(scheduler.poll(NOW), LoadStep::Wait);
    let section = SectionId::new(0);
    scheduler.handle(NOW, LoadEvent::Written { section, digest: 0 });
    assert_eq!(scheduler.poll(NOW), LoadStep::Reset { section });
}

#[test]
fn a_new_owner_that_cannot_run_says_so_and_resets_nothing() {
    let mut owner = loaded(2).take_over().unwrap();
    let [first, second] = [0, 1].map(SectionId::new);
    assert!(matches!(owner.poll(NOW), LoadStep::Transition { to: State::RunningP2p, .. }));
    assert!(matches!(owner.poll(NOW), LoadStep::Transition { to: State::RunningP2p, .. }));
    owner.handle(NOW, LoadEvent::TransitionFailed { section: first });
    owner.handle(NOW, LoadEvent::Transitioned { section: second });
    assert_eq!(owner.cause(), Some(Cause::Transition { section: first, to: State::RunningP2p }));
    assert_eq!((owner.poll(NOW), owner.poll(NOW)), (LoadStep::TellAbort, LoadStep::Ended));
}

#[test]
fn an_engine_may_keep_the_window_itself() {
    let sum = Sum::new(30, 9);
    let section = SectionId::new(0);
    let filled = |ends: bool, arrives: bool, sum: Sum| {
        let mut scheduler = opened(1);
        if arrives {
            arrive(&mut scheduler, 0, 0, 10);
        }
        if ends {
            end(&mut scheduler, 0, 3, Sum::new(30, 9));
        }
        assert_eq!(scheduler.clone().poll(NOW) == LoadStep::Wait, !arrives, "nothing is complete yet");
        scheduler.handle(NOW, LoadEvent::Filled { section, sum });
        scheduler
    };
    let mut whole = filled(true, false, sum);
    assert_eq!(steps(&mut whole), [LoadStep::Transition { section, to: State::Stop }]);
    whole.handle(NOW, LoadEvent::Transitioned { section });
    let told = steps(&mut whole);
    assert!(matches!(told[..], [LoadStep::Acknowledge { sum: told, .. }] if told == sum), "{told:?}");
    assert!(whole.take_over().is_ok());

    let other = filled(true, false, Sum::new(30, 8));
    assert!(matches!(other.cause(), Some(Cause::Mismatch { .. })), "{:?}", other.cause());
    for (ends, arrives) in [(false, false), (true, true)] {
        let wrong = filled(ends, arrives, sum).cause();
        assert_eq!(wrong, Some(Cause::Contract { section }), "ended {ends}, arrived {arrives}");
    }
}
