// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Migrations of realistic size for the question whether a promised downtime is kept.
//!
//! The mix: 1 to 16 devices (network cards of 40 to 150 MB and 30 to 230 ms of fixed cost, accelerators of 1 to 16 GB, devices of a
//! hundred bytes), 10, 25 or 100 Gbit/s whose capacity wanders and dips by 40 %, guests of 0.2 to 8 GB that dirty them. What the scheduler knows
//! beforehand is wrong by as much as can be expected: fixed costs by 15 %, speeds by 6 %, announced sizes by 12 %.

use core::time::Duration;

use savevm_core::sched::{Config, Kind, Profile, Section, Timing, Verdict};
use vfio_mig_fsm::{Capabilities, State};

use super::Ns;
use super::fault::Faults;
use super::link::LinkShape;
use super::rng::Rng;
use super::scenario::Scenario;
use super::truth::Shape;

const MB: f64 = 1e6;
const MS: f64 = 1e6;
const FIXED_OFF: f64 = 0.15;
const SPEED_OFF: f64 = 0.06;
const SIZE_OFF: f64 = 0.12;
const SIZE_BIAS: f64 = 1.03;

/// How long anybody waits for a moment to switch over.
pub(super) const PRECOPY_MAX: Duration = Duration::from_secs(6);

/// The scenario of a seed, with a promise.
pub(super) fn scenario(seed: u64, downtime_max: Duration) -> Scenario {
    let mut rng = Rng::new(seed, 3);
    let rng = &mut rng;
    let mut shapes = vec![memory(rng)];
    let mut kinds = vec![Kind::Memory];
    let devices = rng.spread(1.0, 16.99) as u64;
    let mix = rng.unit();
    for _ in 0..devices {
        let drawn = rng.unit();
        shapes.push(match mix {
            _ if drawn < 0.1 => small(rng),
            mix if mix < 0.25 && drawn < 0.6 && devices <= 4 => accelerator(rng),
            _ => network(rng),
        });
        kinds.push(Kind::Device);
    }
    let link = LinkShape {
        bytes_per_s: rng.pick(&[1.25e9, 3.125e9, 12.5e9]) * (0.85 + 0.1 * rng.unit()),
        latency_ns: rng.spread(2e4, 1e6) as Ns,
        noise: 0.02 + 0.08 * rng.unit(),
        dips: if rng.chance(0.4) { 0.005 } else { 0.0 },
        jitter_ns: 0,
    };
    let pause_ns = rng.spread(1e6, 8e6) as Ns;
    let sections =
        shapes.iter().zip(&kinds).enumerate().map(|(index, (shape, kind))| section(rng, index, shape, *kind));
    let mut config = Config::new(sections.collect());
    // Four milliseconds of the link: fine enough for 300 ms, and few enough to simulate.
    let chunk = (link.bytes_per_s * 0.004) as u64;
    config.chunk_bytes_max = chunk;
    config.inflight_bytes_max = 4 * chunk;
    config.rate_bytes_per_s = rng.chance(0.25).then_some((link.bytes_per_s * 0.25) as u64);
    config.downtime_max = downtime_max;
    config.overhead = Timing::new(Duration::from_nanos(pause_ns + 4 * link.latency_ns), 150);
    config.policy.infeasible = Verdict::Abort;
    config.policy.late = Verdict::Abort;
    config.policy.precopy_max = PRECOPY_MAX;
    Scenario {
        config,
        shapes,
        link,
        link_rng: Rng::new(seed, 4),
        faults: Faults::default(),
        pause_ns,
        window_bytes: u64::MAX / 64,
    }
}

fn section(rng: &mut Rng, index: usize, shape: &Shape, kind: Kind) -> Section {
    let mut section = Section::new(format!("s{index}"), kind, shape.capabilities);
    let timing = |rng: &mut Rng, truth: Ns| {
        let believed = truth as f64 / (1.0 + FIXED_OFF * rng.normal()).max(0.5);
        Timing::new(Duration::from_nanos(believed as Ns), (FIXED_OFF * 1000.0) as u32)
    };
    let speed = |rng: &mut Rng, truth: u64| Some((truth as f64 * (1.0 + SPEED_OFF * rng.normal())) as u64);
    let mut profile = Profile::default();
    if kind != Kind::Memory {
        profile.quiesce = timing(rng, shape.quiesce_ns);
        profile.stop = timing(rng, shape.stop_ns);
        profile.load = timing(rng, shape.load_ns);
        profile.size_per_mille = (SIZE_BIAS * 1000.0) as u32;
        profile.size_spread_per_mille = (SIZE_OFF * 1000.0) as u32;
    }
    profile.read_bytes_per_s = speed(rng, shape.read_bytes_per_s);
    profile.write_bytes_per_s = speed(rng, shape.write_bytes_per_s);
    section.profile = profile;
    section.reinitialises = false;
    section
}

fn memory(rng: &mut Rng) -> Shape {
    let bytes = rng.spread(200.0 * MB, 8000.0 * MB);
    let rate = rng.spread(2.0 * MB, 1500.0 * MB) as u64;
    Shape {
        capabilities: Capabilities::PreCopy,
        home: State::Running,
        initial_bytes: bytes as u64,
        stop_bytes: 0,
        dirty_bytes_per_s: [
            (rng.spread(1e9, 4e9) as Ns, rate),
            (rng.spread(4e9, 8e9) as Ns, (rate as f64 * 2.0 * rng.unit()) as u64),
            (Ns::MAX, rate),
        ],
        dirty_bytes_max: (bytes * rng.spread(0.01, 0.5)) as u64,
        start_ns: 20_000,
        quiesce_ns: 20_000,
        stop_ns: 20_000,
        load_ns: 20_000,
        read_bytes_per_s: 20_000_000_000,
        write_bytes_per_s: 20_000_000_000,
        query_ns: rng.spread(1e5, 5e6) as Ns,
        size_factor: 1.0,
        reinit_at: None,
        reinits_when_quiet: 0,
    }
}

fn device(rng: &mut Rng, fixed_ns: f64, initial: f64, stop: f64) -> Shape {
    let part = 0.3 + 0.3 * rng.unit();
    Shape {
        capabilities: Capabilities::P2pPreCopy,
        home: State::Running,
        initial_bytes: initial as u64,
        stop_bytes: stop as u64,
        dirty_bytes_per_s: [(Ns::MAX, rng.spread(0.1 * MB, 20.0 * MB) as u64); 3],
        dirty_bytes_max: (initial * 0.1) as u64,
        start_ns: rng.spread(MS, 20.0 * MS) as Ns,
        quiesce_ns: rng.spread(5.0 * MS, 200.0 * MS) as Ns,
        stop_ns: (fixed_ns * part) as Ns,
        load_ns: (fixed_ns * (1.0 - part)) as Ns,
        read_bytes_per_s: rng.spread(1.5e9, 6e9) as u64,
        write_bytes_per_s: rng.spread(1.0e9, 4e9) as u64,
        query_ns: rng.spread(1e5, 2e6) as Ns,
        size_factor: 1.0 / (SIZE_BIAS * (1.0 + SIZE_OFF * rng.normal()).max(0.6)),
        reinit_at: None,
        reinits_when_quiet: 0,
    }
}

fn network(rng: &mut Rng) -> Shape {
    let bytes = rng.spread(40.0 * MB, 150.0 * MB);
    let fixed = rng.spread(30.0 * MS, 230.0 * MS);
    let stop = bytes * (0.1 + 0.4 * rng.unit());
    device(rng, fixed, bytes, stop)
}

fn accelerator(rng: &mut Rng) -> Shape {
    let bytes = rng.spread(1000.0 * MB, 16_000.0 * MB);
    let fixed = rng.spread(50.0 * MS, 300.0 * MS);
    let stop = rng.spread(50.0 * MB, 600.0 * MB);
    let mut shape = device(rng, fixed, bytes, stop);
    shape.dirty_bytes_per_s = [(Ns::MAX, rng.spread(20.0 * MB, 800.0 * MB) as u64); 3];
    shape.dirty_bytes_max = (bytes * rng.spread(0.01, 0.3)) as u64;
    shape
}

fn small(rng: &mut Rng) -> Shape {
    let fixed = rng.spread(3.0 * MS, 30.0 * MS);
    let mut shape = device(rng, fixed, 0.0, 176.0);
    shape.capabilities = Capabilities::PreCopy;
    shape.dirty_bytes_per_s = [(Ns::MAX, 0); 3];
    shape
}
