// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A QEMU is the source, and we are the target.

use serde_json::json;
use vfio_mig_fsm::State;

use super::super::super::super::super::contract::check::{Checked, ensure, expect, must, skipped};
use super::super::super::check::{SEIZED_UP, all_in, has_seized_up, over};
use super::super::super::rig::Notes;
use super::super::bench::Bench;
use super::super::{from_us, to_us};
use super::{Deed, Ending, Fault, When, check_bounds, check_reason};
use crate::qemu::device_log::{DeviceLog, Way};
use crate::qemu::machine::Machine;
use crate::qemu::peer::outcome::Outcome;
use crate::qemu::proxy::Proxy;
use crate::qemu::side::Side;

/// So much shows that the devices are being read.
const FLOWING_BYTES: u64 = 512 << 10;

pub(super) fn run(bench: &Bench<'_>, fault: &Fault, notes: &mut Notes) -> Checked {
    // What only comes when the guest stands still depends on nothing but the device.
    let is_steady = !bench.scenario.kind.has_pre_copy();
    let undisturbed = is_steady.then(|| from_us::record(bench)).transpose()?;
    let mut source = to_us::source(bench)?;
    let mut ours = to_us::target(bench, fault.ours)?;
    let proxy = to_us::migrate(bench, 1, &mut source, fault.switchover(), fault.orders())?;
    wait_until(bench, fault, &mut source, &mut ours, &proxy)?;
    strike(bench, fault, &mut source, &mut ours, &proxy)?;
    let outcome = must("our side", ours.finish(bench.deadline))?;
    check_ours(bench, fault, &outcome, &ours, notes)?;
    // The relay would keep a connection that our side closed unread.
    drop(proxy);
    check_source(bench, fault, &mut source, notes)?;
    to_us::target_again(bench, 2, &mut ours)?;
    to_us::whole(bench, 2, &mut source, &mut ours, notes)?;
    undisturbed.map_or(Ok(()), |written| check_unharmed(bench, &source, &written.log))
}

fn wait_until(bench: &Bench<'_>, fault: &Fault, source: &mut Machine, ours: &mut Side, proxy: &Proxy) -> Checked {
    match fault.when {
        When::Always => Ok(()),
        When::Flowing(_) => {
            bench.wait("a device is in STOP_COPY", || {
                Ok(must("source", source.device_log())?.has_entered("d0", State::StopCopy))
            })?;
            // Connections that break while QEMU 10.0 starts its devices' threads can leave it waiting for itself, monitor
            // and all (seen once in three): when state flows they are past that.
            let before = proxy.forward_bytes();
            bench.wait("state flows", || Ok(proxy.forward_bytes() > before.saturating_add(FLOWING_BYTES)))
        }
        When::At(point) => bench.wait(&format!("the relay is at {point:?}"), || {
            let is_there = proxy.has_stopped();
            ensure(is_there || ours.is_busy(), || format!("our side ended too early: {}", ours.said()))?;
            Ok(is_there)
        }),
    }
}

fn strike(bench: &Bench<'_>, fault: &Fault, source: &mut Machine, ours: &mut Side, proxy: &Proxy) -> Checked {
    match fault.deed {
        Deed::Cut => {
            proxy.cut();
            Ok(())
        }
        Deed::TheyCancel => {
            must("cancel", source.execute("migrate_cancel", json!({})))?;
            if matches!(fault.when, When::At(_)) {
                bench.wait("the source has cancelled", || over(source.migration()))?;
                proxy.cut();
            }
            Ok(())
        }
        Deed::WeCancel => must("cancel", ours.cancel()),
        Deed::Disagree | Deed::Change(_) | Deed::ChangeBounded(..) => Ok(()),
    }
}

fn check_ours(bench: &Bench<'_>, fault: &Fault, outcome: &Outcome, ours: &Side, notes: &mut Notes) -> Checked {
    check_bounds(outcome, notes)?;
    let log = must("our side", ours.device_log())?;
    if fault.ending == Ending::TwoGuests {
        ensure(outcome.moved && outcome.error.is_none(), || format!("our side did not take over: {outcome:?}"))?;
        return ensure(all_in(&log, bench.scenario, State::Running)?, || {
            format!("our devices do not run: {outcome:?}")
        });
    }
    ensure(!outcome.moved && !outcome.committed, || format!("our side thinks that the guest moved: {outcome:?}"))?;
    check_reason(fault, outcome, notes)?;
    for (index, report) in outcome.devices.iter().enumerate() {
        let touched = log.has_entered(&format!("d{index}"), State::Resuming);
        let reset = report.restored.as_deref() == Some("reset");
        ensure(!touched || reset, || format!("d{index} had half a state and was not reset: {report:?}"))?;
    }
    Ok(())
}

/// The guest and the devices of the source are as if nothing had been.
fn check_source(bench: &Bench<'_>, fault: &Fault, source: &mut Machine, notes: &mut Notes) -> Checked {
    bench.wait("the source gives up", || {
        if has_seized_up(source, bench.peers.series, bench.scenario) {
            return Err(skipped(SEIZED_UP));
        }
        over(source.migration())
    })?;
    let migration = must("source", source.migration())?;
    let expected: &[&str] = match fault.deed {
        // Its monitor's command breaks the connections, and it may notice that first.
        Deed::TheyCancel => &["cancelled", "failed"],
        _ => &["failed"],
    };
    ensure(expected.contains(&migration.status.as_str()), || {
        format!("the source's end: expected {}, found {}", expected.join(" or "), migration.status)
    })?;
    bench.wait("the source's guest runs on", || Ok(must("source", source.run_state())? == "running"))?;
    bench.wait("the source's devices run on", || {
        if has_seized_up(source, bench.peers.series, bench.scenario) {
            return Err(skipped(SEIZED_UP));
        }
        all_in(&must("source", source.device_log())?, bench.scenario, State::Running)
    })?;
    notes.details.push(format!("the source says: {}", migration.error.as_deref().unwrap_or("nothing")));
    if fault.ending == Ending::TwoGuests {
        notes.details.push("QEMU's fault: without the target's last word it runs a guest that runs there".to_owned());
    }
    Ok(())
}

/// What the source gave at last is what it would have given had nothing happened before.
fn check_unharmed(bench: &Bench<'_>, source: &Machine, undisturbed: &DeviceLog) -> Checked {
    let log = must("source", source.device_log())?;
    for device in (0..bench.scenario.count).map(|index| format!("d{index}")) {
        let last = |log: &DeviceLog| log.sessions(&device, Way::Save).last().copied();
        let expected = last(undisturbed);
        ensure(expected.is_some(), || format!("{device} gave nothing where nothing disturbed it"))?;
        expect(&format!("what {device} gave after the fault"), last(&log), expected)?;
    }
    Ok(())
}
