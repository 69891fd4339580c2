// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The target process.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::process::ExitCode;

use savevm_core::Cancel;
use savevm_core::load::{self, LoadOptions};
use savevm_core::tap::{Side, Taps};

use super::outcome::Outcome;
use super::transport::{Listener, Transport};
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

/// Waits for one source, for as long as it takes.
fn listen(
    args: &TargetArgs,
    listener: std::io::Result<Listener>,
    devices: &mut Devices,
    options: &LoadOptions,
) -> Result<Outcome, String> {
    let listener = listener.map_err(|error| format!("cannot listen on {}: {error}", args.from))?;
    let address = listener.address().map_err(|error| format!("cannot listen on {}: {error}", args.from))?;
    eprintln!("listening on {address}");
    let accepted = listener.accept(None, &options.cancel);
    let transport = accepted.map_err(|error| format!("no source came on {address}: {error}"))?;
    drop(listener);
    from_peer(args, devices, transport, options)
}

fn from_peer(
    args: &TargetArgs,
    devices: &mut Devices,
    transport: Transport,
    options: &LoadOptions,
) -> Result<Outcome, String> {
    let connection = super::bounded(&transport, &args.common)?;
    let mut watch = Watch::new(&args.common, &super::names(devices), Some(connection));
    let running = load::load(devices, transport, &mut watch, options).and_then(load::Loaded::run);
    let phases = watch.phases;
    Ok(match running {
        Ok(running) => Outcome::new("target", devices, &phases).moved(&running.devices),
        Err(error) => Outcome::new("target", devices, &phases).failed(&error),
    })
}

fn from_file(args: &TargetArgs, devices: &mut Devices, path: &Path, options: &LoadOptions) -> Result<Outcome, String> {
    let file = File::open(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let mut watch = Watch::new(&args.common, &super::names(devices), None);
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
