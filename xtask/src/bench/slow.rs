// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `slow`: where something other than this program is the limit, it should be the only limit, and memory should not grow.
//!
//! First the buffers that a target counts itself, in this process; then the peak of a whole process (`peers/patient`).

use core::time::Duration;
use std::thread;
use std::time::Instant;

use savevm_core::device::Read;
use savevm_core::load::LoadOptions;
use savevm_core::save::{Precopy, SaveOptions};
use savevm_core::{Device, Hooks, Phase};
use vfio_mig_fsm::State;

use super::engine::failed;
use super::measure::{Costly, Costs};
use super::peers::cost::float;
use super::rig::{migrate, simulated, unix};
use super::{Comparison, Contender, Goal, Outcome, Setting, Unit};

/// What the slow device takes for a MiB.
const WRITE_MS_PER_MIB: u32 = 3;
const MEBIBYTE: f64 = 1024.0 * 1024.0;
/// What the target may hold for it.
const BUFFER_BYTES: u64 = 8 << 20;
/// The first chunk goes at once, and the clock stops with the last: one of them is too much in this time.
const CAPPED_SECONDS: u32 = 2;

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>, String> {
    let rounds = if setting.quick { 3 } else { 7 };
    let sizes: [(&'static str, u32); 2] =
        if setting.quick { [("16 MiB", 16), ("64 MiB", 64)] } else { [("64 MiB", 64), ("512 MiB", 512)] };
    let goals = [Some(Goal::AtLeast(0.90)), Some(Goal::AtMost(1.0))];
    let contender = |(name, mebibytes): (&'static str, u32)| Costly::new(name, goals, move || slow(mebibytes));
    let alone = || alone(1, if setting.quick { 16 } else { 64 }, WRITE_MS_PER_MIB);
    let bound = f64::from(u32::try_from(BUFFER_BYTES).unwrap_or(u32::MAX));
    let mut outcomes = setting.compare_costs(
        Costs {
            name: "slow/a target device of 3 ms by MiB".into(),
            metrics: [("speed", Unit::BytesPerSecond), ("memory of the target's buffers", Unit::Bytes)],
            baseline: Costly::new("the device alone, the bound", [None; 2], move || Ok([alone()?, bound])),
            contenders: sizes.map(contender).into_iter().collect(),
        },
        rounds,
    )?;
    outcomes.extend(super::peers::patient::run(setting)?);
    for mebibytes in [8_u32, 32] {
        let rate = f64::from(mebibytes) * MEBIBYTE;
        let comparison = Comparison {
            name: format!("slow/{CAPPED_SECONDS} s of pre-copy capped at {mebibytes} MiB/s"),
            unit: Unit::BytesPerSecond,
            baseline: Contender::new("the cap", None, move || Ok(rate)),
            contenders: vec![Contender::new("kept", Some(Goal::AtMost(1.05)), move || capped(mebibytes))],
        };
        outcomes.push(super::measure::compare(comparison, rounds)?);
    }
    Ok(outcomes)
}

/// How fast so many devices together take what is there to be written, all at once, in bytes per second: their delays, what they do
/// beside, and what the machine's clock adds to a sleep. Nothing of this program is between them and the bytes.
pub(super) fn alone(devices: u32, mebibytes: u32, write_ms_per_mib: u32) -> Result<f64, String> {
    let config = format!("model=plain caps=1 stop={mebibytes}MiB seed=1 write-ms-per-mib={write_ms_per_mib}");
    thread::scope(|scope| {
        let threads: Vec<_> = (0..devices).map(|_| scope.spawn(|| one_alone(&config))).collect();
        let speeds = threads.into_iter().map(|thread| thread.join().map_err(|_| "a thread panicked")?);
        speeds.sum()
    })
}

fn one_alone(config: &str) -> Result<f64, String> {
    let (_devices, [mut here, mut there]) = simulated(config)?;
    here.transition(State::StopCopy).map_err(failed)?;
    there.transition(State::Resuming).map_err(failed)?;
    let (mut piece, mut bytes, mut took) = (vec![0; 1 << 20], 0_u64, Duration::ZERO);
    while let Read::Bytes(length) = here.read(&mut piece).map_err(failed)? {
        let began = Instant::now();
        there.write(piece.get(..length).unwrap_or_default()).map_err(failed)?;
        took = took.saturating_add(began.elapsed());
        bytes = bytes.saturating_add(u64::try_from(length).unwrap_or(0));
    }
    Ok(float(bytes) / took.as_secs_f64().max(1e-9))
}

fn slow(mebibytes: u32) -> Result<[f64; 2], String> {
    let config = format!("model=plain caps=1 stop={mebibytes}MiB seed=1 write-ms-per-mib={WRITE_MS_PER_MIB}");
    let (_devices, [here, there]) = simulated(&config)?;
    let mut load = LoadOptions::default();
    load.limits.buffer_bytes_max = BUFFER_BYTES;
    let ran = migrate(&mut [here], &mut [there], unix(1)?, &mut (), &SaveOptions::default(), &load)?;
    let peak = u32::try_from(ran.target.counters.buffer_bytes_peak).unwrap_or(u32::MAX);
    Ok([ran.speed(), f64::from(peak)])
}

/// When pre-copy began and ended.
#[derive(Default)]
struct Clock {
    began: Option<Instant>,
    ended: Option<Instant>,
}

impl Hooks for Clock {
    fn phase(&mut self, phase: Phase) {
        match phase {
            Phase::PreCopy => self.began = Some(Instant::now()),
            Phase::Switchover => self.ended = Some(Instant::now()),
            _ => {}
        }
    }
}

fn capped(mebibytes: u32) -> Result<f64, String> {
    let initial = mebibytes.saturating_mul(CAPPED_SECONDS);
    let config = format!("model=plain caps=7 initial={initial}MiB stop=1KiB seed=1");
    let (_devices, [here, there]) = simulated(&config)?;
    let mut save = SaveOptions::default();
    let mut rule = Precopy::default();
    rule.rate_bytes_per_s = Some(u64::from(mebibytes) << 20);
    save.precopy = Some(rule);
    save.limits.chunk_bytes_max = 256 << 10;
    let mut clock = Clock::default();
    let ran = migrate(&mut [here], &mut [there], unix(1)?, &mut clock, &save, &LoadOptions::default())?;
    let bytes: u64 = ran.source.devices.iter().map(|device| device.precopy_bytes).sum();
    let (Some(began), Some(ended)) = (clock.began, clock.ended) else { return Err("there was no pre-copy".into()) };
    let seconds = ended.saturating_duration_since(began).as_secs_f64();
    Ok(f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)) / seconds.max(1e-9))
}

#[cfg(test)]
mod test {
    use super::{BUFFER_BYTES, slow};

    /// None can be faster than its delay, and each of them sleeps for itself.
    #[test]
    fn devices_alone_are_as_slow_as_they_are_told() {
        for devices in [1, 3] {
            let speed = super::alone(devices, 2, 8).unwrap() / super::MEBIBYTE;
            let most = 125.0 * f64::from(devices);
            assert!(speed > 0.0 && speed <= most, "{speed} MiB/s of {devices} at 8 ms by MiB");
        }
    }

    /// Whatever the machine is doing meanwhile, memory is bounded and the device is not outrun.
    #[test]
    fn a_slow_device_bounds_the_speed_and_not_the_memory() {
        let [speed, peak] = slow(24).unwrap();
        assert!(speed < 400.0 * super::MEBIBYTE, "{speed}");
        assert!(peak > 0.0 && peak <= f64::from(u32::try_from(BUFFER_BYTES).unwrap()), "{peak}");
    }
}
