// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Both sides of a migration in this process, for benchmarks that ask what it cost.

use core::time::Duration;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use savevm_core::load::{self, LoadOptions, Running};
use savevm_core::save::{self, Committed, SaveOptions};
use savevm_core::sim::{SimConfig, SimDevice, SimPort};
use savevm_core::{Cause, Channel, Device, Hooks};

use super::Unit;
use super::engine::failed;
use super::peers::cost::float;

/// Both ends of some connections.
pub(super) type Ends = (Vec<Channel<'static>>, Vec<Channel<'static>>);

/// What a migration came to.
pub(super) struct Ran {
    pub(super) elapsed: Duration,
    /// Of the whole process, both sides.
    pub(super) processor: Duration,
    pub(super) source: Committed,
    pub(super) target: Running,
}

/// Speed and price, the metrics of most benchmarks.
pub(super) const SPEED_AND_PRICE: [(&str, Unit); 2] =
    [("speed", Unit::BytesPerSecond), ("processor time", Unit::SecondsPerGigabyte)];

impl Ran {
    fn bytes(&self) -> f64 {
        float(self.source.devices.iter().map(|device| device.sum.bytes).sum())
    }

    pub(super) fn speed(&self) -> f64 {
        self.bytes() / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Seconds of processor time by 10⁹ bytes.
    pub(super) fn price(&self) -> f64 {
        self.processor.as_secs_f64() / (self.bytes() / 1e9).max(1e-9)
    }
}

/// Speed and price of what moves so many bytes.
pub(super) fn speed_and_price(bytes: u64, work: impl FnOnce() -> Result<(), String>) -> Result<[f64; 2], String> {
    let (began, used) = (Instant::now(), processor()?);
    work()?;
    let (elapsed, used) = (began.elapsed(), processor()?.saturating_sub(used));
    let bytes = float(bytes);
    Ok([bytes / elapsed.as_secs_f64().max(1e-9), used.as_secs_f64() / (bytes / 1e9).max(1e-9)])
}

/// Unix sockets without anything on top.
pub(super) fn unix(channels: usize) -> Result<Ends, String> {
    let pair = |_| {
        let (left, right) = UnixStream::pair().map_err(failed)?;
        Ok((Channel::unix(left).map_err(failed)?, Channel::unix(right).map_err(failed)?))
    };
    (0..channels).map(pair).collect::<Result<Vec<_>, String>>().map(|pairs| pairs.into_iter().unzip())
}

/// Migrates, and measures from the first word to the last.
pub(super) fn migrate<D: Device + Send>(
    ours: &mut [D],
    theirs: &mut [D],
    (left, right): Ends,
    hooks: &mut dyn Hooks,
    save_options: &SaveOptions,
    load_options: &LoadOptions,
) -> Result<Ran, String> {
    let (began, used) = (Instant::now(), processor()?);
    let (source, target) = thread::scope(|scope| {
        let target = scope.spawn(|| load::load(theirs, right, &mut (), load_options).and_then(load::Loaded::run));
        let source = save::save(ours, left, hooks, save_options).and_then(save::Ready::commit).map_err(failed)?;
        let target = target.join().map_err(|_| "the target panicked")?.map_err(failed)?;
        Ok::<_, String>((source, target))
    })?;
    Ok(Ran { elapsed: began.elapsed(), processor: processor()?.saturating_sub(used), source, target })
}

/// Migrates, unless the source finds that it cannot keep to its limit.
pub(super) fn attempt<D: Device + Send>(
    ours: &mut [D],
    theirs: &mut [D],
    (left, right): Ends,
    save_options: &SaveOptions,
    load_options: &LoadOptions,
) -> Result<Option<Committed>, String> {
    thread::scope(|scope| {
        let target = scope.spawn(|| load::load(theirs, right, &mut (), load_options).and_then(load::Loaded::run));
        let source = save::save(ours, left, &mut (), save_options).and_then(save::Ready::commit);
        let target = target.join().map_err(|_| "the target panicked")?;
        match source {
            Err(error) if matches!(error.cause, Cause::GivenUp { .. }) => Ok(None),
            source => target.map_err(failed).and(source.map(Some).map_err(failed)),
        }
    })
}

fn processor() -> Result<Duration, String> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).map_err(failed)?;
    let microseconds = usage.user_time().num_microseconds().saturating_add(usage.system_time().num_microseconds());
    Ok(Duration::from_micros(u64::try_from(microseconds).unwrap_or(0)))
}

/// A simulated device at either side, as softvfio's configurations describe them. The devices are to be kept.
pub(super) fn simulated(config: &str) -> Result<([SimDevice; 2], [SimPort; 2]), String> {
    simulated_as("device", config)
}

/// The same by another name: those of one migration differ.
pub(super) fn simulated_as(name: &str, config: &str) -> Result<([SimDevice; 2], [SimPort; 2]), String> {
    let device = || SimConfig::parse(config).map_err(failed)?.device().map_err(failed);
    let devices = [device()?, device()?];
    let [here, there] = &devices;
    let ports = [SimPort::open(here, name).map_err(failed)?, SimPort::open(there, name).map_err(failed)?];
    Ok((devices, ports))
}
