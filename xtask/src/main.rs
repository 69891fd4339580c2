// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask`: move the state of VFIO devices, and prove that it can be moved.

mod cache;
mod cli;
mod device;
mod hw_test;
mod migrate;
mod probe;
mod soft;
mod vm;

use std::process::ExitCode;

use clap::Parser;

<<<<<<< HEAD
=======
use cache::Cache;
use vm::{
    Freshness, GuestExit, GuestJob, Mdev, MdevType, Progress, ProvisionError, Provisioned,
    StepTime, VmError,
};

/// Boots a program in a provisioned guest.
#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    cache: Option<PathBuf>,
    #[arg(long)]
    refresh: bool,
    #[arg(long)]
    qemu_only: bool,
    #[arg(long, default_value_t = 60)]
    timeout: u64,
    #[arg(long, default_value = "console.log")]
    console: PathBuf,
    #[arg(long, default_value_t = 2)]
    mdevs: u16,
    /// The program; this one, built statically, by default.
    #[arg(long)]
    binary: Option<PathBuf>,
    args: Vec<String>,
}

>>>>>>> vm
fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match cli.command {
        cli::Command::Probe(args) => probe::run(&args),
        cli::Command::Migrate(args) => migrate::run(args),
        cli::Command::HwTest(args) => hw_test::main(&args),
        cli::Command::Suite(args) => hw_test::suite::main(&args),
    }
}
<<<<<<< HEAD
=======

fn run(arguments: Arguments) -> Result<ExitCode, Box<dyn core::error::Error>> {
    let cache = Cache::open(arguments.cache.as_deref())?;
    let freshness = if arguments.refresh {
        Freshness::Newest
    } else {
        Freshness::Cached
    };
    let provisioned = match (arguments.qemu_only, freshness) {
        (true, freshness) => {
            let qemu = vm::provision_qemu(&cache, freshness, &mut show)?.qemu;
            println!("{:?} {:?}", qemu.major_minor(), qemu.command());
            return Ok(ExitCode::SUCCESS);
        }
        (false, freshness) => provision(&cache, freshness)?,
    };
    let binary = match arguments.binary {
        Some(binary) => binary,
        None => vm::build_static_xtask()?,
    };
    let timeout = Duration::from_secs(arguments.timeout);
    let mut job = GuestJob::new(binary, arguments.console, timeout);
    job.args = arguments.args;
    let kind = |number| {
        if number % 2 == 0 {
            MdevType::TwoPorts
        } else {
            MdevType::OnePort
        }
    };
    job.mdevs = (0..arguments.mdevs)
        .map(|number| Mdev::numbered(kind(number), number))
        .collect();
    let exit = boot(&provisioned, &job)?;
    let log = exit.console_log.display();
    eprintln!(
        "status {} after {:.1} s, console in {log}",
        exit.status, exit.seconds
    );
    Ok(if exit.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn provision(cache: &Cache, freshness: Freshness) -> Result<Provisioned, ProvisionError> {
    let provisioned = vm::provision(cache, freshness, &mut show)?;
    let (qemu, kernel) = (&provisioned.qemu, &provisioned.kernel);
    eprintln!(
        "QEMU {}, kernel {} ({})",
        qemu.version, kernel.release, kernel.version
    );
    for StepTime { step, seconds } in qemu.times.iter().chain(&kernel.times) {
        eprintln!(
            "  {step}: {seconds:.1} s when provisioned into {}",
            cache.root().display()
        );
    }
    Ok(provisioned)
}

fn boot(provisioned: &Provisioned, job: &GuestJob) -> Result<GuestExit, VmError> {
    vm::boot(provisioned, job, |line| println!("{line}"))
}

fn show(event: Progress<'_>) {
    match event {
        Progress::Waiting => eprintln!("another run holds the cache"),
        Progress::Begin { step } => eprintln!("{step}"),
        Progress::Download {
            packages,
            packages_total,
            bytes,
            total_bytes,
        } => {
            eprint!("\r  {packages} of {packages_total}, {bytes} of {total_bytes} bytes");
        }
        Progress::Unpack {
            packages,
            packages_total,
        } => eprint!("\r  {packages} of {packages_total}"),
        Progress::End { step, seconds } => eprintln!("\r{step}: {seconds:.1} s"),
        Progress::Note { text } => eprintln!("note: {text}"),
    }
}
>>>>>>> vm
