// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Migrations that one side refuses: the guest stays the source's, and so does all that its device has.

use vfio_mig_fsm::State;

use super::super::check::{Checked, ensure, expect, failed, must};
use super::super::context::Ctx;
use super::bench::Bench;
use super::whole::recording;
use super::{MAIN, among_others, check_has};
use crate::qemu::peer::outcome::Outcome;

/// A machine that no q35 is.
const ANOTHER: &str = "pc-i440fx-10.0";
/// Byte 8 of the config space, the revision, in a config state: 4 bytes of version come before it.
const REVISION: &str = "12";

/// We refuse what a QEMU sends.
pub(super) fn another_machine(ctx: &mut Ctx) -> Checked {
    let before = among_others(ctx, |ctx, _| {
        let bench = Bench::new(ctx)?;
        let words = MAIN.arguments().into_iter().chain(["--machine-type".into(), ANOTHER.into()]);
        let mut ours = bench.ours_listening(ctx.target(), words.collect())?;
        let mut source = bench.machine(&ctx.first, false)?;
        must("set up the source", MAIN.set(&mut source))?;
        let proxy = bench.migrate(&mut source)?;
        let outcome = must("our side", ours.finish(bench.deadline()))?;
        check_refused(ctx, &outcome, &format!("this is a '{ANOTHER}'"))?;
        // The relay would keep a connection that our side closed unread.
        drop(proxy);
        let migration = bench.over(&mut source)?;
        expect("the source's end", migration.status.as_str(), "failed")?;
        bench.guest_is(&mut source, "running")?;
        bench.runs_on(&mut source)
    })?;
    check_has(&ctx.first, &before)
}

/// A QEMU refuses what we send.
pub(super) fn config_bytes(ctx: &mut Ctx) -> Checked {
    let recording = recording(ctx)?;
    let before = among_others(ctx, |ctx, _| {
        let bench = Bench::new(ctx)?;
        let (mut target, proxy) = bench.listening(ctx.target(), MAIN)?;
        let mut words = MAIN.arguments();
        words.extend(["--socket".into(), bench.at("relay").display().to_string()]);
        words.extend(["--recording".into(), recording.display().to_string()]);
        words.extend(["--damage-config".into(), REVISION.into()]);
        let mut ours = bench.ours("source", &ctx.first, words)?;
        let outcome = must("our side", ours.finish(bench.deadline()))?;
        check_refused(ctx, &outcome, "")?;
        let back = outcome.devices.iter().all(|it| it.restored.as_deref() == Some("back in RUNNING"));
        ensure(back, || format!("our device was not returned: {outcome:?}"))?;
        drop(proxy);
        let migration = bench.over(&mut target)?;
        expect("the target's end", migration.status.as_str(), "failed")?;
        let state = must("target", target.run_state())?;
        ensure(state != "running", || "the target's guest runs, and so does the source's".to_owned())?;
        // vfio-section.md: so it names the byte.
        let said = target.said();
        let reason = said.lines().find(|line| line.contains("Bad config data"));
        let reason = reason.ok_or_else(|| failed(format!("QEMU refused for another reason: {said}")))?;
        ctx.note(format!("QEMU says: {reason}"));
        Ok(())
    })?;
    check_has(&ctx.first, &before)
}

/// Our side says why, and that nothing is given up.
fn check_refused(ctx: &Ctx, outcome: &Outcome, reason: &str) -> Checked {
    ensure(!outcome.moved && !outcome.committed, || format!("our side thinks that the guest moved: {outcome:?}"))?;
    let error = outcome.error.clone().ok_or_else(|| failed("our side gives no reason"))?;
    ensure(error.contains(reason), || format!("our side's reason has no word of '{reason}': {error}"))?;
    ctx.note(format!("our side says: {error}"));
    let states: Vec<_> = outcome.devices.iter().map(|it| it.state.as_str()).collect();
    expect("our device after it", states, vec![State::Running.name()])
}
