// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The target of a QEMU, or of a file that one wrote.

use core::time::Duration;
use std::fs::File;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;

use savevm_core::qemu::target::{Loaded, Report};
use savevm_core::qemu::{LoadOptions, TargetMemory, load, load_with_memory};
use savevm_core::ram::FileMemory;
use savevm_core::{Cancel, MigrationError};

use super::guest::{self, Block};
use super::machine::Machine;
use super::outcome::Outcome;
use super::{Common, PeerDevice, Place, connect};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(flatten)]
    from: Place,
    /// Most bytes to hold of packets that overtook others.
    #[arg(long, value_name = "BYTES")]
    reorder_bytes: Option<usize>,
    /// The machine type the source must have.
    #[arg(long, value_name = "NAME")]
    machine_type: Option<String>,
    /// A RAM block, of all that the source has: guest memory is filled for the machine.
    #[arg(long = "ram", value_name = "NAME=BYTES")]
    blocks: Vec<Block>,
}

pub(super) fn run(args: &Args, devices: &mut [PeerDevice], cancel: Cancel) -> Result<Outcome, String> {
    let mut machine = Machine::new(devices, args.machine_type.clone())?;
    let memory = guest::memory(&args.blocks)?;
    let result = match (&args.from.socket, &args.from.file) {
        (Some(socket), _) => from_source(args, devices, &mut machine, &memory, (socket, cancel)),
        (None, Some(file)) => from_file(args, devices, &mut machine, file, cancel),
        (None, None) => Err("neither a socket nor a file".to_owned()),
    };
    let outcome = Outcome::of(devices);
    args.common.dump(&memory)?;
    Ok(match result {
        Err(error) => Outcome { error: Some(error), ..outcome },
        Ok(Err(error)) => outcome.failed(&error),
        Ok(Ok(report)) => Outcome {
            moved: true,
            committed: true,
            acks: report.acks_sent,
            reorder_peak_bytes: report.reorder_peak_bytes,
            ram: machine.memory.report()?,
            ..outcome.with_sums(&report.devices).with_pages(report.ram)
        },
    })
}

fn options(args: &Args, cancel: Cancel) -> LoadOptions {
    let mut options = LoadOptions::new(args.common.agreement());
    options.limits = args.common.limits();
    options.cancel = cancel;
    if let Some(bytes) = args.reorder_bytes {
        options.reorder_bytes_max = bytes;
    }
    options
}

fn from_source(
    args: &Args,
    devices: &mut [PeerDevice],
    machine: &mut Machine,
    memory: &FileMemory,
    (socket, cancel): (&Path, Cancel),
) -> Result<Result<Report, MigrationError>, String> {
    let limit = Duration::from_secs(args.common.silence);
    let found = connect::accept(socket, args.common.channels(), &cancel, limit)?;
    let back = args.common.return_path.then(|| found.main.try_clone()).transpose();
    let back = back.map_err(|error| format!("no second handle to the connection: {error}"))?;
    let options = options(args, cancel);
    let loaded = if args.blocks.is_empty() {
        load(devices, machine, found.main, back, found.channels, &options)
    } else {
        let memory = TargetMemory::new(memory).map_err(|error| error.to_string())?;
        load_with_memory(devices, machine, memory, found.main, back, found.channels, &options)
    };
    let ended = loaded.and_then(Loaded::run);
    drop(found.listener);
    Ok(ended)
}

fn from_file(
    args: &Args,
    devices: &mut [PeerDevice],
    machine: &mut Machine,
    path: &Path,
    cancel: Cancel,
) -> Result<Result<Report, MigrationError>, String> {
    let file = File::open(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let no_channels: Vec<Box<dyn Read + Send>> = Vec::new();
    let options = options(args, cancel);
    Ok(load(devices, machine, file, None::<UnixStream>, no_channels, &options).and_then(Loaded::run))
}
