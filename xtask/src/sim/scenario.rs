// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A migration drawn from a seed: everything small, so that a run is some hundred steps, and everything possible.

use core::time::Duration;

use savevm_core::sched::{Config, Kind, Profile, Section, Timing, Verdict};
use vfio_mig_fsm::{Capabilities, State};

use super::Ns;
use super::fault::Faults;
use super::link::LinkShape;
use super::rng::Rng;
use super::truth::Shape;

/// What a world is made of.
#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub(super) config: Config,
    pub(super) shapes: Vec<Shape>,
    pub(super) link: LinkShape,
    pub(super) link_rng: Rng,
    pub(super) faults: Faults,
    pub(super) pause_ns: Ns,
    pub(super) window_bytes: u64,
}

const MILLISECOND: f64 = 1e6;
const KIB: f64 = 1024.0;

/// The scenario of a seed.
pub(super) fn random(seed: u64) -> Scenario {
    let mut rng = Rng::new(seed, 1);
    let rng = &mut rng;
    let chunk = 64 << 10;
    let window_bytes = rng.within(1, 8) * chunk;
    let stopped = rng.chance(0.05);
    let mut shapes = Vec::new();
    let mut sections = Vec::new();
    let count = rng.within(1, 6);
    for index in 0..count {
        let kind = match index {
            0 if rng.chance(0.7) => Kind::Memory,
            _ if index + 1 == count && rng.chance(0.3) => Kind::VmState,
            _ => rng.pick(&[Kind::Device, Kind::Device, Kind::Device, Kind::Backend]),
        };
        let mut shape = shape(rng, kind);
        if stopped {
            shape.home = State::Stop;
        }
        let mut section = Section::new(format!("s{index}"), kind, shape.capabilities);
        section.home = shape.home;
        section.weight = rng.pick(&[1, 1, 1, 2, 10]);
        section.credit_bytes = rng.chance(0.5).then_some(window_bytes);
        section.profile = profile(rng, &shape, 0.3);
        sections.push(section);
        shapes.push(shape);
    }
    let link = LinkShape {
        bytes_per_s: rng.spread(5e6, 1e9),
        latency_ns: rng.spread(2e4, 2e7) as Ns,
        noise: 0.1,
        dips: 0.02,
        jitter_ns: if rng.chance(0.4) { rng.spread(1e4, 5e6) as Ns } else { 0 },
    };
    // Without credit the target takes what comes.
    let takes_all = sections.iter().any(|section| section.credit_bytes.is_none());
    let mut config = Config::new(sections);
    config.chunk_bytes_max = chunk;
    config.turn_bytes_max = chunk * rng.within(0, 4);
    config.inflight_bytes_max = chunk * rng.within(1, 8);
    config.rate_bytes_per_s = rng.chance(0.3).then(|| rng.spread(1e6, 1e8) as u64);
    config.switchover_rate_bytes_per_s = rng.chance(0.1).then(|| rng.spread(1e7, 1e8) as u64);
    config.downtime_max = Duration::from_millis(rng.pick(&[100, 300, 1000]));
    config.policy.infeasible = rng.pick(&[Verdict::Abort, Verdict::Wait, Verdict::Switch]);
    config.policy.level = rng.pick(&[Verdict::Wait, Verdict::Switch, Verdict::Abort]);
    config.policy.rising = rng.pick(&[Verdict::Wait, Verdict::Switch, Verdict::Abort]);
    config.policy.late = rng.pick(&[Verdict::Switch, Verdict::Switch, Verdict::Abort]);
    config.policy.precopy_max = Duration::from_millis(rng.within(200, 1200));
    config.policy.switchover_max = rng.chance(0.1).then(|| Duration::from_millis(rng.within(20, 2000)));
    Scenario {
        config,
        faults: Faults::random(rng, shapes.len()),
        shapes,
        link,
        link_rng: Rng::new(seed, 2),
        pause_ns: rng.spread(1e5, 1e7) as Ns,
        window_bytes: if takes_all { u64::MAX / 64 } else { window_bytes },
    }
}

fn shape(rng: &mut Rng, kind: Kind) -> Shape {
    let capabilities = match kind {
        Kind::Memory => Capabilities::PreCopy,
        Kind::VmState => Capabilities::StopCopy,
        _ => rng.pick(&Capabilities::ALL),
    };
    let is_device = matches!(kind, Kind::Device | Kind::Backend);
    let time = |rng: &mut Rng, low: f64, high: f64| if is_device { rng.spread(low, high) as Ns } else { 20_000 };
    let (initial, stop) = match kind {
        Kind::Memory => (rng.spread(64.0 * KIB, 2048.0 * KIB), 0.0),
        Kind::VmState => (0.0, rng.spread(1.0, 128.0 * KIB)),
        _ => (rng.spread(1.0, 256.0 * KIB), rng.spread(1.0, 512.0 * KIB)),
    };
    let rate = |rng: &mut Rng| if rng.chance(0.3) { 0 } else { rng.spread(1e3, 1e7) as u64 };
    Shape {
        capabilities,
        home: State::Running,
        initial_bytes: if rng.chance(0.1) { 0 } else { initial as u64 },
        stop_bytes: if rng.chance(0.1) { 0 } else { stop as u64 },
        dirty_bytes_per_s: [
            (rng.spread(2e7, 5e8) as Ns, rate(rng)),
            (rng.spread(5e8, 1e9) as Ns, rate(rng)),
            (Ns::MAX, if rng.chance(0.5) { 0 } else { rate(rng) }),
        ],
        dirty_bytes_max: (initial * rng.unit()) as u64,
        start_ns: time(rng, 0.05 * MILLISECOND, 20.0 * MILLISECOND),
        quiesce_ns: time(rng, 0.05 * MILLISECOND, 300.0 * MILLISECOND),
        stop_ns: time(rng, 0.05 * MILLISECOND, 100.0 * MILLISECOND),
        load_ns: time(rng, 0.05 * MILLISECOND, 100.0 * MILLISECOND),
        read_bytes_per_s: rng.spread(2e7, 5e9) as u64,
        write_bytes_per_s: rng.spread(2e7, 5e9) as u64,
        query_ns: rng.spread(1e4, 5e6) as Ns,
        size_factor: 0.9 + 0.2 * rng.unit(),
        reinit_at: (kind == Kind::Device && rng.chance(0.1)).then(|| rng.spread(1e7, 2e9) as Ns),
        reinits_when_quiet: if kind == Kind::Device && rng.chance(0.1) { rng.within(1, 10) as u32 } else { 0 },
    }
}

/// What is known of a section beforehand: its times, each off by up to `off`.
pub(super) fn profile(rng: &mut Rng, shape: &Shape, off: f64) -> Profile {
    let mut timing = |truth: Ns| {
        let factor = (1.0 + off * rng.normal()).max(0.2);
        Timing::new(Duration::from_nanos((truth as f64 * factor) as Ns), (off * 1000.0) as u32)
    };
    let mut profile = Profile::default();
    profile.quiesce = timing(shape.quiesce_ns);
    profile.stop = timing(shape.stop_ns);
    profile.load = timing(shape.load_ns);
    profile.read_bytes_per_s = Some(shape.read_bytes_per_s);
    profile.write_bytes_per_s = Some(shape.write_bytes_per_s);
    profile.size_spread_per_mille = 100;
    profile
}
