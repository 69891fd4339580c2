// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The `soft` target: the suite and the product against simulated drivers behind a preload library. Needs nothing.

use std::path::{Path, PathBuf};

use super::super::progress::Progress;
use super::super::record::Run;
use super::super::supervise::supervise;
use super::super::{Missing, Plan};
use super::suite_command;
use crate::soft;

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

const MTTY: [&str; 2] = ["50f7f10c-0000-4000-8000-000000000001", "50f7f10c-0000-4000-8000-000000000002"];
const PCI: [&str; 2] = ["0000:a1:00.0", "0000:a2:00.0"];

const MACHINES: &[Machine<'_>] = &[
    Machine {
        label: "mtty",
        kernel: "6.12.117",
        config: "kernel=6.12\n\
                 device a model=mtty address=50f7f10c-0000-4000-8000-000000000001\n\
                 device b model=mtty address=50f7f10c-0000-4000-8000-000000000002",
        devices: MTTY,
        args: &[],
    },
    Machine {
        label: "mtty, two ports, by cdev",
        kernel: "7.3.4",
        config: "kernel=7.3\n\
                 device a model=mtty ports=2 address=50f7f10c-0000-4000-8000-000000000001\n\
                 device b model=mtty ports=2 address=50f7f10c-0000-4000-8000-000000000002",
        devices: MTTY,
        args: &["--no-faults", "--access", "cdev"],
    },
    Machine {
        label: "plain, STOP_COPY only",
        kernel: "6.12.117",
        config: "kernel=6.12\n\
                 device a model=plain caps=1 stop=300KiB seed=1 dirty-log=absent address=0000:a1:00.0\n\
                 device b model=plain caps=1 stop=300KiB seed=2 dirty-log=absent address=0000:a2:00.0",
        devices: PCI,
        args: &["--no-faults"],
    },
    Machine {
        label: "plain, P2P, slow",
        kernel: "6.12.117",
        config: "kernel=6.12-iommufd\n\
                 device a model=plain caps=3 stop=64KiB seed=1 transition-ms=1 write-ms-per-mib=20 address=0000:a1:00.0\n\
                 device b model=plain caps=3 stop=64KiB seed=2 transition-ms=1 write-ms-per-mib=20 address=0000:a2:00.0",
        devices: PCI,
        args: &["--no-faults"],
    },
    Machine {
        label: "plain, PRE_COPY, as the older drivers",
        kernel: "6.12.117",
        config: "kernel=6.12\n\
                 device a model=plain caps=5 drained=zero sticky-errors=no initial=20KiB dirty=30KiB stop=10KiB seed=1 address=0000:a1:00.0\n\
                 device b model=plain caps=5 drained=zero sticky-errors=no initial=20KiB dirty=30KiB stop=10KiB seed=2 address=0000:a2:00.0",
        devices: PCI,
        args: &["--no-faults", "--profile", "plain-zero"],
    },
    Machine {
        label: "plain, everything, by cdev",
        kernel: "7.3.4",
        config: "kernel=7.3\n\
                 device a model=plain caps=7 initial=512KiB dirty=256KiB dirty-rate=20MiB/s dirty-total=1MiB stop=1MiB reinit-after=3 write-holds-state=yes seed=1 address=0000:a1:00.0\n\
                 device b model=plain caps=7 initial=512KiB dirty=256KiB dirty-rate=20MiB/s dirty-total=1MiB stop=1MiB reinit-after=3 write-holds-state=yes seed=2 address=0000:a2:00.0",
        devices: PCI,
        args: &["--access", "cdev"],
    },
    Machine {
        label: "hisi",
        kernel: "6.12.117",
        config: "kernel=6.12\n\
                 device a model=hisi accelerator=sec isolation=1 seed=1 address=0000:a1:00.0\n\
                 device b model=hisi accelerator=sec isolation=1 seed=2 address=0000:a2:00.0",
        devices: PCI,
        args: &["--no-faults", "--profile", "hisi-soft"],
    },
    Machine {
        label: "hisi, by cdev",
        kernel: "7.3.4",
        config: "kernel=7.3\n\
                 device a model=hisi accelerator=hpre seed=1 address=0000:a1:00.0\n\
                 device b model=hisi accelerator=hpre seed=2 address=0000:a2:00.0",
        devices: PCI,
        args: &["--access", "cdev", "--profile", "hisi-soft"],
    },
    Machine {
        label: "hisi without guest driver",
        kernel: "7.3.4",
        config: "kernel=7.3\n\
                 device a model=hisi ready=no address=0000:a1:00.0\n\
                 device b model=hisi ready=no address=0000:a2:00.0",
        devices: PCI,
        args: &["--no-faults", "--profile", "hisi-not-ready"],
    },
    Machine {
        label: "mlx5",
        kernel: "6.12.117",
        config: "kernel=6.12-iommufd\n\
                 device a model=mlx5 initial=200KiB dirty=100KiB stop=64KiB save-ms=1 seed=1 address=0000:a1:00.0\n\
                 device b model=mlx5 initial=200KiB dirty=100KiB stop=64KiB save-ms=1 seed=2 address=0000:a2:00.0",
        devices: PCI,
        args: &["--no-faults", "--profile", "mlx5-soft"],
    },
    Machine {
        label: "mlx5 in chunks, by cdev",
        kernel: "7.3.4",
        config: "kernel=7.3\n\
                 device a model=mlx5 initial=512KiB dirty=256KiB dirty-rate=20MiB/s dirty-total=1MiB stop=1MiB chunk=128KiB reinit-after=3 seed=1 address=0000:a1:00.0\n\
                 device b model=mlx5 initial=512KiB dirty=256KiB dirty-rate=20MiB/s dirty-total=1MiB stop=1MiB chunk=128KiB reinit-after=3 seed=2 address=0000:a2:00.0",
        devices: PCI,
        args: &["--access", "cdev", "--profile", "mlx5-soft"],
    },
    Machine {
        label: "mlx5, pre-copy fails",
        kernel: "7.3.4",
        config: "kernel=7.3\n\
                 device a model=mlx5 initial=64KiB stop=64KiB precopy-error=1 seed=1 address=0000:a1:00.0\n\
                 device b model=mlx5 initial=64KiB stop=64KiB precopy-error=1 seed=2 address=0000:a2:00.0",
        devices: PCI,
        args: &["--no-faults", "--profile", "mlx5-soft"],
    },
];

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
    let contents = tempfile::tempdir()
        .map_err(|error| Missing::new(format!("No temporary folder: {error}."), "Set TMPDIR to a writable folder."))?;
    command.env("LD_PRELOAD", library).env("SOFTVFIO", machine.config).env("SOFTVFIO_STATE", contents.path());
    supervise(machine.label, &mut command, plan.limits(30, 300), progress)
        .map_err(|error| Missing::new(format!("The suite cannot be started: {error}."), "Build it again."))
}
