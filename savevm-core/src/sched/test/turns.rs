// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How much one read may be.

use core::time::Duration;
use std::vec;
use std::vec::Vec;

use super::rig::{MS, Rig, device, fake, memory};
use crate::sched::{Config, Step};

fn read_of(step: &Step) -> Option<u64> {
    match step {
        Step::Read { bytes_max, .. } => Some(*bytes_max),
        _ => None,
    }
}

/// The longest read of memory, alone or beside devices, over a link of so many bytes per second that is given, or has to be found out.
fn longest_turn(link_bytes_per_s: u64, is_given: bool, devices: usize) -> u64 {
    const CHUNK: u64 = 100_000;
    let sections = core::iter::once(memory()).chain((0..devices).map(|at| device(&std::format!("d{at}"))));
    let mut config = Config::new(sections.collect());
    (config.chunk_bytes_max, config.turn_bytes_max) = (CHUNK, 64 * CHUNK);
    config.inflight_bytes_max = 64 * CHUNK * (1 + devices as u64);
    config.bandwidth_bytes_per_s = is_given.then_some(link_bytes_per_s);
    let mut endless = fake(0, 5_000_000_000, 0);
    endless.dirties_for_ever = true;
    let mut rig = Rig::new(config, vec![endless; 1 + devices], link_bytes_per_s);
    assert!(matches!(rig.run(500 * MS), Step::Wait { .. }), "there is always more to read");
    rig.steps.iter().filter_map(|(_, step)| read_of(step)).max().unwrap()
}

#[test]
fn a_turn_is_longer_on_a_link_that_is_known_to_be_fast() {
    for is_given in [true, false] {
        assert_eq!(longest_turn(1_000_000, is_given, 0), 100_000, "20 ms are less than a chunk");
        assert_eq!(longest_turn(2_000_000_000, is_given, 0), 6_400_000, "20 ms are more than is allowed");
        // What is measured depends on when the first chunk was on its way.
        let turn = longest_turn(100_000_000, is_given, 0);
        assert!(turn.abs_diff(2_000_000) <= 200_000, "{turn}");
        let shared = longest_turn(100_000_000, is_given, 3);
        assert!(shared.abs_diff(500_000) <= 50_000, "four share 20 ms: {shared}");
    }
}

#[test]
fn a_turn_is_no_longer_than_a_slow_section_takes_for_it() {
    let turns = |read_bytes_per_s| {
        let mut config = Config::new(vec![memory()]);
        (config.chunk_bytes_max, config.turn_bytes_max, config.inflight_bytes_max) = (100_000, 6_400_000, 6_400_000);
        config.bandwidth_bytes_per_s = Some(2_000_000_000);
        config.sections[0].profile.read_bytes_per_s = read_bytes_per_s;
        let mut endless = fake(0, 5_000_000_000, 0);
        endless.dirties_for_ever = true;
        let mut rig = Rig::new(config, vec![endless], 2_000_000_000);
        assert!(matches!(rig.run(500 * MS), Step::Wait { .. }), "there is always more to read");
        let reads: Vec<u64> = rig.steps.iter().filter_map(|(_, step)| read_of(step)).collect();
        (reads[0], reads.into_iter().max().unwrap())
    };
    // It turns out to be faster than what is said of it.
    assert_eq!(turns(Some(50_000_000)), (1_000_000, 6_400_000), "first, 20 ms of what it was read in before");
    assert_eq!(turns(Some(1_000_000)), (100_000, 6_400_000), "but a chunk");
    assert_eq!(turns(None), (100_000, 6_400_000), "nothing is known before the first");
}

#[test]
fn a_turn_has_whole_pieces_where_it_has_any() {
    const PIECE: u64 = 30_000;
    let turns = |bandwidth_bytes_per_s, rate_bytes_per_s| {
        let mut config = Config::new(vec![memory()]);
        (config.chunk_bytes_max, config.turn_bytes_max, config.inflight_bytes_max) = (100_000, 6_400_000, 6_400_000);
        config.piece_bytes_max = Some(PIECE);
        (config.bandwidth_bytes_per_s, config.rate_bytes_per_s) = (Some(bandwidth_bytes_per_s), rate_bytes_per_s);
        let mut endless = fake(0, 5_000_000_000, 0);
        endless.dirties_for_ever = true;
        let mut rig = Rig::new(config, vec![endless], bandwidth_bytes_per_s);
        assert!(matches!(rig.run(500 * MS), Step::Wait { .. }), "there is always more to read");
        let reads: Vec<u64> = rig.steps.iter().filter_map(|(_, step)| read_of(step)).collect();
        (reads[0], reads.into_iter().max().unwrap())
    };
    assert_eq!(turns(100_000_000, None), (3 * PIECE, 66 * PIECE), "20 ms are 66 of them and two thirds");
    assert_eq!(turns(1_000_000, None), (3 * PIECE, 3 * PIECE), "a chunk");
    assert_eq!(turns(1_000_000, Some(400_000)), (20_000, 20_000), "50 ms at the cap, which are less than one");
}

#[test]
fn nobody_shares_a_turn_or_has_a_short_one_while_the_guest_stands() {
    let mut config = Config::new((0..4).map(|at| device(&std::format!("d{at}"))).collect());
    (config.chunk_bytes_max, config.turn_bytes_max, config.inflight_bytes_max) = (100_000, 6_400_000, 32_000_000);
    config.bandwidth_bytes_per_s = Some(100_000_000);
    config.sections.iter_mut().for_each(|section| section.profile.read_bytes_per_s = Some(1_000_000));
    let mut rig = Rig::new(config, vec![fake(0, 0, 9_000_000); 4], 100_000_000);
    let _ = rig.run(50 * MS);
    rig.scheduler.quiesce(rig.now);
    assert_eq!(rig.run(Duration::from_secs(5)), Step::Ready);
    let stopped = rig.steps.iter().filter(|(_, step)| matches!(step, Step::Read { stopped: true, .. }));
    let turns: Vec<u64> = stopped.filter_map(|(_, step)| read_of(step)).collect();
    assert!(turns.len() >= 20 && turns.iter().all(|bytes| *bytes == 2_000_000), "20 ms of the link: {turns:?}");
}

#[test]
fn all_read_at_once_while_the_guest_stands_where_one_turn_is_all_that_may_be_under_way() {
    let mut config = Config::new((0..4).map(|at| device(&std::format!("d{at}"))).collect());
    (config.chunk_bytes_max, config.turn_bytes_max, config.inflight_bytes_max) = (100_000, 2_000_000, 2_000_000);
    config.bandwidth_bytes_per_s = Some(100_000_000);
    let mut rig = Rig::new(config, vec![fake(0, 0, 9_000_000); 4], 100_000_000);
    let _ = rig.run(50 * MS);
    rig.scheduler.quiesce(rig.now);
    assert_eq!(rig.run(Duration::from_secs(5)), Step::Ready);
    assert!(rig.inflight_bytes_seen <= 2_000_000);
    let stopped = |(at, step): &(Duration, Step)| match step {
        Step::Read { section, bytes_max, stopped: true } => Some((*at, section.index(), *bytes_max)),
        _ => None,
    };
    let first: Vec<_> = rig.steps.iter().filter_map(stopped).take(4).collect();
    assert!(first.iter().all(|(at, _, bytes)| *bytes == 500_000 && *at - first[0].0 <= 5 * MS), "{first:?}");
    assert_eq!(first.iter().map(|(_, section, _)| section).sum::<usize>(), 1 + 2 + 3, "one each: {first:?}");
}
