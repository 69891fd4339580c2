// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! We are the source, and a QEMU is the target.

use core::time::Duration;
use std::thread;

use vfio_mig_fsm::State;

use super::super::super::super::super::contract::check::{Checked, ensure, expect, must, skipped};
use super::super::super::check::{all_in, over};
use super::super::super::rig::Notes;
use super::super::super::scenario::Moment;
use super::super::bench::Bench;
use super::super::from_us::{self, status};
use super::{Deed, Ending, Fault, When, check_bounds, check_reason};
use crate::qemu::machine::{Extras, Machine};
use crate::qemu::peer::outcome::Outcome;
use crate::qemu::proxy::{Change, Orders, Point, Proxy};
use crate::qemu::side::Side;
use crate::vm::Series;

/// A side looks every 20 ms whether it is cancelled: one that heeds it shows it within this.
const HEEDING: Duration = Duration::from_millis(150);

pub(super) fn run(bench: &Bench<'_>, fault: &Fault, notes: &mut Notes) -> Checked {
    if matches!(fault.deed, Deed::ChangeBounded(..)) && bench.peers.series == Series::V10_0 {
        return Err(skipped("QEMU 10.0 has no bound on packets that are early"));
    }
    let recording = from_us::record(bench)?.path;
    let mut properties = String::new();
    let (target, proxy) = from_us::listening(bench, 1, fault.orders(), fault.extras(&mut properties))?;
    let mut ours = from_us::source(bench, &recording, fault.ours)?;
    wait_until(bench, fault, &mut ours, &proxy)?;
    let target = strike(fault, target, &mut ours, &proxy)?;
    let outcome = must("our side", ours.finish(bench.deadline))?;
    check_bounds(&outcome, notes)?;
    let is_deceived = outcome.moved && fault.ending == Ending::QemuDecides;
    match (fault.ending, outcome.committed) {
        (Ending::QemuDecides, _) if is_deceived => check_stopped(bench, &ours, &outcome)?,
        (Ending::InDoubt, _) | (Ending::QemuDecides, true) => check_in_doubt(bench, fault, &ours, &outcome, notes)?,
        (Ending::Moved, _) => check_moved(bench, &ours, &outcome, notes)?,
        (Ending::Refused | Ending::TwoGuests | Ending::QemuDecides, _) => {
            check_back(bench, fault, &ours, &outcome, notes)?;
        }
    }
    // Behind a point the relay would keep the target waiting.
    if fault.ending != Ending::Moved {
        drop(proxy);
    }
    if let Some(mut target) = target {
        check_target(bench, fault, &mut target, is_deceived, notes)?;
    }
    if fault.ending == Ending::Moved {
        return Ok(());
    }
    let before = must("our side", ours.device_log())?;
    let relayed = from_us::listening(bench, 2, Orders::default(), Extras::default())?;
    let begin_us = bench.now_us();
    must("tell our side", ours.again(&from_us::words(bench, 2, &recording, &[])))?;
    from_us::whole(bench, relayed, (&mut ours, &before, begin_us), notes)
}

fn wait_until(bench: &Bench<'_>, fault: &Fault, ours: &mut Side, proxy: &Proxy) -> Checked {
    let is_going_on = |ours: &mut Side| ensure(ours.is_busy(), || format!("our side ended too early: {}", ours.said()));
    match fault.when {
        When::Always => Ok(()),
        When::Flowing(Moment::PreCopy) => bench.wait("pre-copy goes on", || {
            is_going_on(ours)?;
            all_in(&must("our side", ours.device_log())?, bench.scenario, State::PreCopy)
        }),
        When::Flowing(Moment::StopCopy) => bench.wait("a device is in STOP_COPY", || {
            is_going_on(ours)?;
            Ok(must("our side", ours.device_log())?.has_entered("d0", State::StopCopy))
        }),
        When::At(point) => bench.wait(&format!("the relay is at {point:?}"), || {
            is_going_on(ours)?;
            Ok(proxy.has_stopped())
        }),
    }
}

/// Gives the target, unless it has ended.
fn strike(fault: &Fault, target: Machine, ours: &mut Side, proxy: &Proxy) -> Checked<Option<Machine>> {
    match fault.deed {
        Deed::Cut => proxy.cut(),
        Deed::TheyCancel => {
            // A target has no cancel: its process ends.
            drop(target);
            if matches!(fault.when, When::At(_)) {
                proxy.cut();
            }
            return Ok(None);
        }
        Deed::WeCancel => {
            must("cancel", ours.cancel())?;
            if fault.ending == Ending::Moved {
                thread::sleep(HEEDING);
                proxy.go_on();
            }
        }
        Deed::Disagree | Deed::Change(_) | Deed::ChangeBounded(..) => {}
    }
    Ok(Some(target))
}

/// Our side gave up, and our devices are back where they were.
fn check_back(bench: &Bench<'_>, fault: &Fault, ours: &Side, outcome: &Outcome, notes: &mut Notes) -> Checked {
    ensure(!outcome.moved && !outcome.committed, || format!("our side thinks that the guest moved: {outcome:?}"))?;
    check_reason(fault, outcome, notes)?;
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

/// The guest may be the target's: ours must not run.
fn check_in_doubt(bench: &Bench<'_>, fault: &Fault, ours: &Side, outcome: &Outcome, notes: &mut Notes) -> Checked {
    ensure(outcome.committed && !outcome.moved, || format!("our side thinks that it knows: {outcome:?}"))?;
    check_reason(fault, outcome, notes)?;
    check_stopped(bench, ours, outcome)
}

fn check_moved(bench: &Bench<'_>, ours: &Side, outcome: &Outcome, notes: &mut Notes) -> Checked {
    let error = outcome.error.clone().unwrap_or_default();
    ensure(outcome.moved, || format!("our side let go of what it had given away: {error}"))?;
    notes.details.push("our side goes on: the target has the guest".to_owned());
    check_stopped(bench, ours, outcome)
}

fn check_stopped(bench: &Bench<'_>, ours: &Side, outcome: &Outcome) -> Checked {
    let log = must("our side", ours.device_log())?;
    ensure(all_in(&log, bench.scenario, State::Stop)?, || format!("our devices are not at rest: {outcome:?}"))
}

/// What became of the target. Its guest runs where ours may not, and nowhere else.
fn check_target(
    bench: &Bench<'_>,
    fault: &Fault,
    target: &mut Machine,
    is_deceived: bool,
    notes: &mut Notes,
) -> Checked {
    if fault.deed == Deed::Change(Change::FarPacket) {
        ensure(!is_deceived, || "QEMU says that it has a packet that nothing can be in".to_owned())?;
        return note_abort(bench, target, notes);
    }
    let has_all = fault.ending == Ending::Moved || fault.when == When::At(Point::LastWord);
    if has_all {
        bench.wait("the target is done", || over(target.migration()))?;
        expect("the target's end", must("target", target.migration())?.status.as_str(), "completed")?;
        return bench.wait("the target runs", || Ok(must("target", target.run_state())? == "running"));
    }
    check_not_running(bench, target)?;
    if is_deceived {
        // issues.md, 2: it derives its last word from its main stream, and does not hear of what its load threads refuse.
        bench.wait("the target is done", || over(target.migration()))?;
        expect("the target's end", must("target", target.migration())?.status.as_str(), "failed")?;
        let says = status(target);
        notes.details.push(format!("QEMU's fault: it said SHUT 0, and had refused the state ({says})"));
    } else if matches!(fault.deed, Deed::ChangeBounded(..)) && target.is_deaf() {
        notes.details.push("QEMU's fault: it had more than it may hold, and hangs, monitor and all".to_owned());
        return Ok(());
    } else if fault.deed == Deed::Change(Change::Gap) {
        // Its main thread waits for the threads that load devices, and they for the packet; 11.1 may or may not get away.
        notes.details.push("QEMU's fault: it waits for the packet for ever, monitor and all; not asked".to_owned());
        return Ok(());
    } else {
        notes.details.push(format!("QEMU says: {}", status(target)));
    }
    let state = must("target", target.run_state())?;
    ensure(state != "running", || "the target's guest runs without its state, or beside ours".to_owned())
}

/// What its devices saw, which a QEMU that does not answer cannot hide.
fn check_not_running(bench: &Bench<'_>, target: &Machine) -> Checked {
    let log = must("target", target.device_log())?;
    for device in (0..bench.scenario.count).map(|index| format!("d{index}")) {
        let runs = log.has_entered(&device, State::Resuming) && log.state(&device) == Some(State::Running);
        ensure(!runs, || format!("{device} runs on the target without its state, or beside ours"))?;
    }
    Ok(())
}

/// issues.md, 3: it makes room for all packets below the one that came.
fn note_abort(bench: &Bench<'_>, target: &mut Machine, notes: &mut Notes) -> Checked {
    let mut ended = None;
    bench.wait("the target has had enough", || {
        ended = target.ended();
        Ok(ended.is_some() || over(target.migration()).unwrap_or(false))
    })?;
    notes.details.push(match ended {
        Some(ended) => format!("QEMU's fault: a packet of 289 bytes ends it ({ended})"),
        None => format!("QEMU refuses the packet: {}", status(target)),
    });
    Ok(())
}
