// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! 100 KB/s for two devices and a guest that writes to all of its memory all the time: whose bytes move, and when the devices' initial
//! bytes have been acknowledged.

use core::time::Duration;
use std::fs::File;
use std::io::Write;
use std::thread;

use savevm_core::dirty::{AllDirty, Ledger, Range, Region, Slot, Tracking};
use savevm_core::load::{self, LoadOptions};
use savevm_core::ram::{FileMemory, GuestMemory, Source};
use savevm_core::save::{self, SaveOptions};
use savevm_core::sched::Event;

use super::{Devices, Log, for_ever, gave_up, several};
use crate::bench::engine::failed;
use crate::bench::limit::{Bound, Value, against};
use crate::bench::peers::cost::float;
use crate::bench::rig::unix;
use crate::bench::{Outcome, Setting, Unit};

const RATE: u64 = 100_000;
const INITIAL_BYTES: u32 = 64 << 10;
/// Their initial bytes, and then more than moves, for ever.
const DEVICES: [&str; 2] = [
    "model=plain caps=7 initial=64KiB dirty=1MiB dirty-rate=4MiB/s stop=1MiB seed=1",
    "model=plain caps=7 initial=64KiB dirty=1MiB dirty-rate=4MiB/s stop=1MiB seed=2",
];
const MEMORY_BYTES: u64 = 16 << 20;
/// Small against what moves in a second.
const CHUNK_BYTES: u32 = 8 << 10;
/// Of the time that the initial bytes take at a fair share of the rate.
const ACKNOWLEDGED: f64 = 1.5;
/// How far a share may be off its weight, in per cent.
const OFF: f64 = 5.0;

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>, String> {
    let duration = Duration::from_secs(if setting.quick { 4 } else { 10 });
    eprintln!("lean: {} s at {RATE} bytes a second", duration.as_secs());
    rows(&Ran::of(&log(setting, duration)?)?, duration)
}

/// What came of it, by section.
struct Ran {
    weights: Vec<f64>,
    bytes: Vec<f64>,
    /// From the first sizes to the last acknowledgement, in milliseconds; nothing where one is missing.
    acknowledged_ms: Option<f64>,
}

fn rows(ran: &Ran, duration: Duration) -> Result<Vec<Outcome>, String> {
    let (weights, bytes): (f64, f64) = (ran.weights.iter().sum(), ran.bytes.iter().sum());
    let off = |(weight, moved): (&f64, &f64)| ((moved / bytes) / (weight / weights) - 1.0).abs() * 100.0;
    let off: Vec<f64> = ran.weights.iter().zip(&ran.bytes).map(off).collect();
    let worst = off.iter().copied().fold(0.0, f64::max);
    // Devices come first, and all weigh the same.
    let share = ran.weights.first().copied().unwrap_or(1.0) / weights;
    let fair_ms = f64::from(INITIAL_BYTES) / (float(RATE) * share) * 1e3;
    let seconds = duration.as_secs();
    let name = |what: &str| format!("lean/100 KB/s, memory always dirty, 2 devices: {what}");
    Ok(vec![
        against(
            name("initial bytes acknowledged, 1.5 of the fair time"),
            Unit::Milliseconds,
            Bound::AtMost(ACKNOWLEDGED * fair_ms),
            vec![Value::judged("the last one", ran.acknowledged_ms.into_iter().collect())],
        )?,
        against(
            name(&format!("shares over {seconds} s, off their weights")),
            Unit::Percent,
            Bound::AtMost(OFF),
            vec![Value::judged("the one most off", vec![worst])],
        )?,
    ])
}

impl Ran {
    fn of(log: &Log) -> Result<Self, String> {
        let config = log.config.as_ref().ok_or("nothing was scheduled")?;
        let began = log.began().ok_or("pre-copy never began")?;
        let weights = config.sections.iter().map(|section| f64::from(section.weight)).collect();
        let mut bytes = vec![0.0; config.sections.len()];
        let mut acknowledged = vec![None; DEVICES.len()];
        for (at, event) in log.events() {
            match event {
                Event::Sent { section, bytes: sent } => {
                    bytes.get_mut(section.index()).into_iter().for_each(|sum| *sum += float(sent));
                }
                Event::Acknowledged { section, .. } => {
                    acknowledged.get_mut(section.index()).into_iter().for_each(|slot| *slot = Some(at));
                }
                _ => {}
            }
        }
        let all: Option<Vec<Duration>> = acknowledged.into_iter().collect();
        let last = all.and_then(|all| all.into_iter().max());
        let acknowledged_ms = last.map(|at| at.saturating_sub(began).as_secs_f64() * 1e3);
        Ok(Self { weights, bytes, acknowledged_ms })
    }
}

/// Until it gives up, which it does after so long.
fn log(setting: &Setting, duration: Duration) -> Result<Log, String> {
    let (here, there) = (memory(setting, true)?, memory(setting, false)?);
    let mut tracking = Tracking::new(Ledger::of(here.regions(), u64::MAX).map_err(failed)?, 1, 1);
    let region = tracking.ledger().regions().map(|(id, _)| id).next().ok_or("there is no memory")?;
    let range = Range::new(0, MEMORY_BYTES).map_err(failed)?;
    let _ = tracking.map(Slot { range, region, offset: 0 }).map_err(failed)?;
    tracking.add_tracker(Box::new(AllDirty::new("the guest"))).map_err(|_| "no tracker was taken")?;
    let source = Source::new(&here, &mut tracking).map_err(failed)?;
    let Devices { mut ours, mut theirs, _kept } = several(DEVICES.into_iter())?;
    let mut options = SaveOptions::default();
    let mut rule = for_ever(duration);
    rule.rate_bytes_per_s = Some(RATE);
    options.precopy = Some(rule);
    options.limits.chunk_bytes_max = CHUNK_BYTES;
    let (mut log, (left, right)) = (Log::default(), unix(1)?);
    gave_up(thread::scope(|scope| {
        let there = &there;
        scope.spawn(move || {
            load::load_with_memory(&mut theirs, there, right, &mut (), &LoadOptions::default()).map(drop)
        });
        save::save_with_memory(&mut ours, source, left, &mut log, &options).map(drop)
    }))?;
    Ok(log)
}

/// With something on every page, or empty.
fn memory(setting: &Setting, is_filled: bool) -> Result<FileMemory, String> {
    let mut file: File = tempfile::tempfile_in(&setting.folder).map_err(failed)?;
    if is_filled {
        let piece = vec![0xa5; 1 << 20];
        (0..MEMORY_BYTES >> 20).try_for_each(|_| file.write_all(&piece)).map_err(failed)?;
    }
    file.set_len(MEMORY_BYTES).map_err(failed)?;
    let region = Region { name: "ram".into(), bytes: MEMORY_BYTES, page_bytes: 4096 };
    FileMemory::new(vec![(region, file)]).map_err(failed)
}

#[cfg(test)]
mod test {
    use super::*;

    fn reached(weights: [f64; 3], bytes: [f64; 3], acknowledged_ms: f64) -> [Option<bool>; 2] {
        let ran = Ran { weights: weights.to_vec(), bytes: bytes.to_vec(), acknowledged_ms: Some(acknowledged_ms) };
        let rows = rows(&ran, Duration::from_secs(10)).unwrap();
        [rows[0].contenders[1].reached, rows[1].contenders[1].reached]
    }

    /// A third of 100 KB/s carries 64 KiB in 1966 ms.
    #[test]
    fn shares_and_times_are_held_against_the_weights() {
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(reached([1.0; 3], [330.0, 340.0, 330.0], 2900.0), [yes, yes]);
        assert_eq!(reached([1.0; 3], [300.0, 350.0, 350.0], 3000.0), [no, no]);
        assert_eq!(reached([1.0, 1.0, 2.0], [250.0, 250.0, 500.0], 3900.0), [yes, yes]);
        let missing = Ran { weights: vec![1.0; 3], bytes: vec![1.0; 3], acknowledged_ms: None };
        assert!(rows(&missing, Duration::from_secs(10)).is_err());
    }
}
