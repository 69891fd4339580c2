// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Streams in files: a QEMU's that we load, and ours that a QEMU loads.

use core::time::Duration;

use serde_json::json;
use vfio_mig_fsm::State;

use super::super::super::super::contract::check::{Checked, ensure, expect, must};
use super::super::check::{Before, all_in, check_sessions, over};
use super::super::rig::{Notes, Peers};
use super::super::scenario::{Role, Scenario};
use super::bench::Bench;
use super::from_us::{machine, record};
use crate::qemu::device_log::DeviceLog;
use crate::qemu::peer::outcome::Outcome;

/// A QEMU's file, loaded by us.
pub(super) fn to_us(scenario: &Scenario, peers: &Peers, limit: Duration, notes: &mut Notes) -> Checked {
    let bench = Bench::new(scenario, peers, limit)?;
    let result = load(&bench, notes);
    bench.conclude(result)
}

/// Our file, loaded by a QEMU.
pub(super) fn from_us(scenario: &Scenario, peers: &Peers, limit: Duration, notes: &mut Notes) -> Checked {
    let bench = Bench::new(scenario, peers, limit)?;
    let result = save(&bench, notes);
    bench.conclude(result)
}

fn load(bench: &Bench<'_>, notes: &mut Notes) -> Checked {
    let written = record(bench)?;
    let words = ["--file".to_owned(), written.path.display().to_string()];
    let mut ours = bench.side("target", Role::Target, &words)?;
    let outcome = must("our side", ours.finish(bench.deadline))?;
    ensure(outcome.moved, || format!("our side: {}", outcome.error.clone().unwrap_or_default()))?;
    let received = must("our side", ours.device_log())?;
    ensure(all_in(&received, bench.scenario, State::Running)?, || format!("our devices do not run: {outcome:?}"))?;
    must("RAM", outcome.check_firmware(&bench.peers.qemu))?;
    compare(bench, (&written.log, &received), &outcome, notes)
}

fn save(bench: &Bench<'_>, notes: &mut Notes) -> Checked {
    let (recording, path) = (record(bench)?.path, bench.at("ours"));
    let words =
        ["--file", &path.display().to_string(), "--recording", &recording.display().to_string()].map(str::to_owned);
    let mut ours = bench.side("source", Role::OurSource, &words)?;
    let outcome = must("our side", ours.finish(bench.deadline))?;
    ensure(outcome.moved, || format!("our side: {}", outcome.error.clone().unwrap_or_default()))?;
    let mut target = machine(bench, "target", Role::Target, true)?;
    let arguments = json!({ "uri": format!("file:{}", path.display()), "exit-on-error": false });
    must("load the file", target.execute("migrate-incoming", arguments))?;
    bench.wait("the target is done", || over(target.migration()))?;
    let migration = must("target", target.migration())?;
    ensure(migration.status == "completed", || format!("the target ended with {migration:?}, {}", target.said()))?;
    bench.wait("the target's devices run", || {
        all_in(&must("target", target.device_log())?, bench.scenario, State::Running)
    })?;
    let logs = (must("our side", ours.device_log())?, must("target", target.device_log())?);
    compare(bench, (&logs.0, &logs.1), &outcome, notes)
}

fn compare(bench: &Bench<'_>, logs: (&DeviceLog, &DeviceLog), outcome: &Outcome, notes: &mut Notes) -> Checked {
    expect("devices", outcome.devices.len(), bench.scenario.count)?;
    for (index, report) in outcome.devices.iter().enumerate() {
        let device = format!("d{index}");
        let session = check_sessions(&device, logs, &Before::default())?;
        let said = (report.bytes, report.crc64_nvme);
        expect(&format!("what our side says of {device}"), said, (session.bytes, session.digest))?;
        notes.details.push(format!("{device}: {} bytes, CRC-64 {:016x}", session.bytes, session.digest));
    }
    Ok(())
}
