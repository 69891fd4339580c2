// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The workspace's command.

mod cache;
mod hw_test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tasks of this workspace.
#[derive(Debug, Parser)]
#[command(name = "xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Test the migration stack on a simulated driver, a real kernel in a VM, or a device.
    HwTest(hw_test::Args),
    /// Run the contract suite here, on the named devices; one JSON event per line.
    #[command(hide = true)]
    Suite(hw_test::suite::Args),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::HwTest(args) => hw_test::main(&args),
        Command::Suite(args) => hw_test::suite::main(&args),
    }
}
