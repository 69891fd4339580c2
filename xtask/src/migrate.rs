// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `migrate source|target`: two processes, real fds, one stream.

mod address;
mod door;
mod link;
mod outcome;
mod pause;
mod source;
mod target;
mod tell;
mod transport;
mod watch;

use core::sync::atomic::AtomicBool;
use core::time::Duration;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Subcommand, ValueEnum};
use savevm_core::kernel::KernelDevice;
use savevm_core::tap;
use savevm_core::{Cancel, Channel, Device, Limits};

use crate::check_stream::{self, Checks};
use crate::device::DeviceSpec;
use crate::soft::SoftArgs;
use crate::tls;
pub(crate) use address::Address;
pub(crate) use link::Link;
pub(crate) use transport::Transport;

/// Move device state from this process to another, or to and from a file
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    side: Side,
}

#[derive(Debug, Subcommand)]
enum Side {
    /// Read the devices' state and give the devices up once the target has acknowledged it
    ///
    /// Any failure before that point leaves the devices running here.
    Source(SourceArgs),
    /// Take the devices' state and run them once the source has given them up
    ///
    /// Any failure before that point resets the devices here.
    Target(TargetArgs),
}

#[derive(Debug, clap::Args)]
struct Common {
    /// A device: PCI address, mdev UUID, or /dev/vfio/devices/vfioN. Written NAME=DEVICE it gets that name in the
    /// stream; otherwise the first is device0, the second device1, and so on. Both sides must use the same names
    #[arg(long = "device", value_name = "[NAME=]DEVICE", required = true)]
    devices: Vec<DeviceSpec>,

    /// Give up when the peer is silent for this long
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    timeout: Duration,

    /// How many connections to use. Both sides name the same number. One is enough until a connection is slower than
    /// the devices: a device keeps to one of them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    channels: u16,

    /// The largest piece of device state in the stream; the smaller of the two sides' values is used
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(1..=1 << 30))]
    chunk_bytes: u32,

    /// What the data buffers of this side may come to, for all devices together. The target's value bounds what can be
    /// under way; it cuts the pieces smaller where there are many devices
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20, value_parser = clap::value_parser!(u64).range(1..))]
    buffer_bytes: u64,

    /// Leave out the checksum of each piece, if the other side agrees: for a transport that checks the data itself. The
    /// digest of each device is compared in any case
    #[arg(long)]
    no_checksums: bool,

    /// Refuse a device state larger than this
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 40)]
    state_bytes_max: u64,

    /// Reset the devices before anything else: for a device that a killed program left in the middle of a migration,
    /// which only a driver that keeps its state over a close does. What the device holds is lost
    #[arg(long)]
    reset_first: bool,

    /// Look at each device's stream as it passes, and give up if it is damaged, incomplete or does not fit: for devices of
    /// hisi_acc_vfio_pci, mlx5_vfio_pci and virtio_vfio_pci, whose drivers let much of that pass. Nothing that was refused
    /// is written to the target's device, and the target does not run. Useful on either side; the target's also compares a
    /// hisi stream with the device itself, which it asks in PRE_COPY what it is
    #[arg(long)]
    check_stream: bool,

    /// Tell on standard error what happens and why: the phases and every decision. Twice, also the calls to the devices
    /// and their sizes; three times, every piece of work
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,

    /// Print one JSON document with the outcome on standard output
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    tls: tls::Args,

    #[command(flatten)]
    soft: SoftArgs,

    /// Once the devices are open, wait for a line on standard input
    #[arg(long, hide = true)]
    hold: bool,

    /// Stop at the beginning of this phase, say so on standard error, and go on when a line comes on standard input
    #[arg(long, value_name = "PHASE", hide = true, value_parser = pause::phase)]
    pause_at: Option<savevm_core::Phase>,

    /// What to do after the pause
    #[arg(long, hide = true, value_enum, default_value_t = AfterPause::GoOn)]
    after_pause: AfterPause,

    /// Which of the channels to cut after the pause; all of them without this
    #[arg(long, hide = true)]
    cut_channel: Option<usize>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum AfterPause {
    GoOn,
    Cut,
}

#[derive(Debug, clap::Args)]
struct SourceArgs {
    #[command(flatten)]
    common: Common,

    /// The target: tcp:HOST:PORT, unix:PATH, or file:PATH to write a file
    #[arg(long, value_name = "ADDRESS")]
    to: Address,

    /// Stop the devices at once instead of reading while they run
    #[arg(long)]
    no_precopy: bool,

    /// The downtime to keep: pre-copy goes on until what is left is predicted to fit, or no longer gets less
    #[arg(long, value_name = "MS", default_value_t = 300)]
    downtime_ms: u64,

    /// Read at most this many bytes per second while the devices run
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    precopy_rate: Option<u64>,

    /// Leave pre-copy after this long at the latest
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    precopy_seconds_max: Duration,

    /// Write what the scheduler was told, asked and decided to FILE, for `cargo xtask replay`
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,

    /// What becomes of the devices once a file is written: they run on, or stay stopped
    #[arg(long, value_enum, default_value_t = AfterFile::Run)]
    after: AfterFile,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum AfterFile {
    Run,
    Stop,
}

#[derive(Debug, clap::Args)]
struct TargetArgs {
    #[command(flatten)]
    common: Common,

    /// Where to listen: tcp:HOST:PORT (port 0 picks one), unix:PATH, or file:PATH to read a file
    #[arg(long, value_name = "ADDRESS")]
    from: Address,

    /// Give up when no source has connected and said all of its Hello in this long. Connections that say none are turned
    /// away in the meantime, each after --timeout at the latest [default: listen until a signal]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    wait: Option<Duration>,
}

/// Runs one side; the exit status is 0 only if the state moved.
pub(crate) fn run(args: Args) -> ExitCode {
    let (Side::Source(SourceArgs { common, .. }) | Side::Target(TargetArgs { common, .. })) = &args.side;
    if let Some(status) = common.soft.run_again_if_asked() {
        return status;
    }
    tell::start(common.verbose);
    match args.side {
        Side::Source(args) => source::run(&args),
        Side::Target(args) => target::run(&args),
    }
}

/// The opened devices of one side.
type Devices = Vec<KernelDevice<OwnedFd>>;

/// What one side has before it looks for the other.
struct Opened {
    devices: Devices,
    checks: Checks,
    cancel: Cancel,
}

/// Opens the devices of one side, resets them and prepares to check their streams where that was asked for.
fn open(common: &Common, side: tap::Side) -> Result<Opened, String> {
    let cancel = cancel_on_signals()?;
    let mut devices = crate::device::open_all(&common.devices).map_err(|error| error.to_string())?;
    if common.reset_first {
        for device in &mut devices {
            device.reset().map_err(|error| error.to_string())?;
        }
    }
    let mut checks = Checks::default();
    if common.check_stream {
        checks = check_stream::prepare(side, &mut devices, common.state_bytes_max)?;
        checks.notes.iter().for_each(|note| eprintln!("--check-stream: {note}"));
    }
    if common.hold {
        pause::wait("start");
    }
    Ok(Opened { devices, checks, cancel })
}

fn names(devices: &Devices) -> Vec<String> {
    devices.iter().map(|device| device.name().to_owned()).collect()
}

fn limits(common: &Common) -> Limits {
    let mut limits = Limits::default();
    limits.chunk_bytes_max = common.chunk_bytes;
    limits.buffer_bytes_max = common.buffer_bytes;
    limits.payload_checksums = !common.no_checksums;
    limits.state_bytes_max = common.state_bytes_max;
    limits.silence_max = common.timeout;
    limits
}

/// A first SIGINT or SIGTERM cancels in good order; a second one ends the process.
fn cancel_on_signals() -> Result<Cancel, String> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&flag)))
            .map_err(|error| format!("cannot watch for signal {signal}: {error}"))?;
    }
    // A file that may not grow is an error of the write, not the end of the process with its devices in it.
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default())
        .map_err(|error| format!("cannot watch for SIGXFSZ: {error}"))?;
    Ok(Cancel::from_flag(flag))
}

/// Makes channels of connections, and keeps a handle to each for cutting it.
fn channels(links: Vec<Link>) -> Result<(Vec<Channel<'static>>, Vec<Transport>), String> {
    let set_up = |link: Link| {
        let handle = link.socket().try_clone()?;
        Ok((link.into_channel()?, handle))
    };
    let pairs: std::io::Result<Vec<_>> = links.into_iter().map(set_up).collect();
    let pairs = pairs.map_err(|error| format!("cannot set up a connection: {error}"))?;
    Ok(pairs.into_iter().unzip())
}

/// A number that tells this attempt from every other.
fn nonce() -> Result<[u8; 16], String> {
    let mut nonce = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut nonce))
        .map_err(|error| format!("cannot draw a random number: {error}"))?;
    Ok(nonce)
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("'{text}' is not a number of seconds"))?;
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| format!("'{text}' is not a positive number of seconds"))
}
