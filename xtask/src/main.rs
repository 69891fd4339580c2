// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The workspace's command.

mod cache;
mod vm;

use std::path::PathBuf;
use std::process::ExitCode;

use core::time::Duration;

use clap::Parser;

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

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode, Box<dyn core::error::Error>> {
    let cache = cache::Cache::open(arguments.cache.as_deref())?;
    let freshness = if arguments.refresh {
        vm::Freshness::Newest
    } else {
        vm::Freshness::Cached
    };
    let mut report = |event: vm::Progress<'_>| eprintln!("{event:?}");
    if arguments.qemu_only {
        let found = vm::provision_qemu(&cache, freshness, &mut report)?;
        eprintln!("{:?}", found.qemu.command());
        return Ok(ExitCode::SUCCESS);
    }
    let provisioned = vm::provision(&cache, freshness, &mut report)?;
    eprintln!(
        "{} {} {:?}",
        provisioned.qemu.version,
        provisioned.kernel.version,
        cache.root()
    );
    let binary = match arguments.binary {
        Some(binary) => binary,
        None => vm::build_static_xtask()?,
    };
    let mut job = vm::GuestJob::new(
        binary,
        arguments.console,
        Duration::from_secs(arguments.timeout),
    );
    job.args = arguments.args;
    for number in 0..arguments.mdevs {
        let kind = if number % 2 == 0 {
            vm::MdevType::TwoPorts
        } else {
            vm::MdevType::OnePort
        };
        job.mdevs.push(vm::Mdev::numbered(kind, number));
    }
    let exit = vm::boot(&provisioned, &job, |line| println!("{line}"))?;
    eprintln!("{exit:?}");
    Ok(if exit.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
