// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whose word that initial bytes are loaded is waited for, and what it is worth.

use core::time::Duration;
use std::vec;

use super::rig::{MS, Rig, device, fake};
use crate::sched::{Config, Decision, Event, Phase, Step};

#[test]
fn nobody_switches_before_the_initial_bytes_are_acknowledged() {
    let mut rig = Rig::new(Config::new(vec![device("a")]), vec![fake(1 << 20, 0, 0)], 1_000_000_000);
    rig.acknowledges = false;
    let _ = rig.run(Duration::from_secs(2));
    assert_eq!(rig.scheduler.phase(), Phase::Precopy);
    let section = crate::sched::SectionId::new(0);
    rig.scheduler.handle(rig.now, Event::Acknowledged { section, generation: 1 });
    assert_eq!(rig.run(Duration::from_secs(3)), Step::Ready);
}

#[test]
fn every_devices_acknowledgement_is_waited_for() {
    for late in [0, 1] {
        let config = Config::new(vec![device("a"), device("b")]);
        let mut rig = Rig::new(config, vec![fake(1 << 20, 0, 0), fake(1 << 20, 0, 0)], 1_000_000_000);
        rig.acknowledges = false;
        let _ = rig.run(Duration::from_secs(1));
        for (end, index) in [(2, 1 - late), (3, late)] {
            assert_eq!(rig.scheduler.phase(), Phase::Precopy, "device {index} is not acknowledged");
            let section = crate::sched::SectionId::new(index);
            rig.scheduler.handle(rig.now, Event::Acknowledged { section, generation: 1 });
            let _ = rig.run(Duration::from_secs(end));
        }
        assert_eq!(rig.scheduler.phase(), Phase::Ready);
    }
}

#[test]
fn what_was_not_announced_cannot_be_acknowledged() {
    for (generation, at) in [(1, 20 * MS), (2, Duration::from_secs(3))] {
        // The initial bytes are sent for a second.
        let mut rig = Rig::new(Config::new(vec![device("a")]), vec![fake(1 << 20, 0, 0)], 1 << 20);
        rig.acknowledges = false;
        let _ = rig.run(at);
        let section = crate::sched::SectionId::new(0);
        rig.scheduler.handle(rig.now, Event::Acknowledged { section, generation });
        let _ = rig.run(Duration::from_secs(6));
        assert_eq!(rig.scheduler.phase(), Phase::Precopy, "generation {generation} after {at:?}");
        assert!(rig.decided(|decision| matches!(decision, Decision::Unexpected { section: Some(_) })).is_some());
    }
}

#[test]
fn initial_bytes_are_announced_when_all_of_them_were_sent() {
    let mut rig = Rig::new(Config::new(vec![device("a")]), vec![fake(3 << 20, 0, 0)], 1 << 20);
    let _ = rig.run(Duration::from_secs(6));
    let announced = rig.first(|step| matches!(step, Step::Announce { .. })).unwrap();
    assert!(announced >= Duration::from_secs(3), "announced at {announced:?}, sent after 3 s");
}

#[test]
fn a_new_initial_phase_voids_the_acknowledgement() {
    // It begins anew while it goes quiet, twice.
    let mut anew = fake(1 << 20, 0, 0);
    anew.reinits_when_quiet = 2;
    let mut rig = Rig::new(Config::new(vec![device("a")]), vec![anew], 1_000_000_000);
    assert_eq!(rig.run(Duration::from_secs(10)), Step::Ready);
    let announced: vec::Vec<u32> = rig
        .steps
        .iter()
        .filter_map(|(_, step)| match step {
            Step::Announce { generation, .. } => Some(*generation),
            _ => None,
        })
        .collect();
    assert_eq!(announced, [1, 2, 3]);
    assert_eq!(rig.decisions.iter().filter(|(_, decision)| *decision == Decision::GoBack).count(), 2);
}

#[test]
fn an_acknowledgement_of_an_old_generation_is_worth_nothing() {
    let mut anew = fake(1 << 20, 0, 0);
    anew.reinits_when_quiet = 1;
    let mut rig = Rig::new(Config::new(vec![device("a")]), vec![anew], 1_000_000_000);
    rig.run_until_decided(|decision| matches!(decision, Decision::Reopened { .. }));
    rig.acknowledges = false;
    let _ = rig.run(Duration::from_secs(1));
    let section = crate::sched::SectionId::new(0);
    rig.scheduler.handle(rig.now, Event::Acknowledged { section, generation: 1 });
    let _ = rig.run(Duration::from_secs(2));
    assert_eq!(rig.scheduler.phase(), Phase::Precopy);
    assert!(rig.decided(|decision| matches!(decision, Decision::StaleAcknowledgement { generation: 1, .. })).is_some());
}

#[test]
fn a_device_that_always_begins_anew_does_not_hold_the_migration_for_ever() {
    let mut config = Config::new(vec![device("a")]);
    config.policy.reinit_max = 3;
    let mut anew = fake(1 << 20, 0, 0);
    anew.reinits_when_quiet = u32::MAX;
    let mut rig = Rig::new(config, vec![anew], 1_000_000_000);
    assert_eq!(rig.run(Duration::from_secs(20)), Step::Ready);
    assert!(rig.decided(|decision| *decision == Decision::Persist).is_some());
}
