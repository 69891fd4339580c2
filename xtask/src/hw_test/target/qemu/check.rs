// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A migration that goes well, and everything that must then be true.

use core::time::Duration;
use std::time::SystemTime;

use vfio_mig_fsm::State;

use super::super::super::contract::check::{Checked, Failure, ensure, expect, failed, must};
use super::rig::{Notes, Peers, Rig, Switchover, phases};
use super::scenario::{INITIAL_BYTES, Kind, STOP_BYTES, Scenario, WayBack};
use crate::qemu::capture::{self, Capture, DeviceCapture};
use crate::qemu::device_log::{DeviceLog, Session, Way};
use crate::qemu::machine::{Machine, MachineError, Migration, idstr};
use crate::qemu::proxy::Orders;
use crate::qemu::threads::sleeps_for_good;
use crate::vm::Series;

/// Runs it.
pub(super) fn run(scenario: &Scenario, peers: &Peers, limit: Duration, notes: &mut Notes) -> Checked {
    let mut rig = Rig::start(scenario, peers, limit)?;
    let result = whole(&mut rig, scenario, peers.series, Switchover::Soon, notes);
    keep_if_failed(rig, result)
}

/// Says with a failure where the files are.
pub(super) fn keep_if_failed(rig: Rig, result: Checked) -> Checked {
    match result {
        Err(Failure::Failed(reason)) => Err(failed(format!("{reason} (recordings and logs: {})", rig.keep()))),
        other => other,
    }
}

/// A migration from beginning to end.
pub(super) fn whole(
    rig: &mut Rig,
    scenario: &Scenario,
    series: Series,
    switchover: Switchover,
    notes: &mut Notes,
) -> Checked {
    let (source, target) = rig.logs()?;
    let before = Before { source, target };
    let begin = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    rig.migrate(switchover, true, Orders::default())?;
    rig.wait("the source is done", |rig| over(rig.source.migration()))?;
    let migration = must("source", rig.source.migration())?;
    ensure(migration.status == "completed", || {
        format!("the source ended with {migration:?}; target: {:?}, {}", rig.target.migration(), rig.target.said())
    })?;
    rig.wait("the target is done", |rig| over(rig.target.migration()))?;
    expect("the target's end", must("target", rig.target.migration())?.status, "completed".into())?;
    rig.wait("the target runs", |rig| Ok(must("target", rig.target.run_state())? == "running"))?;
    expect("the source's guest", must("source", rig.source.run_state())?, "postmigrate".into())?;

    // The source puts its devices to rest after it has said that it is done.
    rig.wait("the source's devices are stopped", |rig| all_in(&rig.logs()?.0, scenario, State::Stop))?;
    rig.wait("the target's devices run", |rig| all_in(&rig.logs()?.1, scenario, State::Running))?;
    let (source, target) = rig.logs()?;
    let begin_us = u64::try_from(begin.as_micros()).unwrap_or(u64::MAX);
    notes.phases.extend(phases(&scenario.name, &source, &target, begin_us));

    let recordings = rig.recordings()?;
    let captured = must("reading the recording", capture::read(&recordings))?;
    expect("connections", recordings.len(), usize::from(scenario.channels).saturating_add(1))?;
    for index in 0..scenario.count {
        let sent = check_sessions(&format!("d{index}"), (&source, &target), &before)?;
        let found = captured.devices.get(&idstr(index));
        let found = found.ok_or_else(|| failed(format!("the stream has no section {}", idstr(index))))?;
        must(&format!("d{index}"), check_device(scenario, found, sent))?;
        notes.details.push(format!("d{index}: {} bytes, CRC-64 {:016x}", sent.bytes, sent.digest));
    }
    expect("devices in the stream", captured.devices.len(), scenario.count)?;
    check_connections(scenario, series, &captured)?;
    notes.details.push(format!(
        "{} bytes over {} connections, all accounted for; {} acknowledgements; the guest stood still for {} ms",
        captured.bytes,
        recordings.len(),
        captured.acks,
        migration.downtime_ms.unwrap_or_default()
    ));
    Ok(())
}

/// A fault of QEMU 10.0's, after which nothing more can be asked of it.
pub(super) const SEIZED_UP: &str = "QEMU's fault: the broken connections left its threads waiting for each other, or for those \
                                    that have ended, so it could not be seen to go on; what was checked before that held";

/// Whether a source that lost its multifd channels is stuck: the thread that stops them waits for one that waits to be
/// stopped, monitor and all, or the one that migrates waits for those that have stopped. Seen with 10.0 only.
pub(super) fn has_seized_up(source: &mut Machine, series: Series, scenario: &Scenario) -> bool {
    series == Series::V10_0 && scenario.channels > 0 && (source.is_deaf() || sleeps_for_good(source.process()))
}

/// Whether a migration is over; an answer that does not come is a failure.
pub(super) fn over(migration: Result<Migration, MachineError>) -> Checked<bool> {
    must("query-migrate", migration).map(|migration| migration.is_over())
}

/// Whether all devices are in a state.
pub(super) fn all_in(log: &DeviceLog, scenario: &Scenario, state: State) -> Checked<bool> {
    Ok((0..scenario.count).all(|index| log.state(&format!("d{index}")) == Some(state)))
}

/// What the devices of source and target had seen before a migration.
#[derive(Clone, Debug, Default)]
pub(super) struct Before {
    pub(super) source: DeviceLog,
    pub(super) target: DeviceLog,
}

/// The target's device got what the source's gave, in a session that each has had since. Gives that.
pub(super) fn check_sessions(
    device: &str,
    (source, target): (&DeviceLog, &DeviceLog),
    before: &Before,
) -> Checked<Session> {
    let since = |now: &DeviceLog, then: &DeviceLog, way| {
        let all = now.sessions(device, way);
        all.get(then.sessions(device, way).len()..).unwrap_or_default().to_vec()
    };
    let saved = since(source, &before.source, Way::Save);
    let loaded = since(target, &before.target, Way::Load);
    expect(&format!("sessions of {device} on the source"), saved.len(), 1)?;
    expect(&format!("sessions of {device} on the target"), loaded.len(), 1)?;
    let saved = saved.first().copied().ok_or_else(|| failed(format!("{device} saved nothing")))?;
    expect(&format!("what {device} got on the target"), loaded.first().copied(), Some(saved))?;
    Ok(saved)
}

/// What was said of the device is what it gave.
pub(super) fn check_device(scenario: &Scenario, found: &DeviceCapture, sent: Session) -> Result<(), String> {
    let streamed = Session { bytes: found.bytes(), digest: found.digest };
    if streamed != sent {
        return Err(format!("the device gave {sent:?}, the stream has {streamed:?}"));
    }
    if found.configs != 1 {
        return Err(format!("{} config states", found.configs));
    }
    let least = if scenario.kind == Kind::Mtty { 1 } else { STOP_BYTES };
    if sent.bytes < least {
        return Err(format!("{} bytes are less than there were", sent.bytes));
    }
    // vfio-section.md: with multifd what comes before the switchover still uses the main connection.
    let on_multifd = if scenario.channels > 0 { least } else { 0 };
    let is_split = if on_multifd > 0 { found.multifd_bytes >= on_multifd } else { found.multifd_bytes == 0 };
    if !is_split {
        return Err(format!("{} of {} bytes came on multifd channels", found.multifd_bytes, sent.bytes));
    }
    let acknowledges = scenario.way_back == WayBack::SwitchoverAck && scenario.kind.has_pre_copy();
    if acknowledges && found.main_bytes < INITIAL_BYTES {
        return Err(format!("{} bytes came before the switchover, fewer than the initial ones", found.main_bytes));
    }
    if acknowledges != (found.initial_sent > 0) {
        return Err(format!("{} times the end of initial bytes", found.initial_sent));
    }
    Ok(())
}

pub(super) fn check_connections(scenario: &Scenario, series: Series, captured: &Capture) -> Checked {
    must("the connections", scenario.terms(series).check(captured))?;
    let initial_sent: Vec<u32> = captured.devices.values().map(|device| device.initial_sent).collect();
    // 10.0 does not opt in to the second version of PRECOPY_INFO, which alone tells of a new start.
    let once = if scenario.kind == Kind::Reinit && series == Series::V11_1 { 2 } else { 1 };
    ensure(initial_sent.iter().all(|count| *count == 0 || *count == once), || {
        format!("initial bytes ended {initial_sent:?} times, expected {once} of each device")
    })
}
