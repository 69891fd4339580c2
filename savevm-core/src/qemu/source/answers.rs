// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The return path of a source: what the target has said so far.

use core::time::Duration;
use std::format;
use std::io::{ErrorKind, Read};
use std::string::ToString;
use std::time::Instant;

use stream_codec::decode::{Decoder, Step};
use stream_codec::qemu::{ReturnPathDecoder, ReturnPathItem};

use crate::error::Cause;
use crate::qemu::Acks;
use crate::qemu::error::{Connection, StreamError};

/// How long the reason for a broken connection is waited for.
const LAST_WORD: Duration = Duration::from_millis(500);

pub(super) struct Answers<R> {
    reader: R,
    decoder: ReturnPathDecoder,
    pong: Option<u32>,
    acks: u32,
    acks_expected: u32,
    shut: Option<u32>,
}

impl<R: Read> Answers<R> {
    pub(super) const fn new(reader: R) -> Self {
        Self { reader, decoder: ReturnPathDecoder::new(), pong: None, acks: 0, acks_expected: 0, shut: None }
    }

    /// Whether a PING has been answered. Values rise, and a target answers in order.
    pub(super) fn has_pong(&self, value: u32) -> bool {
        self.pong >= Some(value)
    }

    pub(super) const fn shut(&self) -> Option<u32> {
        self.shut
    }

    pub(super) const fn acks(&self) -> u32 {
        self.acks
    }

    /// An acknowledgement has been asked for.
    pub(super) fn expect_ack(&mut self) {
        self.acks_expected = self.acks_expected.saturating_add(1);
    }

    /// Whether acknowledgements that were asked for have not come.
    pub(super) const fn owes(&self, acks: Acks) -> bool {
        match acks {
            Acks::Off => false,
            Acks::Once => self.acks == 0,
            Acks::PerRequest => self.acks < self.acks_expected,
        }
    }

    /// Reads once, as long as the transport lets it wait.
    pub(super) fn read_some(&mut self, acks: Acks) -> Result<(), Cause> {
        let connection = Connection::ReturnPath;
        let mut buffer = [0; 1024];
        let offset = self.decoder.offset();
        let count = match self.reader.read(&mut buffer) {
            Ok(0) => {
                let missing = "the end of the migration".to_string();
                return Err(StreamError::Closed { connection, offset, missing }.into());
            }
            Ok(count) => count,
            Err(error) => {
                return match error.kind() {
                    ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut => Ok(()),
                    _ => Err(StreamError::Io { connection, offset, error }.into()),
                };
            }
        };
        let mut rest = buffer.get(..count).unwrap_or_default();
        loop {
            let step = self.decoder.decode(rest).map_err(|error| StreamError::Format { connection, error })?;
            let Step { consumed, event: Some(event) } = step else { break };
            match event.item {
                ReturnPathItem::Shut { status } => self.shut = Some(status),
                ReturnPathItem::Pong { value } => self.pong = Some(value),
                ReturnPathItem::SwitchoverAck => self.acks = self.acks.saturating_add(1),
                other => {
                    let reason = format!("the target asks for what only a postcopy has: {other:?}");
                    return Err(Cause::refused(reason));
                }
            }
            rest = rest.get(consumed..).unwrap_or_default();
        }
        self.check(acks)
    }

    /// An acknowledgement too many means that the two sides count differently.
    fn check(&self, acks: Acks) -> Result<(), Cause> {
        let most = match acks {
            Acks::Off => 0,
            Acks::Once => 1,
            Acks::PerRequest => self.acks_expected,
        };
        if self.acks <= most {
            return Ok(());
        }
        Err(Cause::refused(format!(
            "the target has acknowledged {} times, and was asked {most} times: are switchover-ack and \
             switchover-ack-legacy the same on both sides?",
            self.acks
        )))
    }

    /// Why the target broke the connection, if it said.
    pub(super) fn last_word(&mut self) -> Option<u32> {
        let begin = Instant::now();
        // The scheme no longer matters; a count that is wrong is not what broke the connection.
        while self.shut.is_none() && begin.elapsed() < LAST_WORD && self.read_some(Acks::Off).is_ok() {}
        self.shut.filter(|status| *status != 0)
    }
}
