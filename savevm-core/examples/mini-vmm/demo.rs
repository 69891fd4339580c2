// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Both sides on this machine, on simulated devices behind a preload library.

use core::error::Error;
use std::path::PathBuf;
use std::process::{Child, Command};

use crate::Arguments;

/// Two devices: one that precopies while its state changes, one that can only be read when it has stopped.
const CONFIG: &str = "kernel=7.3
device nic model=plain caps=7 initial=8MiB dirty=4MiB dirty-rate=20MiB/s dirty-total=32MiB stop=16MiB seed=1
device old model=plain caps=1 stop=4MiB seed=2";
/// Their addresses: a simulated device gets the next free one.
const DEVICES: [&str; 2] = ["0000:a0:00.0", "0000:a1:00.0"];

pub(crate) fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let library = library()?;
    let socket = std::env::temp_dir().join(format!("mini-vmm-{}.sock", std::process::id()));
    let side = |side: &str| -> std::io::Result<Child> {
        Command::new(std::env::current_exe()?)
            .arg(side)
            .arg(&socket)
            .args(DEVICES)
            .args(["--memory", &arguments.memory_mib.to_string(), "--downtime", &arguments.downtime_ms.to_string()])
            .env("LD_PRELOAD", &library)
            .env("SOFTVFIO", CONFIG)
            .spawn()
    };
    // Ctrl-C goes to the children: the source cancels, and the target hears of it.
    let _ignored = crate::cancel_on_signals()?;
    let mut target = side("target")?;
    let mut source = match side("source") {
        Ok(source) => source,
        Err(error) => {
            target.kill()?;
            return Err(error.into());
        }
    };
    let outcome = source.wait()?;
    if !outcome.success() {
        // A source that never came would be waited for.
        target.kill()?;
    }
    let target = target.wait()?;
    let _ = std::fs::remove_file(socket);
    if outcome.success() && target.success() { Ok(()) } else { Err("no migration".into()) }
}

/// The preload library, in the folder of either profile.
fn library() -> Result<PathBuf, Box<dyn Error>> {
    let program = std::env::current_exe()?;
    let folders = program.ancestors().skip(1).take(3);
    let places =
        folders.flat_map(|folder| ["release", "debug"].map(|profile| folder.join(profile).join("libsoftvfio.so")));
    let found = places.into_iter().find(|place| place.exists());
    found.ok_or_else(|| "there is no libsoftvfio.so; build it: cargo build --release -p softvfio".into())
}
