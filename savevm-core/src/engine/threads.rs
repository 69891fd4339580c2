// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Starting the threads of a scope, none of which is lost without a word.

use std::format;
use std::net::Shutdown;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Builder, Scope};
use std::vec::Vec;

use super::receive::{self, Deliver};
use super::wire::{Reader, Wire, at};
use crate::error::Cause;
use crate::trace::Carried;

/// Starts a named thread. If it panics, who leads hears of it; the panic goes on when the scope ends.
///
/// # Errors
/// When the system has no more threads.
pub(crate) fn start<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    wire: &'scope Wire<'_>,
    name: &str,
    body: impl FnOnce() + Send + 'scope,
) -> Result<(), Cause> {
    let carried = Carried::here();
    let watched = move || {
        let _last_word = LastWord(wire);
        carried.run(body);
    };
    // The system cuts names at 15 bytes.
    let started = Builder::new().name(format!("mig {name}")).spawn_scoped(scope, watched);
    started.map(drop).map_err(|error| Cause::refused(format!("no thread for {name}: {error}")))
}

struct LastWord<'w, 'a>(&'w Wire<'a>);

impl Drop for LastWord<'_, '_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.board.fail(Cause::refused("a thread of the migration panicked"));
        }
    }
}

/// Held by who leads: if a hook panics, the other threads end, or the scope would wait for them for ever.
pub(crate) struct Lead<'w, 'a>(pub(crate) &'w Wire<'a>);

impl Drop for Lead<'_, '_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.board.stop();
            self.0.close();
            self.0.lanes.iter().for_each(|lane| lane.abandon(None));
            self.0.cut(Shutdown::Both);
        }
    }
}

/// Starts the sending thread of every channel.
///
/// # Errors
/// As [`start`].
pub(crate) fn start_senders<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    wire: &'scope Wire<'_>,
) -> Result<(), Cause> {
    for (position, lane) in wire.lanes.iter().enumerate() {
        wire.board.count_threads(|_, senders| *senders = senders.saturating_add(1));
        let body = move || {
            let pool = || {
                wire.board.touch();
                wire.pool()
            };
            if let Err(error) = lane.run(pool) {
                wire.board.fail(at(u16::try_from(position).unwrap_or(u16::MAX), error));
            }
            wire.board.count_threads(|_, senders| *senders = senders.saturating_sub(1));
        };
        start(scope, wire, &format!("send {position}"), body)?;
    }
    Ok(())
}

/// Starts the receiving thread of every channel.
///
/// # Errors
/// As [`start`].
pub(crate) fn start_receivers<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    wire: &'scope Wire<'_>,
    readers: &'scope mut [Reader<'_>],
    deliver: &'scope dyn Deliver,
) -> Result<(), Cause> {
    for (position, reader) in readers.iter_mut().enumerate() {
        wire.board.count_threads(|receivers, _| *receivers = receivers.saturating_add(1));
        start(scope, wire, &format!("recv {position}"), move || receive::run(wire, position, reader, deliver))?;
    }
    Ok(())
}

/// Does something with every device at the same time, and gathers the results in order. The caller's thread works too,
/// so it is done even where no other thread can be had.
pub(crate) fn in_parallel<D: Send, R: Send>(devices: &mut [D], act: impl Fn(usize, &mut D) -> R + Sync) -> Vec<R> {
    let count = devices.len();
    let waiting = Mutex::new(devices.iter_mut().enumerate());
    let results = Mutex::new(Vec::with_capacity(count));
    let work = || loop {
        let next = lock(&waiting).next();
        let Some((index, device)) = next else { break };
        let result = act(index, device);
        lock(&results).push((index, result));
    };
    let carried = Carried::here();
    thread::scope(|scope| {
        for _ in 1..count {
            // One thread fewer is slower, and no failure.
            let _ = Builder::new().name("mig device".into()).spawn_scoped(scope, || carried.run(work));
        }
        work();
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_unstable_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
