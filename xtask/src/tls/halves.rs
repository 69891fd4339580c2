// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A TLS connection for two threads: one reads, the other writes, and neither waits for the peer with a lock held that the
//! other needs.
//!
//! Each half has the key of its direction to itself. Who sends holds a lock over sealing and sending, because records must
//! go out in the order they were sealed; the reader never waits for that one. What both need is there for an instant only:
//! the schedule, where the next key comes from, and the first failure.
//!
//! A connection has [`SEALED_BYTES`] for what is sealed, [`RECEIVE_BYTES`] for what was received, and nothing that grows.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::io::{self, IoSlice, Write};
use std::net::Shutdown;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};

use rustls::{AlertDescription, ContentType, Error};

use super::reader::Reader;
use super::record::{CONTENT_MAX, OVERHEAD_BYTES, Protection};
use super::session::{Opened, Schedule};
use super::words;
use crate::migrate::Transport;

/// The most that is sealed before it is sent, in records: a chunk of the engine's, its header, and a new key. Sockets take much
/// at once better than little often, by more than it costs that it no longer fits the core's nearest caches.
const SEALED_BYTES: usize = 66 * (CONTENT_MAX + OVERHEAD_BYTES);
/// What is kept free of it where a record follows: its own share, and a KeyUpdate before it.
const SPARE_BYTES: usize = 2 * OVERHEAD_BYTES + KEY_UPDATE.len();
/// What is received at once.
pub(super) const RECEIVE_BYTES: usize = 1 << 20;
/// How long the last words may take to go out.
const LAST_WORDS: Duration = Duration::from_millis(20);

/// KeyUpdate, which asks for none in return (RFC 8446, sections 4 and 4.6.3).
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
/// Levels of alerts (section 6).
const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// What the halves have in common.
pub(super) struct Shared {
    pub(super) transport: Transport,
    pub(super) schedule: Mutex<Schedule>,
    /// The peer wants this side to take another key.
    pub(super) wants_key: AtomicBool,
    /// Who holds it sends.
    outgoing: Mutex<Outgoing>,
    /// The first one is final, for both halves.
    failure: OnceLock<Error>,
}

struct Outgoing {
    sealing: Protection,
    /// The memory stays, so that nothing is allocated for each piece.
    sealed: Vec<u8>,
    /// Nothing goes out any more: the end was said, or part of a record is missing.
    is_over: bool,
}

/// A connection whose ends have proved who they are.
pub(crate) struct Secured {
    reader: Reader,
    writer: Writer,
}

/// Seals and sends. Dropped, it says that nothing follows.
pub(crate) struct Writer(Arc<Shared>);

impl Secured {
    pub(super) fn new(transport: Transport, opened: Opened) -> Self {
        let Opened { sealing, opening, schedule, plain, incoming, has_ended } = opened;
        let shared = Arc::new(Shared {
            transport,
            schedule: Mutex::new(schedule),
            wants_key: AtomicBool::new(false),
            outgoing: Mutex::new(Outgoing { sealing, sealed: Vec::with_capacity(SEALED_BYTES), is_over: false }),
            failure: OnceLock::new(),
        });
        let reader = Reader::new(Arc::clone(&shared), opening, [&plain, &incoming], has_ended);
        Self { reader, writer: Writer(shared) }
    }

    /// For a thread that reads and one that writes; the last cuts the connection.
    pub(crate) fn split(self) -> (Reader, Writer, impl Fn(Shutdown) + Send + Sync + 'static) {
        let Self { reader, writer } = self;
        let cut = Arc::clone(&writer.0);
        (reader, writer, move |how| cut.cut(how))
    }
}

#[cfg(test)]
impl Secured {
    /// Undoes [`Self::split`].
    pub(super) const fn join(reader: Reader, writer: Writer) -> Self {
        Self { reader, writer }
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.writer.0.transport
    }

    /// Ends the socket alone, as a death of the process does.
    pub(super) fn cut_without_a_word(&self) {
        self.transport().shutdown(Shutdown::Both).unwrap();
    }

    /// Sends one record, of which `change` may change something on the way.
    pub(super) fn send_record(&self, kind: ContentType, content: &[u8], change: impl FnOnce(&mut Vec<u8>)) {
        let mut record = Vec::new();
        lock(&self.writer.0.outgoing).sealing.seal(kind, content, &mut record).unwrap();
        change(&mut record);
        self.transport().write_all(&record).unwrap();
    }

    /// Has the key of this side last for so many records.
    pub(super) fn wear_key(&self, records_max: u64) {
        lock(&self.writer.0.outgoing).sealing.wear(records_max);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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
    /// The first failure: nothing that comes behind it is opened, and nothing sent.
    pub(super) fn failure(&self) -> Option<&Error> {
        self.failure.get()
    }

    /// Keeps it, and tells the peer.
    pub(super) fn fail(&self, error: Error) {
        let told = alert(&error);
        if self.failure.set(error).is_ok() {
            told.into_iter().for_each(|alert| self.say_last([FATAL, alert.into()]));
        }
    }

    /// Says an alert behind which nothing follows, where that takes no waiting.
    fn say_last(&self, alert: [u8; 2]) {
        let Some(mut outgoing) = try_lock(&self.outgoing).filter(|outgoing| !outgoing.is_over) else { return };
        let Outgoing { sealing, sealed, is_over } = &mut *outgoing;
        *is_over = true;
        sealed.clear();
        if sealing.seal(ContentType::Alert, &alert, sealed).is_ok()
            && self.transport.set_timeouts(Some(LAST_WORDS)).is_ok()
        {
            // A peer that does not take it hears of the end without a reason.
            let _ = (&self.transport).write_all(sealed);
        }
    }

    fn say_goodbye(&self) {
        self.say_last([WARNING, AlertDescription::CloseNotify.into()]);
    }

    fn cut(&self, how: Shutdown) {
        if how == Shutdown::Write {
            self.say_goodbye();
        }
        // One that is gone already needs no cut.
        let _ = self.transport.shutdown(how);
    }
}

/// What a peer is told of a failure, unless it told it itself (RFC 8446, sections 4, 5 and 6).
const fn alert(error: &Error) -> Option<AlertDescription> {
    match error {
        Error::AlertReceived(_) => None,
        Error::DecryptError => Some(AlertDescription::BadRecordMac),
        Error::PeerSentOversizedRecord => Some(AlertDescription::RecordOverflow),
        Error::InvalidMessage(_) => Some(AlertDescription::DecodeError),
        Error::EncryptError | Error::General(_) => Some(AlertDescription::InternalError),
        _ => Some(AlertDescription::UnexpectedMessage),
    }
}

impl Outgoing {
    /// Seals as much of `slices` as there is room for.
    fn seal(&mut self, slices: &[IoSlice<'_>], shared: &Shared) -> Result<usize, Error> {
        let Self { sealing, sealed, .. } = self;
        let mut taken = 0_usize;
        for content in slices.iter().flat_map(|slice| slice.chunks(CONTENT_MAX)) {
            if sealed.len().saturating_add(content.len()).saturating_add(SPARE_BYTES) > SEALED_BYTES {
                break;
            }
            if sealing.is_worn() || shared.wants_key.swap(false, Ordering::Relaxed) {
                sealing.seal(ContentType::Handshake, &KEY_UPDATE, sealed)?;
                *sealing = lock(&shared.schedule).next_sealing()?;
            }
            sealing.seal(ContentType::ApplicationData, content, sealed)?;
            taken = taken.saturating_add(content.len());
        }
        Ok(taken)
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    /// All that is sealed goes out, or an error says that not all did; the peer then cannot open the last record of it, and
    /// nothing follows.
    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let shared = &*self.0;
        let mut outgoing = lock(&shared.outgoing);
        if let Some(error) = shared.failure() {
            return Err(words::error(error));
        }
        if outgoing.is_over {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, words::IS_OVER));
        }
        outgoing.sealed.clear();
        let sent = outgoing.seal(slices, shared).map_err(|error| words::error(&error)).and_then(|taken| {
            (&shared.transport).write_all(&outgoing.sealed)?;
            Ok(taken)
        });
        outgoing.is_over = sent.is_err();
        sent
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
