// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A stock QEMU is the source, and we are the target.

use core::time::Duration;
use std::time::Instant;

use serde_json::json;
use vfio_mig_fsm::State;

use super::super::super::super::contract::check::{Checked, ensure, expect, failed, must};
use super::super::check::{all_in, check_connections, check_device, check_sessions, over};
use super::super::rig::{Notes, Peers, Switchover, phases, prepare};
use super::super::scenario::{Role, Scenario};
use super::arguments;
use super::bench::Bench;
use super::from_us::machine;
use crate::qemu::capture;
use crate::qemu::machine::{Machine, idstr};
use crate::qemu::peer::outcome::Outcome;
use crate::qemu::proxy::Proxy;
use crate::qemu::side::Side;

/// What our side may hold of packets that overtook others.
const REORDER_BYTES: usize = 4 << 20;
/// The most memory our process may have, whatever the devices have: program and libraries, a buffer per connection, the
/// above, and RAM on its way.
const MEMORY_BYTES_MAX: u64 = 64 << 20;

/// Runs it.
pub(super) fn run(scenario: &Scenario, peers: &Peers, limit: Duration, notes: &mut Notes) -> Checked {
    let bench = Bench::new(scenario, peers, limit)?;
    let result = source(&bench).and_then(|mut source| whole(&bench, &mut source, notes));
    bench.conclude(result)
}

/// A QEMU that is ready to migrate.
pub(super) fn source(bench: &Bench<'_>) -> Checked<Machine> {
    let mut source = machine(bench, "source", Role::Source, false)?;
    prepare(&mut source, bench.scenario)?;
    Ok(source)
}

/// Starts our side, and waits until it listens.
pub(super) fn target(bench: &Bench<'_>, more: &[&str]) -> Checked<Side> {
    let mut words = arguments(bench.scenario, bench.peers.series);
    words.extend(["--socket".into(), bench.at("listening").display().to_string()]);
    words.extend(more.iter().map(|word| (*word).to_owned()));
    let mut target = bench.side("target", Role::Target, &words)?;
    bench.wait("our side listens", || {
        ensure(target.is_running(), || format!("our side ended at once: {}", target.said()))?;
        Ok(target.said().contains("listening"))
    })?;
    Ok(target)
}

/// Begins a migration into our side through a relay.
pub(super) fn migrate(bench: &Bench<'_>, source: &mut Machine, switchover: Switchover) -> Checked<Proxy> {
    let (relay, recordings) = (bench.at("relay"), bench.at("recordings"));
    must("create a folder", std::fs::create_dir(&recordings))?;
    let proxy = must("start the relay", Proxy::start(&relay, &bench.at("listening"), &recordings))?;
    must("set parameters", source.execute("migrate-set-parameters", switchover.parameters()))?;
    must("begin", source.execute("migrate", json!({ "uri": format!("unix:{}", relay.display()) })))?;
    Ok(proxy)
}

fn whole(bench: &Bench<'_>, source: &mut Machine, notes: &mut Notes) -> Checked {
    let reorder_bytes = REORDER_BYTES.to_string();
    let mut target = target(bench, &["--reorder-bytes", &reorder_bytes])?;
    let begin_us = bench.now_us();
    let proxy = migrate(bench, source, Switchover::Soon)?;
    let outcome = must("our side", target.finish(bench.deadline))?;
    ensure(outcome.moved, || {
        let error = outcome.error.clone().unwrap_or_default();
        format!("our side: {error}; source: {}", source.said())
    })?;
    bench.wait("the source is done", || over(source.migration()))?;
    let migration = must("source", source.migration())?;
    ensure(migration.status == "completed", || format!("the source ended with {migration:?}"))?;
    bench.wait("the source's devices are stopped", || {
        all_in(&must("source", source.device_log())?, bench.scenario, State::Stop)
    })?;
    let (sent, received) = (must("source", source.device_log())?, must("our side", target.device_log())?);
    ensure(all_in(&received, bench.scenario, State::Running)?, || format!("our devices do not run: {outcome:?}"))?;
    notes.phases.extend(phases(&format!("QEMU to us: {}", bench.scenario.name), &sent, &received, begin_us));

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
    expect("acknowledgements our side counts", outcome.acks, captured.acks)?;
    check_memory(bench, &outcome)?;
    ensure(outcome.reorder_peak_bytes <= REORDER_BYTES, || format!("held more than it may: {outcome:?}"))?;
    ensure(outcome.memory_peak_bytes <= MEMORY_BYTES_MAX, || format!("our process had too much memory: {outcome:?}"))?;
    notes.details.push(format!(
        "{} acknowledgements; held {} bytes of packets that overtook others; at most {} MiB in our process; the guest \
         stood still for {} ms",
        outcome.acks,
        outcome.reorder_peak_bytes,
        outcome.memory_peak_bytes >> 20,
        migration.downtime_ms.unwrap_or_default()
    ));
    Ok(())
}

/// RAM came: the firmware is where it was, as its file has it.
pub(super) fn check_memory(bench: &Bench<'_>, outcome: &Outcome) -> Checked {
    let bios = outcome.ram.iter().find(|block| block.block == "pc.bios");
    let bios = bios.ok_or_else(|| failed(format!("no firmware in the RAM that came: {:?}", outcome.ram)))?;
    let folders = bench.peers.qemu.firmware.iter();
    let image = folders.map(|folder| folder.join("bios-256k.bin")).find(|path| path.is_file());
    let image = image.ok_or_else(|| failed("there is no bios-256k.bin with this QEMU"))?;
    let image = must("read the firmware", std::fs::read(image))?;
    let digest = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &image);
    expect("the firmware in the RAM that came", bios.crc64_nvme, digest)
}
