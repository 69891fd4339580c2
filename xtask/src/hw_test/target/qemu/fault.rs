// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A migration that something ends early: the source's guest and devices run on, the target's guest does not, and the
//! next migration goes well.

use core::time::Duration;

use serde_json::json;
use vfio_mig_fsm::State;

use super::super::super::contract::check::{Checked, ensure, expect, must, skipped};
use super::check::{SEIZED_UP, all_in, has_seized_up, keep_if_failed, over, whole};
use super::rig::{Notes, Peers, Rig, Switchover};
use super::scenario::{Blow, Moment, Scenario};
use crate::qemu::device_log::Way;
use crate::qemu::proxy::{Orders, Point};

/// So much has gone over the connections when a source is told to cancel in pre-copy.
const FORWARD_BYTES: u64 = 256 << 10;
/// So much shows that the devices are being read: QEMU 10.0 does not bear a loss while it begins to.
const FLOWING_BYTES: u64 = 512 << 10;

/// Runs it, and then migrates to another target.
pub(super) fn run(scenario: &Scenario, blow: Blow, peers: &Peers, limit: Duration, notes: &mut Notes) -> Checked {
    let mut rig = Rig::start(scenario, peers, limit)?;
    let result = broken(&mut rig, scenario, blow, notes).and_then(|()| {
        rig.replace_target(scenario, peers)?;
        whole(&mut rig, scenario, peers.series, Switchover::Soon, notes)
    });
    keep_if_failed(rig, result)
}

fn broken(rig: &mut Rig, scenario: &Scenario, blow: Blow, notes: &mut Notes) -> Checked {
    let moment = match blow {
        Blow::Cut(moment) | Blow::Cancel(moment) => Some(moment),
        Blow::NobodyThere => None,
    };
    let switchover = if moment == Some(Moment::StopCopy) { Switchover::Soon } else { Switchover::Never };
    let hold = (blow == Blow::Cut(Moment::PreCopy)).then_some(Point::PreCopy);
    rig.migrate(switchover, moment.is_some(), Orders { hold, change: None })?;
    match moment {
        Some(Moment::PreCopy) => rig.wait("pre-copy goes on", |rig| {
            ensure_not_over(rig)?;
            if hold.is_some() {
                return Ok(rig.proxy()?.has_stopped());
            }
            Ok(rig.proxy()?.forward_bytes() > FORWARD_BYTES && all_in(&rig.logs()?.0, scenario, State::PreCopy)?)
        })?,
        // The monitor is no help here: the source answers when it has sent everything.
        Some(Moment::StopCopy) => {
            rig.wait("a device is in STOP_COPY", |rig| Ok(rig.logs()?.0.has_entered("d0", State::StopCopy)))?;
            let flowing = rig.proxy()?.forward_bytes().saturating_add(FLOWING_BYTES);
            rig.wait("state flows", |rig| Ok(rig.proxy()?.forward_bytes() > flowing))?;
        }
        None => {}
    }
    let expected: &[&str] = match blow {
        Blow::Cut(_) => {
            rig.proxy()?.cut();
            &["failed"]
        }
        Blow::Cancel(_) => {
            must("cancel", rig.source.execute("migrate_cancel", json!({})))?;
            // A cancel shuts the connections down, and QEMU may notice that first and call it a failure. What becomes of guest and devices
            // is the same.
            &["cancelled", "failed"]
        }
        Blow::NobodyThere => &["failed"],
    };
    let series = rig.series();
    rig.wait("the source gives up", |rig| {
        if has_seized_up(&mut rig.source, series, scenario) {
            return Err(skipped(SEIZED_UP));
        }
        over(rig.source.migration())
    })?;
    let migration = must("source", rig.source.migration())?;
    ensure(expected.contains(&migration.status.as_str()), || {
        format!("the source's end: expected {}, found {}", expected.join(" or "), migration.status)
    })?;
    notes.details.push(format!("the source says: {}", migration.error.as_deref().unwrap_or("nothing")));
    check_left_as_found(rig, scenario, blow, notes)
}

fn ensure_not_over(rig: &mut Rig) -> Checked {
    let migration = must("source", rig.source.migration())?;
    ensure(!migration.is_over(), || format!("over too early: {migration:?}, {}", rig.target.said()))
}

fn check_left_as_found(rig: &mut Rig, scenario: &Scenario, blow: Blow, notes: &mut Notes) -> Checked {
    rig.wait("the source's guest runs on", |rig| Ok(must("source", rig.source.run_state())? == "running"))?;
    let series = rig.series();
    rig.wait("the source's devices run on", |rig| {
        if has_seized_up(&mut rig.source, series, scenario) {
            return Err(skipped(SEIZED_UP));
        }
        all_in(&rig.logs()?.0, scenario, State::Running)
    })?;
    if blow == Blow::Cancel(Moment::StopCopy) {
        return note_both_running(rig, notes);
    }
    if blow != Blow::NobodyThere {
        rig.wait("the target gives up", |rig| over(rig.target.migration()))?;
        expect("the target's end", must("target", rig.target.migration())?.status.as_str(), "failed")?;
    }
    let state = must("target", rig.target.run_state())?;
    ensure(state != "running", || "the target's guest runs, and so does the source's".to_owned())?;
    let (source, target) = rig.logs()?;
    for device in (0..scenario.count).map(|index| format!("d{index}")) {
        let begun = source.has_entered(&device, State::PreCopy) || source.has_entered(&device, State::StopCopy);
        expect(&format!("ended sessions of {device}"), source.sessions(&device, Way::Save).len(), usize::from(begun))?;
        ensure(target.state(&device) != Some(State::Running) || !target.has_entered(&device, State::Resuming), || {
            format!("{device} runs on the target with half of its state")
        })?;
    }
    Ok(())
}

/// QEMU hears of a cancel in STOP_COPY when everything has been sent. It obeys although the target then runs as well: a
/// fault of QEMU's, which has no commit, and not of what is tested here.
fn note_both_running(rig: &mut Rig, notes: &mut Notes) -> Checked {
    rig.wait("the target is done", |rig| over(rig.target.migration()))?;
    let target = must("target", rig.target.migration())?;
    notes.details.push(match target.status.as_str() {
        "completed" => "QEMU's fault: after this cancel the guest runs on both sides".to_owned(),
        other => format!("the target ended with {other}"),
    });
    Ok(())
}
