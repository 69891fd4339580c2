// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The source process.

use core::time::Duration;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use savevm_core::Cancel;
use savevm_core::save::{self, Precopy, SaveOptions};
use savevm_core::tap::{Side, Taps};

use super::link::Link;
use super::outcome::Outcome;
use super::transport::Transport;
use super::watch::Watch;
use super::{Address, AfterFile, Devices, Opened, SourceArgs};

pub(super) fn run(args: &SourceArgs) -> ExitCode {
    let json = args.common.json;
    let Opened { mut devices, checks, cancel } = match super::open(&args.common, Side::Source) {
        Ok(opened) => opened,
        Err(error) => return Outcome::unopened("source", error).print(json),
    };
    let options = match options(args, cancel.clone(), checks.taps.clone()) {
        Ok(options) => options,
        Err(error) => return Outcome::new("source", &mut devices, &[]).broken(error).print(json),
    };
    let outcome = match &args.to {
        Address::File(path) => to_file(args, &mut devices, path, &options),
        address => connect(args, address, &cancel).and_then(|links| to_peer(args, &mut devices, links, &options)),
    };
    let outcome = outcome.unwrap_or_else(|error| Outcome::new("source", &mut devices, &[]).broken(error));
    outcome.checked(&checks).print(json)
}

fn options(args: &SourceArgs, cancel: Cancel, taps: Taps) -> Result<SaveOptions, String> {
    let mut options = SaveOptions::default();
    options.limits = super::limits(&args.common);
    options.cancel = cancel;
    options.taps = taps;
    options.nonce = super::nonce()?;
    options.precopy = (!args.no_precopy).then(|| {
        let mut rule = Precopy::default();
        rule.duration_max = args.precopy_seconds_max;
        rule.downtime_max = Duration::from_millis(args.downtime_ms);
        rule.rate_bytes_per_s = args.precopy_rate;
        rule
    });
    Ok(options)
}

/// One connection per channel, in the order of the channels.
fn connect(args: &SourceArgs, address: &Address, cancel: &Cancel) -> Result<Vec<Link>, String> {
    let host = match address {
        Address::Tcp(at) => at.rsplit_once(':').map(|(host, _)| host.trim_start_matches('[').trim_end_matches(']')),
        _ => None,
    };
    let (client, patience) = (args.common.tls.client(host)?, args.common.timeout);
    let connect = |_| {
        let connected = match address {
            Address::Tcp(at) => Transport::connect_tcp(at, patience, cancel),
            Address::Unix(path) => Transport::connect_unix(path, patience, cancel),
            Address::File(_) => Err(std::io::ErrorKind::Unsupported.into()),
        };
        let transport = connected
            .map_err(|error| format!("cannot connect to {address}: {error}; is the target listening there?"))?;
        let Some(client) = &client else { return Ok(Link::plain(transport)) };
        let secured = client.connect(transport, patience, cancel);
        secured.map(Link::secured).map_err(|error| format!("no TLS with {address}: {error}"))
    };
    (0..args.common.channels).map(connect).collect()
}

fn to_peer(
    args: &SourceArgs,
    devices: &mut Devices,
    links: Vec<Link>,
    options: &SaveOptions,
) -> Result<Outcome, String> {
    let (channels, connections) = super::channels(links)?;
    let mut watch = Watch::new(&args.common, &super::names(devices), connections).logging(args.log.as_deref())?;
    let committed = save::save(devices, channels, &mut watch, options).and_then(save::Ready::commit);
    watch.end_log();
    let phases = watch.phases;
    Ok(match committed {
        Ok(committed) => {
            let outcome = Outcome::new("source", devices, &phases).moved(&committed.devices);
            outcome.downtime(committed.downtime).counted(&committed.counters)
        }
        Err(error) => Outcome::new("source", devices, &phases).failed(&error),
    })
}

/// Writes beside the final name and renames: a file of that name is always a whole one.
fn to_file(args: &SourceArgs, devices: &mut Devices, path: &Path, options: &SaveOptions) -> Result<Outcome, String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let cannot = |error: &dyn core::fmt::Display| format!("cannot write {}: {error}", path.display());
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(|error| cannot(&error))?;
    let mut watch = Watch::new(&args.common, &super::names(devices), Vec::new()).logging(args.log.as_deref())?;
    let saved = save::save_to(devices, file.as_file_mut(), &mut watch, options);
    watch.end_log();
    let phases = watch.phases;
    let sums = match saved {
        Ok(sums) => sums,
        Err(error) => return Ok(Outcome::new("source", devices, &phases).failed(&error)),
    };
    let safe = file.as_file_mut().flush().and_then(|()| file.as_file().sync_all()).map_err(|error| cannot(&error));
    let kept = safe.and_then(|()| file.persist(path).map_err(|error| cannot(&error)).and_then(sync_name(folder)));
    // The bytes are safe or they are not; the devices were stopped by the save in either case.
    if kept.is_err() || args.after == AfterFile::Run {
        savevm_core::run_together(devices).map_err(|error| format!("the devices do not run again: {error}"))?;
    }
    let outcome = Outcome::new("source", devices, &phases);
    Ok(match kept {
        Ok(()) => outcome.moved(&sums),
        Err(error) => outcome.broken(error),
    })
}

fn sync_name(folder: &Path) -> impl FnOnce(File) -> Result<(), String> + '_ {
    move |_| {
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| format!("cannot make the file's name durable in {}: {error}", folder.display()))
    }
}
