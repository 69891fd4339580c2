// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Whole migrations by two processes, and everything that can end one early.
//!
//! Whatever happens, the device runs on exactly one side or, after the point of no return, on none until a person
//! decides: never on both. A side that survives says what became of it, and the next migration succeeds.

use core::time::Duration;
use std::ffi::OsString;
use std::time::Instant;

use nix::sys::signal::Signal;

use super::case::{COMMIT, Case, Fault, HELLO, PHASES};
use super::check::{Checked, ensure, expect, failed, must};
use super::context::Ctx;
use super::dut::Dut;
use super::process::{DeviceReport, Report, Side};
use super::transfer::{Observed, observe_after, observe_before, spoil};
use super::{Need, Test, test};
use crate::hw_test::event::Group;

/// Migrations in which nothing goes wrong but the target's absence.
pub(super) const TESTS: &[Test] = &[
    test(Group::Migrate, "over a unix socket", &[Need::SecondDevice], |ctx| clean(ctx, Transport::Unix, &[], &[])),
    test(Group::Migrate, "over TCP", &[Need::SecondDevice], |ctx| clean(ctx, Transport::Tcp, &[], &[])),
    test(Group::Migrate, "without pre-copy", &[Need::SecondDevice], |ctx| {
        clean(ctx, Transport::Unix, &["--no-precopy"], &[])
    }),
    test(Group::Migrate, "in small pieces", &[Need::SecondDevice], small_pieces),
    test(Group::Migrate, "over 2 channels", &[Need::SecondDevice], |ctx| clean_over(ctx, Transport::Unix, 2, &[])),
    test(Group::Migrate, "over 4 channels by TCP", &[Need::SecondDevice], |ctx| {
        clean_over(ctx, Transport::Tcp, 4, &[])
    }),
    test(Group::Migrate, "over 2 channels in 64 KiB of buffers", &[Need::SecondDevice], |ctx| {
        clean_over(ctx, Transport::Unix, 2, &["--buffer-bytes", "65536"])
    }),
    test(Group::Migrate, "3 channels here and 2 there, and then 2 here too", &[Need::SecondDevice], unequal_channels),
    test(Group::Migrate, "no target is there", &[Need::SecondDevice], no_target),
];

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Transport {
    Unix,
    Tcp,
}

/// Both sides, connected or about to be.
pub(super) struct Pair {
    source: Side,
    target: Side,
    _folder: tempfile::TempDir,
}

/// How long a side waits for a silent peer; longer than it takes to notice a dead one.
pub(super) const SILENCE_S: &str = "10";
/// Where it is silence that the test is about.
const SHORT_SILENCE_S: &str = "2";

/// Long after that patience, on a busy machine.
const SILENCE_END: Duration = Duration::from_secs(8);

/// Arguments of one side, and variables of its environment.
pub(super) type Given<'a> = (&'a [&'a str], &'a [(&'a str, OsString)]);

impl Pair {
    pub(super) fn start(ctx: &Ctx, transport: Transport, source_args: &[&str], target_args: &[&str]) -> Checked<Self> {
        Self::start_with(ctx, transport, (source_args, &[]), (target_args, &[]))
    }

    /// As `start`, in environments of their own.
    pub(super) fn start_with(ctx: &Ctx, transport: Transport, source: Given<'_>, target: Given<'_>) -> Checked<Self> {
        Self::start_within(ctx, transport, SILENCE_S, source, target)
    }

    /// As `start_with`, with a patience of its own.
    fn start_within(
        ctx: &Ctx,
        transport: Transport,
        silence_s: &str,
        source: Given<'_>,
        target: Given<'_>,
    ) -> Checked<Self> {
        let (folder, from) = socket(transport)?;
        let target = start_target(ctx, &from, target, silence_s)?;
        let source = start_source(ctx, target.address(), source, silence_s)?;
        Ok(Self { source, target, _folder: folder })
    }

    /// What the source reports, which the target waits on without; the target is then told to stop.
    pub(super) fn end_apart(self) -> Checked<(Report, Report)> {
        let source = self.source.ends()?;
        self.target.signal(Signal::SIGTERM)?;
        Ok((source, self.target.ends()?))
    }

    /// What source and target report at their ends.
    pub(super) fn end(self) -> Checked<(Report, Report)> {
        Ok((self.source.ends()?, self.target.ends()?))
    }
}

/// Where a target is to listen; the folder is that of its socket.
pub(super) fn socket(transport: Transport) -> Checked<(tempfile::TempDir, String)> {
    let folder = must("make a folder", tempfile::tempdir())?;
    let from = match transport {
        Transport::Unix => format!("unix:{}", folder.path().join("socket").display()),
        Transport::Tcp => "tcp:127.0.0.1:0".into(),
    };
    Ok((folder, from))
}

/// Starts a target and waits until it listens.
pub(super) fn start_target(ctx: &Ctx, from: &str, (args, environment): Given<'_>, silence_s: &str) -> Checked<Side> {
    let mut arguments = common("target", ctx.pairs().map(|(_, target)| target), args, silence_s);
    arguments.extend(["--from".into(), from.into()]);
    let mut target = Side::start_with("target", &arguments, environment)?;
    target.listens()?;
    Ok(target)
}

/// Starts a source of what is at `address`.
pub(super) fn start_source(ctx: &Ctx, address: &str, (args, environment): Given<'_>, silence_s: &str) -> Checked<Side> {
    let mut arguments = common("source", ctx.pairs().map(|(source, _)| source), args, silence_s);
    arguments.extend(["--to".into(), address.into()]);
    Side::start_with("source", &arguments, environment)
}

pub(super) fn common<'a>(
    side: &str,
    devices: impl Iterator<Item = &'a Dut>,
    more: &[&str],
    silence_s: &str,
) -> Vec<String> {
    let fixed = [side, "--timeout", silence_s];
    let devices = devices.enumerate();
    let devices = devices.flat_map(|(index, device)| ["--device".into(), format!("device{index}={}", device.name)]);
    fixed.into_iter().chain(more.iter().copied()).map(Into::into).chain(devices).collect()
}

/// Prepares all devices and leaves them to others. What is to be seen again is in the order of the pairs.
pub(super) fn prepare(ctx: &mut Ctx) -> Checked<Vec<Observed>> {
    open_all(ctx)?;
    let mut before = Vec::new();
    for (source, target) in ctx.pairs() {
        source.reset()?;
        target.reset()?;
        before.push(observe_before(source)?);
        spoil(target)?;
    }
    leave_all(ctx);
    Ok(before)
}

pub(super) fn leave_all(ctx: &mut Ctx) {
    ctx.all_mut().for_each(Dut::leave);
}

pub(super) fn open_all(ctx: &mut Ctx) -> Checked {
    let mut closed = ctx.all_mut().filter(|device| device.device().is_err());
    closed.try_for_each(Dut::open)
}

/// Over several channels, with the same more arguments on both sides.
fn clean_over(ctx: &mut Ctx, transport: Transport, channels: u16, more: &[&str]) -> Checked {
    let channels = channels.to_string();
    let arguments = [&["--channels", channels.as_str()], more].concat();
    clean(ctx, transport, &arguments, &arguments)
}

pub(super) fn clean(ctx: &mut Ctx, transport: Transport, source_args: &[&str], target_args: &[&str]) -> Checked {
    let before = prepare(ctx)?;
    let moved = migrate(ctx, transport, source_args, target_args);
    open_all(ctx)?;
    let (source, target) = moved?;
    draw(ctx, &source, &target);
    observe_all(ctx, &before)
}

/// What could be seen of the sources must be seen of the targets.
pub(super) fn observe_all(ctx: &Ctx, before: &[Observed]) -> Checked {
    ctx.pairs().zip(before).try_for_each(|((_, target), before)| {
        observe_after(target, before).map_err(|failure| failed(format!("{}: {}", target.name, failure.text())))
    })
}

/// One migration in which nothing goes wrong.
fn migrate(ctx: &Ctx, transport: Transport, source_args: &[&str], target_args: &[&str]) -> Checked<(Report, Report)> {
    let (source, target) = Pair::start(ctx, transport, source_args, target_args)?.end()?;
    expect_moved(ctx, source, target)
}

/// Both agree on what moved, and only the target runs.
pub(super) fn expect_moved(ctx: &Ctx, source: Report, target: Report) -> Checked<(Report, Report)> {
    expect("the source's error", &source.error, &None)?;
    expect("the target's error", &target.error, &None)?;
    ensure(source.moved && source.committed, || "the source does not report the move".into())?;
    ensure(target.moved, || "the target does not report the move".into())?;
    let bytes = |report: &Report| report.devices.iter().map(|device| device.bytes).collect::<Vec<_>>();
    expect("bytes by the account of the target", bytes(&target), bytes(&source))?;
    expect("devices that are reported", source.devices.len(), ctx.pairs().count())?;
    ensure(bytes(&source).iter().all(|bytes| *bytes > Some(0)), || "no bytes moved".into())?;
    ensure(!runs(&source, true), || "the source runs although its devices were given up".into())?;
    expect_running("target", &target)?;
    Ok((source, target))
}

/// Whether all devices run, or any does.
pub(super) fn runs(report: &Report, any: bool) -> bool {
    let mut running = report.devices.iter().map(|device| device.state == "RUNNING");
    if any { running.any(|runs| runs) } else { !report.devices.is_empty() && running.all(|runs| runs) }
}

fn states(report: &Report) -> String {
    let states: Vec<_> = report.devices.iter().map(|device| device.state.as_str()).collect();
    if states.is_empty() { "not reported".into() } else { states.join(", ") }
}

pub(super) fn expect_running(side: &str, report: &Report) -> Checked {
    ensure(runs(report, false), || format!("the {side}'s devices: expected RUNNING, found {}", states(report)))
}

/// The phases of both sides as timelines. Each side has a clock of its own; what they share is the end, which the source
/// reaches on the target's word.
fn draw(ctx: &Ctx, source: &Report, target: &Report) {
    let timeline = ctx.timeline("");
    let ends = [source, target].map(|report| report.phases.last().map_or(0.0, |phase| phase.at_ms));
    let end = ends.into_iter().fold(0.0, f64::max);
    for ((lane, report), own_end) in [("source", source), ("target", target)].into_iter().zip(ends) {
        let sum = |bytes: fn(&DeviceReport) -> Option<u64>| report.devices.iter().filter_map(bytes).sum();
        let (all, early): (u64, u64) = (sum(|device| device.bytes), sum(|device| device.precopy_bytes));
        for phase in &report.phases {
            let bytes = match phase.phase.as_str() {
                "hello" | "open" | "pre-copy" => 0,
                "switchover" | "stop-copy" => early,
                _ => all,
            };
            timeline.mark_at(phase.at_ms + (end - own_end), lane, &phase.phase, bytes);
        }
    }
}

/// Of an odd size, and so large that there are not more than about a thousand.
fn small_pieces(ctx: &mut Ctx) -> Checked {
    let mut bytes = 0_u64;
    for (source, _) in ctx.pairs() {
        bytes = bytes.max(must("MIG_DATA_SIZE", source.device()?.stop_copy_bytes())?);
    }
    let piece = (bytes / 1000).max(17) | 1;
    ctx.note(format!("pieces of {piece} bytes"));
    clean(ctx, Transport::Unix, &["--chunk-bytes", &piece.to_string()], &[])
}

/// Each is told the numbers, and the target is there for the source that comes with the right one.
fn unequal_channels(ctx: &mut Ctx) -> Checked {
    prepare(ctx)?;
    let (two, three) = (["--channels", "2"], ["--channels", "3"]);
    let Pair { source, mut target, _folder } = Pair::start(ctx, Transport::Tcp, &three, &two)?;
    let source = source.ends()?;
    expect_source_kept(&source)?;
    let numbers = "the source uses 3 channels, and this target 2";
    let told = source.error.unwrap_or_default();
    ensure(told.contains(numbers), || format!("the source must be told the numbers, and says: {told}"))?;
    target.hears("the numbers", |line| line.contains(numbers).then_some(()))?;
    let address = target.address().to_owned();
    let source = start_source(ctx, &address, (&two, &[]), SILENCE_S)?;
    let moved = expect_moved(ctx, source.ends()?, target.ends()?);
    open_all(ctx)?;
    moved.map(|_| ())
}

fn no_target(ctx: &mut Ctx) -> Checked {
    prepare(ctx)?;
    let folder = must("make a folder", tempfile::tempdir())?;
    let mut arguments = common("source", ctx.pairs().map(|(source, _)| source), &[], "0.2");
    arguments.extend(["--to".into(), format!("unix:{}", folder.path().join("nobody").display())]);
    let report = Side::start("source", &arguments)?.ends()?;
    expect_source_kept(&report)?;
    open_all(ctx)?;
    ctx.pairs().try_for_each(|(source, _)| source.expect_state("after the attempt", vfio_mig_fsm::State::Running))
}

/// One migration with a fault, and one after it.
pub(super) fn faulty(ctx: &mut Ctx, case: Case) -> Checked {
    prepare(ctx)?;
    let result = inflict(ctx, case).and_then(|()| again(ctx, case.fault));
    open_all(ctx)?;
    result
}

/// The next migration succeeds; only a driver that keeps its state when the killed process is gone may want a reset first.
fn again(ctx: &mut Ctx, fault: Fault) -> Checked {
    let stuck = match migrate(ctx, Transport::Unix, &[], &[]) {
        Ok(_) => return Ok(()),
        Err(failure) => failure,
    };
    let killed = matches!(fault, Fault::SourceDies | Fault::TargetDies);
    let advice = "reset it first";
    let survives = ctx.pairs().any(|(source, _)| source.profile.state_survives_close);
    if !(killed && survives && stuck.text().contains(advice)) {
        return Err(failed(format!("the migration after this one: {}", stuck.text())));
    }
    ctx.note(format!("the next migration says {advice:?}"));
    open_all(ctx)?;
    for (source, target) in ctx.pairs() {
        if fault.is_at_source() { source.reset()? } else { target.reset()? }
    }
    leave_all(ctx);
    let moved = migrate(ctx, Transport::Unix, &[], &[]);
    moved.map(|_| ()).map_err(|failure| failed(format!("the migration after the reset: {}", failure.text())))
}

fn inflict(ctx: &Ctx, case: Case) -> Checked {
    let Case { fault, phase, channels, cut } = case;
    let name = PHASES.get(phase).copied().ok_or_else(|| failed("no such phase"))?;
    let (channels, cut) = (channels.to_string(), cut.map(|cut| cut.to_string()));
    let both = ["--channels", channels.as_str()];
    let mut pause = both.to_vec();
    pause.extend(["--pause-at", name, "--after-pause", if fault.cuts() { "cut" } else { "go-on" }]);
    pause.extend(cut.iter().flat_map(|cut| ["--cut-channel", cut.as_str()]));
    let (source_args, target_args) =
        if fault.is_at_source() { (&pause[..], &both[..]) } else { (&both[..], &pause[..]) };
    let silence_s = if fault.hangs() { SHORT_SILENCE_S } else { SILENCE_S };
    let Pair { mut source, mut target, _folder } =
        Pair::start_within(ctx, Transport::Unix, silence_s, (source_args, &[]), (target_args, &[]))?;
    let paused = if fault.is_at_source() { &mut source } else { &mut target };
    paused.pauses_at(name)?;
    if matches!(fault, Fault::SourceCancels | Fault::TargetCancels) {
        paused.signal(Signal::SIGINT)?;
    }
    // Who was lost before it said a word is no loss to a target that listens.
    let before_hello = fault.is_at_source() && phase == HELLO;
    let (source, target) = match fault {
        Fault::SourceDies => {
            source.dies()?;
            if before_hello {
                target.listens_on()?;
            }
            (None, Some(target.ends()?))
        }
        Fault::TargetDies => {
            target.dies()?;
            (Some(source.ends()?), None)
        }
        Fault::SourceHangs => {
            source.signal(Signal::SIGSTOP)?;
            source.goes_on();
            let stopped = Instant::now();
            if before_hello {
                target.listens_on()?;
                let target = target.ends()?;
                source.signal(Signal::SIGCONT)?;
                (Some(source.ends()?), Some(target))
            } else {
                let target = ends_for_silence(target, stopped)?;
                source.signal(Signal::SIGCONT)?;
                (Some(source.ends()?), Some(target))
            }
        }
        Fault::TargetHangs => {
            target.signal(Signal::SIGSTOP)?;
            target.goes_on();
            let source = ends_for_silence(source, Instant::now())?;
            target.signal(Signal::SIGCONT)?;
            (Some(source), Some(target.ends()?))
        }
        _ => {
            paused.goes_on();
            let source = source.ends()?;
            if before_hello {
                target.listens_on()?;
            }
            (Some(source), Some(target.ends()?))
        }
    };
    if let (Some(source), Some(target), true) = (&source, &target, case.may_be_too_late()) {
        if source.moved && target.moved {
            ctx.note("the channel had said its last word before it was cut".to_owned());
            return Ok(());
        }
    }
    judge(ctx, phase, source.as_ref(), target.as_ref())?;
    match (&source, &target) {
        // Nobody died and the connection held: then there is no excuse for two stories.
        (Some(source), Some(target)) if !fault.cuts() && !fault.hangs() => {
            expect("the target runs what the source gave up", target.moved, source.committed)
        }
        _ => Ok(()),
    }
}

/// The survivor of a peer that hangs ends soon after its patience, and says what it has lost patience with, unless the peer
/// had said its last word.
fn ends_for_silence(survivor: Side, stopped: Instant) -> Checked<Report> {
    let report = survivor.ends()?;
    let took = stopped.elapsed();
    ensure(took < SILENCE_END, || format!("it gave a silent peer up only after {took:?}"))?;
    let error = report.error.as_deref().unwrap_or_default();
    let silent = format!("the peer was silent for {SHORT_SILENCE_S} s");
    ensure(report.moved || error.contains(&silent), || {
        format!("a peer that hangs is silent, and the other side says: {error}")
    })?;
    Ok(report)
}

/// The rules that hold whatever went wrong and wherever.
fn judge(ctx: &Ctx, phase: usize, source: Option<&Report>, target: Option<&Report>) -> Checked {
    for (side, report) in [("source", source), ("target", target)] {
        if let Some(report) = report {
            let error = report.error.as_deref().unwrap_or("none");
            let failed_in = report.failed_in.as_deref().unwrap_or("no phase");
            ctx.note(format!(
                "{side}: moved {}, committed {}, found {}, failed in {failed_in}: {error}",
                report.moved,
                report.committed,
                states(report)
            ));
            ensure(report.moved || report.error.is_some(), || format!("the {side} failed and does not say why"))?;
        }
    }
    if phase < COMMIT {
        if let Some(source) = source {
            expect_source_kept(source)?;
        }
        if let Some(target) = target {
            expect_target_reset(target)?;
        }
        return Ok(());
    }
    if let Some(source) = source {
        // Given up means stopped, whether or not the target took over.
        let is_right = if source.committed { !runs(source, true) } else { runs(source, false) };
        ensure(is_right, || format!("source: committed is {}, but found is {}", source.committed, states(source)))?;
    }
    if let (Some(source), Some(target)) = (source, target) {
        ensure(source.committed || !target.moved, || "the device runs on both sides".into())?;
        ensure(!source.moved || target.moved, || "the source reports a move that the target denies".into())?;
    }
    match target {
        Some(target) if !target.moved => expect_target_reset(target),
        Some(target) => expect_running("target", target),
        None => Ok(()),
    }
}

pub(super) fn expect_source_kept(source: &Report) -> Checked {
    ensure(!source.moved && source.error.is_some(), || "the source reports success".into())?;
    ensure(!source.committed, || format!("the source gave its device up: {:?}", source.error))?;
    expect_running("source", source)
}

/// After a reset a device is in RUNNING; its contents are nobody's.
pub(super) fn expect_target_reset(target: &Report) -> Checked {
    ensure(!target.moved && target.error.is_some(), || "the target reports success".into())?;
    expect_running("target", target)
}
