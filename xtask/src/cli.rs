// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command line: every subcommand, in one place.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde::Serialize;

use crate::out::outln;
use crate::{bench, compat, fuzz, hw_test, inject, inspect, kernel_source, migrate, probe, qemu, sim};

/// Move the state of VFIO devices from one process to another, and prove that it can be moved.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    HwTest(hw_test::Args),
    Probe(probe::Args),
    Compat(compat::Args),
    Inspect(inspect::Args),
    Migrate(migrate::Args),
    Bench(bench::Args),
    Fuzz(fuzz::Args),
    KernelSource(kernel_source::Args),
    Sim(sim::Args),
    Replay(sim::ReplayArgs),
    /// Run the contract suite here, on the named devices; one JSON event per line
    #[command(hide = true)]
    Suite(hw_test::suite::Args),
    /// Run this program under ptrace and let one of its system calls fail, for the tests
    #[command(hide = true)]
    Inject(inject::Args),
    /// One side of a migration with a QEMU, for the tests
    #[command(hide = true)]
    QemuPeer(qemu::peer::Args),
    /// Move device state between two processes as fast as the machine can, for `bench`
    #[command(hide = true)]
    Pump(bench::pump::Args),
    /// Move guest memory between two processes, for `bench`
    #[command(hide = true)]
    RamSide(bench::side::Args),
    /// Migrate within this process and print the most memory it took, for `bench`
    #[command(hide = true)]
    GrowthMemory(bench::memory::Args),
}

/// Prints one JSON document, and nothing else, on standard output.
pub(crate) fn print_json(document: &impl Serialize) {
    match serde_json::to_string_pretty(document) {
        Ok(text) => outln!("{text}"),
        Err(error) => eprintln!("cannot write JSON: {error}"),
    }
}

/// Reports a command that could not do its work.
pub(crate) fn fail(json: bool, error: &str) -> ExitCode {
    if json {
        print_json(&serde_json::json!({ "error": error }));
    } else {
        eprintln!("{error}");
    }
    ExitCode::FAILURE
}
