// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `peers`: two processes move the state of the same simulated devices over TCP: a bare pump, this workspace, QEMU.
//!
//! The clock is the devices' own log: it runs from the moment the first source enters STOP_COPY until the last target
//! leaves RESUMING, which is what a guest waits for and where starting processes and preparing devices does not count.
//! Processor time is that of both processes, and memory the target's peak.

pub(super) mod cost;
mod ours;
pub(super) mod patient;
pub(super) mod process;
pub(crate) mod pump;
pub(super) mod stock;

use std::path::PathBuf;

use self::cost::Work;
pub(super) use self::pump::shares;
use super::measure::{Costly, Costs, Rival};
use super::{Goal, Outcome, Setting, Unit};
use crate::vm::{ProvisionedQemu, Series};

const OURS: &str = "this workspace";

/// Bytes per second, seconds of processor time per gigabyte, bytes.
pub(super) const METRICS: [(&str, Unit); 3] = [
    ("speed", Unit::BytesPerSecond),
    ("processor time", Unit::SecondsPerGigabyte),
    ("memory of the target", Unit::Bytes),
];

/// Devices and channels.
const WORKS: [(usize, usize); 10] = [(1, 1), (1, 4), (2, 2), (4, 1), (4, 2), (4, 4), (4, 8), (16, 2), (16, 4), (16, 8)];

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>, String> {
    let state_bytes = if setting.quick { 64 << 20 } else { 1 << 30 };
    let library = crate::soft::library()?;
    let emulators = stock::emulators(setting);
    let mut outcomes = Vec::new();
    for (devices, channels) in WORKS {
        let (library, folder) = (library.clone(), setting.folder.clone());
        let work = Work { devices, channels, state_bytes, options: "", library, folder };
        outcomes.extend(compare(setting, &work, &emulators)?);
    }
    Ok(outcomes)
}

/// A QEMU to compare with.
pub(super) struct Emulator {
    pub(super) series: Series,
    /// While it is held nobody replaces it.
    pub(super) found: ProvisionedQemu,
}

fn compare(setting: &Setting, work: &Work, emulators: &[Emulator]) -> Result<Vec<Outcome>, String> {
    let baseline = Costly::new("bare pump", [None; 3], || pump::measure(work));
    let goals = [Some(Goal::AtLeast(0.95)), Some(Goal::AtMost(1.1)), None];
    let mut contenders = vec![Costly::new(OURS, goals, || ours::measure(work))];
    let mut rivals = Vec::new();
    for emulator in emulators {
        for wiring in stock::wirings(work) {
            let name = stock::name(emulator.series, wiring);
            contenders.push(Costly::new(name, [None; 3], move || stock::measure(work, &emulator.found.qemu, wiring)));
            rivals.push(Rival { rival: name, contender: OURS, goals: goals_against(work, wiring) });
        }
    }
    let name = format!("peers/{} devices, {} channels", work.devices, work.channels);
    let rounds = if setting.quick { 1 } else { 5 };
    setting.compare_rivals(Costs { name, metrics: METRICS, baseline, contenders }, &rivals, rounds)
}

/// How far ahead of QEMU to be: with one device over its main channel, and with several over its multifd channels. The other cases are
/// there to be looked at.
fn goals_against(work: &Work, wiring: stock::Wiring) -> [Option<Goal>; 3] {
    let at_least = |speed: f64, processor: f64| [Some(Goal::AtLeast(speed)), Some(Goal::AtMost(processor)), None];
    match wiring {
        stock::Wiring::Main if work.devices == 1 => at_least(1.4, 0.65),
        stock::Wiring::Multifd if work.devices > 2 => at_least(1.6, 0.6),
        _ => [None; 3],
    }
}

/// The file in a run's folder with what the devices of a side saw.
fn log(folder: &std::path::Path, side: &str) -> PathBuf {
    folder.join(format!("{side}.log"))
}
