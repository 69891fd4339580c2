// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reading and writing through our descriptors.

use std::ffi::c_int;

use savevm_core::sim::{Errno, SimSession};

use crate::abi::Argument;
use crate::dispatch::{Target, registers_read, registers_write};
use crate::machine::Process as _;

use super::engine::Engine;
use super::memory;

/// The most one system call transfers.
const TRANSFER_BYTES_MAX: usize = 0x7fff_f000;
/// `UIO_MAXIOV`
const VECTORS_MAX: c_int = 1024;

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    Read,
    Write,
}

/// `read`, `write`, and with a position `pread`, `pwrite`; `None`: the descriptor is not ours.
pub(super) fn bytes(
    engine: &Engine,
    way: Way,
    fd: c_int,
    address: u64,
    len: usize,
    position: Option<i64>,
) -> Option<Result<i64, Errno>> {
    let file = engine.file(fd).ok().flatten()?;
    Some(Target::of(&file).and_then(|target| one(engine, way, &target, address, len, position)))
}

/// `readv`, `writev`, `preadv`, `pwritev`.
pub(super) fn vectors(
    engine: &Engine,
    way: Way,
    fd: c_int,
    vectors: u64,
    count: c_int,
    position: Option<i64>,
) -> Option<Result<i64, Errno>> {
    let file = engine.file(fd).ok().flatten()?;
    Some(Target::of(&file).and_then(|target| many(engine, way, &target, vectors, count, position)))
}

fn many(
    engine: &Engine,
    way: Way,
    target: &Target<'_>,
    vectors: u64,
    count: c_int,
    position: Option<i64>,
) -> Result<i64, Errno> {
    if !(0..=VECTORS_MAX).contains(&count) {
        return Err(Errno::EINVAL);
    }
    let mut done = 0_i64;
    for index in 0..u64::try_from(count).unwrap_or(0) {
        let at = vectors.checked_add(index.saturating_mul(16)).ok_or(Errno::EFAULT)?;
        let vector = Argument::<16>::read_unchecked(engine, at)?;
        let len = usize::try_from(vector.u64(8)).map_err(|_| Errno::EINVAL)?;
        let position = position.map(|position| position.saturating_add(done));
        match one(engine, way, target, vector.u64(0), len, position) {
            Ok(moved) => {
                done = done.saturating_add(moved);
                if usize::try_from(moved) != Ok(len) {
                    break;
                }
            }
            Err(_) if done > 0 => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}

fn one(
    engine: &Engine,
    way: Way,
    target: &Target<'_>,
    address: u64,
    len: usize,
    position: Option<i64>,
) -> Result<i64, Errno> {
    let len = len.min(TRANSFER_BYTES_MAX);
    let moved = match target {
        Target::Session(_) if position.is_some() => return Err(Errno::ESPIPE),
        Target::Session(session) => data(way, session, address, len)?,
        Target::Device(device) => {
            let position = position.map(|at| u64::try_from(at).map_err(|_| Errno::EINVAL)).transpose()?;
            match way {
                Way::Read => registers_read(device, engine, position, address, len)?,
                Way::Write => registers_write(device, engine, position, address, len)?,
            }
        }
    };
    i64::try_from(moved).map_err(|_| Errno::EINVAL)
}

/// The checks of a session come before those of the pointer, as in the drivers.
fn data(way: Way, session: &SimSession, address: u64, len: usize) -> Result<usize, Errno> {
    match way {
        Way::Read => {
            session.check_read()?;
            memory::with_buffer(address, len, |buffer| session.read(buffer))
        }
        Way::Write => {
            session.check_write(len)?;
            let mut is_readable = false;
            let written = memory::with_bytes(address, len, |bytes| {
                is_readable = true;
                session.write(bytes)
            });
            if is_readable { written } else { Err(session.write_unreadable()) }
        }
    }
}
