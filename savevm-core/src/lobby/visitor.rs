// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One connection in the lobby, and its first frame.

use core::time::Duration;
use std::format;
use std::io::{self, ErrorKind, Read, Write};
use std::string::{String, ToString};
use std::time::Instant;
use std::vec::Vec;

use stream_codec::frame::io::{Error as FrameError, Frame, FrameReader, FrameWriter};
use stream_codec::frame::{Abort, AbortCode, Hello, Limits as FrameLimits, Message};

use super::{Greeted, TurnedAway};
use crate::engine::wire::is_patience;

/// A prologue, a header and a Hello are 112 bytes; a little more lets a later version say something before it.
const FIRST_BYTES_MAX: usize = 256;

/// A Hello is all that is understood here.
const LIMITS: FrameLimits = FrameLimits { data_bytes: 0, control_bytes: 128, ..FrameLimits::FORMAT };

/// How much of a Hello there is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Heard {
    Part { bytes: usize },
    Hello,
}

#[derive(Debug)]
pub(super) struct Visitor<C> {
    reader: FrameReader<Recorder<C>>,
    hello: Option<Hello>,
    came: Instant,
}

/// Keeps what is read, which the engine wants to read as well.
#[derive(Debug)]
struct Recorder<C> {
    connection: C,
    said: Vec<u8>,
}

impl<C: Read> Read for Recorder<C> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = FIRST_BYTES_MAX.saturating_sub(self.said.len()).min(buffer.len());
        let Some(space) = buffer.get_mut(..room).filter(|space| !space.is_empty()) else {
            return Err(io::Error::new(ErrorKind::InvalidData, "so much is said before a Hello"));
        };
        let count = self.connection.read(space)?;
        self.said.extend_from_slice(space.get(..count).unwrap_or_default());
        Ok(count)
    }
}

impl<C: Read + Write> Visitor<C> {
    pub(super) fn new(connection: C, came: Instant) -> Self {
        let recorder = Recorder { connection, said: Vec::with_capacity(FIRST_BYTES_MAX) };
        Self { reader: FrameReader::unbuffered(recorder, LIMITS), hello: None, came }
    }

    /// Reads on, up to the end of the first frame and no further.
    pub(super) fn hear(&mut self) -> Result<Heard, String> {
        if self.hello.is_some() {
            return Ok(Heard::Hello);
        }
        let mut payload = [0; 128];
        match self.reader.read_frame_into(&mut payload) {
            Ok(Some(received)) => match received.frame {
                Frame::Control(Message::Hello(hello)) => {
                    self.hello = Some(hello);
                    Ok(Heard::Hello)
                }
                Frame::Control(Message::Abort(abort)) => Err(format!("it gave up: {}", abort.reason)),
                Frame::Control(other) => Err(format!("it began with a {}, not with a Hello", other.kind())),
                _ => Err("it began with something else than a Hello".to_string()),
            },
            Err(error) if is_patience(&error) => Ok(Heard::Part { bytes: self.reader.get_ref().said.len() }),
            Ok(None) | Err(FrameError::Format(_)) if self.reader.get_ref().said.is_empty() => {
                Err("it closed the connection without a word".to_string())
            }
            Ok(None) => Err("it closed the connection before its Hello".to_string()),
            Err(error) => Err(format!("it said no Hello: {error}")),
        }
    }

    /// Closes the connection, with a word to those who would understand it.
    pub(super) fn turn_away(mut self, reason: &str) -> TurnedAway {
        if self.hello.is_some() {
            let abort = Abort { code: AbortCode::INCOMPATIBLE, device: None, reason };
            let mut writer = FrameWriter::new(&mut self.reader.get_mut().connection, FrameLimits::DEFAULT);
            // It hears of the end in any case.
            let _ = writer.write_control(&Message::Abort(abort)).and_then(|()| writer.flush());
        }
        TurnedAway(reason.to_string())
    }

    pub(super) fn waited(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.came)
    }

    pub(super) fn into_greeted(self) -> Greeted<C> {
        let Recorder { connection, said } = self.reader.into_inner();
        Greeted { connection, said }
    }
}

impl<C> Visitor<C> {
    pub(super) const fn hello(&self) -> Option<&Hello> {
        self.hello.as_ref()
    }

    pub(super) fn is_of(&self, nonce: &[u8; 16]) -> bool {
        self.hello.is_some_and(|hello| hello.nonce == *nonce)
    }
}
