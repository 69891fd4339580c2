// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `drawn`: is the promised downtime kept, and how far off is the prediction? Over real migrations of devices whose delays are drawn.
//!
//! Each device is migrated twice, and what the first run taught is known to the second, as it is where a fleet's
//! devices are alike. The second counts. A migration of which the forecast says that it cannot keep the limit gives up,
//! which breaks no promise.

use core::time::Duration;

use savevm_core::load::LoadOptions;
use savevm_core::save::{Experience, SaveOptions};
use savevm_core::sched::Verdict;

use super::measure::measured;
use super::rig::{attempt, simulated, unix};
use super::{Goal, Outcome, Setting, Unit};
use crate::sim::Rng;

/// `spec/perf/bench-plan.md`, section 4.
const BROKEN: Goal = Goal::AtMost(0.02);
const ERROR: Goal = Goal::AtMost(0.25);
const SEED: u64 = 1;
const LIMIT: Duration = Duration::from_millis(300);
/// How long pre-copy may take until a migration gives up.
const PATIENCE: Duration = Duration::from_secs(1);

/// Milliseconds.
struct Kept {
    predicted: f64,
    took: f64,
}

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>, String> {
    let count: u32 = if setting.quick { 5 } else { 200 };
    eprintln!("drawn: {count} devices, twice each");
    let mut rng = Rng::new(SEED, 0);
    let mut kept = Vec::new();
    for index in 0..count {
        let config = draw(&mut rng);
        if index > 0 && index.checked_rem(20) == Some(0) {
            eprintln!("drawn: {index} of {count} devices");
        }
        let ran = twice(&config).map_err(|error| format!("device {index} ({config}): {error}"))?;
        kept.extend(ran);
    }
    let of = |value: fn(&Kept) -> f64| kept.iter().map(value).collect::<Vec<f64>>();
    let (predicted, took) = (of(|kept| kept.predicted), of(|kept| kept.took));
    let limit_ms = LIMIT.as_secs_f64() * 1e3;
    let broken = count_of(took.iter().filter(|took| **took > limit_ms).count());
    let mut errors = of(|kept| (kept.predicted - kept.took).abs() / kept.took.max(1e-9));
    errors.sort_by(f64::total_cmp);
    let error = |percent: usize| {
        let at = errors.len().saturating_sub(1).saturating_mul(percent) / 100;
        errors.get(at).copied().unwrap_or(f64::NAN)
    };
    let outcome = |name: String, unit, contenders: [_; 2]| {
        let contenders: Option<Vec<_>> = contenders.into_iter().collect();
        let contenders = contenders.ok_or("no migration was made")?;
        Ok::<_, String>(Outcome { name, unit, rounds: kept.len(), contenders })
    };
    let moved = count_of(kept.len());
    let all = format!("drawn/{count} devices with drawn delays, limit {limit_ms} ms");
    let [median, tail] = [error(50), error(95)];
    Ok(vec![
        outcome(
            format!("{all}: downtime"),
            Unit::Milliseconds,
            [measured("predicted", None, predicted.clone(), &predicted), measured("took", None, took, &predicted)],
        )?,
        outcome(
            format!("{all}: off by, as a part of what it took"),
            Unit::Count,
            [
                measured("1", None, vec![1.0], &[1.0]),
                measured("95 of 100 are off by less", Some(ERROR), vec![tail], &[1.0]),
            ],
        )?,
        outcome(
            format!("{all}: off by, half of them"),
            Unit::Count,
            [
                measured("1", None, vec![1.0], &[1.0]),
                measured("50 of 100 are off by less", Some(Goal::AtMost(0.10)), vec![median], &[1.0]),
            ],
        )?,
        outcome(
            format!("{all}: promises"),
            Unit::Count,
            [measured("given", None, vec![moved], &[moved]), measured("broken", Some(BROKEN), vec![broken], &[moved])],
        )?,
    ])
}

fn count_of(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

fn draw(rng: &mut Rng) -> String {
    format!(
        "model=plain caps=7 initial={}KiB dirty={}KiB dirty-rate={}KiB/s stop={}KiB transition-ms={} read-ms-per-mib={} \
         write-ms-per-mib={} seed={}",
        rng.within(64, 8 << 10),
        rng.within(0, 2 << 10),
        rng.within(0, 16 << 10),
        rng.within(64, 24 << 10),
        rng.within(0, 20),
        rng.within(0, 4),
        rng.within(0, 4),
        rng.within(1, 1 << 20),
    )
}

/// The second of two migrations; nothing if it gave up.
fn twice(config: &str) -> Result<Option<Kept>, String> {
    let mut experience = Experience::new();
    let mut kept = None;
    for is_first in [true, false] {
        let (_devices, [here, there]) = simulated(config)?;
        let mut save = SaveOptions::default();
        save.experience = core::mem::take(&mut experience);
        if let Some(rule) = save.precopy.as_mut().filter(|_| !is_first) {
            rule.downtime_max = LIMIT;
            rule.duration_max = PATIENCE;
            (rule.infeasible, rule.level, rule.rising, rule.late) =
                (Verdict::Abort, Verdict::Wait, Verdict::Wait, Verdict::Abort);
        }
        let ends = unix(1)?;
        let Some(committed) = attempt(&mut [here], &mut [there], ends, &save, &LoadOptions::default())? else {
            return Ok(None);
        };
        let predicted = committed.predicted.ok_or("nothing was predicted")?;
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        kept = Some(Kept { predicted: milliseconds(predicted.expected), took: milliseconds(committed.downtime) });
        experience = committed.experience;
    }
    Ok(kept)
}
