// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The half that reads: receives much at once, and opens one record after the other where it was received.

use core::ops::Range;
use core::sync::atomic::Ordering;
use std::io::{self, ErrorKind, Read};
use std::sync::Arc;

use rustls::{AlertDescription, ContentType, Error, HandshakeType, InvalidMessage, PeerMisbehaved};

use super::halves::{RECEIVE_BYTES, Shared, lock};
use super::record::{self, HEADER_BYTES, Protection};
use super::words;
use crate::migrate::Transport;

/// So many records without content may follow each other: a peer that sends nothing else keeps this side busy for nothing.
const EMPTY_MAX: u32 = 32;

/// Reads what the peer has proved to be its own.
pub(crate) struct Reader {
    shared: Arc<Shared>,
    opening: Protection,
    received: Vec<u8>,
    /// What of it was opened and is not read yet.
    opened: Range<usize>,
    /// What of it is still sealed. The last record is seldom whole.
    sealed: Range<usize>,
    /// Records without content since the last that had some.
    empty: u32,
    /// The peer has said that nothing follows.
    has_ended: bool,
}

impl Reader {
    /// With what came behind the handshake: first what was opened, then what is sealed.
    pub(super) fn new(shared: Arc<Shared>, opening: Protection, came: [&[u8]; 2], has_ended: bool) -> Self {
        let came_bytes = came.map(<[u8]>::len);
        let [opened, sealed] = [0..came_bytes[0], came_bytes[0]..came_bytes[0].saturating_add(came_bytes[1])];
        let mut received = vec![0; RECEIVE_BYTES.max(sealed.end)];
        received.splice(..sealed.end, came.concat());
        Self { shared, opening, received, opened, sealed, empty: 0, has_ended }
    }

    /// The socket below.
    pub(crate) fn transport(&self) -> &Transport {
        &self.shared.transport
    }

    /// Gives what was opened. 0 where there is nothing.
    fn take(&mut self, into: &mut [u8]) -> usize {
        let from = self.received.get(self.opened.clone()).unwrap_or_default();
        let length = from.len().min(into.len());
        if let (Some(to), Some(from)) = (into.get_mut(..length), from.get(..length)) {
            to.copy_from_slice(from);
        }
        self.opened.start = self.opened.start.saturating_add(length);
        length
    }

    /// Receives what there is, behind the part of a record that is left.
    fn receive(&mut self) -> io::Result<()> {
        let left = self.sealed.len();
        self.received.copy_within(self.sealed.clone(), 0);
        (self.opened, self.sealed) = (0..0, 0..left);
        let length = (&self.shared.transport).read(self.received.get_mut(left..).unwrap_or_default())?;
        if length == 0 {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, words::CUT_OFF));
        }
        self.sealed.end = left.saturating_add(length);
        Ok(())
    }

    /// Opens the next record. `false` where it has not arrived whole.
    fn open(&mut self) -> Result<bool, Error> {
        let rest = self.received.get_mut(self.sealed.clone()).unwrap_or_default();
        let Some(length) = record::length(rest)? else { return Ok(false) };
        let Some(record) = rest.get_mut(..length) else { return Ok(false) };
        let (kind, content_bytes) = self.opening.open(record)?;
        let begin = self.sealed.start.saturating_add(HEADER_BYTES);
        self.sealed.start = self.sealed.start.saturating_add(length);
        let content = begin..begin.saturating_add(content_bytes);
        if kind == ContentType::ApplicationData && content_bytes > 0 {
            (self.opened, self.empty) = (content, 0);
            return Ok(true);
        }
        self.empty = self.empty.saturating_add(1);
        if self.empty > EMPTY_MAX {
            return Err(PeerMisbehaved::TooManyEmptyFragments.into());
        }
        match kind {
            ContentType::ApplicationData => {}
            ContentType::Alert => self.alert(content)?,
            ContentType::Handshake => self.handshake(content)?,
            other => return Err(record::misplaced(other)),
        }
        Ok(true)
    }

    /// An alert ends the connection, in good order or not (RFC 8446, section 6).
    fn alert(&mut self, content: Range<usize>) -> Result<(), Error> {
        let Some([_, alert]) = self.received.get(content) else {
            return Err(InvalidMessage::MissingData("Alert").into());
        };
        match AlertDescription::from(*alert) {
            AlertDescription::CloseNotify => self.has_ended = true,
            // The end itself follows (section 6.1).
            AlertDescription::UserCanceled => {}
            other => return Err(Error::AlertReceived(other)),
        }
        Ok(())
    }

    /// What a handshake leaves to be said later (section 4.6): another key, or a ticket, which nobody here uses. A message
    /// that goes on in the next record is refused, because nobody sends these two in parts.
    fn handshake(&mut self, content: Range<usize>) -> Result<(), Error> {
        let mut rest = self.received.get(content).unwrap_or_default();
        while let Some(([kind, length @ ..], behind)) = rest.split_first_chunk::<4>() {
            let [high, middle, low] = *length;
            let length = usize::try_from(u32::from_be_bytes([0, high, middle, low])).unwrap_or(usize::MAX);
            let (body, behind) = behind.split_at_checked(length).ok_or(InvalidMessage::MessageTooShort)?;
            match (HandshakeType::from(*kind), body) {
                // What is behind it was sealed with the wrong key (section 5.1).
                (HandshakeType::KeyUpdate, _) if !behind.is_empty() => {
                    return Err(PeerMisbehaved::KeyEpochWithPendingFragment.into());
                }
                (HandshakeType::KeyUpdate, [wants @ (0 | 1)]) => {
                    self.opening = lock(&self.shared.schedule).next_opening()?;
                    self.shared.wants_key.fetch_or(*wants == 1, Ordering::Relaxed);
                }
                (HandshakeType::KeyUpdate, _) => return Err(InvalidMessage::InvalidKeyUpdate.into()),
                (HandshakeType::NewSessionTicket, _) if lock(&self.shared.schedule).is_client() => {}
                (got_type, _) => {
                    let expect_types = vec![HandshakeType::KeyUpdate];
                    return Err(Error::InappropriateHandshakeMessage { expect_types, got_type });
                }
            }
            rest = behind;
        }
        if rest.is_empty() { Ok(()) } else { Err(InvalidMessage::MessageTooShort.into()) }
    }
}

impl Read for Reader {
    /// Gives all that was received whole, as far as there is room for it, before it waits for more.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut taken = 0_usize;
        loop {
            taken = taken.saturating_add(self.take(buffer.get_mut(taken..).unwrap_or_default()));
            if taken == buffer.len() {
                return Ok(taken);
            }
            let goes_on = !self.has_ended && self.shared.failure().is_none();
            let has_opened = goes_on
                && self.open().unwrap_or_else(|error| {
                    self.shared.fail(error);
                    true
                });
            if has_opened {
                continue;
            }
            match self.shared.failure() {
                _ if taken > 0 || self.has_ended => return Ok(taken),
                Some(error) => return Err(words::error(error)),
                None => self.receive()?,
            }
        }
    }
}
