// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Whole migrations by two processes, and everything that can end one early.
//!
//! Whatever happens, the device runs on exactly one side or, after the point of no return, on none until a person
//! decides: never on both. A side that survives says what became of it, and the next migration succeeds.

use nix::sys::signal::Signal;

use super::check::{Checked, ensure, expect, failed, must};
use super::context::Ctx;
use super::dut::Dut;
use super::process::{Report, Side};
use super::transfer::{Observed, observe_after, observe_before, spoil};
use super::{Body, Need, Test, test};
use crate::hw_test::event::Group;

/// The phases both sides walk; a fault is put at the beginning of each.
const PHASES: [&str; 8] = ["hello", "open", "pre-copy", "switchover", "stop-copy", "load", "commit", "done"];
/// At its beginning everything is acknowledged and nothing given up yet.
const COMMIT: usize = 6;

const CLEAN: &[Test] = &[
    test(Group::Migrate, "over a unix socket", &[Need::SecondDevice], |ctx| clean(ctx, Transport::Unix, &[])),
    test(Group::Migrate, "over TCP", &[Need::SecondDevice], |ctx| clean(ctx, Transport::Tcp, &[])),
    test(Group::Migrate, "without pre-copy", &[Need::SecondDevice], |ctx| {
        clean(ctx, Transport::Unix, &["--no-precopy"])
    }),
    test(Group::Migrate, "in pieces of 17 bytes", &[Need::SecondDevice], |ctx| {
        clean(ctx, Transport::Unix, &["--chunk-bytes", "17"])
    }),
    test(Group::Migrate, "no target is there", &[Need::SecondDevice], no_target),
];

/// What goes wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fault {
    /// SIGKILL to the source.
    SourceDies,
    /// SIGKILL to the target.
    TargetDies,
    /// The source's end of the connection is shut down.
    SourceCuts,
    /// The target's end.
    TargetCuts,
    /// SIGINT to the source.
    SourceCancels,
    /// SIGINT to the target.
    TargetCancels,
}

impl Fault {
    const ALL: [Self; 6] = [
        Self::SourceDies,
        Self::TargetDies,
        Self::SourceCuts,
        Self::TargetCuts,
        Self::SourceCancels,
        Self::TargetCancels,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::SourceDies => "the source is killed",
            Self::TargetDies => "the target is killed",
            Self::SourceCuts => "the source's connection is cut",
            Self::TargetCuts => "the target's connection is cut",
            Self::SourceCancels => "the source is cancelled",
            Self::TargetCancels => "the target is cancelled",
        }
    }

    fn is_at_source(self) -> bool {
        matches!(self, Self::SourceDies | Self::SourceCuts | Self::SourceCancels)
    }
}

/// The clean migrations, and one per fault and phase.
pub(super) fn tests() -> Vec<Test> {
    let mut tests = CLEAN.to_vec();
    for fault in Fault::ALL {
        for (phase, name) in PHASES.iter().enumerate() {
            tests.push(Test {
                group: Group::Migrate,
                name: format!("{} at {name}", fault.name()),
                needs: &[Need::SecondDevice],
                body: Body::Fault(faulty, fault, phase),
                fixed_name: "",
            });
        }
    }
    tests
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Transport {
    Unix,
    Tcp,
}

/// Both sides, connected or about to be.
struct Pair {
    source: Side,
    target: Side,
    _folder: tempfile::TempDir,
}

/// How long a side waits for a silent peer; longer than it takes to notice a dead one.
const SILENCE_S: &str = "10";

impl Pair {
    fn start(ctx: &Ctx, transport: Transport, source_args: &[&str], target_args: &[&str]) -> Checked<Self> {
        let folder = must("make a folder", tempfile::tempdir())?;
        let from = match transport {
            Transport::Unix => format!("unix:{}", folder.path().join("socket").display()),
            Transport::Tcp => "tcp:127.0.0.1:0".into(),
        };
        let mut arguments = common("target", ctx.target(), target_args);
        arguments.extend(["--from".into(), from]);
        let mut target = Side::start("target", &arguments)?;
        let address = target.hears("where it listens", |line| line.strip_prefix("listening on ").map(str::to_owned))?;
        let mut arguments = common("source", &ctx.first, source_args);
        arguments.extend(["--to".into(), address]);
        let source = Side::start("source", &arguments)?;
        Ok(Self { source, target, _folder: folder })
    }
}

fn common(side: &str, device: &Dut, more: &[&str]) -> Vec<String> {
    let device = format!("device={}", device.name);
    let fixed = [side, "--device", device.as_str(), "--timeout", SILENCE_S];
    fixed.into_iter().chain(more.iter().copied()).map(Into::into).collect()
}

/// Prepares both devices and leaves them to others.
fn prepare(ctx: &mut Ctx) -> Checked<Observed> {
    open_both(ctx)?;
    ctx.first.reset()?;
    ctx.target().reset()?;
    let before = observe_before(&ctx.first)?;
    spoil(ctx.target())?;
    leave_both(ctx);
    Ok(before)
}

fn leave_both(ctx: &mut Ctx) {
    for device in [Some(&mut ctx.first), ctx.second.as_mut()].into_iter().flatten() {
        device.leave();
    }
}

fn open_both(ctx: &mut Ctx) -> Checked {
    for device in [Some(&mut ctx.first), ctx.second.as_mut()].into_iter().flatten() {
        if device.device().is_err() {
            device.open()?;
        }
    }
    Ok(())
}

fn clean(ctx: &mut Ctx, transport: Transport, source_args: &[&str]) -> Checked {
    let before = prepare(ctx)?;
    let moved = migrate(ctx, transport, source_args);
    open_both(ctx)?;
    let (source, target) = moved?;
    draw(ctx, &source, &target);
    observe_after(ctx.target(), &before)
}

/// One migration in which nothing goes wrong.
fn migrate(ctx: &Ctx, transport: Transport, source_args: &[&str]) -> Checked<(Report, Report)> {
    let Pair { source, target, _folder } = Pair::start(ctx, transport, source_args, &[])?;
    let source = source.ends()?;
    let target = target.ends()?;
    expect("the source's error", &source.error, &None)?;
    expect("the target's error", &target.error, &None)?;
    ensure(source.moved && source.committed, || "the source does not report the move".into())?;
    ensure(target.moved, || "the target does not report the move".into())?;
    let bytes = |report: &Report| report.devices.first().and_then(|device| device.bytes);
    expect("bytes by the account of the target", bytes(&target), bytes(&source))?;
    ensure(bytes(&source) > Some(0), || "no bytes moved".into())?;
    ensure(state(&source) != "RUNNING", || "the source runs although its device was given up".into())?;
    expect("the target's device", state(&target), "RUNNING")?;
    Ok((source, target))
}

fn state(report: &Report) -> &str {
    report.devices.first().map_or("not reported", |device| device.state.as_str())
}

/// The phases of both sides as timelines. Each side's clock starts when the two have met.
fn draw(ctx: &Ctx, source: &Report, target: &Report) {
    let timeline = ctx.timeline("");
    for (lane, report) in [("source", source), ("target", target)] {
        let device = report.devices.first();
        let (all, early) =
            device.map_or((0, 0), |device| (device.bytes.unwrap_or(0), device.precopy_bytes.unwrap_or(0)));
        for phase in &report.phases {
            let bytes = match phase.phase.as_str() {
                "hello" | "open" | "pre-copy" => 0,
                "switchover" | "stop-copy" => early,
                _ => all,
            };
            timeline.mark_at(phase.at_ms, lane, &phase.phase, bytes);
        }
    }
}

fn no_target(ctx: &mut Ctx) -> Checked {
    prepare(ctx)?;
    let folder = must("make a folder", tempfile::tempdir())?;
    let mut arguments = common("source", &ctx.first, &[]);
    arguments.extend(["--to".into(), format!("unix:{}", folder.path().join("nobody").display())]);
    let report = Side::start("source", &arguments)?.ends()?;
    expect_source_kept(&report)?;
    open_both(ctx)?;
    ctx.first.expect_state("after the attempt", vfio_mig_fsm::State::Running)
}

fn faulty(ctx: &mut Ctx, fault: Fault, phase: usize) -> Checked {
    prepare(ctx)?;
    let result = inflict(ctx, fault, phase);
    let again = result.and_then(|()| {
        migrate(ctx, Transport::Unix, &[]).map_err(|failure| match failure {
            super::check::Failure::Failed(reason) => failed(format!("the migration after this one: {reason}")),
            skip @ super::check::Failure::Skipped(_) => skip,
        })
    });
    open_both(ctx)?;
    again.map(|_| ())
}

fn inflict(ctx: &Ctx, fault: Fault, phase: usize) -> Checked {
    let name = PHASES.get(phase).copied().ok_or_else(|| failed("no such phase"))?;
    let cuts = matches!(fault, Fault::SourceCuts | Fault::TargetCuts);
    let pause = ["--pause-at", name, "--after-pause", if cuts { "cut" } else { "go-on" }];
    let none: &[&str] = &[];
    let (source_args, target_args) = if fault.is_at_source() { (&pause[..], none) } else { (none, &pause[..]) };
    let Pair { mut source, mut target, _folder } = Pair::start(ctx, Transport::Unix, source_args, target_args)?;
    let paused = if fault.is_at_source() { &mut source } else { &mut target };
    paused.pauses_at(name)?;
    if matches!(fault, Fault::SourceCancels | Fault::TargetCancels) {
        paused.signal(Signal::SIGINT)?;
    }
    let (source, target) = match fault {
        Fault::SourceDies => {
            source.dies()?;
            (None, Some(target.ends()?))
        }
        Fault::TargetDies => {
            target.dies()?;
            (Some(source.ends()?), None)
        }
        _ => {
            paused.goes_on();
            (Some(source.ends()?), Some(target.ends()?))
        }
    };
    judge(ctx, phase, source.as_ref(), target.as_ref())
}

/// The rules that hold whatever went wrong and wherever.
fn judge(ctx: &Ctx, phase: usize, source: Option<&Report>, target: Option<&Report>) -> Checked {
    for (side, report) in [("source", source), ("target", target)] {
        if let Some(report) = report {
            let error = report.error.as_deref().unwrap_or("none");
            ctx.note(format!(
                "{side}: moved {}, committed {}, device {}, error: {error}",
                report.moved,
                report.committed,
                state(report)
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
        let runs = state(source) == "RUNNING";
        ensure(runs != source.committed, || {
            format!("source: committed is {}, but its device is {}", source.committed, state(source))
        })?;
    }
    if let (Some(source), Some(target)) = (source, target) {
        ensure(!(target.moved && !source.committed), || "the device runs on both sides".into())?;
        ensure(!source.moved || target.moved, || "the source reports a move that the target denies".into())?;
    }
    match target {
        Some(target) if !target.moved => expect_target_reset(target),
        Some(target) => expect("the target's device", state(target), "RUNNING"),
        None => Ok(()),
    }
}

fn expect_source_kept(source: &Report) -> Checked {
    ensure(!source.moved && source.error.is_some(), || "the source reports success".into())?;
    ensure(!source.committed, || format!("the source gave its device up: {:?}", source.error))?;
    expect("the source's device", state(source), "RUNNING")
}

/// After a reset a device is in RUNNING; its contents are nobody's.
fn expect_target_reset(target: &Report) -> Checked {
    ensure(!target.moved && target.error.is_some(), || "the target reports success".into())?;
    expect("the target's device", state(target), "RUNNING")
}
