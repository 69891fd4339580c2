// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The smallest VMM that can migrate: memory, a vCPU that writes to it, and VFIO devices, from one process to another.
//!
//! ```sh
//! cargo build --release -p softvfio     # devices for a machine that has none
//! cargo run --release -p savevm-core --features kernel --example mini-vmm
//! cargo run --release -p savevm-core --features kernel --example mini-vmm -- --memory 1024 --downtime 100
//! ```
//!
//! Without more it starts both sides on simulated devices. Ctrl-C while memory moves: the guest stays where it is. With real devices, one side
//! each:
//!
//! ```sh
//! mini-vmm target /run/vm.sock 0000:3b:00.3 0000:3b:00.4
//! mini-vmm source /run/vm.sock 0000:3b:00.2 0000:3b:00.5
//! ```

#![allow(clippy::arithmetic_side_effects, clippy::as_conversions, reason = "the sizes are this program's own")]

mod demo;
mod devices;
mod guest;
mod screen;

use core::error::Error;
use core::sync::atomic::AtomicBool;
use core::time::Duration;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use guest::Guest;
use savevm_core::load::{self, LoadOptions};
use savevm_core::ram::Source;
use savevm_core::save::{self, SaveOptions};
use savevm_core::{Cancel, Channel};
use screen::Screen;

/// What the command line says.
pub(crate) struct Arguments {
    pub(crate) memory_mib: u64,
    pub(crate) downtime_ms: u64,
    /// Side, socket, devices; or nothing.
    pub(crate) words: Vec<String>,
}

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let outcome = arguments().and_then(|arguments| {
        let words: Vec<&str> = arguments.words.iter().map(String::as_str).collect();
        match words.as_slice() {
            [] => demo::run(&arguments),
            ["source", socket, devices @ ..] => source(&arguments, socket, devices),
            ["target", socket, devices @ ..] => target(&arguments, socket, devices),
            _ => Err("usage: mini-vmm [--memory MIB] [--downtime MS] [source|target SOCKET DEVICE…]".into()),
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Outcome<Arguments> {
    let mut found = Arguments { memory_mib: 256, downtime_ms: 300, words: Vec::new() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || -> Outcome<u64> { Ok(words.next().ok_or("a number is missing at the end")?.parse()?) };
        match word.as_str() {
            "--memory" => found.memory_mib = number()?,
            "--downtime" => found.downtime_ms = number()?,
            _ => found.words.push(word),
        }
    }
    Ok(found)
}

/// A signal cancels in good order; a second one ends the process.
fn cancel_on_signals() -> Outcome<Cancel> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag))?;
        signal_hook::flag::register(signal, Arc::clone(&flag))?;
    }
    Ok(Cancel::from_flag(flag))
}

/// Runs the vCPU in a thread of its own while `act` does its work.
fn with_vcpu<R>(guest: &Arc<Guest>, act: impl FnOnce() -> Outcome<R>) -> Outcome<R> {
    struct Off<'g>(&'g Guest);
    impl Drop for Off<'_> {
        fn drop(&mut self) {
            self.0.power_off();
        }
    }
    thread::scope(|scope| {
        let _off = Off(guest);
        scope.spawn(|| {
            if let Err(error) = guest.run() {
                eprintln!("the vCPU stopped: {error}");
            }
        });
        act()
    })
}

/// The target may still be on its way.
fn connect(socket: &str) -> Outcome<UnixStream> {
    let mut stream = None;
    guest::wait_until(Duration::from_secs(10), || {
        stream = UnixStream::connect(socket).ok();
        stream.is_some()
    });
    stream.ok_or_else(|| format!("nobody listens at {socket}").into())
}

fn source(arguments: &Arguments, socket: &str, ids: &[&str]) -> Outcome<()> {
    let cancel = cancel_on_signals()?;
    let mut devices = devices::open(ids)?;
    let guest = Guest::new(arguments.memory_mib)?;
    guest.boot()?;
    let mut tracking = guest.tracking()?;
    with_vcpu(&guest, || {
        guest.resume();
        let channels = vec![Channel::unix(connect(socket)?)?, Channel::unix(connect(socket)?)?];
        let mut screen = Screen::new("source", ids, Some(&guest));
        let mut options = SaveOptions::default();
        options.cancel = cancel;
        if let Some(rule) = &mut options.precopy {
            rule.downtime_max = Duration::from_millis(arguments.downtime_ms);
        }
        let memory = Source::new(&guest.memory, &mut tracking)?;
        let saved = save::save_with_memory(&mut devices, memory, channels, &mut screen, &options);
        // Here a VMM looks at everything once more. Without the commit, all goes back.
        match saved.and_then(save::Ready::commit) {
            Ok(committed) => {
                let predicted = committed.predicted.unwrap_or_default();
                let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
                screen.line(&format!(
                    "gone; predicted {:.1} ms of downtime (at most {:.1}), measured {:.1} ms",
                    milliseconds(predicted.expected),
                    milliseconds(predicted.high),
                    milliseconds(committed.downtime)
                ));
                Ok(())
            }
            Err(error) if error.committed => Err(error.into()),
            Err(error) => {
                screen.line(&format!("{error}"));
                let before = guest.check()?;
                let runs = guest::wait_until(Duration::from_secs(5), || guest.count().is_ok_and(|now| now > before));
                let how = if runs { "runs on here" } else { "stands" };
                Err(format!("the guest never left and {how}, with {before} counts").into())
            }
        }
    })
}

fn target(arguments: &Arguments, socket: &str, ids: &[&str]) -> Outcome<()> {
    let mut devices = devices::open(ids)?;
    let guest = Guest::new(arguments.memory_mib)?;
    let listener = UnixListener::bind(socket)?;
    let mut channels = Vec::new();
    for _ in 0..2 {
        channels.push(Channel::unix(listener.accept()?.0)?);
    }
    std::fs::remove_file(socket)?;
    let mut screen = Screen::new("target", ids, None);
    let loaded = load::load_with_memory(&mut devices, &guest.memory, channels, &mut screen, &LoadOptions::default())?;
    let running = loaded.run()?;
    let before = guest.check()?;
    with_vcpu(&guest, || {
        guest.resume();
        let runs = guest::wait_until(Duration::from_secs(5), || guest.count().is_ok_and(|now| now > before + 100));
        let moved: u64 = running.memory.iter().map(|memory| memory.sum.bytes).sum();
        screen.line(&format!("{} MiB of memory came, with {before} counts, none of them lost", moved >> 20));
        guest.check()?;
        if runs { Ok(()) } else { Err("the guest does not run here".into()) }
    })
}
