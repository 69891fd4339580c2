// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Target devices that are slower than everything else, in a process of its own: what it takes of memory, and how much time is lost
//! beside theirs. Each sleeps off its own writes, so that several are as much faster than one; how fast one alone takes what is there is
//! measured before each round.

use super::cost::{Work, float};
use super::ours;
use crate::bench::limit::{Bound, Value, against};
use crate::bench::slow;
use crate::bench::{Outcome, Setting, Unit};

const WRITE_MS_PER_MIB: u32 = 8;
const OPTIONS: &str = "write-ms-per-mib=8";
const MEBIBYTE: f64 = 1024.0 * 1024.0;
/// The bound of `migrate target`, which is the default of `Limits`, and what a process may have beside it.
const BOUND_MIB: f64 = 64.0;
const BESIDE_MIB: f64 = 32.0;
/// Of the devices' own speed, in per cent.
const KEPT: f64 = 95.0;

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
        for _ in 0..rounds {
            let alone = slow::alone(if setting.quick { 16 } else { 128 }, WRITE_MS_PER_MIB)?;
            let [speed, _, peak] = ours::measure(&work)?;
            ran.push([speed / (alone * f64::from(devices)) * 100.0, peak]);
        }
        let speeds = ran.iter().map(|[speed, _]| *speed).collect();
        let peaks = ran.iter().map(|[_, peak]| *peak).collect();
        let mebibytes = float(each) / MEBIBYTE;
        let name = |what: &str| {
            format!("slow/{devices} target devices of 8 ms by MiB, {mebibytes} MiB each, bound {BOUND_MIB} MiB: {what}")
        };
        let speed = vec![Value::judged("speed", speeds)];
        outcomes.push(against(name("speed, of the devices' own"), Unit::Percent, Bound::AtLeast(KEPT), speed)?);
        let peak = vec![Value::judged("VmHWM", peaks)];
        let most = Bound::AtMost((BOUND_MIB + BESIDE_MIB) * MEBIBYTE);
        outcomes.push(against(name("peak memory of the target's process"), Unit::Bytes, most, peak)?);
    }
    Ok(outcomes)
}
