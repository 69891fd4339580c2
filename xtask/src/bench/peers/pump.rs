// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The least that can be done: read a device, write a socket; read the socket, write the other device.
//!
//! One connection per device, four threads at most, pieces of 1 MiB, no headers, no digests, nothing in pre-copy. What goes
//! wrong ends it with a message; nothing is put right.

use core::time::Duration;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use savevm_core::device::{Device, Read as Got};
use savevm_core::kernel::KernelDevice;
use vfio_mig_fsm::State;

use super::cost::Work;
use super::{log, ours, process};
use crate::device::{self, DeviceSpec};

const PIECE_BYTES: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(20);
/// Devices that are pumped at a time; another takes the place of one that is done.
const PUMPS: usize = 4;

/// One side of the pump.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long, value_name = "NAME=DEVICE", required = true)]
    device: Vec<DeviceSpec>,
    /// Where the target tells its port
    #[arg(long)]
    meet: PathBuf,
    #[arg(long)]
    is_target: bool,
}

pub(super) fn measure(work: &Work) -> Result<[f64; 3], String> {
    let folder = work.run_folder()?;
    let command = |name: &str, first_seed: usize, more: &[&str]| {
        let mut command = ours::side(work, folder.path(), name, first_seed)?;
        command.args(["pump", "--meet"]).arg(folder.path().join("meet")).args(more);
        ours::devices(&mut command, work, 1);
        Ok::<_, String>(command)
    };
    let (mut target, mut source) = (command("target", 1, &["--is-target"])?, command("source", 101, &[])?);
    let usage = process::run_both(&mut target, &mut source)?;
    work.cost(&log(folder.path(), "source"), &log(folder.path(), "target"), &usage)
}

/// Runs one side.
pub(crate) fn run(args: &Args) -> ExitCode {
    let done = if args.is_target { load(args) } else { save(args) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pump: {error}");
            ExitCode::FAILURE
        }
    }
}

type Opened = KernelDevice<OwnedFd>;

/// Devices that are in the state their side begins with.
fn opened(args: &Args, state: State) -> Result<Vec<Opened>, String> {
    let mut devices = device::open_all(&args.device).map_err(|error| error.to_string())?;
    for device in &mut devices {
        device.transition(State::Stop).map_err(|error| error.to_string())?;
    }
    for device in &mut devices {
        device.transition(state).map_err(|error| error.to_string())?;
    }
    Ok(devices)
}

/// Runs the pumps, each over its share of the devices, and gives the first error.
fn each(
    devices: Vec<Opened>,
    connections: Vec<TcpStream>,
    work: fn(Opened, TcpStream) -> Result<(), String>,
) -> Result<(), String> {
    let shares = shares(devices.into_iter().zip(connections));
    thread::scope(|scope| {
        let pump = |share: Vec<_>| {
            scope.spawn(move || share.into_iter().try_for_each(|(device, connection)| work(device, connection)))
        };
        let threads: Vec<_> = shares.into_iter().map(pump).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".into())))
    })
}

/// What each pump has to do, one thing after the other.
pub(in crate::bench) fn shares<T>(work: impl Iterator<Item = T>) -> Vec<Vec<T>> {
    let mut shares: Vec<Vec<T>> = (0..PUMPS).map(|_| Vec::new()).collect();
    for (index, item) in work.enumerate() {
        if let Some(share) = shares.get_mut(index % PUMPS) {
            share.push(item);
        }
    }
    shares
}

fn save(args: &Args) -> Result<(), String> {
    let at = meet(&args.meet)?;
    // The target is ready to listen before the devices stop.
    let connections: Result<Vec<_>, _> = args.device.iter().map(|_| TcpStream::connect(&at)).collect();
    let connections = connections.map_err(|error| format!("cannot connect to {at}: {error}"))?;
    each(opened(args, State::StopCopy)?, connections, |mut device, mut connection| {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match device.read(&mut piece).map_err(|error| error.to_string())? {
                Got::Bytes(length) => connection
                    .write_all(piece.get(..length).unwrap_or_default())
                    .map_err(|error| format!("cannot send: {error}"))?,
                Got::Drained | Got::End => return Ok(()),
            }
        }
    })
}

fn load(args: &Args) -> Result<(), String> {
    let cannot = |error: std::io::Error| format!("cannot listen: {error}");
    let devices = opened(args, State::Resuming)?;
    let listener = TcpListener::bind("127.0.0.1:0").map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    tell(&args.meet, &address.to_string()).map_err(cannot)?;
    let connections: Result<Vec<_>, _> = devices.iter().map(|_| listener.accept().map(|(it, _)| it)).collect();
    each(devices, connections.map_err(cannot)?, |mut device, mut connection| {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let length = connection.read(&mut piece).map_err(|error| format!("cannot receive: {error}"))?;
            if length == 0 {
                return device.transition(State::Stop).map_err(|error| error.to_string());
            }
            device.write(piece.get(..length).unwrap_or_default()).map_err(|error| error.to_string())?;
        }
    })
}

/// Gives the address to the first that asks.
pub(in crate::bench) fn tell(meet: &Path, address: &str) -> std::io::Result<()> {
    let listener = UnixListener::bind(meet)?;
    listener.accept()?.0.write_all(address.as_bytes())
}

pub(in crate::bench) fn meet(meet: &Path) -> Result<String, String> {
    let begin = std::time::Instant::now();
    loop {
        match UnixStream::connect(meet) {
            Ok(mut stream) => {
                let mut address = String::new();
                let read = stream.read_to_string(&mut address);
                return read.map(|_| address).map_err(|error| format!("cannot ask for the address: {error}"));
            }
            Err(error) if begin.elapsed() > PATIENCE => {
                return Err(format!("no target at {}: {error}", meet.display()));
            }
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn no_more_pumps_are_at_work_than_there_are_pumps_and_nothing_is_left() {
        assert_eq!(shares(0..2), [vec![0], vec![1], vec![], vec![]]);
        assert_eq!(shares(0..6), [vec![0, 4], vec![1, 5], vec![2], vec![3]]);
    }
}
