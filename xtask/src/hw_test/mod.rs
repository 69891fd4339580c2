// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `hw-test`: one contract suite, several targets, one report.
//!
//! The suite (`suite`, `contract`) is a process of its own that runs where the devices are and reports in events;
//! this side starts it (`target`), outlives it (`supervise`), keeps the books (`record`) and writes them up (`report`).
//!
//! **Invariant:** this side never opens a device. Whatever the devices or the suite do, the report is written.

mod agreement;
mod contract;
mod event;
mod progress;
mod record;
mod report;
pub(crate) mod suite;
mod supervise;
mod target;
mod watchdog;

pub(crate) use contract::kernel::KernelVersion;

use core::time::Duration;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use clap::Subcommand;

use crate::out::{out, outln};
use progress::Progress;
use record::Run;
use report::Report;
use supervise::Limits;

/// Prove that device state can be moved: on simulated devices, in a real kernel, with a stock QEMU, or on a real device
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 everything that ran passed and something ran; 1 a test failed or nothing ran; \
                        2 a prerequisite is missing.")]
pub(crate) struct Args {
    /// Where to run; `soft` when left out.
    #[command(subcommand)]
    target: Option<Target>,
    /// Run only the tests whose row in the report, "LABEL · GROUP: NAME", contains TEXT, in any case: part of a test's name, a
    /// group ("migrate: "), or the label of a run ("little memory", "mlx5").
    #[arg(long, global = true, value_name = "TEXT")]
    filter: Option<String>,
    /// Name the tests and stop.
    #[arg(long, global = true)]
    list: bool,
    /// Print one JSON document on standard output and nothing else there.
    #[arg(long, global = true)]
    json: bool,
    /// Show nothing while the tests run.
    #[arg(long, global = true)]
    quiet: bool,
    /// Leave out nothing that takes minutes, on simulated devices: let every system call of a migration fail instead of every
    /// twentieth, and load devices of 1 GiB under a limit of memory instead of 64 MiB. About 20 minutes on two processors.
    #[arg(long, global = true)]
    full: bool,
    /// Where to write report.html, junit.xml and report.json [default: target/hw-test/TARGET].
    #[arg(long, global = true, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Limit for one test, in seconds [default: 30; vm and qemu 120; with --full 300].
    #[arg(long, global = true, value_name = "SECONDS")]
    test_timeout: Option<u64>,
    /// Limit for one suite process, in seconds [default: 300; device 600; qemu 900; vm 1200; with --full 3600].
    #[arg(long, global = true, value_name = "SECONDS")]
    timeout: Option<u64>,
}

/// Where the devices are.
#[derive(Clone, Debug, Subcommand)]
enum Target {
    /// The whole stack on simulated drivers behind a preload library; needs nothing.
    Soft,
    /// A real kernel and its mtty driver in a virtual machine, with a stock QEMU in it to migrate to and from.
    Vm(target::vm::Args),
    /// Stock QEMUs that migrate simulated devices to each other, to us and from us, with every byte recorded and checked;
    /// guest memory too, compared with what QEMU says of its own.
    Qemu(target::qemu::Args),
    /// A real device, which will be reset again and again.
    Device(target::device::Args),
}

impl Target {
    fn name(&self) -> String {
        match self {
            Self::Soft => "soft".into(),
            Self::Vm(_) => "vm".into(),
            Self::Qemu(_) => "qemu".into(),
            Self::Device(args) => format!("device {}", args.id),
        }
    }

    /// Below the report folder.
    fn folder(&self) -> String {
        let plain = |character: char| if character.is_ascii_alphanumeric() { character } else { '-' };
        self.name().chars().map(plain).collect()
    }
}

/// What a target needs to know about the invocation.
pub(crate) struct Plan<'a> {
    /// `--filter`.
    pub filter: Option<&'a str>,
    /// `--test-timeout` and `--timeout`, if given.
    pub test_timeout: Option<Duration>,
    /// See there.
    pub timeout: Option<Duration>,
    /// `--full`.
    pub full: bool,
}

impl Plan<'_> {
    /// The given limits, completed by the target's own.
    pub(crate) fn limits(&self, test_s: u64, overall_s: u64) -> Limits {
        Limits {
            test: self.test_timeout.unwrap_or(Duration::from_secs(test_s)),
            overall: self.timeout.unwrap_or(Duration::from_secs(overall_s)),
        }
    }
}

/// Why the tests could not even begin.
#[derive(Debug, thiserror::Error)]
#[error("{what}\n{remedy}")]
pub(crate) struct Missing {
    /// What is missing.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl Missing {
    /// Two sentences.
    pub(crate) fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }
}

/// A prerequisite is missing: neither success nor a failed test.
const EXIT_MISSING: u8 = 2;

/// Runs the command.
pub(crate) fn main(args: &Args) -> ExitCode {
    let plan = args.plan();
    let target = args.target.clone().unwrap_or(Target::Soft);
    if args.list {
        return list(&target, &plan).map_or_else(ends_for, |names| {
            out!("{names}");
            ExitCode::SUCCESS
        });
    }
    let begin = Instant::now();
    let started_unix_s = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
    let mut progress = if args.quiet { Progress::quiet() } else { Progress::for_stderr() };
    let outcome = run(&target, &plan, &mut progress);
    progress.clear();
    let runs = match outcome {
        Ok(runs) => runs,
        Err(missing) => return ends_for(missing),
    };
    let duration_ms = begin.elapsed().as_secs_f64() * 1e3;
    let report = Report::new(target.name(), args.filter.clone(), started_unix_s, duration_ms, runs);
    conclude(args, &target, &report)
}

impl Args {
    fn plan(&self) -> Plan<'_> {
        Plan {
            filter: self.filter.as_deref(),
            test_timeout: self.test_timeout.map(Duration::from_secs),
            timeout: self.timeout.map(Duration::from_secs),
            full: self.full,
        }
    }
}

fn ends_for(missing: Missing) -> ExitCode {
    eprintln!("{missing}");
    ExitCode::from(EXIT_MISSING)
}

fn list(target: &Target, plan: &Plan<'_>) -> Result<String, Missing> {
    Ok(match target {
        Target::Soft => target::soft::list(plan)?,
        Target::Vm(vm) => target::vm::list(vm, plan.filter),
        Target::Qemu(qemu) => target::qemu::list(qemu, plan.filter),
        Target::Device(device) => contract::list(plan.filter, &[&device.id], false),
    })
}

fn run(target: &Target, plan: &Plan<'_>, progress: &mut Progress) -> Result<Vec<Run>, Missing> {
    match target {
        Target::Soft => target::soft::run(plan, progress),
        Target::Vm(vm) => target::vm::run(vm, plan, progress),
        Target::Qemu(qemu) => target::qemu::run(qemu, plan, progress),
        Target::Device(device) => target::device::run(device, plan, progress),
    }
}

fn conclude(args: &Args, target: &Target, report: &Report) -> ExitCode {
    let folder = args.report.clone().unwrap_or_else(|| target::build_folder().join("hw-test").join(target.folder()));
    let written = report.write(&folder);
    if args.json {
        match report.json() {
            Ok(json) => outln!("{json}"),
            Err(error) => eprintln!("The report cannot be written as JSON: {error}."),
        }
    } else {
        let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        out!("{}", report.table(color));
    }
    match written {
        Ok(paths) => {
            for path in paths {
                eprintln!("wrote {}", path.display());
            }
        }
        Err(error) => {
            eprintln!("The report cannot be written below {}: {error}.", folder.display());
            return ExitCode::FAILURE;
        }
    }
    if report.success { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
