// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! This workspace: `save_with_memory` and `load_with_memory`, without devices, with the checksums of frames or without them, with the
//! digest over everything or without it.

use core::time::Duration;
use std::fs::File;
use std::time::Instant;

use savevm_core::dirty::{Ledger, Region, Tracking};
use savevm_core::load::{self, LoadOptions};
use savevm_core::ram::{FileMemory, GuestMemory, Source};
use savevm_core::save::{self, SaveOptions};
use savevm_core::{Channel, Limits};

use super::side::Connection;
use crate::bench::engine::failed;
use crate::bench::file_device::FileDevice;

/// What shows that the bytes are right, beside what the transport does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::bench) enum Proof {
    Nothing,
    Digest,
    /// And checksums.
    Both,
}

impl Proof {
    fn ask(self, limits: &mut Limits) {
        (limits.payload_checksums, limits.memory_digest) = (self == Self::Both, self != Self::Nothing);
    }
}

fn memory(file: File) -> Result<FileMemory, String> {
    let bytes = file.metadata().map_err(failed)?.len();
    let region = Region { name: "ram".into(), bytes, page_bytes: 4096 };
    FileMemory::new(vec![(region, file)]).map_err(failed)
}

fn channels(connections: Vec<Connection>) -> Result<Vec<Channel<'static>>, String> {
    connections.into_iter().map(|connection| connection.into_channel().map_err(failed)).collect()
}

/// The account is there before a migration begins, as a VMM's is.
pub(in crate::bench) fn save(file: File, connections: Vec<Connection>, proof: Proof) -> Result<Duration, String> {
    let memory = memory(file)?;
    let ledger = Ledger::of(memory.regions(), u64::MAX).map_err(failed)?;
    let mut tracking = Tracking::new(ledger, 1, 0);
    let source = Source::new(&memory, &mut tracking).map_err(failed)?;
    let channels = channels(connections)?;
    let (mut devices, mut options): ([FileDevice; 0], _) = ([], SaveOptions::default());
    proof.ask(&mut options.limits);
    let began = Instant::now();
    save::save_with_memory(&mut devices, source, channels, &mut (), &options)
        .and_then(save::Ready::commit)
        .map_err(failed)?;
    Ok(began.elapsed())
}

pub(in crate::bench) fn load(
    file: File,
    connections: Vec<Connection>,
    proof: Proof,
    buffer_bytes: u64,
) -> Result<(), String> {
    let memory = memory(file)?;
    let (mut devices, mut options): ([FileDevice; 0], _) = ([], LoadOptions::default());
    proof.ask(&mut options.limits);
    options.limits.buffer_bytes_max = buffer_bytes;
    load::load_with_memory(&mut devices, &memory, channels(connections)?, &mut (), &options)
        .and_then(load::Loaded::run)
        .map(drop)
        .map_err(failed)
}
