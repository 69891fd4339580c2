// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The `soft` target: the suite and the product against simulated drivers behind a preload library. Needs nothing.

use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::super::progress::Progress;
use super::super::record::Run;
use super::super::supervise::supervise;
use super::super::{Missing, Plan};
use super::suite_command;
use crate::soft;

mod machines;

use self::machines::{MACHINES, MTTY};

/// One machine to simulate, and how to look at it.
struct Machine<'a> {
    /// For the report.
    label: &'a str,
    /// The kernel release whose rules hold.
    kernel: &'static str,
    /// The library's configuration.
    config: &'a str,
    /// The devices, as configured.
    devices: [&'static str; 2],
    /// More arguments for the suite.
    args: &'static [&'static str],
}

/// What a stock Debian kernel with two mtty devices looks like, simulated.
pub(crate) fn twin(label: &str, ports: u32, plan: &Plan<'_>, progress: &mut Progress) -> Result<Run, Missing> {
    let config = format!(
        "kernel=6.12\n\
         device a model=mtty ports={ports} address={}\n\
         device b model=mtty ports={ports} address={}",
        MTTY[0], MTTY[1]
    );
    let machine = Machine { label, kernel: "6.12.117", config: &config, devices: MTTY, args: &[] };
    on(&machine, &library(progress)?, plan, progress)
}

/// Builds the library and runs the suite on every machine.
pub(crate) fn run(plan: &Plan<'_>, progress: &mut Progress) -> Result<Vec<Run>, Missing> {
    let library = library(progress)?;
    MACHINES.iter().map(|machine| on(machine, &library, plan, progress)).collect()
}

fn library(progress: &Progress) -> Result<PathBuf, Missing> {
    progress.say("building the simulated driver");
    let remedy = "Build it by hand to see more: cargo build --release --package softvfio";
    soft::library().map_err(|error| Missing::new(error, remedy))
}

fn on(machine: &Machine<'_>, library: &Path, plan: &Plan<'_>, progress: &mut Progress) -> Result<Run, Missing> {
    let mut command = suite_command(plan)?;
    command.args(["--simulated", machine.kernel, "--with-parent"]).args(machine.args);
    for device in machine.devices {
        command.args(["--device", device]);
    }
    // What a device holds outlives the processes that open it, as it does in hardware.
    let folder = scratch()
        .map_err(|error| Missing::new(format!("No temporary folder: {error}."), "Set TMPDIR to a writable folder."))?;
    command.env("LD_PRELOAD", library).env("SOFTVFIO", machine.config).env("TMPDIR", folder.path());
    command.env("SOFTVFIO_STATE", folder.path().join("contents"));
    supervise(machine.label, &mut command, plan.limits(30, 300), progress)
        .map_err(|error| Missing::new(format!("The suite cannot be started: {error}."), "Build it again."))
}

/// A folder for everything that the machine's processes write, in memory where there is such a place: each process lays
/// out hundreds of files that stand for its devices, which takes ten times as long on a disk.
fn scratch() -> io::Result<TempDir> {
    let memory = Path::new("/dev/shm");
    if std::env::var_os("TMPDIR").is_none() {
        if let Ok(folder) = tempfile::tempdir_in(memory) {
            return Ok(folder);
        }
    }
    tempfile::tempdir()
}
