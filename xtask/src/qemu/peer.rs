// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `xtask qemu-peer`: one side of a migration with a QEMU, as a process of its own with devices of its own.

mod connect;
mod guest;
mod machine;
mod memory;
pub(crate) mod outcome;
mod recording;
mod source;
mod target;

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand, ValueEnum};
use savevm_core::Cancel;
use savevm_core::kernel::KernelDevice;
use savevm_core::qemu::{Acks, Agreement, DeviceState};
use savevm_core::ram::FileMemory;

pub(crate) use self::connect::listening;
pub(crate) use self::guest::{contents, file_name};
use self::outcome::Outcome;
use crate::device::DeviceSpec;
use crate::out::outln;

/// One side of a migration with a QEMU; prints one JSON document for each attempt
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    side: Side,
}

#[derive(Debug, Subcommand)]
enum Side {
    /// Send the devices' state to a QEMU, or to a file that one will read.
    Source(source::Args),
    /// Take the devices' state from a QEMU, or from a file that one wrote.
    Target(target::Args),
}

/// What both sides need.
#[derive(Debug, clap::Args)]
struct Common {
    /// A device: PLACE=DEVICE, where PLACE is where the guest sees it (0000:00:10.0).
    #[arg(long = "device", value_name = "PLACE=DEVICE", required = true)]
    devices: Vec<DeviceSpec>,
    /// Multifd channels.
    #[arg(long, value_name = "N", default_value_t = 0, overrides_with = "channels")]
    channels: u8,
    /// Use the main connection only, whatever else is said.
    #[arg(long)]
    only_main: bool,
    /// Device state goes over the main connection, whatever else is said.
    #[arg(long)]
    state_on_main: bool,
    /// Do without the last N devices.
    #[arg(long, value_name = "N", default_value_t = 0)]
    leave_out: usize,
    /// Device state comes over the multifd channels.
    #[arg(long)]
    multifd_state: bool,
    /// There is a return path.
    #[arg(long)]
    return_path: bool,
    /// How initial bytes are acknowledged.
    #[arg(long, value_enum, default_value_t = AckScheme::Off)]
    acks: AckScheme,
    /// Every RAM section ends with a synchronisation point.
    #[arg(long)]
    flush_each_section: bool,
    /// Write what is in guest memory at the end into this folder: a file for each RAM block.
    #[arg(long, value_name = "DIR")]
    dump: Option<PathBuf>,
    /// Give up when the other side says nothing for so long.
    #[arg(long, value_name = "SECONDS", default_value_t = 15, overrides_with = "silence")]
    silence: u64,
    /// End when the parent process does.
    #[arg(long)]
    with_parent: bool,
    /// Try again with the same devices for every line of standard input: the arguments of the attempt, as a JSON array.
    #[arg(long)]
    again: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum AckScheme {
    Off,
    Once,
    PerRequest,
}

impl Common {
    fn agreement(&self) -> Agreement {
        let acks = match self.acks {
            AckScheme::Off => Acks::Off,
            AckScheme::Once => Acks::Once,
            AckScheme::PerRequest => Acks::PerRequest,
        };
        let over_multifd = self.multifd_state && !self.only_main && !self.state_on_main;
        let mut agreement = Agreement::new(acks, if over_multifd { DeviceState::Multifd } else { DeviceState::Main });
        agreement.flush_each_section = self.flush_each_section;
        agreement
    }

    fn channels(&self) -> u8 {
        if self.only_main { 0 } else { self.channels }
    }

    /// The devices of this attempt.
    fn devices<'a>(&self, all: &'a mut [PeerDevice]) -> &'a mut [PeerDevice] {
        let count = all.len().saturating_sub(self.leave_out);
        all.get_mut(..count).unwrap_or_default()
    }

    /// Writes guest memory down, where that was asked for.
    fn dump(&self, memory: &FileMemory) -> Result<(), String> {
        self.dump.as_deref().map_or(Ok(()), |folder| guest::dump(memory, folder))
    }

    fn limits(&self) -> savevm_core::Limits {
        let mut limits = savevm_core::Limits::default();
        limits.silence_max = Duration::from_secs(self.silence);
        limits
    }
}

/// Where the other side is.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Place {
    /// A unix socket.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// A file.
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
}

type PeerDevice = KernelDevice<OwnedFd>;

/// An attempt after the first.
#[derive(Debug, clap::Parser)]
#[command(name = "qemu-peer")]
struct Again {
    #[command(flatten)]
    args: Args,
}

/// Runs one side. The exit status is 0 if a report could be printed, whatever it says.
pub(crate) fn main(args: &Args) -> ExitCode {
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    let common = args.side.common();
    die_with_parent(common)?;
    let signal = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&signal))
        .map_err(|error| format!("cannot watch for SIGTERM: {error}"))?;
    let mut devices = crate::device::open_all(&common.devices).map_err(|error| error.to_string())?;
    report(&args.side.attempt(&mut devices, &signal)?)?;
    if !common.again {
        return Ok(());
    }
    for line in io::stdin().lines() {
        let line = line.map_err(|error| format!("cannot read what to do next: {error}"))?;
        let words: Vec<String> = serde_json::from_str(&line).map_err(|error| format!("not arguments: {error}"))?;
        let words = core::iter::once("qemu-peer".to_owned()).chain(words);
        let again = Again::try_parse_from(words).map_err(|error| error.to_string())?;
        report(&again.args.side.attempt(&mut devices, &signal)?)?;
    }
    Ok(())
}

/// One line, so that who reads it knows when it is whole.
fn report(outcome: &Outcome) -> Result<(), String> {
    let text = serde_json::to_string(outcome).map_err(|error| format!("cannot write JSON: {error}"))?;
    outln!("{text}");
    Ok(())
}

impl Side {
    fn common(&self) -> &Common {
        match self {
            Self::Source(args) => &args.common,
            Self::Target(args) => &args.common,
        }
    }

    /// A SIGTERM from here on cancels.
    fn attempt(&self, devices: &mut [PeerDevice], signal: &Arc<AtomicBool>) -> Result<Outcome, String> {
        signal.store(false, Ordering::SeqCst);
        let (devices, cancel) = (self.common().devices(devices), Cancel::from_flag(Arc::clone(signal)));
        match self {
            Self::Source(args) => source::run(args, devices, cancel),
            Self::Target(args) => target::run(args, devices, cancel),
        }
    }
}

fn die_with_parent(common: &Common) -> Result<(), String> {
    if !common.with_parent {
        return Ok(());
    }
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .map_err(|errno| format!("PR_SET_PDEATHSIG: {errno}"))
}
