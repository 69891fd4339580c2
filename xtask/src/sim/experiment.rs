// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `sim --experiment downtime`: is a promised downtime kept, and how often is the promise given when it could be?
//!
//! Every seed is run with the scheduler's rule and with QEMU's, measured and with the nominal bandwidth given, against each limit. A
//! promise is broken when a rule switches over on its own accord and takes longer than the limit. A scenario is feasible if any rule met the
//! limit, or if an oracle does: the simulation is copied at the end of each of a series of windows, told to switch over there, and run to
//! its end. So the oracle sees the future, and what it cannot meet nobody can.

use core::time::Duration;
use std::collections::BTreeMap;
use std::thread;

use savevm_core::sched::{Event, Outcome, Phase, SectionId, Verdict};
use serde::Serialize;

use super::Ns;
use super::fleet::{self, PRECOPY_MAX};
use super::rule::{Rule, WINDOW_NS};
use super::scenario::Scenario;
use super::world::World;
use crate::out::outln;

const LIMITS_MS: [u64; 3] = [300, 1000, 3000];
const RULES: [&str; 3] = ["scheduler", "QEMU", "QEMU + bandwidth"];

/// One switchover.
#[derive(Clone, Copy, Debug)]
struct Switchover {
    actual_s: f64,
    predicted_s: f64,
    p95_s: f64,
}

/// What a rule did at a limit, over all seeds.
#[derive(Clone, Debug, Default)]
struct Tally {
    switchovers: Vec<Switchover>,
    met: u64,
    broken: u64,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) limit_ms: u64,
    pub(crate) rule: &'static str,
    pub(crate) switchovers: usize,
    /// Of the switchovers, in per cent.
    pub(crate) broken_percent: f64,
    /// Actual ÷ limit.
    pub(crate) ratio_p50: f64,
    pub(crate) ratio_p95: f64,
    pub(crate) feasible: u64,
    /// Of the feasible scenarios, in per cent.
    pub(crate) met_percent: f64,
    /// |predicted − actual| ÷ actual, in per cent; a rule that predicts nothing has none.
    pub(crate) error_p50_percent: Option<f64>,
    pub(crate) error_p95_percent: Option<f64>,
    /// How many were within the 95 % quantile, in per cent.
    pub(crate) within_p95_percent: Option<f64>,
}

/// What came of some seeds.
#[derive(Default)]
struct Part {
    tallies: BTreeMap<(u64, usize), Tally>,
    /// By limit.
    feasible: BTreeMap<u64, u64>,
}

/// Runs the experiment, on so many threads.
pub(crate) fn downtime(
    first_seed: u64,
    runs: u64,
    jobs: u64,
    confidence_per_mille: Option<u32>,
) -> Result<Vec<Line>, String> {
    let jobs = jobs.clamp(1, 64);
    let parts = thread::scope(|scope| {
        let start = |job: u64| {
            let seeds = (first_seed + job..first_seed + runs).step_by(jobs as usize);
            scope.spawn(move || some(seeds, confidence_per_mille))
        };
        let started: Vec<_> = (0..jobs).map(start).collect();
        let joined = started.into_iter().map(|one| one.join().unwrap_or_else(|_| Err("a run panicked".into())));
        joined.collect::<Result<Vec<Part>, String>>()
    })?;
    let mut all = Part::default();
    for part in parts {
        for (key, tally) in part.tallies {
            all.tallies.entry(key).or_default().add(tally);
        }
        for (limit_ms, count) in part.feasible {
            *all.feasible.entry(limit_ms).or_default() += count;
        }
    }
    let line = |(&(limit_ms, number), tally): (&(u64, usize), &Tally)| {
        tally.line(limit_ms, number, all.feasible.get(&limit_ms).copied().unwrap_or(0))
    };
    Ok(all.tallies.iter().map(line).collect())
}

fn some(seeds: impl Iterator<Item = u64>, confidence_per_mille: Option<u32>) -> Result<Part, String> {
    let mut part = Part::default();
    for seed in seeds {
        for limit_ms in LIMITS_MS {
            let limit = Duration::from_millis(limit_ms);
            let mut met = false;
            for (number, _) in RULES.iter().enumerate() {
                let mut scenario = fleet::scenario(seed, limit);
                if let Some(confidence) = confidence_per_mille {
                    scenario.config.confidence_per_mille = confidence;
                }
                let tally = part.tallies.entry((limit_ms, number)).or_default();
                let switchover = run(scenario, number, limit).map_err(|reason| format!("seed {seed}: {reason}"))?;
                let Some(switchover) = switchover else { continue };
                let kept = switchover.actual_s <= limit.as_secs_f64();
                tally.switchovers.push(switchover);
                tally.met += u64::from(kept);
                tally.broken += u64::from(!kept);
                met |= kept;
            }
            if met || oracle(seed, limit)? {
                *part.feasible.entry(limit_ms).or_default() += 1;
            }
        }
    }
    Ok(part)
}

/// Nothing switches over but by the word of somebody else.
fn undecided(mut scenario: Scenario) -> Scenario {
    scenario.config.downtime_max = Duration::ZERO;
    scenario.config.policy.infeasible = Verdict::Wait;
    scenario.config.policy.late = Verdict::Wait;
    scenario
}

fn run(scenario: Scenario, number: usize, limit: Duration) -> Result<Option<Switchover>, String> {
    let nominal = scenario.link.bytes_per_s;
    let limit_ns = limit.as_nanos() as Ns;
    let bytes_per_s = (number == 2).then_some(nominal);
    let (scenario, rule) = match number {
        0 => (scenario, Rule::Own),
        _ => (undecided(scenario), Rule::Qemu { limit_ns, bytes_per_s, sent_before: 0 }),
    };
    let mut world = World::new(scenario, rule);
    if number == 0 {
        world.run()?;
    } else {
        world.run_until(PRECOPY_MAX.as_nanos() as Ns)?;
        if world.phase() <= Phase::Precopy {
            return Ok(None);
        }
        world.run()?;
    }
    Ok(match world.outcome {
        Some(Outcome::Done { predicted, downtime }) => Some(Switchover {
            actual_s: downtime.as_secs_f64(),
            predicted_s: predicted.expected.as_secs_f64(),
            p95_s: predicted.p95.as_secs_f64(),
        }),
        _ => None,
    })
}

/// Whether there is a moment at which a switchover meets the limit.
fn oracle(seed: u64, limit: Duration) -> Result<bool, String> {
    let scenario = undecided(fleet::scenario(seed, limit));
    let fixed = scenario.shapes.iter().map(|shape| shape.stop_ns + shape.load_ns).max().unwrap_or(0);
    let limit_ns = limit.as_nanos() as Ns;
    if fixed + scenario.pause_ns > limit_ns {
        return Ok(false);
    }
    let mut world = World::new(scenario, Rule::Told);
    let mut at = WINDOW_NS;
    while at <= PRECOPY_MAX.as_nanos() as Ns {
        world.run_until(at)?;
        let least = least_downtime_ns(&mut world);
        if world.phase() == Phase::Precopy && world.is_acknowledged() && least <= limit_ns {
            let mut told = world.clone();
            told.now = at;
            told.tell_source(Event::Quiesce);
            told.run()?;
            if matches!(told.outcome, Some(Outcome::Done { downtime, .. }) if downtime <= limit) {
                return Ok(true);
            }
        }
        // Every window at first, then fewer: dips last for longer.
        at += if at < 2_000_000_000 { WINDOW_NS } else { 3 * WINDOW_NS };
    }
    Ok(false)
}

/// What is pending, over a link better than it ever is: a bound that saves trying.
fn least_downtime_ns(world: &mut World) -> Ns {
    for index in 0..world.truths.len() {
        world.sync(SectionId::new(index));
    }
    let pending: u64 = world.truths.iter().map(super::truth::Truth::pending_bytes).sum();
    (pending as f64 / (world.link.shape.bytes_per_s * 1.3) * 1e9) as Ns
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.switchovers.extend(other.switchovers);
        self.met += other.met;
        self.broken += other.broken;
    }

    fn line(&self, limit_ms: u64, number: usize, feasible: u64) -> Line {
        let ratio = |switchover: &Switchover| switchover.actual_s * 1000.0 / limit_ms as f64;
        let error = |one: &Switchover| (one.predicted_s - one.actual_s).abs() / one.actual_s * 100.0;
        let ratios: Vec<f64> = self.switchovers.iter().map(ratio).collect();
        let errors: Vec<f64> = self.switchovers.iter().map(error).collect();
        let within = self.switchovers.iter().filter(|one| one.actual_s <= one.p95_s).count();
        let predicts = number == 0 && !errors.is_empty();
        Line {
            limit_ms,
            rule: RULES[number],
            switchovers: self.switchovers.len(),
            broken_percent: percent(self.broken, self.switchovers.len() as u64),
            ratio_p50: quantile(&ratios, 0.5),
            ratio_p95: quantile(&ratios, 0.95),
            feasible,
            met_percent: percent(self.met, feasible),
            error_p50_percent: predicts.then(|| quantile(&errors, 0.5)),
            error_p95_percent: predicts.then(|| quantile(&errors, 0.95)),
            within_p95_percent: predicts.then(|| percent(within as u64, self.switchovers.len() as u64)),
        }
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 * 100.0 }
}

fn quantile(values: &[f64], of: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (sorted.len().saturating_sub(1)) as f64 * of;
    sorted.get(place.round() as usize).copied().unwrap_or(0.0)
}

pub(super) fn print(lines: &[Line]) {
    outln!("limit    rule              switched  broken  actual÷limit  feasible     met  error p50/p95  within p95");
    for line in lines {
        let error = match (line.error_p50_percent, line.error_p95_percent) {
            (Some(p50), Some(p95)) => format!("{p50:4.1}/{p95:5.1} %"),
            _ => "–".into(),
        };
        let within = line.within_p95_percent.map_or("–".into(), |within| format!("{within:.1} %"));
        outln!(
            "{:>4} ms  {:<17} {:>8}  {:>5.2} %  {:>4.2} / {:>4.2}  {:>8}  {:>5.1} %  {:>13}  {:>10}",
            line.limit_ms,
            line.rule,
            line.switchovers,
            line.broken_percent,
            line.ratio_p50,
            line.ratio_p95,
            line.feasible,
            line.met_percent,
            error,
            within
        );
    }
}
