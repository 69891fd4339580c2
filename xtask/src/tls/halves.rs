// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A TLS connection for two threads: one reads, the other writes, and neither waits for the peer with a lock held that the
//! other needs.
//!
//! The session is locked for opening and sealing only. Writers hold a lock of their own over sealing and sending, because
//! records must go out in the order they were sealed. The reader never waits for that one: what it has to send (an alert, a
//! new key) is pending in the session, and goes out with the next piece or, where nobody writes, at once.

use core::time::Duration;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Instant;

use savevm_core::Cancel;

use super::session::{Sealed, Session};
use super::words;
use crate::migrate::Transport;

/// The most that is sealed before it is sent: what was sealed is then still in the core's cache.
const PIECE_BYTES: usize = 256 << 10;
/// What is received at once.
const RECEIVE_BYTES: usize = 256 << 10;
/// How often the handshake looks at the time and for a cancel.
const LOOK: Duration = Duration::from_millis(20);
/// How long the last words may take to go out.
const LAST_WORDS: Duration = Duration::from_millis(20);
/// How long a refused peer may take to hear why, before the connection is closed under what it sends.
const FAREWELL: Duration = Duration::from_millis(500);

struct Shared {
    transport: Transport,
    session: Mutex<Session>,
    /// Who holds it sends.
    sealed: Mutex<Sealed>,
}

/// A connection whose ends have proved who they are.
pub(crate) struct Secured(Arc<Shared>);

/// Reads what the peer has proved to be its own.
pub(crate) struct Reader {
    shared: Arc<Shared>,
    received: Vec<u8>,
}

/// Seals and sends. Dropped, it says that nothing follows.
pub(crate) struct Writer(Arc<Shared>);

impl Secured {
    pub(super) fn shake_hands(
        mut session: Session,
        transport: Transport,
        deadline: Instant,
        cancel: &Cancel,
    ) -> io::Result<Self> {
        transport.set_timeouts(Some(LOOK))?;
        let outcome = shake(&mut session, &transport, deadline, cancel);
        if let Err(error) = outcome {
            bid_farewell(&mut session, &transport);
            return Err(error);
        }
        transport.set_timeouts(None)?;
        let (session, sealed) = (Mutex::new(session), Mutex::new(Sealed::new()));
        Ok(Self(Arc::new(Shared { transport, session, sealed })))
    }

    /// For a thread that reads and one that writes; the last cuts the connection.
    pub(crate) fn split(self) -> (Reader, Writer, impl Fn(Shutdown) + Send + Sync + 'static) {
        let Self(shared) = self;
        let reader = Reader { shared: Arc::clone(&shared), received: vec![0; RECEIVE_BYTES] };
        let cut = Arc::clone(&shared);
        (reader, Writer(shared), move |how| cut.cut(how))
    }
}

impl Reader {
    /// The socket below.
    pub(crate) fn transport(&self) -> &Transport {
        &self.shared.transport
    }
}

#[cfg(test)]
impl Secured {
    /// Undoes [`Self::split`].
    pub(super) fn join(reader: Reader, writer: Writer) -> Self {
        let shared = Arc::clone(&reader.shared);
        // Its end is not that of the stream.
        core::mem::forget(writer);
        Self(shared)
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.0.transport
    }

    /// Ends the socket alone, as a death of the process does.
    pub(super) fn cut_without_a_word(&self) {
        self.transport().shutdown(Shutdown::Both).unwrap();
    }

    /// Sends bytes of which one is changed on the way.
    pub(super) fn send_damaged(&self, bytes: &[u8]) {
        let mut sealed = Sealed::new();
        lock(&self.0.session).seal(bytes, &mut sealed).unwrap();
        let mut record = sealed.bytes().to_vec();
        *record.last_mut().unwrap() ^= 1;
        self.transport().write_all(&record).unwrap();
    }
}

fn shake(session: &mut Session, transport: &Transport, deadline: Instant, cancel: &Cancel) -> io::Result<()> {
    let mut received = vec![0; 16 << 10];
    let mut out = Sealed::new();
    let mut has_heard = false;
    session.step().map_err(|error| words::error(&error))?;
    loop {
        session.take_pending(&mut out);
        send_within(transport, out.bytes(), deadline)?;
        out.clear();
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
    let mut out = Sealed::new();
    session.take_pending(&mut out);
    // A peer that is gone needs no farewell.
    if send_within(transport, out.bytes(), until).is_err() || transport.shutdown(Shutdown::Write).is_err() {
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

impl Shared {
    /// Sends what the protocol itself has to say, unless somebody is sending, who then takes it along.
    fn send_pending(&self) -> io::Result<()> {
        let Some(mut sealed) = try_lock(&self.sealed) else { return Ok(()) };
        sealed.clear();
        lock(&self.session).take_pending(&mut sealed);
        if sealed.bytes().is_empty() { Ok(()) } else { (&self.transport).write_all(sealed.bytes()) }
    }

    /// Says that nothing follows, where that takes no waiting.
    fn say_goodbye(&self) {
        let Some(mut sealed) = try_lock(&self.sealed) else { return };
        sealed.clear();
        if lock(&self.session).seal_goodbye(&mut sealed).is_ok()
            && self.transport.set_timeouts(Some(LAST_WORDS)).is_ok()
        {
            // A peer that does not take it hears of the end without a reason.
            let _ = (&self.transport).write_all(sealed.bytes());
        }
    }

    fn cut(&self, how: Shutdown) {
        if how == Shutdown::Write {
            self.say_goodbye();
        }
        // One that is gone already needs no cut.
        let _ = self.transport.shutdown(how);
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Self { shared, received } = self;
        loop {
            {
                let mut session = lock(&shared.session);
                let length = session.take(buffer);
                if length > 0 || buffer.is_empty() || session.has_ended() {
                    return Ok(length);
                }
                if let Some(error) = session.failure() {
                    return Err(words::error(error));
                }
            }
            let length = (&mut &shared.transport).read(received)?;
            if length == 0 {
                return Err(io::Error::new(ErrorKind::UnexpectedEof, words::CUT_OFF));
            }
            let fed = lock(&shared.session).feed(received.get(..length).unwrap_or_default());
            let sent = shared.send_pending();
            fed.map_err(|error| words::error(&error))?;
            sent?;
        }
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    /// All that is sealed goes out, or an error says that not all did; the peer then cannot open the last record of it.
    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut sealed = lock(&self.0.sealed);
        sealed.clear();
        let mut taken = 0_usize;
        {
            let mut session = lock(&self.0.session);
            for slice in slices {
                let room = PIECE_BYTES.saturating_sub(taken).min(slice.len());
                let piece = slice.get(..room).unwrap_or_default();
                if !piece.is_empty() {
                    session.seal(piece, &mut sealed).map_err(|error| words::error(&error))?;
                    taken = taken.saturating_add(room);
                }
                if room < slice.len() {
                    break;
                }
            }
        }
        (&self.0.transport).write_all(sealed.bytes())?;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.say_goodbye();
    }
}
