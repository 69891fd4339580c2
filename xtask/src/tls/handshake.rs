// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A handshake over a socket, in its time and until somebody cancels.

use core::time::Duration;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::Instant;

use savevm_core::Cancel;

use super::halves::Secured;
use super::session::Session;
use super::words;
use crate::migrate::Transport;

/// What is received at once. It bounds what a peer can say before it has proved who it is.
const RECEIVE_BYTES: usize = 16 << 10;
/// How often the handshake looks at the time and for a cancel.
const LOOK: Duration = Duration::from_millis(20);
/// How long a refused peer may take to hear why, before the connection is closed under what it sends.
const FAREWELL: Duration = Duration::from_millis(500);

/// Has both ends prove who they are.
pub(super) fn shake_hands(
    mut session: Session,
    transport: Transport,
    deadline: Instant,
    cancel: &Cancel,
) -> io::Result<Secured> {
    transport.set_timeouts(Some(LOOK))?;
    if let Err(error) = shake(&mut session, &transport, deadline, cancel) {
        bid_farewell(&mut session, &transport);
        return Err(error);
    }
    transport.set_timeouts(None)?;
    let opened = session.into_opened().map_err(|error| words::error(&error))?;
    Ok(Secured::new(transport, opened))
}

fn shake(session: &mut Session, transport: &Transport, deadline: Instant, cancel: &Cancel) -> io::Result<()> {
    let mut received = vec![0; RECEIVE_BYTES];
    let mut has_heard = false;
    session.feed(&[]).map_err(|error| words::error(&error))?;
    loop {
        send_within(transport, &session.take_pending(), deadline)?;
        if session.is_open() {
            return Ok(());
        }
        let length = match (&mut &*transport).read(&mut received) {
            Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, ended(has_heard))),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                return Err(io::Error::new(ErrorKind::ConnectionReset, ended(has_heard)));
            }
            Ok(length) => {
                has_heard = true;
                length
            }
            Err(error) if is_early(&error) => 0,
            Err(error) => return Err(error),
        };
        session.feed(received.get(..length).unwrap_or_default()).map_err(|error| words::error(&error))?;
        if cancel.is_cancelled() {
            return Err(io::Error::new(ErrorKind::Interrupted, "cancelled while the peer proves who it is"));
        }
        if Instant::now() >= deadline {
            return Err(io::Error::new(ErrorKind::TimedOut, words::SILENT_HANDSHAKE));
        }
    }
}

const fn ended(has_heard: bool) -> &'static str {
    if has_heard { words::NO_HANDSHAKE } else { words::NO_WORD }
}

fn send_within(transport: &Transport, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        match (&mut &*transport).write(bytes) {
            Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
            Err(error) if is_early(&error) && Instant::now() < deadline => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Says why, and lets the peer hear it: a socket that is closed with something unread in it resets the connection, and what
/// was said is lost.
fn bid_farewell(session: &mut Session, transport: &Transport) {
    let until = Instant::now().checked_add(FAREWELL).unwrap_or_else(Instant::now);
    // A peer that is gone needs no farewell.
    if send_within(transport, &session.take_pending(), until).is_err() || transport.shutdown(Shutdown::Write).is_err() {
        return;
    }
    let mut unread = [0; 4096];
    while Instant::now() < until {
        match (&mut &*transport).read(&mut unread) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if is_early(&error) => {}
            Err(_) => return,
        }
    }
}

fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
