// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The target process.

use core::time::Duration;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use savevm_core::Cancel;
use savevm_core::load::{self, LoadOptions};
use savevm_core::tap::{Side, Taps};

use super::outcome::Outcome;
use super::transport::{Link, Listener};
use super::watch::Watch;
use super::{Address, Devices, Opened, TargetArgs};
use crate::tls::Server;

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
    let no_source = |error| format!("no source came on {address}: {error}");
    let door = Door { listener, server: args.common.tls.server()?, handshake: args.common.timeout };
    let mut links = vec![door.admit(None, &options.cancel).map_err(no_source)?];
    for more in 1..args.common.channels {
        let too_few = |error| format!("only {more} of {} connections came: {error}", args.common.channels);
        // The source is there; what is missing of it must come soon.
        links.push(door.admit(Some(args.common.timeout), &options.cancel).map_err(too_few)?);
    }
    drop(door);
    from_peer(args, devices, links, options)
}

/// Where sources come in.
struct Door {
    listener: Listener,
    server: Option<Server>,
    handshake: Duration,
}

impl Door {
    /// Waits for a connection. With TLS, one that does not prove who it is is refused, and others may still come.
    fn admit(&self, patience: Option<Duration>, cancel: &Cancel) -> std::io::Result<Link> {
        let until = patience.and_then(|patience| Instant::now().checked_add(patience));
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let transport = self.listener.accept(left, cancel)?;
            let Some(server) = &self.server else { return Ok(Link::Plain(transport)) };
            match server.accept(transport, self.handshake, cancel) {
                Ok(secured) => return Ok(Link::Tls(secured)),
                Err(error) if cancel.is_cancelled() => return Err(error),
                Err(error) => eprintln!("refused a connection: {error}"),
            }
        }
    }
}

fn from_peer(
    args: &TargetArgs,
    devices: &mut Devices,
    links: Vec<Link>,
    options: &LoadOptions,
) -> Result<Outcome, String> {
    let (channels, connections) = super::channels(links)?;
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
