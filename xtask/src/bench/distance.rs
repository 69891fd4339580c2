// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `distance`: a target that is far away, so that what is sent takes long to arrive and longer to be answered for.
//!
//! The way carries 10 Gbit/s each way. The baseline does not wait for answers: it is as fast as the way.

use core::time::Duration;
use std::os::unix::net::UnixStream;
use std::thread;

use savevm_core::Channel;
use savevm_core::load::LoadOptions;
use savevm_core::save::SaveOptions;

use super::delay::Way;
use super::engine::{Ends, Files, failed};
use super::file_device::devices;
use super::measure::{Costly, Costs};
use super::peers::cost::float;
use super::ram::engine::{self as memory, Proof};
use super::ram::side::Connection;
use super::rig::{self, SPEED_AND_PRICE, migrate, speed_and_price};
use super::{Goal, Outcome, Setting};

const BYTES_PER_SECOND: u64 = 1_250_000_000;
/// There and back to another town, country and continent, what the target's buffers may come to for it, and what is to be reached: a source
/// finds out how far it is while it sends, which takes some round trips.
const DISTANCES: [(u64, u64, f64); 3] = [(2, 64 << 20, 0.95), (10, 64 << 20, 0.9), (40, 256 << 20, 0.7)];

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>, String> {
    let (bytes, rounds) = if setting.quick { (64 << 20, 1) } else { (1 << 30, 5) };
    let mut outcomes = Vec::new();
    for (round_trip_ms, buffer_bytes, least) in DISTANCES {
        let goals = [Some(Goal::AtLeast(least)), None];
        let way = Way::new(BYTES_PER_SECOND, Duration::from_micros(round_trip_ms.saturating_mul(500)));
        for devices in [1, 4] {
            let files = Files::new(&setting.folder, devices, bytes)?;
            let channels = usize::try_from(devices).unwrap_or(1);
            let (files, way) = (&files, &way);
            let mut contenders = vec![Costly::new("devices", goals, move || over(files, way, channels, buffer_bytes))];
            if devices == 1 {
                contenders.push(Costly::new("guest memory", goals, move || guest_memory(files, way, buffer_bytes)));
            }
            let costs = Costs {
                name: format!("distance/{round_trip_ms} ms there and back, {devices} devices, {channels} channels"),
                metrics: SPEED_AND_PRICE,
                baseline: Costly::new("bare pump", [None; 2], move || files.pump_over(pairs(way, channels)?)),
                contenders,
            };
            outcomes.extend(setting.compare_costs(costs, rounds)?);
        }
    }
    Ok(outcomes)
}

fn connect(way: &Way) -> Result<(UnixStream, UnixStream), String> {
    way.connect().map_err(failed)
}

fn pairs(way: &Way, count: usize) -> Result<Vec<Ends>, String> {
    let boxed = |(left, right): (UnixStream, UnixStream)| -> Ends { (Box::new(left), Box::new(right)) };
    (0..count).map(|_| connect(way).map(boxed)).collect()
}

fn channels(way: &Way, count: usize) -> Result<rig::Ends, String> {
    let pair = |_| {
        let (left, right) = connect(way)?;
        Ok((Channel::unix(left).map_err(failed)?, Channel::unix(right).map_err(failed)?))
    };
    (0..count).map(pair).collect::<Result<Vec<_>, String>>().map(|pairs| pairs.into_iter().unzip())
}

fn over(files: &Files, way: &Way, count: usize, buffer_bytes: u64) -> Result<[f64; 2], String> {
    let (mut ours, mut theirs) = (devices(&files.source)?, devices(&files.target)?);
    let ends = channels(way, count)?;
    let mut load = LoadOptions::default();
    load.limits.buffer_bytes_max = buffer_bytes;
    let ran = migrate(&mut ours, &mut theirs, ends, &mut (), &SaveOptions::default(), &load)?;
    Ok([ran.speed(), ran.price()])
}

/// The only file of each side as a guest's memory.
fn guest_memory(files: &Files, way: &Way, buffer_bytes: u64) -> Result<[f64; 2], String> {
    let file = |files: &[std::fs::File]| match files {
        [file] => file.try_clone().map_err(failed),
        _ => Err("one file is one memory".to_owned()),
    };
    let (source, target) = (file(&files.source)?, file(&files.target)?);
    let (left, right) = connect(way)?;
    let mut took = Duration::ZERO;
    let [_, price] = speed_and_price(files.total_bytes, || {
        thread::scope(|scope| {
            let target = scope.spawn(|| memory::load(target, vec![Connection::Unix(right)], Proof::Both, buffer_bytes));
            took = memory::save(source, vec![Connection::Unix(left)], Proof::Both)?;
            target.join().map_err(|_| "the target panicked")?
        })
    })?;
    Ok([float(files.total_bytes) / took.as_secs_f64().max(1e-9), price])
}

#[cfg(test)]
mod test {
    use super::*;

    type Mover = fn(&Files, &Way) -> Result<[f64; 2], String>;

    #[test]
    fn all_of_them_move_what_they_are_given() {
        let way = Way::new(BYTES_PER_SECOND, Duration::from_millis(1));
        let movers: [Mover; 3] = [
            |files, way| files.pump_over(pairs(way, 1)?),
            |files, way| over(files, way, 1, 8 << 20),
            |files, way| guest_memory(files, way, 8 << 20),
        ];
        for mover in movers {
            let files = Files::new(&std::env::temp_dir(), 1, 8 << 20).unwrap();
            assert!(!files.are_equal().unwrap());
            mover(&files, &way).unwrap();
            assert!(files.are_equal().unwrap());
        }
    }
}
