// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The `soft` target: the suite and the product against simulated drivers behind a preload library. Needs nothing.

use std::path::Path;

use super::super::progress::Progress;
use super::super::record::Run;
use super::super::supervise::supervise;
use super::super::{Missing, Plan};
use super::suite_command;
use crate::soft;

/// One machine to simulate, and how to look at it.
struct Machine {
    /// For the report.
    label: &'static str,
    /// The kernel release whose rules hold.
    kernel: &'static str,
    /// The library's configuration.
    config: &'static str,
    /// The devices, as configured.
    devices: [&'static str; 2],
    /// More arguments for the suite.
    args: &'static [&'static str],
}

const MTTY: [&str; 2] = ["50f7f10c-0000-4000-8000-000000000001", "50f7f10c-0000-4000-8000-000000000002"];
const PCI: [&str; 2] = ["0000:a1:00.0", "0000:a2:00.0"];

const MACHINES: &[Machine] = &[
    Machine {
        label: "mtty",
        kernel: "6.12.117",
        config: "kernel=6.12
                 device a model=mtty address=50f7f10c-0000-4000-8000-000000000001
                 device b model=mtty address=50f7f10c-0000-4000-8000-000000000002",
        devices: MTTY,
        args: &[],
    },
    Machine {
        label: "mtty, two ports, by cdev",
        kernel: "7.3.4",
        config: "kernel=7.3
                 device a model=mtty ports=2 address=50f7f10c-0000-4000-8000-000000000001
                 device b model=mtty ports=2 address=50f7f10c-0000-4000-8000-000000000002",
        devices: MTTY,
        args: &["--access", "cdev"],
    },
    Machine {
        label: "plain, STOP_COPY only",
        kernel: "6.12.117",
        config: "kernel=6.12
                 device a model=plain caps=1 stop=300KiB seed=1 dirty-log=absent address=0000:a1:00.0
                 device b model=plain caps=1 stop=300KiB seed=2 dirty-log=absent address=0000:a2:00.0",
        devices: PCI,
        args: &[],
    },
    Machine {
        label: "plain, P2P, slow",
        kernel: "6.12.117",
        config: "kernel=6.12-iommufd
                 device a model=plain caps=3 stop=64KiB seed=1 transition-ms=1 write-ms-per-mib=20 address=0000:a1:00.0
                 device b model=plain caps=3 stop=64KiB seed=2 transition-ms=1 write-ms-per-mib=20 address=0000:a2:00.0",
        devices: PCI,
        args: &[],
    },
    Machine {
        label: "plain, PRE_COPY, as the older drivers",
        kernel: "6.12.117",
        config: "kernel=6.12
                 device a model=plain caps=5 drained=zero sticky-errors=no initial=20KiB dirty=30KiB stop=10KiB seed=1 address=0000:a1:00.0
                 device b model=plain caps=5 drained=zero sticky-errors=no initial=20KiB dirty=30KiB stop=10KiB seed=2 address=0000:a2:00.0",
        devices: PCI,
        args: &["--profile", "plain-zero"],
    },
    Machine {
        label: "plain, everything, by cdev",
        kernel: "7.3.4",
        config: "kernel=7.3
                 device a model=plain caps=7 initial=2MiB dirty=1MiB dirty-rate=20MiB/s dirty-total=3MiB stop=4MiB reinit-after=3 write-holds-state=yes seed=1 address=0000:a1:00.0
                 device b model=plain caps=7 initial=2MiB dirty=1MiB dirty-rate=20MiB/s dirty-total=3MiB stop=4MiB reinit-after=3 write-holds-state=yes seed=2 address=0000:a2:00.0",
        devices: PCI,
        args: &["--access", "cdev"],
    },
];

/// Builds the library and runs the suite on every machine.
pub(crate) fn run(plan: &Plan<'_>, progress: &mut Progress) -> Result<Vec<Run>, Missing> {
    progress.say("building the simulated driver");
    let library = soft::library().map_err(|error| {
        Missing::new(error, "Build it by hand to see more: cargo build --release --package softvfio")
    })?;
    MACHINES.iter().map(|machine| on(machine, &library, plan, progress)).collect()
}

fn on(machine: &Machine, library: &Path, plan: &Plan<'_>, progress: &mut Progress) -> Result<Run, Missing> {
    let mut command = suite_command(plan)?;
    command.args(["--simulated", machine.kernel, "--with-parent"]).args(machine.args);
    for device in machine.devices {
        command.args(["--device", device]);
    }
    command.env("LD_PRELOAD", library).env("SOFTVFIO", machine.config);
    supervise(machine.label, &mut command, plan.limits(30, 300), progress)
        .map_err(|error| Missing::new(format!("The suite cannot be started: {error}."), "Build it again."))
}
