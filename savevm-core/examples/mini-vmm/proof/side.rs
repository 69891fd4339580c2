// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The sides of a proof: a source that tries again and again, and a target that may vanish.

use std::io;
use std::sync::Arc;

use savevm_core::dirty::{DirtyTracker, HostLog};
use savevm_core::{Cancel, Hooks, Phase};

use super::cut::{Cutting, When};
use super::forget::forgetful;
use crate::machine::Machine;
use crate::screen::Screen;
use crate::{Arguments, Outcome, connect, gone, guest, migrate};

/// A source that is told line by line where to go, and when to cancel: `SOCKET` or `SOCKET WHEN`. It answers `kept`, with the phase, once
/// its guest runs on with nothing lost, or `gone`.
pub(crate) fn source(arguments: &Arguments, ids: &[&str]) -> Outcome<()> {
    let mut machine = Machine::with_log(arguments, ids, |guest| -> Box<dyn DirtyTracker> {
        if arguments.proof.forgets {
            return Box::new(forgetful(guest));
        }
        Box::new(HostLog::new("vCPU", move |request| guest.answer(request)))
    })?;
    let guest = Arc::clone(&machine.guest);
    guest::with_vcpu(&guest, || {
        machine.boot()?;
        for line in io::stdin().lines() {
            let line = line?;
            let (socket, when) = line.split_once(' ').unwrap_or((&line, ""));
            let (cancel, mut screen) = (Cancel::new(), Screen::new("source", ids, Some(&guest)));
            let canceller = cancel.clone();
            let when = if when.is_empty() { None } else { Some(when.parse()?) };
            let mut hooks = Cutting::new(&mut screen, when, Phase::Done, move || canceller.cancel());
            let terms = (arguments.downtime_ms, cancel);
            match migrate(&mut machine, connect(socket)?, &mut hooks, terms)? {
                Ok(committed) => {
                    gone(arguments, &machine, &screen, &committed)?;
                    println!("gone");
                    return Ok(());
                }
                Err(error) if error.committed => return Err(error.into()),
                Err(error) => {
                    machine.check_runs()?;
                    println!("kept {} with {} counts: {error}", error.phase, guest.check()?);
                }
            }
        }
        Err("the guest was to go nowhere".into())
    })
}

/// Hooks of a target that kills itself, but not behind the point from which the guest may be its own.
pub(crate) fn vanishing(hooks: &mut dyn Hooks, when: Option<When>) -> Cutting<'_> {
    Cutting::new(hooks, when, Phase::Load, || {
        // It cannot fail for a signal that exists, and this process.
        let _ = signal_hook::low_level::raise(signal_hook::consts::SIGKILL);
    })
}
