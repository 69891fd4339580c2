// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The target process.

use core::time::Duration;
use std::fs::File;
use std::io::{BufReader, Write};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use savevm_core::Cancel;
use savevm_core::load::{self, LoadOptions};
use savevm_core::lobby::{Greeted, Lobby};
use savevm_core::tap::{Side, Taps};

use super::outcome::Outcome;
use super::transport::{Listener, Transport};
use super::watch::Watch;
use super::{Address, Devices, Opened, TargetArgs};

/// How often a listening target looks who is there.
const LOOK: Duration = Duration::from_millis(5);

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
    let session = receive(args, &listener, options).map_err(|error| format!("no source came on {address}: {error}"))?;
    drop(listener);
    from_peer(args, devices, session, options)
}

/// Listens until the connections of one source are complete. Who connects and is none delays that by nothing.
fn receive(args: &TargetArgs, listener: &Listener, options: &LoadOptions) -> Result<Vec<Greeted<Transport>>, String> {
    let mut lobby = Lobby::new(args.common.channels, &options.limits);
    let (started, mut last) = (Instant::now(), None);
    loop {
        while let Some(connection) = listener.accept().map_err(|error| error.to_string())? {
            lobby.enter(connection, Instant::now());
        }
        let look = lobby.look(Instant::now());
        for reason in look.turned_away {
            // A standard error that is gone is no reason to stop listening.
            let _ = writeln!(std::io::stderr(), "turned a connection away: {reason}");
            last = Some(reason);
        }
        if let Some(session) = look.session {
            return Ok(session);
        }
        if options.cancel.is_cancelled() {
            return Err("cancelled while waiting for it".into());
        }
        if let Some(wait) = args.wait.filter(|wait| started.elapsed() >= *wait) {
            let others = last.map_or("nobody connected, or said nothing".to_owned(), |last| {
                format!("of who did connect, the last was turned away: {last}")
            });
            return Err(format!("not within {} s; {others}", wait.as_secs_f64()));
        }
        thread::sleep(LOOK);
    }
}

fn from_peer(
    args: &TargetArgs,
    devices: &mut Devices,
    session: Vec<Greeted<Transport>>,
    options: &LoadOptions,
) -> Result<Outcome, String> {
    let mut connections = Vec::new();
    let set_up = |greeted: Greeted<Transport>| {
        greeted.into_channel(|transport| {
            transport.set_nonblocking(false)?;
            connections.push(transport.try_clone()?);
            transport.into_channel()
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
