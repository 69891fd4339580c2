// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The target process.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::process::ExitCode;

use savevm_core::Cancel;
use savevm_core::load::{self, LoadOptions};
use savevm_core::lobby::Greeted;
use savevm_core::tap::{Side, Taps};

use super::door::Door;
use super::link::Link;
use super::outcome::Outcome;
use super::transport::Listener;
use super::watch::Watch;
use super::{Address, Devices, Opened, TargetArgs};

pub(super) fn run(args: &TargetArgs) -> ExitCode {
    let json = args.common.json;
    let Opened { mut devices, checks, cancel } = match super::open(&args.common, Side::Target) {
        Ok(opened) => opened,
        Err(error) => return Outcome::unopened("target", error).print(json),
    };
    let options = options(args, cancel, checks.taps.clone());
    let outcome = match &args.from {
        Address::File(path) => from_file(args, &mut devices, path, &options),
        Address::Tcp(at) => listen(args, Listener::tcp(at), &mut devices, &options),
        Address::Unix(path) => listen(args, Listener::unix(path), &mut devices, &options),
    };
    let outcome = outcome.unwrap_or_else(|error| Outcome::new("target", &mut devices, &[]).broken(error));
    outcome.checked(&checks).print(json)
}

fn options(args: &TargetArgs, cancel: Cancel, taps: Taps) -> LoadOptions {
    let mut options = LoadOptions::default();
    options.limits = super::limits(&args.common);
    options.cancel = cancel;
    options.taps = taps;
    options
}

/// Waits for one source, for as long as was asked for.
fn listen(
    args: &TargetArgs,
    listener: std::io::Result<Listener>,
    devices: &mut Devices,
    options: &LoadOptions,
) -> Result<Outcome, String> {
    let listener = listener.map_err(|error| format!("cannot listen on {}: {error}", args.from))?;
    let address = listener.address().map_err(|error| format!("cannot listen on {}: {error}", args.from))?;
    eprintln!("listening on {address}");
    let door = Door {
        listener,
        server: args.common.tls.server()?,
        channels: args.common.channels,
        wait: args.wait,
        limits: options.limits,
        cancel: options.cancel.clone(),
    };
    let session = door.receive().map_err(|error| format!("no source came on {address}: {error}"))?;
    drop(door);
    from_peer(args, devices, session, options)
}

fn from_peer(
    args: &TargetArgs,
    devices: &mut Devices,
    session: Vec<Greeted<Link>>,
    options: &LoadOptions,
) -> Result<Outcome, String> {
    let mut connections = Vec::new();
    let set_up = |greeted: Greeted<Link>| {
        greeted.into_channel(|link| {
            link.socket().set_nonblocking(false)?;
            connections.push(link.socket().try_clone()?);
            link.into_channel()
        })
    };
    let channels: std::io::Result<Vec<_>> = session.into_iter().map(set_up).collect();
    let channels = channels.map_err(|error| format!("cannot set up a connection: {error}"))?;
    let mut watch = Watch::new(&args.common, &super::names(devices), connections);
    let running = load::load(devices, channels, &mut watch, options).and_then(load::Loaded::run);
    let phases = watch.phases;
    Ok(match running {
        Ok(running) => Outcome::new("target", devices, &phases).moved(&running.devices).counted(&running.counters),
        Err(error) => Outcome::new("target", devices, &phases).failed(&error),
    })
}

fn from_file(args: &TargetArgs, devices: &mut Devices, path: &Path, options: &LoadOptions) -> Result<Outcome, String> {
    let file = File::open(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let mut watch = Watch::new(&args.common, &super::names(devices), Vec::new());
    let loaded = load::load_from(devices, BufReader::new(file), &mut watch, options);
    let phases = watch.phases;
    Ok(match loaded {
        Ok(sums) => {
            savevm_core::run_together(devices).map_err(|error| format!("the devices do not run: {error}"))?;
            Outcome::new("target", devices, &phases).moved(&sums)
        }
        Err(error) => Outcome::new("target", devices, &phases).failed(&error),
    })
}
