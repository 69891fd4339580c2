// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! We are the source, and a stock QEMU is the target.

use core::time::Duration;
use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;
use vfio_mig_fsm::State;

use super::super::super::super::contract::check::{Checked, ensure, expect, failed, must};
use super::super::check::{all_in, check_connections, check_device, check_sessions, over};
use super::super::rig::{Notes, Peers, Switchover, phases, prepare};
use super::super::scenario::{Role, Scenario};
use super::arguments;
use super::bench::Bench;
use crate::qemu::capture;
use crate::qemu::device_log::DeviceLog;
use crate::qemu::machine::{Machine, Migration, Spec, idstr};
use crate::qemu::proxy::Proxy;
use crate::qemu::side::Side;

/// Runs it.
pub(super) fn run(scenario: &Scenario, peers: &Peers, limit: Duration, notes: &mut Notes) -> Checked {
    let bench = Bench::new(scenario, peers, limit)?;
    let result = whole(&bench, notes);
    bench.conclude(result)
}

/// Has a QEMU with the same devices write its state to a file: all of it but the devices' is what our side sends.
pub(super) fn record(bench: &Bench<'_>) -> Checked<PathBuf> {
    record_with_log(bench).map(|(path, _)| path)
}

/// The same, and what its devices saw of it.
pub(super) fn record_with_log(bench: &Bench<'_>) -> Checked<(PathBuf, DeviceLog)> {
    let path = bench.at("recording");
    let mut recorder = machine(bench, "recorder", Role::Source, false)?;
    must("set parameters", recorder.execute("migrate-set-parameters", Switchover::Soon.parameters()))?;
    must("record", recorder.execute("migrate", json!({ "uri": format!("file:{}", path.display()) })))?;
    bench.wait("the recording is whole", || over(recorder.migration()))?;
    let migration = must("record", recorder.migration())?;
    ensure(migration.status == "completed", || format!("the recording ended with {migration:?}"))?;
    bench.wait("the recorded devices are at rest", || {
        all_in(&must("recorder", recorder.device_log())?, bench.scenario, State::Stop)
    })?;
    Ok((path, must("recorder", recorder.device_log())?))
}

/// A QEMU with the scenario's devices.
pub(super) fn machine(bench: &Bench<'_>, name: &str, role: Role, is_target: bool) -> Checked<Machine> {
    let devices = bench.scenario.kind.devices(bench.scenario.count, role);
    let (folder, library) = (bench.folder(), bench.peers.library.as_path());
    must("start", Machine::start(&bench.peers.qemu, &Spec { name, folder, library, devices: &devices, is_target }))
}

/// A QEMU that waits behind a relay.
pub(super) fn listening(bench: &Bench<'_>) -> Checked<(Machine, Proxy)> {
    let mut target = machine(bench, "target", Role::Target, true)?;
    prepare(&mut target, bench.scenario)?;
    let (relay, listening, recordings) = (bench.at("relay"), bench.at("listening"), bench.at("recordings"));
    must("create a folder", std::fs::create_dir(&recordings))?;
    let arguments = json!({ "uri": format!("unix:{}", listening.display()), "exit-on-error": false });
    must("listen", target.execute("migrate-incoming", arguments))?;
    let proxy = must("start the relay", Proxy::start(&relay, &listening, &recordings))?;
    Ok((target, proxy))
}

/// Starts our side, which begins at once.
pub(super) fn source(bench: &Bench<'_>, recording: &std::path::Path, more: &[&str]) -> Checked<Side> {
    let mut words = arguments(bench.scenario, bench.peers.series);
    words.extend(["--socket".into(), bench.at("relay").display().to_string()]);
    words.extend(["--recording".into(), recording.display().to_string()]);
    words.extend(more.iter().map(|word| (*word).to_owned()));
    bench.side("source", Role::OurSource, &words)
}

fn whole(bench: &Bench<'_>, notes: &mut Notes) -> Checked {
    let recording = record(bench)?;
    let (mut target, proxy) = listening(bench)?;
    let begin_us = bench.now_us();
    let mut ours = source(bench, &recording, &[])?;
    let outcome = must("our side", ours.finish(bench.deadline))?;
    ensure(outcome.moved, || {
        let error = outcome.error.clone().unwrap_or_default();
        format!("our side: {error}; target: {}, {}", status(&mut target), target.said())
    })?;
    bench.wait("the target is done", || over(target.migration()))?;
    expect("the target's end", must("target", target.migration())?.status, "completed".into())?;
    bench.wait("the target runs", || Ok(must("target", target.run_state())? == "running"))?;
    bench.wait("the target's devices run", || {
        all_in(&must("target", target.device_log())?, bench.scenario, State::Running)
    })?;
    let (sent, received) = (must("our side", ours.device_log())?, must("target", target.device_log())?);
    ensure(all_in(&sent, bench.scenario, State::Stop)?, || format!("our devices are not at rest: {outcome:?}"))?;
    notes.phases.extend(phases(&format!("us to QEMU: {}", bench.scenario.name), &sent, &received, begin_us));

    let left = bench.deadline.saturating_duration_since(Instant::now());
    let captured = must("reading the recording", capture::read(&must("the relay", proxy.finish(left))?))?;
    for (index, report) in outcome.devices.iter().enumerate() {
        let device = format!("d{index}");
        let session = check_sessions(&device, (&sent, &received), 0)?;
        let found = captured.devices.get(&idstr(index));
        let found = found.ok_or_else(|| failed(format!("the stream has no section {}", idstr(index))))?;
        must(&device, check_device(bench.scenario, found, session))?;
        let said = (report.bytes, report.crc64_nvme);
        expect(&format!("what our side says of {device}"), said, (session.bytes, session.digest))?;
        notes.details.push(format!("{device}: {} bytes, CRC-64 {:016x}", session.bytes, session.digest));
    }
    expect("devices", outcome.devices.len(), bench.scenario.count)?;
    check_connections(bench.scenario, bench.peers.series, &captured)?;
    // What no return path carries, nobody counts.
    expect("acknowledgements our side counts", outcome.acks, captured.acks)?;
    notes.details.push(format!("{} acknowledgements; {} bytes", outcome.acks, captured.bytes));
    Ok(())
}

/// What the target says of the migration.
pub(super) fn status(machine: &mut Machine) -> String {
    let say = |it: Migration| format!("{}, {}", it.status, it.error.unwrap_or_else(|| "no error".into()));
    machine.migration().map_or_else(|error| error.to_string(), say)
}
