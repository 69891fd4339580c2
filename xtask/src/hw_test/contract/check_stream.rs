// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `migrate --check-stream`: what drivers let pass is refused, before the target's device is written to or runs.
//!
//! Damage comes from a file that was changed, which every device can be given, or from a simulated driver that fails.

use std::ffi::OsString;
use std::path::Path;

use super::check::{Checked, ensure, expect, failed, must};
use super::context::Ctx;
use super::dut::Dut;
use super::migrate::{Pair, Transport, clean, expect_source_kept, expect_target_reset, open_all, prepare};
use super::process::{Report, Side};
use super::profile::Incomplete;
use super::state_file::{self, Change};
use super::{Need, Test, test};
use crate::hw_test::event::Group;

const CHECK: &[&str] = &["--check-stream"];
const NO_CHECK: &[&str] = &[];

pub(super) const TESTS: &[Test] = &[
    of("a sound stream passes the checks of both sides", sound),
    of("without pre-copy too", |ctx| clean(ctx, Transport::Unix, &["--no-precopy", "--check-stream"], CHECK)),
    of("in small pieces too", |ctx| clean(ctx, Transport::Unix, &["--chunk-bytes", "4097", "--check-stream"], CHECK)),
    of("a damaged state never reaches the device", |ctx| from_file(ctx, &|_| Change::Flipped(7))),
    of("a state cut by one byte is not run", |ctx| from_file(ctx, &|bytes| Change::Cut(bytes.saturating_sub(1)))),
    of("a state cut in half is not run", |ctx| from_file(ctx, &|bytes| Change::Cut(bytes / 2))),
    failing("a driver that yields damage is stopped by the source", |ctx| live(ctx, DAMAGE, CHECK, NO_CHECK)),
    failing("a driver that yields damage is stopped by the target", |ctx| live(ctx, DAMAGE, NO_CHECK, CHECK)),
    failing("a driver that ends too early is stopped by the source", |ctx| live(ctx, SHORT, CHECK, NO_CHECK)),
    failing("a driver that ends too early is stopped by the target", |ctx| live(ctx, SHORT, NO_CHECK, CHECK)),
    failing("a driver that ends too early is noticed by no one without a check", unnoticed),
    test(
        Group::CheckStream,
        "a device that does not fit is not written to",
        &[Need::SecondDevice, Need::StreamCheck, Need::Simulated, Need::ComparedOnce],
        misfit,
    ),
];

const fn of(name: &'static str, body: fn(&mut Ctx) -> Checked) -> Test {
    test(Group::CheckStream, name, &[Need::SecondDevice, Need::StreamCheck], body)
}

const fn failing(name: &'static str, body: fn(&mut Ctx) -> Checked) -> Test {
    test(Group::CheckStream, name, &[Need::SecondDevice, Need::StreamCheck, Need::Simulated], body)
}

/// Byte 7 belongs to the magic of one format and to the first record's size of the other.
const DAMAGE: &str = "fault=read:flip=7@1";
/// 30 bytes are no whole state of any format.
const SHORT: &str = "fault=read:short=30@1 fault=read:short=0@2+";

fn sound(ctx: &mut Ctx) -> Checked {
    clean(ctx, Transport::Unix, CHECK, CHECK)
}

/// Saves to a file, changes it, and loads it with the check.
fn from_file(ctx: &mut Ctx, change: &dyn Fn(u64) -> Change) -> Checked {
    prepare(ctx)?;
    let result = load_changed(ctx, change);
    open_all(ctx)?;
    result?;
    ctx.target().expect_state("after the refusal", vfio_mig_fsm::State::Running)
}

fn load_changed(ctx: &Ctx, change: &dyn Fn(u64) -> Change) -> Checked {
    let folder = must("make a folder", tempfile::tempdir())?;
    let [whole, changed, log] = ["whole", "changed", "log"].map(|name| folder.path().join(name));
    let file = |path: &Path| format!("file:{}", path.display());
    let saved = Side::start("source", &arguments("source", &ctx.first, "--to", &file(&whole), CHECK))?.ends()?;
    expect("the source's error", &saved.error, &None)?;
    let bytes = saved.devices.first().and_then(|device| device.bytes).unwrap_or(0);
    let change = change(bytes);
    expect("bytes of the state in the file", state_file::copy(&whole, &changed, change)?, bytes)?;
    ctx.note(format!("{change:?} of {bytes} bytes"));

    let arguments = arguments("target", ctx.target(), "--from", &file(&changed), CHECK);
    let target = Side::start_with("target", &arguments, &[("SOFTVFIO_LOG", log.clone().into())])?.ends()?;
    expect_refused(&target)?;
    expect_target_reset(&target)?;
    // What is damaged is refused where it is damaged; of what is cut, whole pieces come before.
    if matches!(change, Change::Flipped(_)) {
        expect_unwritten(ctx, &log)?;
    }
    Ok(())
}

fn arguments(side: &str, device: &Dut, way: &str, at: &str, more: &[&str]) -> Vec<String> {
    let device = format!("device={}", device.name);
    [side, "--device", &device, way, at].into_iter().chain(more.iter().copied()).map(Into::into).collect()
}

/// A live migration from a device that fails as `fault` says. At least one side checks.
fn live(ctx: &mut Ctx, fault: &str, source_args: &[&str], target_args: &[&str]) -> Checked {
    prepare(ctx)?;
    let outcome = migrate(ctx, Some((true, fault)), source_args, target_args, None);
    open_all(ctx)?;
    let (source, target) = outcome?;
    expect_source_kept(&source)?;
    expect_target_reset(&target)?;
    let (refused, told) = if source_args == CHECK { (&source, &target) } else { (&target, &source) };
    expect_refused(refused)?;
    let reason = told.error.as_deref().unwrap_or_default();
    ensure(reason.contains("the peer gave up") && reason.ends_with("(integrity)"), || {
        format!("the other side must be told of damage, and says: {reason}")
    })
}

/// The reason for all this. Where the driver itself refuses what is too short, there is nothing to show.
fn unnoticed(ctx: &mut Ctx) -> Checked {
    if ctx.first.profile.incomplete != Incomplete::Accepted {
        return Err(super::check::skipped("this driver refuses an incomplete state itself"));
    }
    prepare(ctx)?;
    let outcome = migrate(ctx, Some((true, SHORT)), NO_CHECK, NO_CHECK, None);
    open_all(ctx)?;
    let (source, target) = outcome?;
    let bytes = source.devices.first().and_then(|device| device.bytes).unwrap_or(u64::MAX);
    ensure(bytes <= 30, || format!("the state was to be cut after 30 bytes, and {bytes} moved"))?;
    ensure(source.moved && target.moved, || "the migration was refused, though nobody checked".into())
}

/// The VF has other queues: with the check not a byte is written to it, without it some are.
fn misfit(ctx: &mut Ctx) -> Checked {
    let folder = must("make a folder", tempfile::tempdir())?;
    let [with, without] = ["with", "without"].map(|name| folder.path().join(name));
    prepare(ctx)?;
    let checked = migrate(ctx, Some((false, "queues=17")), NO_CHECK, CHECK, Some(&with));
    let unchecked = migrate(ctx, Some((false, "queues=17")), NO_CHECK, NO_CHECK, Some(&without));
    open_all(ctx)?;
    let (source, target) = checked?;
    expect_refused(&target)?;
    expect_target_reset(&target)?;
    expect_source_kept(&source)?;
    let reason = source.error.unwrap_or_default();
    ensure(reason.contains("queue pairs, the target 17") && reason.ends_with("(incompatible)"), || {
        format!("the source must be told what does not fit, and says: {reason}")
    })?;
    expect_unwritten(ctx, &with)?;

    let (_, target) = unchecked?;
    ctx.note(match target.error {
        Some(error) => format!("without the check: {error}"),
        None => "without the check the driver takes it: it has compared one that fitted before".into(),
    });
    ensure(is_written(&without)?, || "without the check nothing was written either, so this test shows nothing".into())
}

/// A whole migration; `change` is what is different about the source's device (`true`) or the target's, and for that side's
/// process alone.
fn migrate(
    ctx: &Ctx,
    change: Option<(bool, &str)>,
    source_args: &[&str],
    target_args: &[&str],
    target_log: Option<&Path>,
) -> Checked<(Report, Report)> {
    let mut at_source: Vec<(&str, OsString)> = Vec::new();
    let mut at_target: Vec<(&str, OsString)> = Vec::new();
    match change {
        Some((true, words)) => at_source.push(("SOFTVFIO", changed_machine(&ctx.first, words)?.into())),
        Some((false, words)) => at_target.push(("SOFTVFIO", changed_machine(ctx.target(), words)?.into())),
        None => {}
    }
    at_target.extend(target_log.map(|log| ("SOFTVFIO_LOG", log.into())));
    let source_args: Vec<&str> = source_args.iter().copied().chain(["--no-precopy"]).collect();
    let pair = Pair::start_with(ctx, Transport::Unix, (&source_args, &at_source), (target_args, &at_target))?;
    pair.end()
}

/// The simulated machine with more words about one device.
fn changed_machine(device: &Dut, words: &str) -> Checked<String> {
    let machine = super::simulated_machine().ok_or_else(|| failed("the devices are not simulated"))?;
    let address = format!("address={}", device.name);
    ensure(machine.matches(&address).count() == 1, || format!("{address} is not in the configuration once"))?;
    Ok(machine.replace(&address, &format!("{address} {words}")))
}

fn expect_refused(report: &Report) -> Checked {
    let error = report.error.as_deref().unwrap_or("nothing");
    ensure(
        error.contains("the check of device")
            && error.contains("'s stream refuses it")
            && error.contains("at stream offset"),
        || format!("the check must refuse the stream; the side says: {error}"),
    )?;
    let checked_as = report.devices.first().and_then(|device| device.checked_as.as_deref());
    ensure(checked_as.is_some(), || "the report does not say that the stream was checked".into())
}

/// By the account of the device itself, where there is one.
fn expect_unwritten(ctx: &Ctx, log: &Path) -> Checked {
    if super::simulated_machine().is_none() {
        ctx.note("that nothing was written can be seen on simulated devices alone");
        return Ok(());
    }
    ensure(!is_written(log)?, || {
        format!("the device was written to: {}", std::fs::read_to_string(log).unwrap_or_default())
    })
}

/// Whether a device's log tells of a write, taken or refused. A log without any resuming session tells nothing.
fn is_written(log: &Path) -> Checked<bool> {
    let text = must("read the devices' log", std::fs::read_to_string(log))?;
    let ended: Vec<&str> = text.lines().filter(|line| line.contains(" load ends bytes=")).collect();
    ensure(!ended.is_empty(), || format!("no resuming session in the devices' log: {text}"))?;
    Ok(text.contains(" load refuses ") || ended.iter().any(|line| !line.contains(" load ends bytes=0 ")))
}
