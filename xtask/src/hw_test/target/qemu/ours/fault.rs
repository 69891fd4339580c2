// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Migrations between a QEMU and us that must not happen: our side says why, and the guest stays the source's.

use core::time::Duration;

use serde_json::json;
use vfio_mig_fsm::State;

use super::super::super::super::contract::check::{Checked, ensure, expect, failed, must};
use super::super::check::{all_in, over};
use super::super::rig::{Notes, Peers, Switchover};
use super::super::scenario::{Moment, Scenario};
use super::bench::Bench;
use super::{from_us, to_us};
use crate::qemu::machine::Machine;
use crate::qemu::peer::outcome::Outcome;
use crate::qemu::proxy::Proxy;
use crate::qemu::side::Side;

/// What goes wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Trouble {
    /// All connections break.
    Cut(Moment),
    /// The QEMU is told to cancel, or as a target to end.
    TheyCancel,
    /// Our side is told to cancel.
    WeCancel(Moment),
    /// The other side has other arguments than ours: these are ours, and the reason is this.
    Disagree { ours: &'static [&'static str], reason: &'static str },
}

/// The argument that has our side send config bytes that differ.
pub(super) const DAMAGE: &str = "--damage-config";

/// So much has gone over the connections when something happens in pre-copy.
const FORWARD_BYTES: u64 = 256 << 10;
/// So much shows that the devices are being read.
const FLOWING_BYTES: u64 = 512 << 10;
/// More than a side needs that does nothing: the program, its libraries, buffers, what the decoders may hold.
const MEMORY_BYTES_MAX: u64 = 96 << 20;

/// A QEMU is the source.
pub(super) fn to_us(
    scenario: &Scenario,
    trouble: Trouble,
    peers: &Peers,
    limit: Duration,
    notes: &mut Notes,
) -> Checked {
    let bench = Bench::new(scenario, peers, limit)?;
    let result = into_us(&bench, trouble, notes);
    bench.conclude(result)
}

/// A QEMU is the target.
pub(super) fn from_us(
    scenario: &Scenario,
    trouble: Trouble,
    peers: &Peers,
    limit: Duration,
    notes: &mut Notes,
) -> Checked {
    let bench = Bench::new(scenario, peers, limit)?;
    let result = out_of_us(&bench, trouble, notes);
    bench.conclude(result)
}

fn more(trouble: Trouble) -> &'static [&'static str] {
    if let Trouble::Disagree { ours, .. } = trouble { ours } else { &[] }
}

fn moment(trouble: Trouble) -> Option<Moment> {
    match trouble {
        Trouble::Cut(moment) | Trouble::WeCancel(moment) => Some(moment),
        Trouble::TheyCancel => Some(Moment::PreCopy),
        Trouble::Disagree { .. } => None,
    }
}

fn into_us(bench: &Bench<'_>, trouble: Trouble, notes: &mut Notes) -> Checked {
    let mut source = to_us::source(bench)?;
    let mut ours = to_us::target(bench, more(trouble))?;
    let soon = moment(trouble) != Some(Moment::PreCopy);
    let proxy = to_us::migrate(bench, &mut source, if soon { Switchover::Soon } else { Switchover::Never })?;
    match moment(trouble) {
        Some(Moment::PreCopy) => bench.wait("pre-copy goes on", || {
            let log = must("source", source.device_log())?;
            Ok(proxy.forward_bytes() > FORWARD_BYTES && all_in(&log, bench.scenario, State::PreCopy)?)
        })?,
        Some(Moment::StopCopy) => {
            bench.wait("a device is in STOP_COPY", || {
                Ok(must("source", source.device_log())?.has_entered("d0", State::StopCopy))
            })?;
            // Connections that break while QEMU 10.0 starts its devices' threads can leave it waiting for itself, monitor
            // and all (seen once in three): when state flows they are past that.
            let before = proxy.forward_bytes();
            bench.wait("state flows", || Ok(proxy.forward_bytes() > before.saturating_add(FLOWING_BYTES)))?;
        }
        None => {}
    }
    strike(trouble, &proxy, &mut source, &mut ours)?;
    let outcome = must("our side", ours.finish(bench.deadline))?;
    check(&outcome, trouble, notes)?;
    // The relay would keep a connection that our side closed unread.
    drop(proxy);
    bench.wait("the source gives up", || over(source.migration()))?;
    let migration = must("source", source.migration())?;
    let expected = if trouble == Trouble::TheyCancel { "cancelled" } else { "failed" };
    expect("the source's end", migration.status.as_str(), expected)?;
    bench.wait("the source's guest runs on", || Ok(must("source", source.run_state())? == "running"))?;
    bench.wait("the source's devices run on", || {
        all_in(&must("source", source.device_log())?, bench.scenario, State::Running)
    })?;
    let log = must("our side", ours.device_log())?;
    for (index, report) in outcome.devices.iter().enumerate() {
        let touched = log.has_entered(&format!("d{index}"), State::Resuming);
        let reset = report.restored.as_deref() == Some("reset");
        ensure(!touched || reset, || format!("d{index} had half a state and was not reset: {report:?}"))?;
    }
    Ok(())
}

fn out_of_us(bench: &Bench<'_>, trouble: Trouble, notes: &mut Notes) -> Checked {
    let recording = from_us::record(bench)?;
    let (mut target, proxy) = from_us::listening(bench)?;
    let mut ours = from_us::source(bench, &recording, more(trouble))?;
    match moment(trouble) {
        Some(Moment::PreCopy) => bench.wait("pre-copy goes on", || {
            ensure(ours.is_running(), || format!("our side ended too early: {}", ours.said()))?;
            all_in(&must("our side", ours.device_log())?, bench.scenario, State::PreCopy)
        })?,
        Some(Moment::StopCopy) => bench.wait("a device is in STOP_COPY", || {
            ensure(ours.is_running(), || format!("our side ended too early: {}", ours.said()))?;
            Ok(must("our side", ours.device_log())?.has_entered("d0", State::StopCopy))
        })?,
        None => {}
    }
    if trouble == Trouble::TheyCancel {
        // A target has no cancel: its process ends.
        drop(target);
        let outcome = must("our side", ours.finish(bench.deadline))?;
        check(&outcome, trouble, notes)?;
        return check_back(bench, &ours, &outcome);
    }
    strike(trouble, &proxy, &mut target, &mut ours)?;
    let outcome = must("our side", ours.finish(bench.deadline))?;
    if outcome.moved && hides_failures(bench, trouble) {
        return note_false_word(bench, &mut target, notes);
    }
    check(&outcome, trouble, notes)?;
    check_back(bench, &ours, &outcome)?;
    drop(proxy);
    let state = must("target", target.run_state())?;
    ensure(state != "running", || "the target's guest runs, and so does the source's".to_owned())
}

/// issues.md, 2: a QEMU target derives its last word from its main stream, and does not hear of what its load threads refuse.
fn hides_failures(bench: &Bench<'_>, trouble: Trouble) -> bool {
    bench.scenario.channels > 0 && matches!(trouble, Trouble::Disagree { ours: [DAMAGE, ..], .. })
}

/// The target has confirmed what it refused: no source can know. Its guest must not run all the same.
fn note_false_word(bench: &Bench<'_>, target: &mut Machine, notes: &mut Notes) -> Checked {
    bench.wait("the target is done", || over(target.migration()))?;
    let migration = must("target", target.migration())?;
    expect("the target's end", migration.status.as_str(), "failed")?;
    let error = migration.error.unwrap_or_default();
    notes.details.push(format!("QEMU's fault: it said SHUT 0, and had refused the state ({error})"));
    let state = must("target", target.run_state())?;
    ensure(state != "running", || "the target's guest runs on a state it has refused".to_owned())
}

fn strike(trouble: Trouble, proxy: &Proxy, theirs: &mut Machine, ours: &mut Side) -> Checked {
    match trouble {
        Trouble::Cut(_) => {
            proxy.cut();
            Ok(())
        }
        Trouble::TheyCancel => must("cancel", theirs.execute("migrate_cancel", json!({}))).map(drop),
        Trouble::WeCancel(_) => must("cancel", ours.cancel()),
        Trouble::Disagree { .. } => Ok(()),
    }
}

/// Our side says what happened, and stayed within its bounds.
fn check(outcome: &Outcome, trouble: Trouble, notes: &mut Notes) -> Checked {
    ensure(!outcome.moved && !outcome.committed, || format!("our side thinks that the guest moved: {outcome:?}"))?;
    let error = outcome.error.clone().ok_or_else(|| failed("our side gives no reason"))?;
    let expected = match trouble {
        Trouble::Disagree { reason, .. } => reason,
        Trouble::WeCancel(_) => "cancelled",
        // Which connection notices first is chance.
        Trouble::Cut(_) | Trouble::TheyCancel => "",
    };
    ensure(error.contains(expected), || format!("our side's reason has no word of '{expected}': {error}"))?;
    ensure(outcome.memory_peak_bytes <= MEMORY_BYTES_MAX, || {
        format!("our process had {} bytes of memory, at most {MEMORY_BYTES_MAX} are right", outcome.memory_peak_bytes)
    })?;
    notes.details.push(format!("our side says: {error}"));
    notes.details.push(format!("at most {} MiB in our process", outcome.memory_peak_bytes >> 20));
    Ok(())
}

/// Our devices are back where they were.
fn check_back(bench: &Bench<'_>, ours: &Side, outcome: &Outcome) -> Checked {
    let log = must("our side", ours.device_log())?;
    for (index, report) in outcome.devices.iter().enumerate() {
        let device = format!("d{index}");
        expect(&format!("{device} after it"), report.state.as_str(), "RUNNING")?;
        let touched = log.has_entered(&device, State::PreCopy) || log.has_entered(&device, State::StopCopy);
        let back = report.restored.as_deref() == Some("back in RUNNING");
        ensure(!touched || back, || format!("{device} was not returned: {report:?}"))?;
    }
    expect("devices", outcome.devices.len(), bench.scenario.count)
}
