// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The `qemu` target: stock QEMUs migrate simulated devices through a recording relay.
//!
//! Two QEMUs show that the simulated devices are right enough for QEMU, that its streams are understood to the last byte, and
//! what it does to its devices when a migration fails. Then one of the two is `savevm_core::qemu` (`ours`), which moves guest memory too
//! (`ours/ram`).

mod check;
mod fault;
mod ours;
mod pool;
mod rig;
mod scenario;
mod shelf;

use core::num::NonZeroUsize;
use core::time::Duration;
use std::io;
use std::path::PathBuf;
use std::time::Instant;

use clap::ValueEnum;

use self::rig::{Notes, Peers};
use self::scenario::Scenario;
use self::shelf::Shelf;
use super::super::contract::check::Failure;
use super::super::contract::selects;
use super::super::event::{Event, Facts, Group, Outcome, PROTOCOL, TestId};
use super::super::progress::Progress;
use super::super::record::{Counts, Ending, Record, Run};
use super::super::{Missing, Plan};
use super::vm::show;
use crate::cache::Cache;
use crate::soft;
use crate::vm::{self, Freshness, Series};

/// Command line of `hw-test qemu`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Which QEMU, fetched through apt if the cache lacks it.
    #[arg(long, value_enum, value_name = "VERSION", default_value = "all")]
    version: Version,
    /// Where the emulators are kept [default: savevm in the user's cache folder].
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Look for newer emulators even if the cache has them.
    #[arg(long)]
    refresh: bool,
    /// Tests at a time [default: two for each processor].
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Version {
    #[value(name = "10.0")]
    V10_0,
    #[value(name = "11.1")]
    V11_1,
    All,
}

impl Version {
    fn series(self) -> &'static [Series] {
        match self {
            Self::V10_0 => &[Series::V10_0],
            Self::V11_1 => &[Series::V11_1],
            Self::All => &Series::ALL,
        }
    }
}

/// Far more than any of the tests takes on a busy machine, beside others.
const TEST_LIMIT_S: u64 = 120;
const OVERALL_LIMIT_S: u64 = 900;

/// The names of the tests.
pub(crate) fn list(args: &Args, filter: Option<&str>) -> String {
    let ids = all().into_iter().map(|test| test.id());
    let is_selected = |id: &TestId| args.version.series().iter().any(|series| selects(filter, &label(*series), id));
    ids.filter(is_selected).map(|id| format!("{id}\n")).collect()
}

/// What a report calls the run with this version.
fn label(series: Series) -> String {
    let (major, minor) = series.wanted();
    format!("QEMU {major}.{minor}")
}

/// Provisions and runs all tests on one version after the other. A version that cannot be had is a skip.
pub(crate) fn run(args: &Args, plan: &Plan<'_>, progress: &mut Progress) -> Result<Vec<Run>, Missing> {
    let no_folder = |error: io::Error| Missing::new(format!("No temporary folder: {error}."), "Set TMPDIR.");
    let cache = Cache::open(args.cache.as_deref()).map_err(|error| missing(error.to_string()))?;
    progress.say("building the simulated driver");
    let library = soft::library().map_err(missing)?;
    let freshness = if args.refresh { Freshness::Newest } else { Freshness::Cached };
    let mut runs = Vec::new();
    let mut has_one = false;
    for series in args.version.series() {
        let label = label(*series);
        if all().iter().all(|test| !selects(plan.filter, &label, &test.id())) {
            continue;
        }
        let begin = Instant::now();
        // Dropped before the next: while it is held nothing can be added to the cache.
        let provisioned = vm::provision_qemu(&cache, *series, freshness, &mut |event| show(progress, event));
        let provisioning_s = begin.elapsed().as_secs_f64();
        match provisioned {
            Ok(found) if found.qemu.is(*series) => {
                has_one = true;
                progress.say(&format!("{label:16} {} ready in {provisioning_s:.1} s", found.qemu.version));
                let jobs = args.jobs.unwrap_or_else(pool::default_jobs);
                let shelf = Shelf::new().map_err(no_folder)?;
                let peers = Peers { qemu: found.qemu.clone(), series: *series, library: library.clone(), shelf };
                runs.push(on(&label, &peers, (plan, jobs), progress));
            }
            Ok(found) => {
                let reason = format!("the mirror offers {}, not {label}", found.qemu.version);
                runs.push(skipped(&label, reason, progress));
            }
            Err(error) => runs.push(skipped(&label, error.to_string(), progress)),
        }
    }
    if !runs.is_empty() && !has_one {
        let reasons: Vec<_> = runs.iter().flat_map(|run| &run.tests).filter_map(|test| test.reason.clone()).collect();
        return Err(missing(reasons.join("\n")));
    }
    Ok(runs)
}

fn missing(reason: String) -> Missing {
    Missing::new("There is no QEMU to test with.", reason)
}

/// A run that says why there is none.
fn skipped(label: &str, reason: String, progress: &Progress) -> Run {
    progress.say(&format!("{label} is skipped: {reason}"));
    let mut run = Run::new(label);
    run.tests.push(Record {
        group: Group::Qemu,
        name: "this version".into(),
        outcome: Outcome::Skipped,
        reason: Some(reason),
        details: Vec::new(),
        duration_ms: 0.0,
        phases: Vec::new(),
        output: Vec::new(),
    });
    run
}

fn on(label: &str, peers: &Peers, (plan, jobs): (&Plan<'_>, NonZeroUsize), progress: &mut Progress) -> Run {
    let tests: Vec<Test> = all().into_iter().filter(|test| selects(plan.filter, label, &test.id())).collect();
    let limits = plan.limits(TEST_LIMIT_S, OVERALL_LIMIT_S);
    let mut run = Run::new(label);
    let begin = Instant::now();
    let facts = Facts {
        kernel: format!("7.3, under QEMU {}", peers.qemu.version),
        machine: std::env::consts::ARCH.into(),
        simulated: true,
        devices: Vec::new(),
    };
    let planned: Vec<TestId> = tests.iter().map(Test::id).collect();
    tell(&mut run, progress, Event::SuiteStarted { protocol: PROTOCOL, facts, planned: planned.clone() });
    let work = |test: &Test| one(test, peers, limits.test);
    let finished = pool::each(&tests, jobs, limits.overall, work, |test, events| {
        let TestId { group, name } = test.id();
        tell(&mut run, progress, Event::TestStarted { group, name });
        events.into_iter().for_each(|event| tell(&mut run, progress, event));
        run.duration_ms = begin.elapsed().as_secs_f64() * 1e3;
    });
    let ending = if finished {
        let Counts { passed, failed, skipped } = run.counts();
        tell(&mut run, progress, Event::SuiteFinished { passed, failed, skipped });
        Ending::Exited { orderly: true, status: "exit code 0".into() }
    } else {
        Ending::Killed { why: format!("not finished within the overall limit of {} s", limits.overall.as_secs()) }
    };
    run.end(&ending);
    run.sort(&planned);
    progress.run_ended(&run);
    run
}

/// Runs a test: what it has to tell after its start.
fn one(test: &Test, peers: &Peers, limit: Duration) -> Vec<Event> {
    let begin = Instant::now();
    let mut notes = Notes::default();
    let result = match test {
        Test::Ours(row) => ours::run(row, peers, limit, &mut notes),
        Test::Theirs(scenario) => match scenario.blow {
            None => check::run(scenario, peers, limit, &mut notes),
            Some(blow) => fault::run(scenario, blow, peers, limit, &mut notes),
        },
    };
    let (outcome, reason) = match result {
        Ok(()) => (Outcome::Passed, None),
        Err(Failure::Failed(reason)) => (Outcome::Failed, Some(reason)),
        Err(Failure::Skipped(reason)) => (Outcome::Skipped, Some(reason)),
    };
    let TestId { group, name } = test.id();
    let duration_ms = begin.elapsed().as_secs_f64() * 1e3;
    let mut events: Vec<Event> = notes.phases.into_iter().map(Event::Phase).collect();
    events.push(Event::TestFinished { group, name, outcome, reason, details: notes.details, duration_ms });
    events
}

/// One test.
#[derive(Clone, Debug)]
enum Test {
    /// Between two QEMUs.
    Theirs(Scenario),
    /// Between a QEMU and us.
    Ours(ours::Row),
}

fn all() -> Vec<Test> {
    let theirs = scenario::all().into_iter().map(Test::Theirs);
    theirs.chain(ours::all().into_iter().map(Test::Ours)).collect()
}

impl Test {
    fn id(&self) -> TestId {
        let name = match self {
            Self::Theirs(scenario) => &scenario.name,
            Self::Ours(row) => &row.name,
        };
        TestId { group: Group::Qemu, name: name.clone() }
    }
}

fn tell(run: &mut Run, progress: &mut Progress, event: Event) {
    run.event(event.clone());
    progress.event(run, &event);
}
