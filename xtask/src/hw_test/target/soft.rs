// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The `soft` target: the suite and the product against simulated drivers behind a preload library. Needs nothing.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use vfio_mig_fsm::Capabilities;

use super::super::contract::Test;
use super::super::progress::Progress;
use super::super::record::Run;
use super::super::suite;
use super::super::supervise::supervise;
use super::super::{Missing, Plan};
use super::{suite_arguments, this_executable};
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

/// Builds the library and runs the suite on every machine for which a test is asked for.
pub(crate) fn run(plan: &Plan<'_>, progress: &mut Progress) -> Result<Vec<Run>, Missing> {
    let library = library(progress)?;
    let mut runs = Vec::new();
    for machine in machines(plan.full) {
        if !machine.tests(plan)?.is_empty() {
            runs.push(on(machine, &library, plan, progress)?);
        }
    }
    // What is asked for may be a test of devices that a machine has not.
    runs.retain(|run| plan.filter.is_none() || !run.tests.is_empty());
    Ok(runs)
}

/// The names of the tests that are asked for, one per line, each once however many machines run it.
pub(crate) fn list(plan: &Plan<'_>) -> Result<String, Missing> {
    let (mut seen, mut names) = (HashSet::new(), String::new());
    for machine in machines(plan.full) {
        let new = machine.tests(plan)?.into_iter().map(|test| test.id()).filter(|id| seen.insert(id.clone()));
        names.extend(new.map(|id| format!("{id}\n")));
    }
    Ok(names)
}

fn machines(full: bool) -> impl Iterator<Item = &'static Machine<'static>> {
    let (sweep, large) = if full { (&SWEEP_FULL, &LARGE_FULL) } else { (&SWEEP, &LARGE) };
    MACHINES.iter().chain([sweep, large])
}

impl Machine<'_> {
    /// The command line of its suite.
    fn arguments(&self, plan: &Plan<'_>) -> Vec<String> {
        let fixed = ["--simulated", self.kernel, "--with-parent"].into_iter().chain(self.args.iter().copied());
        let devices = self.devices.into_iter().flat_map(|device| ["--device", device]);
        suite_arguments(self.label, plan).into_iter().chain(fixed.chain(devices).map(Into::into)).collect()
    }

    /// The tests that are asked for, with those of every device that might be here.
    fn tests(&self, plan: &Plan<'_>) -> Result<Vec<Test>, Missing> {
        let suite = suite::Args::parse(&self.arguments(plan))
            .map_err(|error| Missing::new(format!("{}: {error}", self.label), "This is a fault of this program."))?;
        Ok(Capabilities::ALL.into_iter().rev().flat_map(|caps| suite.tests(caps, false)).collect())
    }
}

fn library(progress: &Progress) -> Result<PathBuf, Missing> {
    progress.say("building the simulated driver");
    let remedy = "Build it by hand to see more: cargo build --release --package softvfio";
    soft::library().map_err(|error| Missing::new(error, remedy))
}

fn on(machine: &Machine<'_>, library: &Path, plan: &Plan<'_>, progress: &mut Progress) -> Result<Run, Missing> {
    let mut command = this_executable()?;
    command.args(machine.arguments(plan));
    // What a device holds outlives the processes that open it, as it does in hardware.
    let folder = soft::scratch()
        .map_err(|error| Missing::new(format!("No temporary folder: {error}."), "Set TMPDIR to a writable folder."))?;
    command.env("LD_PRELOAD", library).env("SOFTVFIO", machine.config).env("TMPDIR", folder.path());
    command.env("SOFTVFIO_STATE", folder.path().join("contents"));
    let limits = if plan.full { plan.limits(300, 3600) } else { plan.limits(30, 300) };
    supervise(machine.label, &mut command, limits, progress)
        .map_err(|error| Missing::new(format!("The suite cannot be started: {error}."), "Build it again."))
}

#[cfg(test)]
mod test {
    use super::*;

    fn names(filter: Option<&str>, full: bool) -> String {
        list(&Plan { filter, test_timeout: None, timeout: None, full }).unwrap()
    }

    #[test]
    fn every_machine_has_tests_and_its_label_selects_them_all() {
        for full in [false, true] {
            for machine in machines(full) {
                let count =
                    |filter| machine.tests(&Plan { filter, test_timeout: None, timeout: None, full }).unwrap().len();
                assert!(count(None) > 0, "{}", machine.label);
                assert_eq!(count(Some(machine.label)), count(None), "{}", machine.label);
                assert_eq!(count(Some("no such test")), 0, "{}", machine.label);
            }
        }
    }

    #[test]
    fn a_filter_selects_the_machine_that_a_user_sees() {
        let bounded = "migrate: a target in 8 MiB of buffers and 32 MiB besides\n";
        assert_eq!(names(Some("little memory"), false), bounded);
        assert_eq!(names(Some("4 devices of 1 GiB in little memory"), true), bounded);
        assert_eq!(names(Some("4 devices of 1 GiB"), false), "");
        assert_eq!(names(Some("every system call fails"), true).lines().count(), 14);
    }

    #[test]
    fn each_test_is_listed_once() {
        let all = names(None, false);
        let mut lines: Vec<&str> = all.lines().collect();
        let count = lines.len();
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len(), count);
        assert!(count > 200, "{count}");
    }
}
