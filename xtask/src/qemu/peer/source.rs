// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The source of a QEMU, or of a file that one will read.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use savevm_core::qemu::source::{Ready, Report};
use savevm_core::qemu::{SaveOptions, SourceMemory, save, save_with_memory};
use savevm_core::ram::Source;
use savevm_core::{Cancel, MigrationError};

use super::guest::Guest;
use super::outcome::Outcome;
use super::recording::Recording;
use super::{Common, PeerDevice, Place, connect};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(flatten)]
    to: Place,
    /// What a QEMU of the same version wrote: everything but the devices comes from there.
    #[arg(long, value_name = "PATH")]
    recording: PathBuf,
    /// Change this byte of every config state.
    #[arg(long, value_name = "OFFSET")]
    damage_config: Option<usize>,
    /// Claim this version of the devices' sections.
    #[arg(long, value_name = "VERSION")]
    section_version: Option<u32>,
    /// Stop the devices at once.
    #[arg(long)]
    no_precopy: bool,
    /// Send guest memory that a guest writes to, with content of this seed, instead of what was recorded of it.
    #[arg(long, value_name = "SEED")]
    memory: Option<u64>,
}

pub(super) fn run(args: &Args, devices: &mut [PeerDevice], cancel: Cancel) -> Result<Outcome, String> {
    let mut machine = Recording::open(&args.recording)?;
    machine.damage_config = args.damage_config;
    machine.guest = args.memory.map(|seed| Guest::of(&machine, seed)).transpose()?;
    let result = match (&args.to.socket, &args.to.file) {
        (Some(_), _) => to_target(args, devices, &mut machine, cancel),
        (None, _) => to_file(args, devices, &mut machine, cancel),
    };
    let outcome = Outcome::of(devices);
    machine.guest.as_ref().map_or(Ok(()), |guest| args.common.dump(&guest.memory))?;
    Ok(match result {
        Err(error) => Outcome { error: Some(error), ..outcome },
        Ok(Err(error)) => outcome.failed(&error),
        Ok(Ok(report)) => {
            let outcome = outcome.with_sums(&report.devices).with_pages(report.ram);
            Outcome { moved: true, committed: true, acks: report.acks_received, ..outcome }
        }
    })
}

fn options(args: &Args, cancel: Cancel) -> SaveOptions {
    let mut options = SaveOptions::new(args.common.agreement());
    options.limits = args.common.limits();
    options.cancel = cancel;
    if args.no_precopy {
        options.precopy = None;
    }
    if let (Some(rule), Some(_)) = (&mut options.precopy, args.memory) {
        // Every round of the guest's counts.
        (rule.dirty_bytes_max, rule.level_rounds_max) = (0, 16);
    }
    options
}

/// What the migration came to, or why there was none.
type Tried = Result<Result<Report, MigrationError>, String>;

fn to_target(args: &Args, devices: &mut [PeerDevice], machine: &mut Recording, cancel: Cancel) -> Tried {
    let socket = args.to.socket.as_deref().ok_or("no socket")?;
    let found = connect::connect(socket, args.common.channels())?;
    let back = args.common.return_path.then(|| found.main.try_clone()).transpose();
    let back = back.map_err(|error| format!("no second handle to the connection: {error}"))?;
    let options = options(args, cancel);
    let main = Claiming { writer: found.main, version: args.section_version };
    if let Some(guest) = machine.guest.clone() {
        let mut tracking = guest.tracking()?;
        let memory = Source::new(&guest.memory, &mut tracking).map_err(|error| error.to_string())?;
        let memory = SourceMemory::new(memory).map_err(|error| error.to_string())?;
        let ready = save_with_memory(devices, machine, memory, main, back, found.channels, &options);
        return Ok(ready.and_then(Ready::commit));
    }
    Ok(save(devices, machine, main, back, found.channels, &options).and_then(Ready::commit))
}

fn to_file(args: &Args, devices: &mut [PeerDevice], machine: &mut Recording, cancel: Cancel) -> Tried {
    let path = args.to.file.as_deref().ok_or("neither a socket nor a file")?;
    let file = File::create(path).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    let (back, channels): (Option<io::Empty>, Vec<io::Sink>) = (None, Vec::new());
    Ok(save(devices, machine, BufWriter::new(file), back, channels, &options(args, cancel)).and_then(Ready::commit))
}

/// Claims another version of the devices' sections, which are small enough to be written in one piece.
struct Claiming<W> {
    writer: W,
    version: Option<u32>,
}

/// The end of a section's header: idstr, instance 0, version 1.
const HEADER_END: &[u8] = b"/vfio\0\0\0\0\0\0\0\x01";

impl<W: Write> Write for Claiming<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let found = bytes.windows(HEADER_END.len()).position(|window| window == HEADER_END);
        let (Some(version), Some(start)) = (self.version, found) else { return self.writer.write(bytes) };
        let mut changed = bytes.to_vec();
        let end = start.saturating_add(HEADER_END.len());
        if let Some(place) = changed.get_mut(end.saturating_sub(4)..end) {
            place.copy_from_slice(&version.to_be_bytes());
        }
        self.writer.write_all(&changed).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}
