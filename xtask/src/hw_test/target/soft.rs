// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The `soft` target: the suite and the product against simulated drivers behind a preload library. Needs nothing.

use std::path::{Path, PathBuf};

use super::super::progress::Progress;
use super::super::record::Run;
use super::super::supervise::supervise;
use super::super::{Missing, Plan};
use super::suite_command;
use crate::soft;

mod machines;

use self::machines::{LARGE, LARGE_FULL, MACHINES, MTTY, SWEEP, SWEEP_FULL};

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
    args: &'a [&'static str],
}

/// A kernel whose behaviour the simulator has been given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Flavour {
    /// The release whose rules hold.
    kernel: &'static str,
    /// As the library's configuration names it.
    name: &'static str,
}

/// Debian's stock kernel: no iommufd.
pub(crate) const DEBIAN_6_12: Flavour = Flavour { kernel: "6.12.117", name: "6.12" };
/// A kernel built with iommufd, character devices and the simulated IOMMU.
pub(crate) const BUILT_7_3: Flavour = Flavour { kernel: "7.3.4", name: "7.3" };

/// What a kernel with two mtty devices looks like, simulated.
pub(crate) fn twin(
    label: &str,
    flavour: Flavour,
    ports: u32,
    access: Option<&'static str>,
    plan: &Plan<'_>,
    progress: &mut Progress,
) -> Result<Run, Missing> {
    let config = format!(
        "kernel={}\n\
         device a model=mtty ports={ports} address={}\n\
         device b model=mtty ports={ports} address={}",
        flavour.name, MTTY[0], MTTY[1]
    );
    let access: Vec<&'static str> = access.into_iter().flat_map(|access| ["--access", access]).collect();
    let machine = Machine { label, kernel: flavour.kernel, config: &config, devices: MTTY, args: &access };
    on(&machine, &library(progress)?, plan, progress)
}

/// Builds the library and runs the suite on every machine.
pub(crate) fn run(plan: &Plan<'_>, progress: &mut Progress) -> Result<Vec<Run>, Missing> {
    let library = library(progress)?;
    let (sweep, large) = if plan.full { (&SWEEP_FULL, &LARGE_FULL) } else { (&SWEEP, &LARGE) };
    MACHINES.iter().chain([sweep, large]).map(|machine| on(machine, &library, plan, progress)).collect()
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
    let folder = soft::scratch()
        .map_err(|error| Missing::new(format!("No temporary folder: {error}."), "Set TMPDIR to a writable folder."))?;
    command.env("LD_PRELOAD", library).env("SOFTVFIO", machine.config).env("TMPDIR", folder.path());
    command.env("SOFTVFIO_STATE", folder.path().join("contents"));
    let limits = if plan.full { plan.limits(300, 3600) } else { plan.limits(30, 300) };
    supervise(machine.label, &mut command, limits, progress)
        .map_err(|error| Missing::new(format!("The suite cannot be started: {error}."), "Build it again."))
}
