// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask`: move the state of VFIO devices, and prove that it can be moved.

mod bench;
mod cache;
mod check_stream;
mod cli;
mod compat;
mod device;
mod fuzz;
mod hw_test;
mod identity;
mod inject;
mod inspect;
mod kernel_source;
mod migrate;
mod out;
mod probe;
mod qemu;
mod sim;
mod soft;
mod tls;
mod vm;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match cli.command {
        cli::Command::Probe(args) => probe::run(&args),
        cli::Command::Compat(args) => compat::run(&args),
        cli::Command::Inspect(args) => inspect::run(args),
        cli::Command::Migrate(args) => migrate::run(args),
        cli::Command::Bench(args) => bench::run(&args),
        cli::Command::Fuzz(args) => fuzz::run(&args),
        cli::Command::Sim(args) => sim::run(&args),
        cli::Command::Replay(args) => sim::replay(&args),
        cli::Command::HwTest(args) => hw_test::main(&args),
        cli::Command::KernelSource(args) => kernel_source::run(&args),
        cli::Command::Pump(args) => bench::pump::run(&args),
        cli::Command::RamSide(args) => bench::side::run(&args),
        cli::Command::GrowthMemory(args) => bench::memory::run(&args),
        cli::Command::Inject(args) => inject::run(&args),
        cli::Command::Suite(args) => hw_test::suite::main(&args),
        cli::Command::QemuPeer(args) => qemu::peer::main(&args),
    }
}
