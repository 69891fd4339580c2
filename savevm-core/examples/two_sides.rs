// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A whole migration, as a VMM would drive it: two devices, a guest that is paused and resumed, both sides in one program.
//!
//! ```sh
//! cargo run --package savevm-core --features sim --example two_sides
//! cargo run --package savevm-core --features sim --example two_sides -- fail   # the source's device breaks on the way
//! ```
//!
//! With `savevm_core::kernel::KernelDevice` in place of `SimPort` the same code moves real devices.

use core::error::Error;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Instant;

use savevm_core::load::{self, LoadOptions};
use savevm_core::save::{self, SaveOptions};
use savevm_core::sim::{SimConfig, SimPort};
use savevm_core::{Channel, Hooks, Phase};

/// What a VMM brings: it stops and starts its vCPUs when asked, and may show how far things are.
struct Vmm {
    side: &'static str,
    started: Instant,
}

impl Vmm {
    fn say(&self, what: &str) {
        println!("{:>7.1} ms  {:6}  {what}", self.started.elapsed().as_secs_f64() * 1000.0, self.side);
    }
}

impl Hooks for Vmm {
    fn phase(&mut self, phase: Phase) {
        self.say(phase.name());
    }

    fn pause_guest(&mut self) -> Result<(), String> {
        // Every device is in its P2P state by now; a real VMM stops its vCPUs here and reports if it cannot.
        self.say("  vCPUs stopped");
        Ok(())
    }

    fn resume_guest(&mut self) {
        self.say("  vCPUs run again: the guest never left");
    }
}

/// The devices of one side. Both sides call a device by the same name.
fn devices(fault: &str) -> Result<Vec<SimPort>, Box<dyn Error>> {
    let net = "model=plain caps=7 initial=4MiB dirty=8MiB dirty-rate=50MiB/s dirty-total=16MiB stop=32MiB seed=1";
    let serial = "model=mtty ports=2";
    let open = |text: &str, name| -> Result<SimPort, Box<dyn Error>> {
        Ok(SimPort::open(&SimConfig::parse(text)?.device()?, name)?)
    };
    Ok(vec![open(&format!("{net} {fault}"), "net0")?, open(serial, "serial0")?])
}

fn main() -> Result<(), Box<dyn Error>> {
    let fault = if std::env::args().any(|argument| argument == "fail") { "fault=read:EIO@20" } else { "" };
    let (mut ours, mut theirs) = (devices(fault)?, devices("")?);
    // Two connections: the devices share them. Which is which, the two sides find out by themselves.
    let (mut to_target, mut to_source) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let (left, right) = UnixStream::pair()?;
        to_target.push(Channel::unix(left)?);
        to_source.push(Channel::unix(right)?);
    }
    let started = Instant::now();

    let target = thread::spawn(move || {
        let mut vmm = Vmm { side: "target", started };
        let running = load::load(&mut theirs, to_source, &mut vmm, &LoadOptions::default())?.run()?;
        for device in &running.devices {
            vmm.say(&format!("  {} runs here: {}", device.device, device.sum));
        }
        Ok::<(), savevm_core::MigrationError>(())
    });

    let mut vmm = Vmm { side: "source", started };
    let outcome = save::save(&mut ours, to_target, &mut vmm, &SaveOptions::default())
        // The target has acknowledged every byte. A VMM checks its own state here; dropping `ready` would abort.
        .and_then(save::Ready::commit);
    match &outcome {
        Ok(committed) => {
            vmm.say(&format!("  given up after {:.1} ms downtime", committed.downtime.as_secs_f64() * 1000.0))
        }
        Err(error) => vmm.say(&format!("  {error}")),
    }
    match target.join() {
        Ok(Err(error)) if outcome.is_err() => println!("            target  {error}"),
        Ok(result) => result?,
        Err(_) => return Err("the target's thread panicked".into()),
    }
    Ok(())
}
