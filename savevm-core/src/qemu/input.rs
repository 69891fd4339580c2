// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A connection into a decoder, without waiting longer than the caller's patience.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use std::io::{ErrorKind, Read};
use std::string::String;
use std::time::Instant;

use stream_codec::decode::{Decoder, Step};
use stream_codec::qemu;

use super::error::{Connection, StreamError};
use crate::error::Cause;
use crate::hooks::Cancel;

/// What all connections of a migration share: whether it goes on, and when something was last heard.
#[derive(Debug)]
pub(super) struct Pulse {
    cancel: Cancel,
    /// One of the threads has failed, or everything is done: all others end.
    over: AtomicBool,
    begin: Instant,
    heard_ms: AtomicU64,
    silence_max: Duration,
}

impl Pulse {
    pub(super) fn new(cancel: Cancel, silence_max: Duration) -> Self {
        let (over, heard_ms) = (AtomicBool::new(false), AtomicU64::new(0));
        Self { cancel, over, begin: Instant::now(), heard_ms, silence_max }
    }

    /// Something moved.
    pub(super) fn beat(&self) {
        self.heard_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Ends all threads.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Whether to go on. After the first failure the cause given here is not the one that is reported.
    pub(super) fn check(&self) -> Result<(), Cause> {
        if self.is_over() || self.cancel.is_cancelled() { Err(Cause::Cancelled) } else { Ok(()) }
    }

    /// Whether half of the caller's patience is gone: time for who knows a reason to say it.
    pub(super) fn is_running_out(&self) -> bool {
        self.silent().saturating_mul(2) >= self.silence_max
    }

    fn silent(&self) -> Duration {
        Duration::from_millis(self.now_ms().saturating_sub(self.heard_ms.load(Ordering::Relaxed)))
    }

    /// Whether to wait on, for what `missing` names.
    pub(super) fn check_silence(&self, missing: impl FnOnce() -> String) -> Result<(), Cause> {
        self.check()?;
        if self.silent() < self.silence_max {
            return Ok(());
        }
        Err(StreamError::Silent { seconds: self.silence_max.as_secs(), missing: missing() }.into())
    }
}

/// What a handler of events says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Flow {
    /// Go on.
    More,
    /// The stream has ended; what follows is not looked at.
    Done,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum End {
    /// The handler was done.
    Done,
    /// The peer closed it.
    Closed,
    /// The migration was over.
    Over,
}

/// One connection that is read.
pub(super) struct Input<'a, R> {
    pub(super) reader: R,
    pub(super) connection: Connection,
    pub(super) pulse: &'a Pulse,
    /// Whether silence is an error here. It is not where the peer has nothing to say most of the time.
    pub(super) must_speak: bool,
}

impl<R: Read> Input<'_, R> {
    /// Reads until the handler is done, the peer closes, or something fails.
    pub(super) fn drive<D: Decoder<Error = qemu::Error>>(
        &mut self,
        decoder: &mut D,
        buffer: &mut [u8],
        mut handle: impl FnMut(D::Event<'_>) -> Result<Flow, Cause>,
    ) -> Result<End, Cause> {
        let connection = self.connection;
        loop {
            let Some(count) = self.read(buffer, decoder.offset())? else { return Ok(End::Over) };
            if count == 0 {
                return decoder.finish().map(|()| End::Closed).map_err(|error| self.cut(error));
            }
            let mut rest = buffer.get(..count).unwrap_or_default();
            loop {
                let step = decoder.decode(rest).map_err(|error| StreamError::Format { connection, error })?;
                let Step { consumed, event: Some(event) } = step else { break };
                if handle(event)? == Flow::Done {
                    return Ok(End::Done);
                }
                rest = rest.get(consumed..).unwrap_or_default();
            }
            self.pulse.beat();
        }
    }

    /// The next bytes; `None` if the migration is over and this connection need not say anything.
    fn read(&mut self, buffer: &mut [u8], offset: u64) -> Result<Option<usize>, Cause> {
        loop {
            if self.pulse.is_over() && !self.must_speak {
                return Ok(None);
            }
            self.pulse.check()?;
            match self.reader.read(buffer) {
                Ok(count) => return Ok(Some(count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if self.must_speak {
                        self.pulse.check_silence(|| "the end of the stream".into())?;
                    }
                }
                Err(error) => return Err(StreamError::Io { connection: self.connection, offset, error }.into()),
            }
        }
    }

    /// A connection that ends inside something was cut, whatever it was.
    fn cut(&self, error: qemu::Error) -> Cause {
        let connection = self.connection;
        match error.reason {
            qemu::Reason::Truncated { what, .. } => {
                StreamError::Closed { connection, offset: error.offset, missing: std::format!("the {what}") }.into()
            }
            _ => StreamError::Format { connection, error }.into(),
        }
    }
}
