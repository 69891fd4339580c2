// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Migrations in which nothing goes wrong, and everything that must then be true.

use std::path::PathBuf;

use serde_json::json;
use vfio_mig_fsm::State;

use super::super::check::{Checked, ensure, expect, must};
use super::super::context::Ctx;
use super::bench::Bench;
use super::{Before, among_others, check_capture, check_moved, check_outcome};
use crate::qemu::capture;
use crate::qemu::machine::Machine;
use crate::qemu::peer::outcome::Outcome;
use crate::qemu::proxy::Proxy;
use crate::qemu::terms::Terms;

/// The states that a QEMU puts a device into which it gives away, and one that it takes (vfio-section.md).
const GIVEN: [&str; 4] = ["pre-copy", "pre-copy-p2p", "stop-copy", "stop"];
const TAKEN: [&str; 3] = ["resuming", "running-p2p", "running"];

/// A QEMU is the source.
pub(super) fn to_us(ctx: &mut Ctx, terms: Terms) -> Checked {
    let before = among_others(ctx, |ctx, before| {
        let bench = Bench::new(ctx)?;
        let mut ours = bench.ours_listening(ctx.target(), terms.arguments())?;
        let mut source = bench.machine(&ctx.first, false)?;
        must("set up the source", terms.set(&mut source))?;
        let proxy = bench.migrate(&mut source)?;
        let outcome = must("our side", ours.finish(bench.deadline()))?;
        moved(&outcome, &source)?;
        bench.completed(&mut source)?;
        bench.guest_is(&mut source, "postmigrate")?;
        bench.ends_in(&mut source, &GIVEN)?;
        bench.draw(&mut source, "source", (early(&outcome), before.bytes()))?;
        check_said(&bench, proxy, (terms, &outcome), before)?;
        must("RAM", outcome.check_firmware(&bench.stock.qemu))?;
        check_outcome(&outcome, before, State::Running)?;
        note(&bench, &outcome);
        Ok(())
    })?;
    check_moved(ctx, &before)
}

/// A QEMU is the target.
pub(super) fn from_us(ctx: &mut Ctx, terms: Terms) -> Checked {
    let recording = recording(ctx)?;
    let before = among_others(ctx, |ctx, before| {
        let bench = Bench::new(ctx)?;
        let (mut target, proxy) = bench.listening(ctx.target(), terms)?;
        let mut words = terms.arguments();
        words.extend(["--socket".into(), bench.at("relay").display().to_string()]);
        words.extend(["--recording".into(), recording.display().to_string()]);
        let mut ours = bench.ours("source", &ctx.first, words)?;
        let outcome = must("our side", ours.finish(bench.deadline()))?;
        moved(&outcome, &target)?;
        check_taken(&bench, &mut target, &outcome, before)?;
        check_said(&bench, proxy, (terms, &outcome), before)
    })?;
    check_moved(ctx, &before)
}

/// A QEMU's file, loaded by us.
pub(super) fn file_to_us(ctx: &mut Ctx) -> Checked {
    let before = among_others(ctx, |ctx, before| {
        let path = record(ctx)?;
        let bench = Bench::new(ctx)?;
        let words = ["--file".to_owned(), path.display().to_string()];
        let mut ours = bench.ours("target", ctx.target(), words.into())?;
        let outcome = must("our side", ours.finish(bench.deadline()))?;
        ensure(outcome.moved, || format!("our side: {}", outcome.error.clone().unwrap_or_default()))?;
        must("RAM", outcome.check_firmware(&bench.stock.qemu))?;
        check_outcome(&outcome, before, State::Running)?;
        note(&bench, &outcome);
        Ok(())
    })?;
    check_moved(ctx, &before)
}

/// Our file, loaded by a QEMU.
pub(super) fn file_from_us(ctx: &mut Ctx) -> Checked {
    let recording = recording(ctx)?;
    let before = among_others(ctx, |ctx, before| {
        let bench = Bench::new(ctx)?;
        let path = bench.at("ours.stream");
        let words =
            ["--file".into(), path.display().to_string(), "--recording".into(), recording.display().to_string()];
        let mut ours = bench.ours("source", &ctx.first, words.into())?;
        let outcome = must("our side", ours.finish(bench.deadline()))?;
        ensure(outcome.moved, || format!("our side: {}", outcome.error.clone().unwrap_or_default()))?;
        let mut target = bench.machine(ctx.target(), true)?;
        let arguments = json!({ "uri": format!("file:{}", path.display()), "exit-on-error": false });
        must("load the file", target.execute("migrate-incoming", arguments))?;
        check_taken(&bench, &mut target, &outcome, before)
    })?;
    check_moved(ctx, &before)
}

/// What a QEMU with the first device wrote, at any time: all but the device's state is the same whenever that is.
pub(super) fn recording(ctx: &mut Ctx) -> Checked<PathBuf> {
    if let Some(path) = ctx.stock()?.recording.get() {
        return Ok(path.clone());
    }
    let mut path = PathBuf::new();
    among_others(ctx, |ctx, _| {
        path = record(ctx)?;
        Ok(())
    })?;
    Ok(path)
}

/// Has a QEMU with the first device write its state to a file, which is kept for others.
fn record(ctx: &Ctx) -> Checked<PathBuf> {
    let bench = Bench::new(ctx)?;
    let path = bench.stock.folder.path().join("recording");
    let mut recorder = bench.machine(&ctx.first, false)?;
    bench.migrate_to(&mut recorder, &format!("file:{}", path.display()))?;
    bench.completed(&mut recorder)?;
    bench.ends_in(&mut recorder, &GIVEN)?;
    Ok(bench.stock.recording.get_or_init(|| path).clone())
}

/// Our side is done, and the QEMU may have more to say if it is not.
fn moved(outcome: &Outcome, machine: &Machine) -> Checked {
    let error = || outcome.error.clone().unwrap_or_default();
    ensure(outcome.moved, || format!("our side: {}; QEMU: {}", error(), machine.said()))
}

fn check_taken(bench: &Bench<'_>, target: &mut Machine, outcome: &Outcome, before: &Before) -> Checked {
    bench.completed(target)?;
    bench.guest_is(target, "running")?;
    bench.ends_in(target, &TAKEN)?;
    bench.draw(target, "target", (early(outcome), before.bytes()))?;
    check_outcome(outcome, before, State::Stop)?;
    note(bench, outcome);
    Ok(())
}

fn check_said(bench: &Bench<'_>, proxy: Proxy, (terms, outcome): (Terms, &Outcome), before: &Before) -> Checked {
    let recordings = must("the relay", proxy.finish(bench.left()))?;
    let captured = must("reading the recording", capture::read(&recordings))?;
    bench.ctx.note(format!("{} bytes over {} connections, all accounted for", captured.bytes, recordings.len()));
    expect("acknowledgements our side counts", outcome.acks, captured.acks)?;
    check_capture(&captured, terms, before)
}

fn early(outcome: &Outcome) -> u64 {
    outcome.devices.iter().map(|it| it.precopy_bytes).sum()
}

fn note(bench: &Bench<'_>, outcome: &Outcome) {
    for it in &outcome.devices {
        let (bytes, digest, early) = (it.bytes, it.crc64_nvme, it.precopy_bytes);
        bench.ctx.note(format!("{bytes} bytes of device state, {early} of them in pre-copy, CRC-64 {digest:016x}"));
    }
}
