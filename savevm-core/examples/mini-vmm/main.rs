// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The smallest VMM that can migrate: memory, a vCPU and VFIO devices that write to it, from one process to another.
//!
//! ```sh
//! cargo build --release -p softvfio     # devices for a machine that has none
//! cargo run --release -p savevm-core --features kernel,sim --example mini-vmm
//! cargo run --release -p savevm-core --features kernel,sim --example mini-vmm -- --memory 1024 --downtime 100
//! ```
//!
//! Without more it starts both sides on simulated devices and compares memory and devices of the two. Ctrl-C while memory moves: the
//! guest stays where it is. With real devices, one side each:
//!
//! ```sh
//! mini-vmm target /run/vm.sock 0000:3b:00.3 0000:3b:00.4
//! mini-vmm source /run/vm.sock 0000:3b:00.2 0000:3b:00.5
//! ```
//!
//! A VMM that may open no nodes gets them from one who may, and then needs no path of a device:
//!
//! ```sh
//! mini-vmm launch /run/fds.sock 0000:3b:00.2 0000:3b:00.5
//! mini-vmm source /run/vm.sock 0000:3b:00.2 0000:3b:00.5 --fds /run/fds.sock
//! ```
//!
//! `--launch` alone shows that on simulated devices, with character devices and with groups.
//!
//! A VMM's part is in this file, `machine` (who writes to memory, and who reports it) `nodes` and `devices` (how devices get at memory);
//! `guest` and `driver` are what runs inside. `proof` is none of a VMM's business: `--runs 100 --seed 1` migrates a hundred guests, cancels and
//! kills up to three attempts of each at random, and fails if a byte or a count is lost.

#![allow(clippy::arithmetic_side_effects, clippy::as_conversions, reason = "the sizes are this program's own")]
#![allow(clippy::indexing_slicing, reason = "so are the buffers")]

mod demo;
mod devices;
mod driver;
mod evidence;
mod guest;
mod machine;
mod nodes;
mod proof;
mod screen;

use core::error::Error;
use core::str::FromStr;
use core::sync::atomic::AtomicBool;
use core::time::Duration;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use evidence::Evidence;
use machine::Machine;
use savevm_core::load::{self, LoadOptions};
use savevm_core::ram::Source;
use savevm_core::save::{self, Committed, SaveOptions};
use savevm_core::{Cancel, Channel, Hooks, MigrationError};
use screen::Screen;

/// Channels between the two.
const CHANNELS: usize = 2;

/// What the command line says.
#[derive(Default)]
pub(crate) struct Arguments {
    pub(crate) memory_mib: u64,
    pub(crate) downtime_ms: u64,
    /// Where a launcher has the devices' nodes open.
    pub(crate) fds: Option<String>,
    /// Whether the sides of the demonstration have launchers.
    pub(crate) launches: bool,
    /// Where to say what one has when nothing runs, for a comparison.
    pub(crate) evidence: Option<PathBuf>,
    pub(crate) proof: proof::Arguments,
    /// Side, socket, devices; or nothing.
    pub(crate) words: Vec<String>,
}

pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let outcome = arguments().and_then(|arguments| {
        let words: Vec<&str> = arguments.words.iter().map(String::as_str).collect();
        match words.as_slice() {
            [] if arguments.proof.runs > 0 => proof::run(&arguments),
            [] => demo::run(&arguments),
            ["source", socket, devices @ ..] => source(&arguments, socket, devices),
            ["target", socket, devices @ ..] => target(&arguments, socket, devices),
            ["launch", socket, devices @ ..] => nodes::Nodes::open(devices)?.launch(socket),
            ["proof-source", devices @ ..] => proof::source(&arguments, devices),
            _ => Err("usage: mini-vmm [--memory MIB] [--downtime MS] [--launch]\n       \
                      mini-vmm [--memory MIB] [--downtime MS] [--fds SOCKET] source|target SOCKET DEVICE…\n       \
                      mini-vmm launch SOCKET DEVICE…\n       \
                      mini-vmm --runs N [--seed S] [--memory MIB] [--forget-a-word]"
                .into()),
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
    let mut found = Arguments { memory_mib: 256, downtime_ms: 300, ..Arguments::default() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("a value is missing behind {word}"));
        match word.as_str() {
            "--memory" => found.memory_mib = number(&word, &value()?)?,
            "--downtime" => found.downtime_ms = number(&word, &value()?)?,
            "--fds" => found.fds = Some(value()?),
            "--launch" => found.launches = true,
            "--evidence" => found.evidence = Some(value()?.into()),
            "--runs" => found.proof.runs = number(&word, &value()?)?,
            "--seed" => found.proof.seed = number(&word, &value()?)?,
            "--forget-a-word" => found.proof.forgets = true,
            "--vanish" => found.proof.vanish = Some(value()?.parse()?),
            _ => found.words.push(word),
        }
    }
    Ok(found)
}

fn number<T: FromStr>(word: &str, value: &str) -> Outcome<T> {
    value.parse().map_err(|_| format!("{word} takes a number that fits, not '{value}'").into())
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

/// The target may still be on its way.
fn connect(socket: &str) -> Outcome<Vec<Channel<'static>>> {
    (0..CHANNELS).map(|_| Ok(Channel::unix(connected(socket)?)?)).collect()
}

fn connected(socket: &str) -> Outcome<UnixStream> {
    let mut stream = None;
    guest::wait_until(Duration::from_secs(10), || {
        stream = UnixStream::connect(socket).ok();
        stream.is_some()
    });
    stream.ok_or_else(|| format!("nobody listens at {socket}").into())
}

/// One attempt to move everything, up to the point of no return and over it.
fn migrate(
    machine: &mut Machine,
    channels: Vec<Channel<'_>>,
    hooks: &mut dyn Hooks,
    (downtime_ms, cancel): (u64, Cancel),
) -> Outcome<Result<Committed, MigrationError>> {
    let mut options = SaveOptions::default();
    options.cancel = cancel;
    if let Some(rule) = &mut options.precopy {
        rule.downtime_max = Duration::from_millis(downtime_ms);
    }
    let memory = Source::new(&machine.guest.memory, &mut machine.tracking)?;
    let saved = save::save_with_memory(&mut machine.devices, memory, channels, hooks, &options);
    // Here a VMM looks at everything once more. Without the commit, all goes back.
    Ok(saved.and_then(save::Ready::commit))
}

fn source(arguments: &Arguments, socket: &str, ids: &[&str]) -> Outcome<()> {
    let cancel = cancel_on_signals()?;
    let mut machine = Machine::new(arguments, ids)?;
    let guest = Arc::clone(&machine.guest);
    guest::with_vcpu(&guest, || {
        machine.boot()?;
        let mut screen = Screen::new("source", ids, Some(&guest));
        machine.choices.iter().for_each(|choice| screen.line(choice));
        match migrate(&mut machine, connect(socket)?, &mut screen, (arguments.downtime_ms, cancel))? {
            Ok(committed) => gone(arguments, &machine, &screen, &committed),
            Err(error) if error.committed => Err(error.into()),
            Err(error) => {
                screen.line(&format!("{error}"));
                machine.check_runs()?;
                Err(format!("the guest never left and runs on here, with {} counts", guest.check()?).into())
            }
        }
    })
}

/// It is the target's now, and stands here for good.
fn gone(arguments: &Arguments, machine: &Machine, screen: &Screen<'_>, committed: &Committed) -> Outcome<()> {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    let predicted = committed.predicted.unwrap_or_default();
    let (expected, high, took) =
        (milliseconds(predicted.expected), milliseconds(predicted.high), milliseconds(committed.downtime));
    screen.line(&format!("gone; predicted {expected:.1} ms of downtime (at most {high:.1}), measured {took:.1} ms"));
    if let Some(path) = &arguments.evidence {
        let mut evidence = Evidence::of(&machine.guest, &machine.drivers, &committed.devices)?;
        screen.line(&format!("memory has the digest {:016x}", evidence.memory_digest()));
        evidence.note("predicted_ms", expected);
        evidence.note("downtime_ms", took);
        evidence.write(path)?;
        machine.check()?;
    }
    Ok(())
}

fn target(arguments: &Arguments, socket: &str, ids: &[&str]) -> Outcome<()> {
    let mut machine = Machine::new(arguments, ids)?;
    let guest = Arc::clone(&machine.guest);
    let listener = UnixListener::bind(socket)?;
    let accept = |_| Ok(Channel::unix(listener.accept()?.0)?);
    let channels = (0..CHANNELS).map(accept).collect::<Outcome<Vec<_>>>()?;
    std::fs::remove_file(socket)?;
    let mut screen = Screen::new("target", ids, None);
    let Machine { devices, drivers, .. } = &mut machine;
    let mut hooks = proof::vanishing(&mut screen, arguments.proof.vanish);
    let loaded = load::load_with_memory(devices, &guest.memory, channels, &mut hooks, &LoadOptions::default())?;
    // Nothing runs while it is taken, so a VMM would not.
    let take = |path| -> Outcome<_> { Ok((path, Evidence::of(&guest, drivers, &loaded.sums())?)) };
    let evidence = arguments.evidence.as_ref().map(take).transpose()?;
    let running = loaded.run()?;
    drop(hooks);
    if let Some((path, evidence)) = evidence {
        screen.line(&format!("memory has the digest {:016x}", evidence.memory_digest()));
        evidence.write(path)?;
    }
    let moved: u64 = running.memory.iter().map(|memory| memory.sum.bytes).sum();
    let before = guest.check()?;
    guest::with_vcpu(&guest, || {
        guest.resume();
        machine.check_runs()?;
        machine.halt()?;
        machine.check()?;
        screen.line(&format!("{} MiB of memory came, with {before} counts, none of them lost", moved >> 20));
        Ok(())
    })
}
