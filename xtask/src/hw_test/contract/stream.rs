// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Moving a device's state through memory, byte for byte as the kernel gives it.

use std::fs::File;
use std::io::{Read, Write};

use nix::errno::Errno;
use vfio_mig_fsm::State;

use super::check::{Checked, ensure, failed, must, name, skipped};
use super::context::{Ctx, Timeline};
use super::dut::Dut;

/// A larger state is not moved through memory.
const STATE_BYTES_MAX: usize = 1 << 30;
/// The usual size of one read or write.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;
/// After so many calls with small pieces, the rest goes in large ones: a big state must not take hours byte by byte.
const SMALL_CALLS_MAX: usize = 100_000;

/// Reads `data` to the end of the stream; the device is in STOP_COPY.
pub(crate) fn read_to_end(data: &mut File, piece_bytes: usize) -> Checked<Vec<u8>> {
    let mut stream = Vec::new();
    let mut buffer = vec![0; piece_bytes.max(CHUNK_BYTES)];
    let mut calls = 0_usize;
    loop {
        let piece = if calls < SMALL_CALLS_MAX { piece_bytes } else { CHUNK_BYTES };
        calls = calls.saturating_add(1);
        let space = buffer.get_mut(..piece).unwrap_or_default();
        match must("read in STOP_COPY", data.read(space))? {
            0 => return Ok(stream),
            got => append(&mut stream, space.get(..got))?,
        }
    }
}

/// Reads up to `limit` bytes in a PRE_COPY state, until the device has nothing more to say.
pub(crate) fn read_until_drained(data: &mut File, limit: usize) -> Checked<Vec<u8>> {
    let mut stream = Vec::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    while stream.len() < limit {
        let want = limit.saturating_sub(stream.len()).min(CHUNK_BYTES);
        let space = buffer.get_mut(..want).unwrap_or_default();
        match data.read(space) {
            Ok(0) => break,
            Ok(got) => append(&mut stream, space.get(..got))?,
            Err(error) if error.raw_os_error() == Some(Errno::ENOMSG as i32) => break,
            Err(error) => return Err(failed(format!("read in PRE_COPY: {error}"))),
        }
    }
    Ok(stream)
}

fn append(stream: &mut Vec<u8>, piece: Option<&[u8]>) -> Checked {
    let piece = piece.ok_or_else(|| failed("read returned more bytes than were asked for"))?;
    stream.extend_from_slice(piece);
    if stream.len() > STATE_BYTES_MAX {
        return Err(skipped(format!("the state is larger than {STATE_BYTES_MAX} bytes")));
    }
    Ok(())
}

/// Writes all of `stream`, in pieces.
pub(crate) fn write_all(data: &mut File, stream: &[u8], piece_bytes: usize) -> Checked {
    let mut rest = stream;
    let mut calls = 0_usize;
    while !rest.is_empty() {
        let piece = if calls < SMALL_CALLS_MAX { piece_bytes } else { CHUNK_BYTES };
        calls = calls.saturating_add(1);
        let (now, _) = rest.split_at(piece.min(rest.len()));
        let taken = match data.write(now) {
            Ok(taken) => taken,
            Err(error) => {
                let offset = stream.len().saturating_sub(rest.len());
                let errno = error.raw_os_error().map_or_else(|| error.to_string(), |raw| name(Errno::from_raw(raw)));
                return Err(failed(format!("write of {} bytes at offset {offset}: {errno}", now.len())));
            }
        };
        ensure(taken > 0, || "write took nothing and said so without an error".into())?;
        rest = rest.get(taken..).ok_or_else(|| failed("write took more bytes than it was given"))?;
    }
    Ok(())
}

/// The whole state of `device`, saved in STOP_COPY. It is left in STOP_COPY's end: reset it.
pub(crate) fn save(device: &Dut) -> Checked<Vec<u8>> {
    let mut data = device.enter_session(State::StopCopy)?;
    let stream = read_to_end(&mut data, CHUNK_BYTES)?;
    ensure(!stream.is_empty(), || "the saved state is empty".into())?;
    Ok(stream)
}

/// Resets `device`, loads `stream` and leaves it in `then`.
pub(crate) fn load(device: &Dut, stream: &[u8], then: State) -> Checked {
    let mut data = device.enter_session(State::Resuming)?;
    write_all(&mut data, stream, CHUNK_BYTES)?;
    let session = device.set(then)?;
    ensure(session.is_some() == then.is_saving(), || format!("data fd after RESUMING -> {then}"))?;
    device.expect_state("after loading", then)
}

/// The device still works: it can be saved and loaded, and runs. Ends in RUNNING.
pub(crate) fn expect_working(ctx: &Ctx) -> Checked {
    let wrap = |failure| prefix("the device does not work any more", failure);
    let stream = save(&ctx.first).map_err(wrap)?;
    load(&ctx.first, &stream, State::Running).map_err(wrap)?;
    ctx.first.reset().map_err(wrap)
}

fn prefix(text: &str, failure: super::check::Failure) -> super::check::Failure {
    match failure {
        super::check::Failure::Failed(reason) => failed(format!("{text}: {reason}")),
        skip => skip,
    }
}

/// How a state is taken from a running source.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Route {
    /// RUNNING → STOP_COPY.
    Stopped,
    /// RUNNING → PRE_COPY → STOP_COPY.
    PreCopy,
    /// RUNNING → PRE_COPY → PRE_COPY_P2P → STOP_COPY.
    PreCopyP2p,
}

impl Route {
    /// The states requested, in order.
    pub(crate) fn states(self) -> &'static [State] {
        match self {
            Self::Stopped => &[State::StopCopy],
            Self::PreCopy => &[State::PreCopy, State::StopCopy],
            Self::PreCopyP2p => &[State::PreCopy, State::PreCopyP2p, State::StopCopy],
        }
    }
}

/// How much is read while the source still runs: a device that makes data as fast as it is read has no end there.
const PRE_COPY_BYTES_MAX: usize = 64 << 20;

/// Saves a running `source` along `route`, marking each state on `timeline`.
pub(crate) fn save_along(source: &Dut, route: Route, timeline: &Timeline) -> Checked<Vec<u8>> {
    source.reset()?;
    let lane = format!("{} source", source.name);
    timeline.mark(&lane, "RUNNING", 0);
    let mut stream = Vec::new();
    let mut session: Option<File> = None;
    for state in route.states() {
        let opened = source.set(*state)?;
        ensure(opened.is_some() != session.is_some(), || {
            format!("the session of {state} must begin once and then go on")
        })?;
        let mut data = session.take().or(opened).ok_or_else(|| failed("no session"))?;
        timeline.mark(&lane, state.name(), stream.len());
        let piece = match state {
            State::StopCopy => read_to_end(&mut data, CHUNK_BYTES)?,
            _ => read_until_drained(&mut data, PRE_COPY_BYTES_MAX)?,
        };
        stream.extend_from_slice(&piece);
        timeline.mark(&lane, state.name(), stream.len());
        session = Some(data);
    }
    source.set_quietly(State::Stop)?;
    timeline.mark(&lane, "STOP", stream.len());
    Ok(stream)
}

/// Loads `stream` into a freshly reset `target` and lets it run, marking each state on `timeline`.
pub(crate) fn load_along(target: &Dut, stream: &[u8], timeline: &Timeline) -> Checked {
    let lane = format!("{} target", target.name);
    target.reset()?;
    let mut data = target.open_session(State::Resuming)?;
    timeline.mark(&lane, "RESUMING", 0);
    let mut moved = 0_usize;
    for piece in stream.chunks(CHUNK_BYTES) {
        write_all(&mut data, piece, CHUNK_BYTES)?;
        moved = moved.saturating_add(piece.len());
        timeline.mark(&lane, "RESUMING", moved);
    }
    target.set_quietly(State::Stop)?;
    timeline.mark(&lane, "STOP", moved);
    target.set_quietly(State::Running)?;
    timeline.mark(&lane, "RUNNING", moved);
    Ok(())
}
