// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The last words: the commit, and the answer to it, after all other threads are gone.

use core::time::Duration;
use std::thread;

use stream_codec::frame::io::Error as FrameError;
use stream_codec::frame::{HEADER_BYTES, Message};

use super::board::{Board, Event, Next};
use super::receive;
use super::threads::start;
use super::wire::{Reader, Wire, at};
use crate::error::Cause;
use crate::link::{Incoming, LinkError};

/// How often silence is looked for.
const LOOK: Duration = Duration::from_millis(10);

/// A commit that was not, or perhaps not, sent.
pub(crate) struct Unsent {
    pub(crate) error: Cause,
    /// Not all of it left: the target cannot have read it.
    pub(crate) certain: bool,
}

/// Source: hands over. `io::Write::write` promises that an error means no byte of that call was taken, so a commit of
/// which the transport refused even the last byte is one that the target will never read whole.
pub(crate) fn send_commit(wire: &Wire<'_>) -> Result<(), Unsent> {
    let header_bytes = u64::try_from(HEADER_BYTES).unwrap_or(u64::MAX);
    let unsent = |error| Unsent { error, certain: true };
    wire.session().sent(&Message::Commit).map_err(|error| unsent(at(0, error)))?;
    wire.lane(0).map_err(unsent)?.with_writer(|writer| {
        let whole = writer.offset().saturating_add(header_bytes);
        let sent = writer.write_control(&Message::Commit).and_then(|()| writer.flush());
        sent.map_err(|error| Unsent { error: at(0, error), certain: writer.offset() < whole })
    })
}

/// Target: has taken over.
pub(crate) fn send_complete(wire: &Wire<'_>) -> Result<(), Cause> {
    wire.session().sent(&Message::Complete).map_err(|error| at(0, error))?;
    let written = wire.lane(0)?.with_writer(|writer| -> Result<(), FrameError> {
        writer.write_control(&Message::Complete)?;
        writer.flush()
    });
    written.map_err(|error| at(0, error))
}

/// Waits for the other side's next word on the first channel. Nothing but that word, or silence, ends the wait: at this
/// point a cancel would leave the guest running nowhere.
pub(crate) fn wait_verdict(wire: &mut Wire<'_>, readers: &mut [Reader<'_>]) -> Result<Incoming, Cause> {
    wire.board = Board::new();
    let wire = &*wire;
    let position = wire.first_position();
    let reader = readers.get_mut(position).ok_or_else(|| Cause::refused("there is no channel to hear an answer on"))?;
    thread::scope(|scope| {
        start(scope, wire, "verdict", move || match receive::one(wire, reader) {
            Ok(Some(incoming)) => wire.board.report(Event::Control(incoming)),
            Ok(None) => {}
            Err(cause) => wire.board.fail(cause),
        })?;
        loop {
            match wire.board.next(LOOK) {
                Next::Event(Event::Control(incoming)) => return Ok(incoming),
                Next::Event(_) => {}
                Next::Failed => return Err(wire.board.take_failure().unwrap_or(Cause::Cancelled)),
                Next::Nothing if wire.board.silence() >= wire.limits.silence_max => {
                    wire.board.stop();
                    wire.cut(std::net::Shutdown::Both);
                    let seconds = wire.limits.silence_max.as_secs();
                    return Err(at(0, LinkError::Silent { seconds, offset: 0 }));
                }
                Next::Nothing => {}
            }
        }
    })
}
