// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Both sides on this machine, on simulated devices behind a preload library.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use crate::evidence::Evidence;
use crate::{Arguments, Outcome};

/// A kernel with two devices that write to memory and send each other numbers, one after every sixteen writes. The first precopies while
/// its state changes, the second can only be read when it has stopped.
pub(crate) struct Simulated {
    /// Who reports what they write.
    pub(crate) tracked_by: &'static str,
    pub(crate) devices: [&'static str; 2],
    kernel: &'static str,
    first: &'static str,
    second: &'static str,
}

/// One for each interface of the kernel's for dirty pages.
pub(crate) const MACHINES: [Simulated; 3] = [
    Simulated {
        tracked_by: "a device's own log and a page table",
        devices: ["0000:a0:00.0", "0000:a1:00.0"],
        kernel: "7.3",
        first: "",
        second: "dirty-log=absent",
    },
    Simulated {
        tracked_by: "two devices' own logs",
        devices: ["0000:a0:00.0", "0000:a1:00.0"],
        kernel: "6.12-iommufd",
        first: "",
        second: "dma-log-page=64KiB",
    },
    Simulated {
        tracked_by: "a container",
        devices: ["50f7f10c-0000-4000-8000-000000000000", "50f7f10c-0000-4000-8000-000000000001"],
        kernel: "6.12",
        first: "",
        second: "",
    },
];

impl Simulated {
    fn config(&self) -> String {
        let Self { devices: [one, two], kernel, first, second, .. } = self;
        format!(
            "kernel={kernel}
            device nic address={one} model=plain caps=7 initial=8MiB dirty=4MiB dirty-rate=20MiB/s dirty-total=32MiB stop=16MiB
              dma-rate=20MiB/s dma-write=256 dma-peer=old transition-ms=1 seed=1 {first}
            device old address={two} model=plain caps=3 stop=4MiB
              dma-rate=20MiB/s dma-write=4KiB dma-peer=nic dma-in-p2p=no transition-ms=1 seed=2 {second}"
        )
    }
}

/// A process that ends with this value.
pub(crate) struct Side(pub(crate) Child);

impl Drop for Side {
    fn drop(&mut self) {
        // It has ended already where all went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where both sides meet, and what they leave behind for a comparison.
pub(crate) struct Stage {
    pub(crate) folder: PathBuf,
    library: PathBuf,
}

impl Stage {
    pub(crate) fn new() -> Outcome<Self> {
        let library = library()?;
        let folder = std::env::temp_dir().join(format!("mini-vmm-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        Ok(Self { folder, library })
    }

    /// One side on the devices of `machine`, which gets these words before their names.
    pub(crate) fn side(&self, arguments: &Arguments, machine: &Simulated, words: &[&str]) -> Outcome<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        let [side, ..] = words else { return Err("no side".into()) };
        command
            .args(words)
            .args(machine.devices)
            .args(["--memory", &arguments.memory_mib.to_string(), "--downtime", &arguments.downtime_ms.to_string()])
            .arg("--evidence")
            .arg(self.evidence(side))
            .env("LD_PRELOAD", &self.library)
            .env("SOFTVFIO", machine.config());
        Ok(command)
    }

    /// Starts a side, and a launcher where it is to have one.
    fn start(&self, arguments: &Arguments, machine: &Simulated, words: [&str; 2]) -> Outcome<(Side, Option<Side>)> {
        let mut command = self.side(arguments, machine, &words)?;
        let mut launcher = None;
        if arguments.launches {
            let fds = self.folder.join(format!("{}.fds", words[0])).display().to_string();
            launcher = Some(Side(self.side(arguments, machine, &["launch", &fds])?.spawn()?));
            command.args(["--fds", &fds]);
        }
        Ok((Side(command.spawn()?), launcher))
    }

    fn evidence(&self, side: &str) -> PathBuf {
        self.folder.join(format!("{side}.evidence"))
    }

    /// What the two sides have left, if it is the same.
    pub(crate) fn compare(&self, source: &str) -> Outcome<[Evidence; 2]> {
        let (source, target) = (Evidence::read(&self.evidence(source))?, Evidence::read(&self.evidence("target"))?);
        match source.difference(&target) {
            None => Ok([source, target]),
            Some(difference) => Err(difference.into()),
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Downtime in milliseconds, as predicted, and as it would have been without the comparison.
pub(crate) fn downtime([source, target]: &[Evidence; 2]) -> (f64, f64) {
    (source.fact("predicted_ms"), source.fact("downtime_ms") - target.fact("digest_ms"))
}

pub(crate) fn run(arguments: &Arguments) -> Outcome<()> {
    let stage = Stage::new()?;
    // Ctrl-C goes to the children: the source cancels, and the target hears of it.
    let _ignored = crate::cancel_on_signals()?;
    let [by_cdev, _, by_group] = &MACHINES;
    let machines = if arguments.launches { &[by_cdev, by_group][..] } else { &[by_cdev] };
    machines.iter().try_for_each(|machine| demonstrate(&stage, arguments, machine))
}

fn demonstrate(stage: &Stage, arguments: &Arguments, machine: &Simulated) -> Outcome<()> {
    let socket = stage.folder.join("socket").display().to_string();
    let (mut target, _launcher) = stage.start(arguments, machine, ["target", &socket])?;
    let (mut source, _launcher) = stage.start(arguments, machine, ["source", &socket])?;
    // The target of a source that failed is not waited for.
    if !source.0.wait()?.success() || !target.0.wait()?.success() {
        return Err("no migration".into());
    }
    let (predicted, took) = downtime(&stage.compare("source")?);
    println!("memory and devices are equal on both sides");
    println!("without the digests nothing would have run for {took:.1} ms; predicted were {predicted:.1} ms");
    Ok(())
}

/// The preload library, in the folder of either profile.
fn library() -> Outcome<PathBuf> {
    let program = std::env::current_exe()?;
    let folders = program.ancestors().skip(1).take(3);
    let places = folders
        .flat_map(|folder: &Path| ["release", "debug"].map(|profile| folder.join(profile).join("libsoftvfio.so")));
    let found = places.into_iter().find(|place| place.exists());
    found.ok_or_else(|| "there is no libsoftvfio.so; build it: cargo build --release -p softvfio".into())
}
