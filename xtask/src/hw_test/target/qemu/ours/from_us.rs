// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! We are the source, and a stock QEMU is the target.

use core::time::Duration;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;
use vfio_mig_fsm::State;

use super::super::super::super::contract::check::{Checked, ensure, expect, failed, must};
use super::super::check::{Before, all_in, check_connections, check_device, check_sessions, over};
use super::super::rig::{Notes, Peers, Switchover, phases};
use super::super::scenario::{Role, Scenario};
use super::super::shelf::Written;
use super::bench::Bench;
use crate::qemu::capture;
use crate::qemu::device_log::DeviceLog;
use crate::qemu::devices::Devices;
use crate::qemu::machine::{Extras, Machine, Migration, Spec, idstr};
use crate::qemu::proxy::{Orders, Proxy};
use crate::qemu::side::Side;

/// Runs it.
pub(super) fn run(scenario: &Scenario, peers: &Peers, limit: Duration, notes: &mut Notes) -> Checked {
    let bench = Bench::new(scenario, peers, limit)?;
    let result = record(&bench).and_then(|recording| {
        let relayed = listening(&bench, 1, Orders::default(), Extras::default())?;
        let begin_us = bench.now_us();
        let mut ours = source(&bench, &recording.path, &[])?;
        whole(&bench, relayed, (&mut ours, &DeviceLog::default(), begin_us), notes)
    });
    bench.conclude(result)
}

/// Has a QEMU with the same devices write its state to a file: all of it but the devices' is what our side sends.
pub(super) fn record(bench: &Bench<'_>) -> Checked<Written> {
    bench.peers.shelf.take(bench.scenario, |path| {
        let mut recorder = machine(bench, "recorder", Role::Source, false)?;
        must("set parameters", recorder.execute("migrate-set-parameters", Switchover::Soon.parameters()))?;
        must("record", recorder.migrate(&format!("file:{}", path.display())))?;
        bench.wait("the recording is whole", || over(recorder.migration()))?;
        let migration = must("record", recorder.migration())?;
        ensure(migration.status == "completed", || format!("the recording ended with {migration:?}"))?;
        bench.wait("the recorded devices are at rest", || {
            all_in(&must("recorder", recorder.device_log())?, bench.scenario, State::Stop)
        })?;
        Ok(Written { path, log: must("recorder", recorder.device_log())? })
    })
}

/// A QEMU with the scenario's devices.
pub(super) fn machine(bench: &Bench<'_>, name: &str, role: Role, is_target: bool) -> Checked<Machine> {
    machine_with(Extras::default(), bench, name, role, is_target)
}

pub(super) fn machine_with(
    extras: Extras<'_>,
    bench: &Bench<'_>,
    name: &str,
    role: Role,
    is_target: bool,
) -> Checked<Machine> {
    let devices = bench.scenario.kind.devices(bench.scenario.count, role);
    let devices = Devices::Soft { library: &bench.peers.library, devices: &devices };
    let spec = Spec { name, folder: bench.folder(), devices, is_target };
    must("start", Machine::start_with(extras, &bench.peers.qemu, &spec))
}

/// A QEMU that waits behind a relay, the `number`th of a test.
pub(super) fn listening(
    bench: &Bench<'_>,
    number: u32,
    orders: Orders,
    extras: Extras<'_>,
) -> Checked<(Machine, Proxy)> {
    let at = |what: &str| bench.at(&format!("{what}-{number}"));
    let mut target = machine_with(extras, bench, &format!("target-{number}"), Role::Target, true)?;
    must("set up the target", bench.terms().set(&mut target))?;
    let (relay, listening, recordings) = (relay(bench, number), at("listening"), at("recordings"));
    must("create a folder", std::fs::create_dir(&recordings))?;
    let arguments = json!({ "uri": format!("unix:{}", listening.display()), "exit-on-error": false });
    must("listen", target.execute("migrate-incoming", arguments))?;
    let proxy = must("start the relay", Proxy::start(orders, &relay, &listening, &recordings))?;
    Ok((target, proxy))
}

fn relay(bench: &Bench<'_>, number: u32) -> PathBuf {
    bench.at(&format!("relay-{number}"))
}

/// What our side is told for its `number`th attempt.
pub(super) fn words(bench: &Bench<'_>, number: u32, recording: &Path, more: &[&str]) -> Vec<String> {
    let mut words = bench.terms().arguments();
    words.extend(["--socket".into(), relay(bench, number).display().to_string()]);
    words.extend(["--recording".into(), recording.display().to_string()]);
    words.extend(more.iter().map(|word| (*word).to_owned()));
    words
}

/// Starts our side, which begins at once.
pub(super) fn source(bench: &Bench<'_>, recording: &Path, more: &[&str]) -> Checked<Side> {
    bench.side("source", Role::OurSource, &words(bench, 1, recording, more))
}

/// A migration that our side has begun, from `begin_us` on, and that nothing disturbs.
pub(super) fn whole(
    bench: &Bench<'_>,
    (mut target, proxy): (Machine, Proxy),
    (ours, before, begin_us): (&mut Side, &DeviceLog, u64),
    notes: &mut Notes,
) -> Checked {
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
        let before = Before { source: before.clone(), target: DeviceLog::default() };
        let session = check_sessions(&device, (&sent, &received), &before)?;
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
