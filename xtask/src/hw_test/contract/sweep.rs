// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Each system call of a whole migration fails once, in each way, on each side: no device is lost, nobody stays.
//!
//! The calls that count are those of `crate::inject`. Threads run in another order each time, so that the k-th call is not
//! the same in two runs; all of them are reached, some more than once.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use super::check::{Checked, ensure, failed, must, skipped};
use super::context::Ctx;
use super::migrate::{common, expect_running, expect_source_kept, expect_target_reset, open_all, prepare, runs};
use super::process::{Report, Side};
use super::{Body, Need, Test};
use crate::hw_test::event::Group;
use crate::inject::{Fault, IS_POSSIBLE};

/// A way to fail, on one side.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Sweep {
    fault: Fault,
    name: &'static str,
    at_source: bool,
}

/// One test for each side and way.
pub(super) fn tests() -> Vec<Test> {
    let both = Fault::ALL.into_iter().flat_map(|(name, fault)| [true, false].map(|at_source| (name, fault, at_source)));
    both.map(|(name, fault, at_source)| Test {
        group: Group::Migrate,
        name: format!("{name} at each system call of the {}", if at_source { "source" } else { "target" }),
        needs: &[Need::SecondDevice],
        body: Body::Sweep(sweep, Sweep { fault, name, at_source }),
        fixed_name: "",
    })
    .collect()
}

/// How both sides ended.
struct Ended {
    source: Option<Report>,
    target: Option<Report>,
    /// The name of the call that failed.
    call: Option<String>,
    /// How many calls there were.
    calls: u64,
}

/// What a sweep has met with.
#[derive(Default)]
struct Found {
    calls: BTreeMap<String, u32>,
    outcomes: BTreeMap<&'static str, u32>,
    failures: Vec<String>,
}

/// So many migrations at a time: one waits for its peer while another works.
const AT_A_TIME: usize = 2;

/// So many failures are enough to look into.
const FAILURES_MAX: usize = 5;

fn sweep(ctx: &mut Ctx, sweep: Sweep) -> Checked {
    if !IS_POSSIBLE {
        return Err(skipped("system calls are changed on x86-64 with glibc only"));
    }
    prepare(ctx)?;
    let found = go(ctx, sweep);
    open_all(ctx)?;
    let Found { calls, outcomes, failures } = found?;
    let list = |counts: Vec<String>| counts.join(", ");
    ctx.note(list(outcomes.iter().map(|(outcome, count)| format!("{outcome}: {count}")).collect()));
    ctx.note(list(calls.iter().map(|(call, count)| format!("{call}: {count}")).collect()));
    ensure(failures.is_empty(), || failures.join("\n"))?;
    ensure(!calls.is_empty(), || "no call was ever made to fail".into())
}

fn go(ctx: &Ctx, sweep: Sweep) -> Checked<Found> {
    let sides = Sides::new(ctx, sweep);
    let whole = sides.run(&Place::new()?, 0)?;
    let (Some(source), Some(target)) = (&whole.source, &whole.target) else { return Err(failed("no reports")) };
    ensure(source.moved && target.moved && whole.calls > 20, || {
        format!("without a fault: {} calls, source {:?}, target {:?}", whole.calls, source.error, target.error)
    })?;
    let every = ctx.sweep_every.max(1);
    // A sample is another one for each way to fail.
    let place = Fault::ALL.iter().position(|(name, _)| *name == sweep.name).unwrap_or(0);
    let offset = u64::try_from(place).unwrap_or(0).saturating_mul(3).saturating_add(u64::from(sweep.at_source));
    let first = offset.checked_rem(every).unwrap_or(0).saturating_add(1);
    // A failure elsewhere makes no later calls: a call too many is simply not reached.
    let calls = Mutex::new((first..=whole.calls).step_by(usize::try_from(every).unwrap_or(usize::MAX)));
    let found = Mutex::new(Found::default());
    let places: Vec<Place> = (0..AT_A_TIME).map(|_| Place::new()).collect::<Checked<_>>()?;
    thread::scope(|scope| {
        for place in &places {
            scope.spawn(|| {
                loop {
                    let next = lock(&calls).next().filter(|_| lock(&found).failures.len() < FAILURES_MAX);
                    let Some(at) = next else { break };
                    let outcome = sides.run(place, at);
                    lock(&found).note(sweep, at, outcome);
                }
            });
        }
    });
    Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Found {
    fn note(&mut self, sweep: Sweep, at: u64, ended: Checked<Ended>) {
        let call = ended.as_ref().ok().and_then(|ended| ended.call.clone());
        let outcome = ended.and_then(|ended| {
            judge(sweep, &ended).map_err(|failure| {
                let told = [("source", &ended.source), ("target", &ended.target)]
                    .map(|(side, report)| format!("{side}: {report:?}"));
                failed(format!("{}; {}", failure.text(), told.join("; ")))
            })
        });
        match (outcome, call) {
            (Err(failure), call) => {
                let call = call.as_deref().unwrap_or("none");
                self.failures.push(format!("{} at call {at}, which was {call}: {}", sweep.name, failure.text()));
            }
            (Ok(outcome), Some(call)) => {
                for count in [self.calls.entry(call).or_default(), self.outcomes.entry(outcome).or_default()] {
                    *count = count.saturating_add(1);
                }
            }
            (Ok(_), None) => {}
        }
    }
}

/// Where migrations run one after the other, with contents of the simulated devices that no other place has.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Checked<Self> {
        must("make a folder", tempfile::tempdir()).map(Self)
    }
}

/// The command lines of both sides, but for where they meet.
struct Sides {
    sweep: Sweep,
    source: Vec<String>,
    target: Vec<String>,
}

impl Sides {
    fn new(ctx: &Ctx, sweep: Sweep) -> Self {
        let fixed = ["--channels", "2", "--hold"];
        let source = common("source", ctx.pairs().map(|(source, _)| source), &fixed, "1");
        let target = common("target", ctx.pairs().map(|(_, target)| target), &fixed, "1");
        Self { sweep, source, target }
    }

    /// A migration in which the call `at` fails.
    fn run(&self, place: &Place, at: u64) -> Checked<Ended> {
        let Self { sweep, source, target } = self;
        // A side that is killed leaves its files behind.
        let folder = must("make a folder", tempfile::tempdir_in(place.0.path()))?;
        let address = format!("unix:{}", folder.path().join("socket").display());
        let number = at.to_string();
        let runner = ["inject", "--at", &number, "--with", sweep.name, "--"];
        // Where nothing may stand in the way of the migration, nor may a busy machine.
        let wait_s = if sweep.fault == Fault::Short || at == 0 { "5" } else { "1" };
        let with = |fixed: &[String], more: &[&str]| -> Vec<String> {
            fixed.iter().cloned().chain(more.iter().map(|word| (*word).to_owned())).collect()
        };
        let target_args = with(target, &["--from", &address, "--wait", wait_s]);
        let source_args = with(source, &["--to", &address]);
        let contents = place.0.path().join("contents").into_os_string();
        let environment = [("TMPDIR", folder.path().into()), ("SOFTVFIO_STATE", contents)];
        let (source_runner, target_runner): (&[&str], &[&str]) =
            if sweep.at_source { (&runner, &[]) } else { (&[], &runner) };
        let mut target = Side::start_under("target", target_runner, &target_args, &environment)?;
        let mut source = Side::start_under("source", source_runner, &source_args, &environment)?;
        let traced = if sweep.at_source { &mut source } else { &mut target };
        traced.hears_all(&["{\"phase\":\"traced\"}", "{\"phase\":\"start\"}"])?;
        let other = if sweep.at_source { &mut target } else { &mut source };
        other.pauses_at("start")?;
        target.goes_on();
        source.goes_on();
        let (source, source_said) = source.ends_somehow()?;
        let (target, target_said) = target.ends_somehow()?;
        let said = if sweep.at_source { source_said } else { target_said };
        let find =
            |key: &str| said.iter().find_map(|line| line.strip_prefix(key)?.strip_suffix('}').map(str::to_owned));
        let calls = find("{\"calls\":").and_then(|calls| calls.parse().ok());
        let calls = calls.ok_or_else(|| failed(format!("the tracer did not count; it said: {}", said.join("\n"))))?;
        let call = find("{\"fault\":").map(|name| name.trim_matches('"').to_owned());
        Ok(Ended { source, target, call, calls })
    }
}

/// The rules that hold whatever failed, in a word.
fn judge(sweep: Sweep, ended: &Ended) -> Checked<&'static str> {
    let Ended { source, target, call, .. } = ended;
    let is_killed = sweep.fault == Fault::Kill && call.is_some();
    let may_lack = |at_source| is_killed && sweep.at_source == at_source;
    ensure(source.is_some() || may_lack(true), || "the source ended without a report".into())?;
    ensure(target.is_some() || may_lack(false), || "the target ended without a report".into())?;
    for report in [source, target].into_iter().flatten() {
        ensure(report.moved || report.error.is_some(), || "a side failed and does not say why".into())?;
    }
    if let Some(target) = target {
        if target.moved { expect_running("target", target)? } else { expect_target_reset(target)? }
    }
    if let Some(source) = source {
        if source.committed {
            ensure(!runs(source, true), || "the source runs what it gave up".into())?;
        } else {
            expect_source_kept(source)?;
        }
    }
    let is_moved = |report: &Option<Report>| report.as_ref().map(|report| report.moved);
    let committed = source.as_ref().map(|source| source.committed);
    let outcome = match (committed, is_moved(target)) {
        (Some(false), Some(true)) => return Err(failed("the devices run on both sides")),
        (Some(true), Some(false)) => {
            // The commit was on its way when the target lost it. The source's devices are stopped and whole.
            let is_late = |report: &Option<Report>| {
                report.as_ref().is_some_and(|report| report.failed_in.as_deref() == Some("commit"))
            };
            ensure(is_late(source) && is_late(target), || "nobody has the devices, and it was not the commit".into())?;
            "in doubt at the commit, stopped at the source"
        }
        (_, Some(true)) => "moved",
        (Some(false), _) => "kept by the source",
        (Some(true), None) => "given up to a target that was killed",
        (None, _) => "lost with the source that was killed, reset at the target",
    };
    ensure(sweep.fault != Fault::Short || outcome == "moved", || "nothing failed, and yet nothing moved".into())?;
    Ok(outcome)
}
