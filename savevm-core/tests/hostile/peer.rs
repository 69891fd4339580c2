// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The end of a channel that says what it likes.

use core::time::Duration;
use std::io::Write;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use stream_codec::frame::io::{Frame, FrameReader, FrameWriter};
use stream_codec::frame::{Channel as ChannelNumber, Header, Hello, Kind, Limits, Message, Role, Support};

/// The hostile end of one channel.
pub(crate) struct Peer {
    pub(crate) out: FrameWriter<UnixStream>,
    pub(crate) raw: UnixStream,
    pub(crate) heard: FrameReader<UnixStream>,
}

impl Peer {
    pub(crate) fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let limits = Limits { data_bytes: 1 << 20, ..Limits::DEFAULT };
        let clone = || stream.try_clone().unwrap();
        Self { out: FrameWriter::new(clone(), limits), heard: FrameReader::new(clone(), limits), raw: stream }
    }

    /// Of a connection of the other kind: what is said over it is said in the same way.
    pub(crate) fn over_tcp(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self::new(UnixStream::from(OwnedFd::from(stream)))
    }

    pub(crate) fn say(&mut self, message: &Message<'_>) {
        // A victim that has had enough does not listen any more.
        let _ = self.out.write_control(message);
    }

    pub(crate) fn data(&mut self, device: u32, sequence: u64, payload: &[u8]) {
        let _ = self.out.write_data(device, sequence, payload);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        let _ = self.raw.write_all(bytes);
    }

    pub(crate) fn frame(&mut self, header: Header, payload: &[u8]) {
        self.bytes(&[&header.encode(), payload].concat());
    }

    /// Waits for the next control frame of this kind.
    pub(crate) fn hear(&mut self, kind: Kind) {
        while let Ok(Some(received)) = self.heard.read_frame() {
            if matches!(received.frame, Frame::Control(message) if message.kind() == kind) {
                return;
            }
        }
        panic!("the victim says no {kind}");
    }

    /// The kinds of the control frames that come until `last`, or until nothing has come for a while.
    pub(crate) fn kinds_until(&mut self, last: Option<Kind>) -> Vec<Kind> {
        let patience = if last.is_some() { Duration::from_secs(5) } else { Duration::from_millis(100) };
        self.raw.set_read_timeout(Some(patience)).unwrap();
        let mut kinds = Vec::new();
        while let Ok(Some(received)) = self.heard.read_frame() {
            let Frame::Control(message) = received.frame else { continue };
            kinds.push(message.kind());
            if kinds.last().copied() == last {
                return kinds;
            }
        }
        assert_eq!(last, None, "it did not come; these did: {kinds:?}");
        self.raw.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        kinds
    }
}

pub(crate) fn hello(index: u16, count: u16) -> Hello {
    Hello {
        support: Support { offered: Support::CREDIT, required: Support::CREDIT, ..Support::CURRENT },
        role: Role::Source,
        nonce: [9; 16],
        channel: ChannelNumber { index, count },
        device_count: 1,
        data_bytes_max: 0,
    }
}

/// A Hello that offers more.
pub(crate) trait Offering {
    fn offering(self, features: u64) -> Self;
}

impl Offering for Hello {
    fn offering(mut self, features: u64) -> Self {
        self.support.offered |= features;
        self
    }
}

pub(crate) fn header(kind: u16, payload_length: u32, device: u32) -> Header {
    Header { kind, flags: 0, payload_length, device, channel: 0, sequence: 0, payload_crc: 0 }
}

/// The CRC-32 of the format, bit by bit.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}
