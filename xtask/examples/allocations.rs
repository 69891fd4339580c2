// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Counts what migrations allocate, for `xtask bench allocations`: of `CHUNKS` chunks of 1 MiB over `CHANNELS` channels, and of twice as
//! many, after one that does not count. Buffers, which are made when they are first needed, are counted beside it.

use core::error::Error;
use std::alloc::System;

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::thread;

use savevm_core::Channel;
use savevm_core::load::{self, LoadOptions};
use savevm_core::save::{self, SaveOptions};
use savevm_core::sim::{SimConfig, SimPort};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let mut number = || words.next().ok_or("CHANNELS CHUNKS")?.parse::<u32>().map_err(|_| "a number is expected");
    let (channels, chunks) = (number()?, number()?);
    let twice = chunks.saturating_mul(2);
    migrate(channels, chunks)?;
    let mut counts = Vec::new();
    for chunks in [chunks, twice] {
        let Made { allocations, buffers } = migrate(channels, chunks)?;
        counts.push(serde_json::json!({ "chunks": chunks, "allocations": allocations, "buffers": buffers }));
    }
    writeln!(std::io::stdout(), "{}", serde_json::Value::from(counts))?;
    Ok(())
}

/// In both sides and all of their threads.
struct Made {
    /// How often memory was allocated, or moved for one that grows, but for buffers.
    allocations: u64,
    buffers: u64,
}

fn migrate(channels: u32, chunks: u32) -> Result<Made, Box<dyn Error>> {
    let config = format!("model=plain caps=1 initial=0 dirty=0 stop={chunks}MiB seed=1");
    let device = || Ok::<_, Box<dyn Error>>(SimConfig::parse(&config)?.device()?);
    let devices = (device()?, device()?);
    let (mut ours, mut theirs) = ([SimPort::open(&devices.0, "d")?], [SimPort::open(&devices.1, "d")?]);
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for _ in 0..channels {
        let (one, other) = UnixStream::pair()?;
        left.push(Channel::unix(one)?);
        right.push(Channel::unix(other)?);
    }
    let region = Region::new(ALLOCATOR);
    let buffers = thread::scope(|scope| {
        let target = scope
            .spawn(|| load::load(&mut theirs, right, &mut (), &LoadOptions::default()).and_then(load::Loaded::run));
        let saved = save::save(&mut ours, left, &mut (), &SaveOptions::default()).and_then(save::Ready::commit);
        let loaded = target.join().map_err(|_| "the target panicked")?;
        Ok::<_, Box<dyn Error>>(saved?.counters.buffers_made.saturating_add(loaded?.counters.buffers_made))
    })?;
    let made = region.change();
    let allocations = u64::try_from(made.allocations.saturating_add(made.reallocations))?;
    // Each is one allocation.
    Ok(Made { allocations: allocations.saturating_sub(buffers), buffers })
}
