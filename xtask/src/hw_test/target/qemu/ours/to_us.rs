// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A stock QEMU is the source, and we are the target.

use core::time::Duration;
use std::path::PathBuf;
use std::time::Instant;

use vfio_mig_fsm::State;

use super::super::super::super::contract::check::{Checked, ensure, expect, failed, must};
use super::super::check::{Before, all_in, check_connections, check_device, check_sessions, over};
use super::super::rig::{Notes, Peers, Switchover, phases};
use super::super::scenario::{Role, Scenario};
use super::bench::Bench;
use super::from_us::machine;
use crate::qemu::capture;
use crate::qemu::machine::{Machine, idstr};
use crate::qemu::peer::listening;
use crate::qemu::proxy::{Orders, Proxy};
use crate::qemu::side::Side;

/// What our side may hold of packets that overtook others.
const REORDER_BYTES: usize = 4 << 20;
/// The most memory our process may have, whatever the devices have: program and libraries, a buffer per connection, the
/// above, and RAM on its way.
const MEMORY_BYTES_MAX: u64 = 64 << 20;

/// Runs it.
pub(super) fn run(scenario: &Scenario, peers: &Peers, limit: Duration, notes: &mut Notes) -> Checked {
    let bench = Bench::new(scenario, peers, limit)?;
    let result = source(&bench).and_then(|mut source| {
        let mut target = target(&bench, &[])?;
        whole(&bench, 1, &mut source, &mut target, notes)
    });
    bench.conclude(result)
}

/// A QEMU that is ready to migrate.
pub(super) fn source(bench: &Bench<'_>) -> Checked<Machine> {
    let mut source = machine(bench, "source", Role::Source, false)?;
    must("set up the source", bench.terms().set(&mut source))?;
    Ok(source)
}

fn listening_at(bench: &Bench<'_>, number: u32) -> PathBuf {
    bench.at(&format!("listening-{number}"))
}

/// What our side is told for its `number`th attempt.
fn words(bench: &Bench<'_>, number: u32, more: &[&str]) -> Vec<String> {
    let mut words = bench.terms().arguments();
    words.extend(["--socket".into(), listening_at(bench, number).display().to_string()]);
    words.extend(["--reorder-bytes".into(), REORDER_BYTES.to_string()]);
    words.extend(more.iter().map(|word| (*word).to_owned()));
    words
}

/// Starts our side, and waits until it listens.
pub(super) fn target(bench: &Bench<'_>, more: &[&str]) -> Checked<Side> {
    let mut target = bench.side("target", Role::Target, &words(bench, 1, more))?;
    wait_listening(bench, 1, &mut target)?;
    Ok(target)
}

/// Has our side listen again, without what was special before.
pub(super) fn target_again(bench: &Bench<'_>, number: u32, target: &mut Side) -> Checked {
    must("tell our side", target.again(&words(bench, number, &[])))?;
    wait_listening(bench, number, target)
}

fn wait_listening(bench: &Bench<'_>, number: u32, target: &mut Side) -> Checked {
    let wanted = listening(&listening_at(bench, number));
    bench.wait("our side listens", || {
        ensure(target.is_busy(), || format!("our side ended at once: {}", target.said()))?;
        Ok(target.said().contains(&wanted))
    })
}

/// Begins a migration into our side through a relay, the `number`th of a test.
pub(super) fn migrate(
    bench: &Bench<'_>,
    number: u32,
    source: &mut Machine,
    switchover: Switchover,
    orders: Orders,
) -> Checked<Proxy> {
    let at = |what: &str| bench.at(&format!("{what}-{number}"));
    let (relay, recordings) = (at("relay"), at("recordings"));
    must("create a folder", std::fs::create_dir(&recordings))?;
    let listening = listening_at(bench, number);
    let proxy = must("start the relay", Proxy::start(orders, &relay, &listening, &recordings))?;
    must("set parameters", source.execute("migrate-set-parameters", switchover.parameters()))?;
    must("begin", source.migrate(&format!("unix:{}", relay.display())))?;
    Ok(proxy)
}

/// A migration into our side, which listens, that nothing disturbs.
pub(super) fn whole(
    bench: &Bench<'_>,
    number: u32,
    source: &mut Machine,
    target: &mut Side,
    notes: &mut Notes,
) -> Checked {
    let before =
        Before { source: must("source", source.device_log())?, target: must("our side", target.device_log())? };
    let begin_us = bench.now_us();
    let proxy = migrate(bench, number, source, Switchover::Soon, Orders::default())?;
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
    expect("acknowledgements our side counts", outcome.acks, captured.acks)?;
    must("RAM", outcome.check_firmware(&bench.peers.qemu))?;
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
