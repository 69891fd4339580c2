// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `growth`: one thing grows, the others stay, and a byte should cost what it cost before.
//!
//! The baseline of each series is its smallest member, but for the state's ([`state`]).

pub(crate) mod memory;
mod state;

use savevm_core::load::LoadOptions;
use savevm_core::save::SaveOptions;

use super::engine::Files;
use super::file_device::devices;
use super::measure::{Costly, Costs};
use super::peers::cost::float;
use super::rig::{migrate, unix};
use super::{Goal, Outcome, Setting, Unit};

const METRICS: [(&str, Unit); 3] =
    [("speed", Unit::BytesPerSecond), ("processor time", Unit::SecondsPerGigabyte), ("buffers made", Unit::Count)];
/// For each number of devices: less than C1 of `spec/perf/bench-plan.md` leaves to 64 of them.
const DEVICES_PRICE: f64 = 1.10;

/// One member of a series.
struct Member {
    name: &'static str,
    devices: u32,
    channels: usize,
    bytes: u64,
    buffer_bytes: u64,
    goals: [Option<Goal>; 3],
}

const fn member(name: &'static str, devices: u32, channels: usize, mebibytes: u64, buffer_mebibytes: u64) -> Member {
    let (bytes, buffer_bytes) = (mebibytes << 20, buffer_mebibytes << 20);
    Member { name, devices, channels, bytes, buffer_bytes, goals: [None; 3] }
}

const fn price(goal: f64, member: Member) -> Member {
    Member { goals: [None, Some(Goal::AtMost(goal)), None], ..member }
}

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>, String> {
    let scale = if setting.quick { 1 } else { 4 };
    let size = 64_u64.saturating_mul(scale);
    // What a device costs before its first byte and behind its last is in it: each of 64 has 8 MiB.
    let whole = if setting.quick { size } else { 512 };
    let series = [
        (
            "devices, 4 channels",
            vec![
                member("1 device", 1, 4, whole, 64),
                price(DEVICES_PRICE, member("4", 4, 4, whole, 64)),
                price(DEVICES_PRICE, member("16", 16, 4, whole, 64)),
                price(DEVICES_PRICE, member("64", 64, 4, whole, 64)),
            ],
        ),
        (
            "channels, 16 devices",
            vec![
                member("1 channel", 16, 1, size, 64),
                member("2", 16, 2, size, 64),
                member("4", 16, 4, size, 64),
                member("8", 16, 8, size, 64),
                member("16", 16, 16, size, 64),
            ],
        ),
        (
            "memory for buffers, 4 devices",
            vec![member("4 MiB", 4, 2, size, 4), member("16 MiB", 4, 2, size, 16), member("64 MiB", 4, 2, size, 64)],
        ),
    ];
    let rounds = if setting.quick { 3 } else { 11 };
    let mut outcomes = Vec::new();
    for (what, members) in series {
        let mut contenders = Vec::new();
        for Member { name, devices: count, channels, bytes, buffer_bytes, goals } in members {
            let files = Files::new(&setting.folder, count, bytes)?;
            contenders.push(Costly::new(name, goals, move || once(&files, channels, buffer_bytes)));
        }
        let baseline = contenders.remove(0);
        let costs = Costs { name: format!("growth/{what}"), metrics: METRICS, baseline, contenders };
        outcomes.extend(setting.compare_costs(costs, rounds)?);
    }
    outcomes.extend(state::run(setting)?);
    outcomes.extend(memory::measure(setting)?);
    Ok(outcomes)
}

/// Of both sides.
fn options(buffer_bytes: u64) -> (SaveOptions, LoadOptions) {
    let (mut save, mut load) = (SaveOptions::default(), LoadOptions::default());
    (save.limits.buffer_bytes_max, load.limits.buffer_bytes_max) = (buffer_bytes, buffer_bytes);
    (save, load)
}

fn once(files: &Files, channels: usize, buffer_bytes: u64) -> Result<[f64; 3], String> {
    let (mut ours, mut theirs) = (devices(&files.source)?, devices(&files.target)?);
    let (save, load) = options(buffer_bytes);
    let ran = migrate(&mut ours, &mut theirs, unix(channels)?, &mut (), &save, &load)?;
    Ok([ran.speed(), ran.price(), float(ran.target.counters.buffers_made)])
}
