// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A connection on its way to become a channel, with TLS or without.

use std::io::{self, Read, Write};
use std::net::Shutdown;

use savevm_core::Channel;

use super::transport::Transport;
use crate::tls::{self, Secured, words};

/// A peer to talk to.
pub(crate) enum Link {
    /// `is_known` once it has said something that is no TLS.
    Plain { transport: Transport, is_known: bool },
    /// Both sides have proved who they are.
    Tls { reader: tls::Reader, writer: tls::Writer, cut: Box<dyn Fn(Shutdown) + Send + Sync> },
}

impl Link {
    pub(crate) const fn plain(transport: Transport) -> Self {
        Self::Plain { transport, is_known: false }
    }

    pub(crate) fn secured(secured: Secured) -> Self {
        let (reader, writer, cut) = secured.split();
        Self::Tls { reader, writer, cut: Box::new(cut) }
    }

    /// The connection as the engine takes it.
    pub(crate) fn into_channel(self) -> io::Result<Channel<'static>> {
        self.socket().set_nodelay()?;
        match self {
            Self::Plain { transport, is_known } => plain(transport, is_known),
            Self::Tls { reader, writer, cut } => Ok(Channel::new(reader, writer).with_shutdown(cut)),
        }
    }

    /// The socket below, for cutting it from outside.
    pub(crate) fn socket(&self) -> &Transport {
        match self {
            Self::Plain { transport, .. } => transport,
            Self::Tls { reader, .. } => reader.transport(),
        }
    }
}

impl Read for Link {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain { transport, is_known } => sniff(is_known, buffer, |buffer| (&*transport).read(buffer)),
            Self::Tls { reader, .. } => reader.read(buffer),
        }
    }
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain { transport, .. } => (&*transport).write(bytes),
            Self::Tls { writer, .. } => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn plain(transport: Transport, is_known: bool) -> io::Result<Channel<'static>> {
    let channel = match transport {
        Transport::Tcp(stream) => Channel::tcp(stream)?,
        Transport::Unix(stream) => Channel::unix(stream)?,
    };
    Ok(channel.map_reader(|reader| Sniffing { reader, is_known }))
}

/// Notices a peer that speaks TLS, which a decoder would only call garbage.
fn sniff(
    is_known: &mut bool,
    buffer: &mut [u8],
    read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
) -> io::Result<usize> {
    let length = read(buffer)?;
    if !*is_known && length > 0 {
        *is_known = true;
        // A record of an alert or a handshake (RFC 8446, section 5.1), where our streams have their magic.
        if matches!(buffer.get(..length), Some([0x15 | 0x16, 0x03, ..])) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, words::WANTS_TLS));
        }
    }
    Ok(length)
}

struct Sniffing<R> {
    reader: R,
    is_known: bool,
}

impl<R: Read> Read for Sniffing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Self { reader, is_known } = self;
        sniff(is_known, buffer, |buffer| reader.read(buffer))
    }

    fn read_vectored(&mut self, buffers: &mut [io::IoSliceMut<'_>]) -> io::Result<usize> {
        if self.is_known {
            return self.reader.read_vectored(buffers);
        }
        buffers.iter_mut().find(|buffer| !buffer.is_empty()).map_or(Ok(0), |buffer| self.read(buffer))
    }
}
