// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One channel to the other side: messages as calls, their order checked in both directions.

mod half;
mod incoming;

use std::io;
use std::io::{Read, Write};
use std::string::{String, ToString};
use std::time::Instant;
use std::vec;
use std::vec::Vec;

use stream_codec::decode::Blame;
use stream_codec::frame::io::{Error as FrameError, Frame, FrameReader, FrameWriter};
use stream_codec::frame::{
    Abort, AbortCode, Channel, DeviceEnd, DeviceOpen, Digest, HEADER_BYTES, Hello, Limits as FrameLimits, Loaded,
    Message, Role, Session, SessionError, Support, printable,
};
use vfio_mig_fsm::Capabilities;

use crate::digest::DigestSum;
use crate::error::Cause;
use crate::hooks::Cancel;
use crate::limits::Limits;
use crate::tap::Refusal;
use half::Half;
pub(crate) use incoming::Incoming;

/// How many frames are read on a broken connection in search of the peer's reason for breaking it.
const LAST_WORDS_MAX: usize = 64;

/// The connection failed, or carried what it may not.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The transport failed, or its bytes are no frames.
    #[error("{error}{}", advice(error))]
    Frame {
        /// What the codec says.
        #[from]
        error: FrameError,
    },
    /// Frames out of order, or totals that do not add up.
    #[error("{error}; {}", error.fault().advice())]
    Session {
        /// What the codec says.
        #[from]
        error: SessionError,
    },
    /// The peer closed the connection before the migration was over.
    #[error("the peer closed the connection at stream offset {offset}; look there for the reason")]
    Closed {
        /// Bytes received until then.
        offset: u64,
    },
    /// The peer said nothing for too long.
    #[error("the peer was silent for {seconds} s at stream offset {offset}; is it stopped, or the network cut?")]
    Silent {
        /// The caller's patience.
        seconds: u64,
        /// Bytes received until then.
        offset: u64,
    },
}

fn advice(error: &FrameError) -> String {
    match error {
        FrameError::Format(located) => std::format!("; {}", located.fault().advice()),
        _ => String::new(),
    }
}

/// A commit that was not, or perhaps not, sent.
pub(crate) struct Unsent {
    pub(crate) error: LinkError,
    /// Not all of it left: the target cannot have read it.
    pub(crate) certain: bool,
}

/// A connection, from this side's first word to its last.
pub(crate) struct Link<T: Read + Write> {
    reader: FrameReader<Half<T>>,
    writer: FrameWriter<Half<T>>,
    session: Session,
    role: Role,
    buffer: Vec<u8>,
    limits: Limits,
    cancel: Cancel,
}

impl<T: Read + Write> Link<T> {
    pub(crate) fn new(transport: T, role: Role, limits: Limits, cancel: Cancel) -> Self {
        let (reading, writing) = Half::pair(transport);
        let frame_limits = frame_limits(&limits, role);
        let buffer_len = usize::try_from(frame_limits.payload_bytes()).unwrap_or(usize::MAX);
        Self {
            reader: FrameReader::unbuffered(reading, frame_limits),
            writer: FrameWriter::new(writing, FrameLimits { data_bytes: limits.chunk_bytes_max, ..frame_limits }),
            session: Session::new(role, Support::CURRENT, frame_limits),
            role,
            buffer: vec![0; buffer_len],
            limits,
            cancel,
        }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The payload of the data frame received last.
    pub(crate) fn payload(&self, length: usize) -> &[u8] {
        self.buffer.get(..length).unwrap_or_default()
    }

    /// Source: says hello and hears the answer. Gives the largest piece both sides take, in bytes.
    pub(crate) fn offer(&mut self, device_count: usize, nonce: [u8; 16]) -> Result<usize, Cause> {
        let hello = Hello {
            support: Support::CURRENT,
            role: self.role,
            nonce,
            channel: Channel::ONLY,
            device_count: u32::try_from(device_count).unwrap_or(u32::MAX),
            data_bytes_max: 0,
        };
        self.send(&Message::Hello(hello))?;
        self.flush()?;
        if self.role == Role::File {
            return Ok(self.limits.chunk_len());
        }
        match self.receive()? {
            Incoming::Hello(peer) if peer.data_bytes_max > 0 => {
                let piece = peer.data_bytes_max.min(self.limits.chunk_bytes_max);
                Ok(usize::try_from(piece).unwrap_or(usize::MAX))
            }
            Incoming::Hello(_) => Err(Cause::refused("the peer takes no data: it is a source itself")),
            other => Err(other.out_of_place()),
        }
    }

    /// Target: hears hello and, unless the stream is a file, answers. Gives the number of devices on offer.
    pub(crate) fn answer(&mut self, one_way: bool) -> Result<usize, Cause> {
        let hello = match self.receive()? {
            Incoming::Hello(hello) => hello,
            other => return Err(other.out_of_place()),
        };
        match (hello.role, one_way) {
            (Role::File, true) => {}
            (Role::Source, false) => {
                self.send(&Message::Hello(hello.reply(Support::CURRENT, self.limits.chunk_bytes_max)))?;
                self.flush()?;
            }
            (Role::Source, true) => {
                return Err(Cause::refused("this is one half of a conversation between two processes, not a file"));
            }
            (Role::File, false) => {
                return Err(Cause::refused("the peer sends a file, which cannot be acknowledged; load it as a file"));
            }
            _ => return Err(Cause::refused("the peer is a target itself")),
        }
        Ok(usize::try_from(hello.device_count).unwrap_or(usize::MAX))
    }

    pub(crate) fn send_open(
        &mut self,
        index: usize,
        name: &str,
        identity: &str,
        capabilities: Capabilities,
        stop_copy_bytes: u64,
    ) -> Result<(), LinkError> {
        let migration_flags = capabilities.flags();
        let open = DeviceOpen { device: number(index), name, identity, migration_flags, stop_copy_bytes };
        self.send(&Message::DeviceOpen(open))
    }

    pub(crate) fn send_accept(&mut self, index: usize) -> Result<(), LinkError> {
        self.send(&Message::DeviceAccept { device: number(index) })?;
        self.flush()
    }

    pub(crate) fn send_data(&mut self, index: usize, sequence: u64, bytes: &[u8]) -> Result<(), LinkError> {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.session.sent_data(number(index), sequence, length)?;
        Ok(self.writer.write_data(number(index), sequence, bytes)?)
    }

    pub(crate) fn send_end(&mut self, index: usize, frames: u64, sum: DigestSum) -> Result<(), LinkError> {
        let digest = Digest::crc64_nvme(sum.crc64_nvme);
        self.send(&Message::DeviceEnd(DeviceEnd { device: number(index), frames, bytes: sum.bytes, digest }))
    }

    pub(crate) fn send_switchover(&mut self) -> Result<(), LinkError> {
        self.send(&Message::Switchover)?;
        self.flush()
    }

    pub(crate) fn send_loaded(&mut self, index: usize, sum: DigestSum) -> Result<(), LinkError> {
        let digest = Digest::crc64_nvme(sum.crc64_nvme);
        self.send(&Message::Loaded(Loaded { device: number(index), bytes: sum.bytes, digest }))?;
        self.flush()
    }

    pub(crate) fn send_complete(&mut self) -> Result<(), LinkError> {
        self.send(&Message::Complete)?;
        self.flush()
    }

    /// Source: hands over. `io::Write::write` promises that an error means no byte of that call was taken, so a commit
    /// of which the transport refused even the last byte is one that the target will never read whole.
    pub(crate) fn send_commit(&mut self) -> Result<(), Unsent> {
        let header_bytes = u64::try_from(HEADER_BYTES).unwrap_or(u64::MAX);
        let whole = self.writer.offset().saturating_add(header_bytes);
        let sent = self.send(&Message::Commit).and_then(|()| self.flush());
        sent.map_err(|error| Unsent { error, certain: self.writer.offset() < whole })
    }

    /// Source: waits for the target to take a device.
    pub(crate) fn wait_accept(&mut self) -> Result<(), Cause> {
        match self.receive()? {
            Incoming::Accept => Ok(()),
            other => Err(other.out_of_place()),
        }
    }

    /// Source: waits for the acknowledgement of a device. The session has compared count and digest with what was
    /// sent.
    pub(crate) fn wait_loaded(&mut self) -> Result<(), Cause> {
        match self.receive()? {
            Incoming::Loaded => Ok(()),
            other => Err(other.out_of_place()),
        }
    }

    /// Source: waits for the target's word that it runs.
    pub(crate) fn wait_complete(&mut self) -> Result<(), Cause> {
        match self.receive()? {
            Incoming::Complete => Ok(()),
            other => Err(other.out_of_place()),
        }
    }

    /// The next frame. An Abort is an error here: [`Cause::Peer`].
    pub(crate) fn receive(&mut self) -> Result<Incoming, Cause> {
        self.receive_unless(Self::cancel_is_heard)
    }

    /// As [`Link::receive`], whether or not somebody has cancelled.
    pub(crate) fn receive_verdict(&mut self) -> Result<Incoming, Cause> {
        self.receive_unless(|_| false)
    }

    fn receive_unless(&mut self, cancelled: fn(&Self) -> bool) -> Result<Incoming, Cause> {
        let started = Instant::now();
        loop {
            if cancelled(self) {
                return Err(Cause::Cancelled);
            }
            let error = match self.reader.read_frame_into(&mut self.buffer) {
                Ok(Some(received)) => {
                    let incoming = match received.frame {
                        Frame::Data { device, sequence, payload } => {
                            let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
                            self.session.received_data(device, sequence, length).map_err(LinkError::from)?;
                            Incoming::Data { index: index(device), length: payload.len() }
                        }
                        Frame::Control(message) => {
                            self.session.received(&message).map_err(LinkError::from)?;
                            Incoming::from_message(&message)?
                        }
                        _ => return Err(Cause::refused("the peer sent a frame this version does not know")),
                    };
                    return incoming.or_abort();
                }
                Ok(None) => return Err(LinkError::Closed { offset: self.reader.offset() }.into()),
                Err(error) => error,
            };
            if !is_patience(&error) {
                return Err(LinkError::from(error).into());
            }
            let seconds = self.limits.silence_max;
            if started.elapsed() >= seconds {
                let silent = LinkError::Silent { seconds: seconds.as_secs(), offset: self.reader.offset() };
                return Err(silent.into());
            }
        }
    }

    pub(crate) fn flush(&mut self) -> Result<(), LinkError> {
        Ok(self.writer.flush()?)
    }

    /// After the commit nothing is cancelled any more.
    fn cancel_is_heard(&self) -> bool {
        use stream_codec::frame::Phase::{Committed, Complete};
        self.cancel.is_cancelled() && !matches!(self.session.phase(), Committed | Complete)
    }

    fn send(&mut self, message: &Message<'_>) -> Result<(), LinkError> {
        self.session.sent(message)?;
        Ok(self.writer.write_control(message)?)
    }

    /// Tells the peer why this side gives up, if there is a way.
    pub(crate) fn send_abort(&mut self, cause: &Cause) {
        let peer_knows = matches!(cause, Cause::Peer { .. });
        if self.role == Role::File || self.session.is_file() || peer_knows {
            return;
        }
        let text = cause.to_string();
        let reason = printable(&text, frame_limits(&self.limits, self.role).reason_bytes);
        let abort = Message::Abort(Abort { code: code(cause), device: None, reason: &reason });
        // A peer that cannot be reached notices the end of the connection instead.
        let _ = self.send(&abort).and_then(|()| self.flush());
    }

    /// Where the peer broke the connection, its reason for that may still be readable: the better cause.
    pub(crate) fn cause_from_peer(&mut self, cause: Cause) -> Cause {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
        let Cause::Link(LinkError::Frame { error: FrameError::Write { source, .. } }) = &cause else { return cause };
        // Only where the peer is known to be gone: otherwise a read could wait for it.
        if !matches!(source.kind(), BrokenPipe | ConnectionAborted | ConnectionReset) {
            return cause;
        }
        for _ in 0..LAST_WORDS_MAX {
            match self.receive() {
                Err(last @ Cause::Peer { .. }) => return last,
                Err(_) => return cause,
                Ok(_) => {}
            }
        }
        cause
    }
}

/// A read that timed out, which the reader can repeat.
fn is_patience(error: &FrameError) -> bool {
    matches!(error, FrameError::Read { source, .. }
        if matches!(source.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut))
}

fn frame_limits(limits: &Limits, role: Role) -> FrameLimits {
    // Nobody sends data to a source.
    let data_bytes = if role == Role::Target { limits.chunk_bytes_max } else { 0 };
    FrameLimits { data_bytes, devices: limits.devices_max, ..FrameLimits::DEFAULT }
}

fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

fn index(device: u32) -> usize {
    usize::try_from(device).unwrap_or(usize::MAX)
}

fn code(cause: &Cause) -> AbortCode {
    match cause {
        Cause::Cancelled => AbortCode::CANCELLED,
        Cause::Device(_) | Cause::Transition(_) => AbortCode::DEVICE,
        Cause::Refused { .. } => AbortCode::INCOMPATIBLE,
        Cause::Digest { .. } => AbortCode::INTEGRITY,
        Cause::TooLarge { .. } => AbortCode::RESOURCES,
        Cause::Tap { error, .. } => tap_code(error.refusal),
        Cause::Link(LinkError::Silent { .. }) => AbortCode::TIMEOUT,
        Cause::Link(_) => AbortCode::PROTOCOL,
        _ => AbortCode::OTHER,
    }
}

const fn tap_code(refusal: Refusal) -> AbortCode {
    match refusal {
        Refusal::Damaged | Refusal::Incomplete => AbortCode::INTEGRITY,
        Refusal::Incompatible => AbortCode::INCOMPATIBLE,
        Refusal::TooLarge => AbortCode::RESOURCES,
    }
}
