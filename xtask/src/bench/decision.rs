// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `decision`: promises kept and given over thousands of seeded scenarios in virtual time, with QEMU's rule beside ours and an oracle
//! above both. The experiment is `sim --experiment downtime`; here its answers have goals.

use super::limit::{Bound, Value, against};
use super::{Outcome, Setting, Unit};
use crate::sim::{Line, downtime};

const FIRST_SEED: u64 = 1;
/// `spec/perf/bench-plan.md`, section 4, in per cent.
const BROKEN: f64 = 1.0;
const MET: f64 = 93.0;
const MET_AT_300_MS: f64 = 70.0;
const ERROR_P50: f64 = 10.0;
const ERROR_P95: f64 = 25.0;

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>, String> {
    let seeds = if setting.quick { 100 } else { 10_000 };
    eprintln!("decision: {seeds} scenarios, three rules and an oracle each");
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    rows(&downtime(FIRST_SEED, seeds, u64::try_from(jobs).unwrap_or(1), None)?, seeds)
}

/// The first rule of each limit is ours.
fn rows(lines: &[Line], seeds: u64) -> Result<Vec<Outcome>, String> {
    let mut outcomes = Vec::new();
    let mut limits: Vec<u64> = lines.iter().map(|line| line.limit_ms).collect();
    limits.dedup();
    for limit_ms in limits {
        let of: Vec<&Line> = lines.iter().filter(|line| line.limit_ms == limit_ms).collect();
        let Some(ours) = of.first() else { continue };
        let name = |what: &str| format!("decision/{seeds} simulated scenarios, limit {limit_ms} ms: {what}");
        let all = |value: fn(&Line) -> f64| {
            let rule = |(index, line): (usize, &&Line)| Value {
                name: line.rule,
                is_judged: index == 0,
                values: vec![value(line)],
            };
            of.iter().enumerate().map(rule).collect()
        };
        let met = if limit_ms < 1000 { MET_AT_300_MS } else { MET };
        let what = format!("kept promises, of {} that an oracle could keep", ours.feasible);
        let broken = all(|line| line.broken_percent);
        outcomes.push(against(name("promises broken"), Unit::Percent, Bound::AtMost(BROKEN), broken)?);
        let kept = all(|line| line.met_percent);
        outcomes.push(against(name(&what), Unit::Percent, Bound::AtLeast(met), kept)?);
        for (what, most, value) in [
            ("the prediction's error, half are below", ERROR_P50, ours.error_p50_percent),
            ("the prediction's error, 95 of 100 are below", ERROR_P95, ours.error_p95_percent),
        ] {
            // Of QEMU's rules there is none: they predict nothing.
            let values = vec![Value::judged(ours.rule, value.into_iter().collect())];
            outcomes.push(against(name(what), Unit::Percent, Bound::AtMost(most), values)?);
        }
    }
    Ok(outcomes)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn every_limit_has_its_goals_and_only_ours_is_judged() {
        let lines = downtime(1, 6, 1, None).unwrap();
        let rows = rows(&lines, 6).unwrap();
        assert_eq!(rows.len(), 12, "four of each of three limits");
        let met = rows.iter().filter(|row| row.name.contains("an oracle"));
        let least: Vec<f64> = met.map(|row| row.contenders[0].value.median).collect();
        assert_eq!(least, [70.0, 93.0, 93.0]);
        for row in &rows {
            let judged: Vec<bool> = row.contenders.iter().map(|measured| measured.goal.is_some()).collect();
            let expected: &[bool] =
                if row.name.contains("error") { &[false, true] } else { &[false, true, false, false] };
            assert_eq!(judged, expected, "{}", row.name);
        }
        let broken: Vec<f64> = lines.iter().take(3).map(|line| line.broken_percent).collect();
        let shown: Vec<f64> = rows[0].contenders.iter().skip(1).map(|measured| measured.value.median).collect();
        assert_eq!(shown, broken, "each rule beside its own");
    }
}
