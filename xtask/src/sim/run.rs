// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command `sim`: run seeds, count what happened, and show how to see a failure again.

use core::panic::AssertUnwindSafe;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use savevm_core::sched::{Cause, Logged, Outcome};
use serde::Serialize;

use super::rule::Rule;
use super::world::{Ending, World};
use super::{experiment, replay, scenario};
use crate::cli;
use crate::out::outln;

/// Simulate whole migrations in virtual time, with faults, and check every step
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each seed is one migration: its sections, guest, link and faults. After every step the simulator checks that nobody starves, memory
is bounded, every request is legal and in order, the source is alive before the commit and dead after it, and every byte
arrives exactly once. A failing seed is printed with the command that runs it again.

Exit status: 0 all runs held; 1 one did not.")]
pub(crate) struct Args {
    /// The first seed
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,

    /// How many seeds, from the first on
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    runs: u64,

    /// Ask a question of realistic scenarios instead: `downtime` compares promises kept with QEMU's rule and an oracle
    #[arg(long, value_name = "WHICH")]
    experiment: Option<Experiment>,

    /// With --experiment: how sure of its promise the scheduler is to be, in thousandths
    #[arg(long, value_name = "N", requires = "experiment")]
    confidence: Option<u32>,

    /// With --experiment: threads to use
    #[arg(long, default_value_t = 1, value_name = "N")]
    jobs: u64,

    /// Write the event log of the first seed to FILE, for `cargo xtask replay`
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,

    /// Print one JSON document on standard output
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Experiment {
    Downtime,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    first_seed: u64,
    runs: u64,
    seconds: f64,
    runs_per_s: f64,
    events: u64,
    /// How the runs ended.
    endings: BTreeMap<&'static str, u64>,
    failures: Vec<Failure>,
}

#[derive(Debug, Serialize)]
struct Failure {
    seed: u64,
    reason: String,
    replay: String,
}

/// More failures than this say nothing new.
const FAILURES_MAX: usize = 20;

pub(crate) fn run(args: &Args) -> ExitCode {
    if let Some(Experiment::Downtime) = args.experiment {
        return run_experiment(args);
    }
    let started = Instant::now();
    let mut report = Report { first_seed: args.seed, ..Report::default() };
    if let Some(path) = &args.log {
        if let Err(error) = write_log(path, args.seed) {
            return cli::fail(args.json, &error);
        }
    }
    for seed in (args.seed..).take(usize::try_from(args.runs).unwrap_or(usize::MAX)) {
        report.runs += 1;
        match run_seed(seed) {
            Ok(ending) => {
                report.events += ending.events;
                *report.endings.entry(name(&ending)).or_default() += 1;
            }
            Err(reason) => {
                let replay = format!("cargo xtask sim --seed {seed} --runs 1 --log sim-{seed}.jsonl");
                if !args.json {
                    outln!("seed {seed}: {reason}\n    {replay}");
                }
                report.failures.push(Failure { seed, reason, replay });
                if report.failures.len() >= FAILURES_MAX {
                    break;
                }
            }
        }
    }
    report.seconds = started.elapsed().as_secs_f64();
    report.runs_per_s = report.runs as f64 / report.seconds;
    if args.json {
        cli::print_json(&report)
    } else {
        print(&report)
    }
    if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_experiment(args: &Args) -> ExitCode {
    match experiment::downtime(args.seed, args.runs, args.jobs, args.confidence) {
        Ok(lines) => {
            if args.json {
                cli::print_json(&lines);
            } else {
                experiment::print(&lines);
                outln!("seeds {}..={}", args.seed, args.seed + args.runs.saturating_sub(1));
            }
            ExitCode::SUCCESS
        }
        Err(reason) => cli::fail(args.json, &reason),
    }
}

fn run_seed(seed: u64) -> Result<Ending, String> {
    let run = || World::new(scenario::random(seed), Rule::Own).run();
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err("it panicked".into()))
}

fn write_log(path: &Path, seed: u64) -> Result<(), String> {
    let scenario = scenario::random(seed);
    let config = scenario.config.clone();
    let mut world = World::new(scenario, Rule::Own);
    world.log = Some(Vec::new());
    // The failure, if it is one, is reported by the run itself.
    let _ = catch_unwind(AssertUnwindSafe(|| world.run()));
    let file = File::create(path).map_err(|error| format!("cannot create {}: {error}", path.display()))?;
    let mut writer = BufWriter::new(file);
    let records = world.log.unwrap_or_default();
    let head = replay::write(&mut writer, Logged::Config(&config));
    let rest = records.iter().map(|record| replay::write(&mut writer, Logged::Record(record)));
    let written = head.and_then(|()| rest.collect::<io::Result<()>>()).and_then(|()| writer.flush());
    written.map_err(|error| format!("cannot write {}: {error}", path.display()))
}

fn name(ending: &Ending) -> &'static str {
    match ending.outcome {
        Some(Outcome::Done { .. }) => "done",
        Some(Outcome::InDoubt(_)) => "in doubt: the link failed after the commit",
        Some(Outcome::Aborted(cause)) => match cause {
            Cause::Section { .. } => "aborted: a section failed",
            Cause::Transition { .. } => "aborted: a transition failed",
            Cause::Link => "aborted: the link failed",
            Cause::Peer { .. } => "aborted: the target gave up",
            Cause::Mismatch { .. } => "aborted: digests differ",
            Cause::Guest => "aborted: the guest was not paused",
            Cause::Cancelled => "aborted: cancelled",
            Cause::Infeasible => "aborted: fixed costs exceed the limit",
            Cause::Trend(_) => "aborted: reading on does not help",
            Cause::Late => "aborted: pre-copy took too long",
            Cause::Switchover => "aborted: the switchover took too long",
            _ => "aborted: another cause",
        },
        _ => "no outcome",
    }
}

fn print(report: &Report) {
    for (ending, count) in &report.endings {
        outln!("{count:>10}  {ending}");
    }
    let last = report.first_seed + report.runs.saturating_sub(1);
    outln!(
        "seeds {}..={last}: {} runs, {} events, {:.1} s, {:.0} runs/s; {} failed",
        report.first_seed,
        report.runs,
        report.events,
        report.seconds,
        report.runs_per_s,
        report.failures.len()
    );
}
