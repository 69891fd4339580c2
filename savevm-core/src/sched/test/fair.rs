// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who reads, how much, how fast, and who is asked.

use core::time::Duration;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::rig::{Fake, MS, Rig, device, fake, memory};
use crate::sched::bandwidth::Meter;
use crate::sched::drr::{Claim, Turns};
use crate::sched::{Config, Decision, External, Step};

fn claims(weights: &[u64]) -> Vec<Claim> {
    weights.iter().map(|&weight| Claim { weight, free: true }).collect()
}

proptest! {
    /// The model: with everybody always ready, bytes are proportional to weights.
    #[test]
    fn shares_follow_the_weights_within_5_percent(weights in prop::collection::vec(1_u64..50, 1..9)) {
        let mut turns = Turns::new(weights.len());
        let claims = claims(&weights);
        let mut served = vec![0_u64; weights.len()];
        let sum: u64 = weights.iter().sum();
        let picks = sum * 40;
        for _ in 0..picks {
            let index = turns.pick(&claims, 1000).unwrap();
            turns.charge(index, 1000);
            served[index] += 1000;
        }
        for (bytes, weight) in served.iter().zip(&weights) {
            let fair = picks * 1000 * weight / sum;
            prop_assert!(bytes.abs_diff(fair) <= fair / 20, "{bytes} bytes where {fair} are fair; {weights:?}");
        }
    }

    /// Whoever has something to read is served within a round of everybody's allowance, whatever the others do.
    #[test]
    fn nobody_starves(
        weights in prop::collection::vec(1_u64..20, 2..7),
        busy in prop::collection::vec(any::<u8>(), 300),
    ) {
        let mut turns = Turns::new(weights.len());
        let mut passed = vec![0_u64; weights.len()];
        let sum: u64 = weights.iter().sum();
        for mask in busy {
            let mut claims = claims(&weights);
            claims.iter_mut().enumerate().skip(1).for_each(|(index, claim)| claim.free = mask >> (index % 8) & 1 == 0);
            let Some(index) = turns.pick(&claims, 1000) else { continue };
            turns.charge(index, 1000);
            passed.iter_mut().for_each(|bytes| *bytes += 1000);
            passed[index] = 0;
            // The first section is always free: it may wait for a round, and for what the others saved up.
            let most = 1000 * (2 * sum / weights[0] + 6 * weights.len() as u64);
            prop_assert!(passed[0] <= most, "passed over for {} bytes, {most} allowed", passed[0]);
        }
    }
}

#[test]
fn a_section_in_the_middle_of_a_read_keeps_its_share() {
    // The heavy one is never free twice in a row, as a section is that has a read under way.
    let mut turns = Turns::new(2);
    let mut served = [0_u64; 2];
    let mut was_heavy = false;
    for _ in 0..3000 {
        let claims = [Claim { weight: 1, free: !was_heavy }, Claim { weight: 1, free: true }];
        let index = turns.pick(&claims, 1000).unwrap();
        turns.charge(index, 1000);
        served[index] += 1;
        was_heavy = index == 0;
    }
    assert!(served[0].abs_diff(served[1]) <= 30, "{served:?}");
}

#[test]
fn a_share_does_not_depend_on_when_a_section_is_asked() {
    // The light one comes back from its reads every other time, and rounds begin without it.
    let mut turns = Turns::new(2);
    let mut served = [0_u64; 2];
    for number in 0..4000 {
        let claims = [Claim { weight: 1, free: number % 2 == 0 }, Claim { weight: 3, free: true }];
        let index = turns.pick(&claims, 1000).unwrap();
        turns.charge(index, 1000);
        served[index] += 1;
    }
    assert!(served[0].abs_diff(1000) <= 20, "{served:?} at weights of 1 and 3");
}

#[test]
fn a_turn_resumes_where_it_stopped() {
    let mut turns = Turns::new(3);
    let claims = |free: [bool; 3]| free.map(|free| Claim { weight: 1, free });
    assert_eq!(turns.pick(&claims([false, true, true]), 1000), Some(1));
    turns.charge(1, 400);
    let all = claims([true; 3]);
    assert_eq!(turns.pick(&all, 1000), Some(1), "it has some of its turn left");
    turns.charge(1, 1000);
    assert_eq!(turns.pick(&all, 1000), Some(2), "the next one's turn, not the first one's");
    turns.charge(2, 1000);
    assert_eq!(turns.pick(&all, 1000), Some(0));
}

/// At 100 KB/s, with a guest that is never done dirtying its memory, QEMU sends no byte of a device for ever.
fn slow(share_per_mille: u32, weight: u32) -> Rig {
    slow_until(share_per_mille, weight, Duration::from_secs(60))
}

fn slow_until(share_per_mille: u32, weight: u32, end: Duration) -> Rig {
    let mut ram = memory();
    ram.weight = weight;
    let mut config = Config::new(vec![ram, device("a"), device("b")]);
    config.rate_bytes_per_s = Some(100_000);
    config.initial_share_per_mille = share_per_mille;
    let mut endless = fake(64 << 20, 0, 0);
    endless.dirties_for_ever = true;
    let mut rig = Rig::new(config, vec![endless, fake(200_000, 0, 0), fake(200_000, 0, 0)], 10_000_000);
    let _ = rig.run(end);
    rig
}

#[test]
fn all_initial_bytes_are_acknowledged_at_100_kilobytes_a_second() {
    let rig = slow(250, 1);
    // Three equal shares: each device's 200 KB at 33 KB/s.
    let fair = Duration::from_secs(6);
    for device in &rig.sections[1..] {
        let at = device.acknowledged_at.expect("an acknowledgement");
        assert!(at <= fair * 3 / 2, "acknowledged after {at:?}, {fair:?} is fair");
    }
    assert!(rig.sections[0].read_bytes > 150_000, "memory was starved instead: {}", rig.sections[0].read_bytes);
}

#[test]
fn initial_bytes_have_a_guaranteed_share() {
    // Memory weighs 48 times as much as both devices: by weight alone they would get 4 %, and take 100 s.
    let rig = slow(250, 48);
    let fair = Duration::from_secs(16);
    for device in &rig.sections[1..] {
        let at = device.acknowledged_at.expect("an acknowledgement");
        assert!(at <= fair * 3 / 2, "acknowledged after {at:?}, {fair:?} is the guarantee");
    }
}

/// A guest that is never done.
fn endless(dirty_bytes: u64) -> Fake {
    let mut endless = fake(0, dirty_bytes, 0);
    endless.dirties_for_ever = true;
    endless
}

#[test]
fn a_sections_share_is_its_weight() {
    let (mut light, mut heavy) = (memory(), memory());
    (light.weight, heavy.weight) = (2, 6);
    let mut config = Config::new(vec![light, heavy]);
    config.rate_bytes_per_s = Some(1_000_000);
    let mut rig = Rig::new(config, vec![endless(64 << 20), endless(64 << 20)], 10_000_000);
    let _ = rig.run(Duration::from_secs(20));
    let (light, heavy) = (rig.sections[0].read_bytes, rig.sections[1].read_bytes);
    assert!(heavy.abs_diff(3 * light) <= heavy / 20, "{heavy} and {light} bytes at weights of 6 and 2");
}

#[test]
fn the_guarantee_leaves_memory_its_share() {
    let rig = slow_until(250, 48, Duration::from_secs(3));
    assert_eq!(rig.sections[1].acknowledged_at, None, "the guarantee still holds");
    let memory = rig.sections[0].read_bytes;
    assert!(
        memory.abs_diff(225_000) <= 25_000,
        "{memory} bytes of memory in 3 s, three quarters of 300 KB are its own"
    );
}

/// Memory of 48 times the weight beside a device with 200 KB of initial bytes that is never done either.
fn beside_memory(acknowledges: bool) -> u64 {
    let mut ram = memory();
    ram.weight = 48;
    let mut config = Config::new(vec![ram, device("a")]);
    config.rate_bytes_per_s = Some(100_000);
    let mut busy = endless(1 << 20);
    busy.initial_bytes = 200_000;
    let mut rig = Rig::new(config, vec![endless(64 << 20), busy], 10_000_000);
    rig.acknowledges = acknowledges;
    let _ = rig.run(Duration::from_secs(60));
    rig.sections[1].read_bytes
}

#[test]
fn the_guarantee_ends_with_the_acknowledgement_and_not_before() {
    // 200 KB at 25 KB/s take 8 s; then a forty-ninth of 100 KB/s is 2 KB/s.
    let acknowledged = beside_memory(true);
    assert!((250_000..400_000).contains(&acknowledged), "{acknowledged} bytes, acknowledged after 200 KB");
    let waiting = beside_memory(false);
    assert!(waiting.abs_diff(1_500_000) <= 75_000, "{waiting} bytes in 60 s at a quarter of 100 KB/s");
}

#[test]
fn what_was_granted_and_not_read_is_given_back() {
    // Ten reads a second of 100 bytes each, of 50 KB granted.
    let mut config = Config::new(vec![memory(), device("trickle")]);
    config.rate_bytes_per_s = Some(1_000_000);
    let mut rig = Rig::new(config, vec![endless(64 << 20), endless(100)], 10_000_000);
    let _ = rig.run(Duration::from_secs(10));
    assert!(rig.sections[1].read_bytes >= 5_000, "it trickles");
    let total: u64 = rig.sections.iter().map(|section| section.read_bytes).sum();
    assert!(total.abs_diff(10_000_000) <= 200_000, "{total} bytes in 10 s at 1 MB/s");
}

/// How long 5 MB of a stopped device take, and what was predicted.
fn stopped(rate: Option<u64>, switchover_rate: Option<u64>) -> (Duration, Duration) {
    let mut config = Config::new(vec![device("a")]);
    (config.rate_bytes_per_s, config.switchover_rate_bytes_per_s) = (rate, switchover_rate);
    config.bandwidth_bytes_per_s = Some(1_000_000_000);
    config.downtime_max = Duration::from_secs(60);
    let mut rig = Rig::new(config, vec![fake(0, 0, 5_000_000)], 1_000_000_000);
    assert_eq!(rig.run(Duration::from_secs(30)), Step::Ready);
    let began = rig.first(|step| matches!(step, Step::Read { stopped: true, .. })).unwrap();
    let ended = rig.first(|step| matches!(step, Step::Finish { .. })).unwrap();
    let predicted = rig.decisions.iter().find_map(|(_, decision)| match decision {
        Decision::Pause(estimate) => Some(estimate.downtime.expected),
        _ => None,
    });
    (ended - began, predicted.unwrap())
}

#[test]
fn the_switchover_has_a_cap_of_its_own() {
    let (took, predicted) = stopped(None, Some(10_000_000));
    assert!(took.abs_diff(500 * MS) <= 60 * MS, "5 MB at 10 MB/s took {took:?}");
    assert!(predicted > 500 * MS, "the prediction knows the cap: {predicted:?}");
    let (took, _) = stopped(Some(1_000_000), None);
    assert!(took <= 50 * MS, "the cap of pre-copy is over: {took:?}");
}

#[test]
fn the_bandwidth_is_measured_while_there_is_something_to_send() {
    // A tenth of what the link carries is offered to it.
    let mut config = Config::new(vec![memory()]);
    config.rate_bytes_per_s = Some(1_000_000);
    let mut rig = Rig::new(config, vec![endless(64 << 20)], 10_000_000);
    let _ = rig.run(5 * MS);
    assert_eq!(rig.scheduler.measured_bytes_per_s(), None, "a few milliseconds are no measurement to go by next time");
    let _ = rig.run(Duration::from_secs(5));
    let measured = rig.scheduler.measured_bytes_per_s().unwrap();
    assert!(measured.abs_diff(10_000_000) <= 500_000, "{measured}");
    let estimate = rig.scheduler.estimate(rig.now, &External::default());
    assert!(estimate.bandwidth_is_known);
    let found = estimate.bandwidth_bytes_per_s;
    assert!(found.abs_diff(10_000_000) <= 500_000, "{found} bytes a second of 10 MB/s");
}

#[test]
fn the_rate_is_one_for_all_sections() {
    let rig = slow(250, 1);
    let total: u64 = rig.sections.iter().map(|section| section.read_bytes).sum();
    assert!(total.abs_diff(6_000_000) <= 70_000, "{total} bytes in 60 s at 100 KB/s");
}

#[test]
fn no_more_is_under_way_than_allowed() {
    let mut config = Config::new(vec![memory(), device("a")]);
    config.inflight_bytes_max = 3 << 20;
    let mut rig = Rig::new(config, vec![fake(64 << 20, 0, 0), fake(64 << 20, 0, 0)], 10_000_000);
    let _ = rig.run(Duration::from_secs(3));
    assert_eq!(rig.inflight_bytes_seen, 3 << 20, "the bound is used, and kept");
}

#[test]
fn credit_bounds_what_is_read() {
    let mut section = device("a");
    section.credit_bytes = Some(3 << 20);
    let mut rig = Rig::new(Config::new(vec![section]), vec![fake(64 << 20, 0, 0)], 1_000_000_000);
    let _ = rig.run(Duration::from_secs(3));
    assert_eq!(rig.sections[0].read_bytes, 3 << 20, "the target credits nothing back");
}

#[test]
fn a_window_without_demand_never_lowers_the_bandwidth() {
    let mut meter = Meter::new(None, Some(1));
    let mut now = Duration::ZERO;
    let mut carry = |meter: &mut Meter, pause: Duration, bytes_per_s: u64| {
        for _ in 0..200 {
            now += pause;
            meter.offered(now, 1_000_000);
            now += crate::sched::units::time_for(1_000_000, bytes_per_s);
            meter.sent(now, 1_000_000);
        }
        meter.bandwidth()
    };
    let busy = carry(&mut meter, Duration::ZERO, 1_000_000_000);
    assert_eq!(busy.bytes_per_s, 1_000_000_000);
    let idle = carry(&mut meter, 100 * MS, 1_000_000_000);
    assert_eq!(idle.bytes_per_s, 1_000_000_000, "10 MB/s were offered");
    let slower = carry(&mut meter, Duration::ZERO, 500_000_000);
    assert!(slower.bytes_per_s <= 510_000_000, "a slower link is noticed: {slower:?}");
}

#[test]
fn a_given_bandwidth_wins() {
    let mut meter = Meter::new(Some(42), Some(1));
    meter.offered(Duration::ZERO, 1_000_000);
    meter.sent(Duration::from_secs(1), 1_000_000);
    assert_eq!(meter.bandwidth().bytes_per_s, 42);
}

#[test]
fn one_query_in_a_window_and_fewer_when_nothing_moves() {
    let mut config = Config::new(vec![device("idle"), device("busy")]);
    config.downtime_max = Duration::ZERO;
    config.policy.infeasible = crate::sched::Verdict::Wait;
    let mut endless = fake(1 << 20, 1 << 20, 0);
    endless.dirties_for_ever = true;
    let mut rig = Rig::new(config, vec![fake(0, 0, 1 << 20), endless], 10_000_000);
    let _ = rig.run(Duration::from_secs(10));
    for section in &rig.sections {
        let close = section.queries.windows(2).find(|pair| pair[1] - pair[0] < 100 * MS);
        assert_eq!(close, None, "two queries in one window");
    }
    let (idle, busy) = (rig.sections[0].queries.len(), rig.sections[1].queries.len());
    assert!((50..=101).contains(&busy), "{busy} queries of a busy device in 10 s");
    assert!(idle <= 15, "{idle} queries of an idle device in 10 s");
}

#[test]
fn a_trickle_waits_for_the_next_query() {
    let mut config = Config::new(vec![device("a")]);
    config.downtime_max = Duration::ZERO;
    config.policy.infeasible = crate::sched::Verdict::Wait;
    let mut trickle = fake(0, 100, 0);
    trickle.dirties_for_ever = true;
    let mut rig = Rig::new(config, vec![trickle], 10_000_000);
    let _ = rig.run(Duration::from_secs(1));
    let reads = rig.steps.iter().filter(|(_, step)| matches!(step, Step::Read { .. })).count();
    assert!(reads <= 12, "{reads} reads in ten windows");
}
