// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Target devices that are slower than everything else, in a process of its own: what it takes of memory, and how much time is lost
//! beside theirs. How fast as many of them take what is there, at once and with nothing of this program in between, is measured before
//! and after each round, and the mean counts. A machine on which the two differ by as much as may be lost has something else to do, and
//! nothing is judged. What a bare pump does with them (one thread for each, which reads and writes in turn) is there to be looked at.

use super::cost::{Work, float};
use super::{ours, pump};
use crate::bench::limit::{Bound, Value, against};
use crate::bench::network;
use crate::bench::slow;
use crate::bench::spread::median;
use crate::bench::{Outcome, Setting, Unit};

const WRITE_MS_PER_MIB: u32 = 8;
const OPTIONS: &str = "write-ms-per-mib=8";
const MEBIBYTE: f64 = 1024.0 * 1024.0;
/// The bound of `migrate target`, which is the default of `Limits`, and what a process may have beside it.
const BOUND_MIB: f64 = 64.0;
const BESIDE_MIB: f64 = 32.0;
/// Of the devices' own speed, in per cent.
const KEPT: f64 = 95.0;

/// What one round came to.
struct Round {
    /// Of the devices' own speed, in per cent.
    kept: f64,
    /// The same of a bare pump.
    pumped: f64,
    /// By how much that changed meanwhile, in per cent.
    drift: f64,
    peak: f64,
}

impl Round {
    fn new([speed, pumped]: [f64; 2], [before, after]: [f64; 2], peak: f64) -> Self {
        let own = f64::midpoint(before, after);
        let percent = |speed: f64| speed / own * 100.0;
        Self { kept: percent(speed), pumped: percent(pumped), drift: percent((after - before).abs()), peak }
    }
}

pub(in crate::bench) fn run(setting: &Setting) -> Result<Vec<Outcome>, String> {
    let each = if setting.quick { 64_u64 << 20 } else { 1 << 30 };
    let rounds = if setting.quick { 1 } else { 3 };
    let library = crate::soft::library()?;
    let mut outcomes = Vec::new();
    for devices in [1_u32, 4, 8] {
        eprintln!("slow: {rounds} rounds of {devices} target devices in a process of their own");
        let work = Work {
            devices: usize::try_from(devices).unwrap_or(usize::MAX),
            channels: 4,
            state_bytes: each.saturating_mul(devices.into()),
            options: OPTIONS,
            library: library.clone(),
            folder: setting.folder.clone(),
        };
        let mut ran = Vec::new();
        let _inside = network::enter()?;
        for _ in 0..rounds {
            let own = || slow::alone(devices, if setting.quick { 16 } else { 128 }, WRITE_MS_PER_MIB);
            let before = own()?;
            let [speed, _, peak] = ours::measure(&work)?;
            let after = own()?;
            let [pumped, ..] = pump::measure(&work)?;
            ran.push(Round::new([speed, pumped], [before, after], peak));
        }
        let of = |value: fn(&Round) -> f64| ran.iter().map(value).collect::<Vec<f64>>();
        let mebibytes = float(each) / MEBIBYTE;
        let name = |what: &str| {
            format!("slow/{devices} target devices of 8 ms by MiB, {mebibytes} MiB each, bound {BOUND_MIB} MiB: {what}")
        };
        let speeds = vec![
            Value::judged("speed", of(|round| round.kept)),
            Value::shown("a bare pump's", of(|round| round.pumped)),
            Value::shown("their own, after from before", of(|round| round.drift)),
        ];
        let what = format!("speed, of what {devices} take at once, before and after");
        let mut speed = against(name(&what), Unit::Percent, Bound::AtLeast(KEPT), speeds)?;
        if median(of(|round| round.drift)).is_none_or(|drift| drift > 100.0 - KEPT) {
            speed.withhold_judgement();
        }
        outcomes.push(speed);
        let peak = vec![Value::judged("VmHWM", of(|round| round.peak))];
        let most = Bound::AtMost((BOUND_MIB + BESIDE_MIB) * MEBIBYTE);
        outcomes.push(against(name("peak memory of the target's process"), Unit::Bytes, most, peak)?);
    }
    Ok(outcomes)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_round_is_held_against_the_mean_of_before_and_after() {
        let Round { kept, pumped, drift, peak } = Round::new([95.0, 80.0], [90.0, 110.0], 7.0);
        assert_eq!((kept, pumped, drift, peak), (95.0, 80.0, 20.0, 7.0));
        assert_eq!(Round::new([50.0; 2], [110.0, 90.0], 0.0).drift, 20.0, "whichever way");
    }
}
