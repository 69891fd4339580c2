// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The `qemu` target: stock QEMUs migrate simulated devices through a recording relay.
//!
//! Two QEMUs show that the simulated devices are right enough for QEMU, that its streams are understood to the last byte, and
//! what it does to its devices when a migration fails. Then one of the two is `savevm_core::qemu` (`ours`).

mod check;
mod fault;
mod ours;
mod rig;
mod scenario;

use core::time::Duration;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::ValueEnum;

use self::rig::{Notes, Peers};
use self::scenario::Scenario;
use super::super::contract::check::Failure;
use super::super::contract::selects;
use super::super::event::{Event, Facts, Group, Outcome, PROTOCOL, TestId};
use super::super::progress::Progress;
use super::super::record::{Counts, Ending, Record, Run};
use super::super::{Missing, Plan};
use super::vm::show;
use crate::cache::Cache;
use crate::soft;
use crate::vm::{self, Freshness, ProvisionedQemu, Series};

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

/// Far more than any of the tests takes on a busy machine.
const TEST_LIMIT_S: u64 = 60;
const OVERALL_LIMIT_S: u64 = 900;

/// The names of the tests.
pub(crate) fn list(filter: Option<&str>) -> String {
    let ids = all().into_iter().map(|test| test.id());
    ids.filter(|id| selects(filter, id)).map(|id| format!("{id}\n")).collect()
}

/// Provisions and runs all tests on one version after the other. A version that cannot be had is a skip.
pub(crate) fn run(args: &Args, plan: &Plan<'_>, progress: &mut Progress) -> Result<Vec<Run>, Missing> {
    let cache = Cache::open(args.cache.as_deref()).map_err(|error| missing(error.to_string()))?;
    progress.say("building the simulated driver");
    let library = soft::library().map_err(missing)?;
    let freshness = if args.refresh { Freshness::Newest } else { Freshness::Cached };
    let mut runs = Vec::new();
    for series in args.version.series() {
        let (major, minor) = series.wanted();
        let label = format!("QEMU {major}.{minor}");
        // Dropped before the next: while it is held nothing can be added to the cache.
        match vm::provision_qemu(&cache, *series, freshness, &mut |event| show(progress, event)) {
            Ok(found) if found.qemu.is(*series) => runs.push(on(&label, found, *series, &library, plan, progress)),
            Ok(found) => {
                let reason = format!("the mirror offers {}, not {major}.{minor}", found.qemu.version);
                runs.push(skipped(&label, reason, progress));
            }
            Err(error) => runs.push(skipped(&label, error.to_string(), progress)),
        }
    }
    if runs.iter().all(|run| run.counts().skipped == run.tests.len()) {
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

fn on(
    label: &str,
    found: ProvisionedQemu,
    series: Series,
    library: &Path,
    plan: &Plan<'_>,
    progress: &mut Progress,
) -> Run {
    let tests: Vec<Test> = all().into_iter().filter(|test| selects(plan.filter, &test.id())).collect();
    let limits = plan.limits(TEST_LIMIT_S, OVERALL_LIMIT_S);
    let mut run = Run::new(label);
    let begin = Instant::now();
    let facts = Facts {
        kernel: format!("7.3, under QEMU {}", found.qemu.version),
        machine: std::env::consts::ARCH.into(),
        simulated: true,
        devices: Vec::new(),
    };
    let peers = Peers { qemu: found.qemu.clone(), series, library: library.to_owned() };
    let planned = tests.iter().map(Test::id).collect();
    tell(&mut run, progress, Event::SuiteStarted { protocol: PROTOCOL, facts, planned });
    let mut ending = Ending::Exited { orderly: true, status: "exit code 0".into() };
    for test in &tests {
        if begin.elapsed() > limits.overall {
            let why = format!("not finished within the overall limit of {} s", limits.overall.as_secs());
            ending = Ending::Killed { why };
            break;
        }
        one(test, &peers, limits.test, &mut run, progress);
        run.duration_ms = begin.elapsed().as_secs_f64() * 1e3;
    }
    if matches!(ending, Ending::Exited { .. }) {
        let Counts { passed, failed, skipped } = run.counts();
        tell(&mut run, progress, Event::SuiteFinished { passed, failed, skipped });
    }
    run.end(&ending);
    progress.run_ended(&run);
    run
}

fn one(test: &Test, peers: &Peers, limit: Duration, run: &mut Run, progress: &mut Progress) {
    let TestId { group, name } = test.id();
    tell(run, progress, Event::TestStarted { group, name: name.clone() });
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
    for phase in notes.phases {
        tell(run, progress, Event::Phase(phase));
    }
    let duration_ms = begin.elapsed().as_secs_f64() * 1e3;
    let details = notes.details;
    tell(run, progress, Event::TestFinished { group, name, outcome, reason, details, duration_ms });
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
