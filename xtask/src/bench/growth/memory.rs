// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The peak of a process that does nothing but a migration, both sides of it.
//!
//! How many buffers a target fills is chance where it writes as fast as it receives. Here the first write of each device takes long enough
//! for all of them to be filled, so that what a state takes beyond its bound shows.

use core::time::Duration;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use super::super::engine::{Files, failed};
use super::super::file_device::FileDevice;
use super::super::limit::{Bound, Value, against};
use super::super::measure::{Costly, Costs};
use super::super::peers::cost::float;
use super::super::peers::process::peak_bytes;
use super::super::rig::{migrate, unix};
use super::super::{Goal, Outcome, Setting, Unit};
use super::{options, state};
use crate::out::outln;

const FIRST_WRITE: Duration = Duration::from_millis(100);
/// Of each device's file. The state is as long as it is told.
const FILE_BYTES: u64 = 4 << 20;
/// Of that with a state that fills the buffers. M1 of `spec/perf/bench-plan.md` leaves 1 MiB to it, which is more.
const STATE: Goal = Goal::AtMost(1.03);
/// What the buffers of a side may come to, for all devices together. One alone is granted no more than its window.
const BUFFER_BYTES: u64 = 64 << 20;
/// What a process may take beside them.
const BESIDE_BYTES: u64 = 32 << 20;
const PEAK: &str = "peak memory of a process that is both sides";

/// What a process is to migrate.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// For files, of 4 MiB by device and side
    #[arg(long)]
    folder: PathBuf,
    #[arg(long)]
    devices: u32,
    #[arg(long)]
    channels: usize,
    /// Of all devices together
    #[arg(long)]
    state_bytes: u64,
    /// What the buffers of a side may come to
    #[arg(long)]
    buffer_bytes: u64,
}

/// Migrates, and prints the peak in bytes.
pub(crate) fn run(args: &Args) -> ExitCode {
    match peak(args) {
        Ok(bytes) => {
            outln!("{bytes}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn peak(args: &Args) -> Result<u64, String> {
    let count = u64::from(args.devices).max(1);
    let each = args.state_bytes.checked_div(count).unwrap_or(0);
    let files = Files::new(&args.folder, args.devices, FILE_BYTES.saturating_mul(count))?;
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for (index, (source, target)) in files.source.iter().zip(&files.target).enumerate() {
        ours.push(FileDevice::new(index, source)?.with_state(0, each));
        theirs.push(FileDevice::new(index, target)?.with_state(0, each).with_first_write(FIRST_WRITE));
    }
    let (save, load) = options(args.buffer_bytes);
    migrate(&mut ours, &mut theirs, unix(args.channels)?, &mut (), &save, &load)?;
    peak_bytes(std::process::id()).ok_or_else(|| failed("/proc has no VmHWM of this process"))
}

/// The same in a process of its own.
fn peak_of_process(args: &Args) -> Result<[f64; 1], String> {
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command.arg("growth-memory").arg("--folder").arg(&args.folder);
    command.args(["--devices", &args.devices.to_string(), "--channels", &args.channels.to_string()]);
    command.args(["--state-bytes", &args.state_bytes.to_string(), "--buffer-bytes", &args.buffer_bytes.to_string()]);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().map_err(failed)?;
    if !output.status.success() {
        return Err(format!("a process that migrates ended with {}; its messages are above", output.status));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let peak = said.trim().parse().map_err(|error| format!("a process that migrates said '{said}': {error}"))?;
    Ok([float(peak)])
}

pub(super) fn measure(setting: &Setting) -> Result<Vec<Outcome>, String> {
    let folder = || setting.folder.clone();
    let one = |(name, mebibytes): (&'static str, u64), goal| {
        let (state_bytes, buffer_bytes) = (mebibytes << 20, state::BUFFER_BYTES);
        let args = Args { folder: folder(), devices: 1, channels: 1, state_bytes, buffer_bytes };
        Costly::new(name, [goal], move || peak_of_process(&args))
    };
    let fills = state::sizes(setting).find(|(name, _)| *name == state::FILLS).ok_or("there is no baseline")?;
    let others = state::sizes(setting).filter(|size| *size != fills);
    let states = others.map(|size| one(size, Some(STATE))).collect();
    let rounds = if setting.quick { 1 } else { 2 };
    let name = format!("growth/state, 1 device, buffers of {} MiB", state::BUFFER_BYTES >> 20);
    let costs = Costs { name, metrics: [(PEAK, Unit::Bytes)], baseline: one(fills, None), contenders: states };
    let mut outcomes = setting.compare_costs(costs, rounds)?;
    outcomes.push(of_devices(setting, rounds)?);
    Ok(outcomes)
}

/// However many there are, both sides keep to their bounds.
fn of_devices(setting: &Setting, rounds: usize) -> Result<Outcome, String> {
    let state_bytes = if setting.quick { 128 << 20 } else { 512 << 20 };
    let mut values = Vec::new();
    for (name, devices) in [("1 device", 1), ("4", 4), ("16", 16), ("64", 64)] {
        let args =
            Args { folder: setting.folder.clone(), devices, channels: 4, state_bytes, buffer_bytes: BUFFER_BYTES };
        let peaks = (0..rounds).map(|_| peak_of_process(&args).map(|[peak]| peak)).collect::<Result<_, _>>()?;
        values.push(Value::judged(name, peaks));
    }
    let name = format!("growth/devices, 4 channels, buffers of {} MiB at either side: {PEAK}", BUFFER_BYTES >> 20);
    against(
        name,
        Unit::Bytes,
        Bound::AtMost(float(BUFFER_BYTES.saturating_mul(2).saturating_add(BESIDE_BYTES))),
        values,
    )
}

#[cfg(test)]
mod test {
    use super::*;

    /// This process has other tests in it; what one alone takes is `tests/commands.rs`'.
    #[test]
    fn a_peak_is_that_of_a_whole_migration() {
        let args = Args {
            folder: std::env::temp_dir(),
            devices: 2,
            channels: 2,
            state_bytes: 24 << 20,
            buffer_bytes: 8 << 20,
        };
        assert!(peak(&args).unwrap() > 1 << 20);
    }
}
