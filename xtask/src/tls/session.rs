// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One TLS connection without a socket: bytes of the peer in, bytes for the peer out.
//!
//! Over rustls' unbuffered interface, which seals what is to be sent straight into the buffer that is sent. Whatever the
//! peer sends is opened at once, so between two calls only a part of a record is left here.

use rustls::Error;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, UnbufferedStatus, WriteTraffic,
};

/// One of the two ends.
pub(super) enum Conn {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// Bytes for the peer. The memory stays, so that nothing is allocated or cleared for each piece.
#[derive(Debug, Default)]
pub(super) struct Sealed {
    bytes: Vec<u8>,
    filled: usize,
}

impl Sealed {
    pub(super) const fn new() -> Self {
        Self { bytes: Vec::new(), filled: 0 }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.filled).unwrap_or_default()
    }

    pub(super) fn clear(&mut self) {
        self.filled = 0;
    }

    fn append(&mut self, other: &mut Self) {
        if other.filled == 0 {
            return;
        }
        self.bytes.truncate(self.filled);
        self.bytes.extend_from_slice(other.bytes());
        self.filled = self.bytes.len();
        other.clear();
    }

    /// Appends what `fill` writes, which says how much room it needs.
    fn fill(
        &mut self,
        mut fill: impl FnMut(&mut [u8]) -> Result<usize, Result<InsufficientSizeError, Error>>,
    ) -> Result<(), Error> {
        loop {
            let room = self.bytes.get_mut(self.filled..).unwrap_or_default();
            let had = room.len();
            match fill(room) {
                Ok(length) => {
                    self.filled = self.filled.saturating_add(length);
                    return Ok(());
                }
                Err(Ok(size)) if size.required_size > had => {
                    self.bytes.resize(self.filled.saturating_add(size.required_size), 0);
                }
                Err(error) => return Err(error.err().unwrap_or(Error::EncryptError)),
            }
        }
    }
}

impl Conn {
    /// Whether there is something to encode.
    fn wants_write(&self) -> bool {
        match self {
            Self::Client(conn) => conn.wants_write(),
            Self::Server(conn) => conn.wants_write(),
        }
    }

    fn is_handshaking(&self) -> bool {
        match self {
            Self::Client(conn) => conn.is_handshaking(),
            Self::Server(conn) => conn.is_handshaking(),
        }
    }
}

/// A connection's state.
pub(super) struct Session {
    conn: Conn,
    /// Received, and not a whole record yet.
    incoming: Vec<u8>,
    /// Opened, and not read yet from `taken` on.
    plain: Vec<u8>,
    taken: usize,
    /// To be sent before anything that is sealed later.
    pending: Sealed,
    is_open: bool,
    /// The peer has said that nothing follows.
    has_ended: bool,
    /// The first failure is final.
    failure: Option<Error>,
}

/// What is to be sent of this side's own.
enum Say<'a> {
    Nothing,
    Data(&'a [u8]),
    Goodbye,
}

/// Where a step has led.
enum Next {
    Again,
    Blocked,
    Open,
    PeerEnded,
}

impl Session {
    pub(super) const fn new(conn: Conn) -> Self {
        Self {
            conn,
            incoming: Vec::new(),
            plain: Vec::new(),
            taken: 0,
            pending: Sealed::new(),
            is_open: false,
            has_ended: false,
            failure: None,
        }
    }

    /// Both sides have proved who they are.
    pub(super) const fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether the peer has ended the stream in good order.
    pub(super) const fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// The first failure: nothing that comes behind it is opened.
    pub(super) const fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    /// Begins the conversation, or goes on with it.
    pub(super) fn step(&mut self) -> Result<(), Error> {
        self.settle(&Say::Nothing, &mut Sealed::new())
    }

    /// Takes bytes of the peer.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.incoming.extend_from_slice(bytes);
        self.step()
    }

    /// Gives what was opened. 0 where there is nothing.
    pub(super) fn take(&mut self, into: &mut [u8]) -> usize {
        let rest = self.plain.get(self.taken..).unwrap_or_default();
        let length = rest.len().min(into.len());
        if let (Some(to), Some(from)) = (into.get_mut(..length), rest.get(..length)) {
            to.copy_from_slice(from);
        }
        self.taken = self.taken.saturating_add(length);
        if self.taken == self.plain.len() {
            self.plain.clear();
            self.taken = 0;
        }
        length
    }

    /// Appends what the protocol itself has to send.
    pub(super) fn take_pending(&mut self, out: &mut Sealed) {
        out.append(&mut self.pending);
    }

    /// Appends `bytes`, sealed, and before them what is pending.
    pub(super) fn seal(&mut self, bytes: &[u8], out: &mut Sealed) -> Result<(), Error> {
        self.take_pending(out);
        self.settle(&Say::Data(bytes), out)
    }

    /// Appends the word that nothing follows.
    pub(super) fn seal_goodbye(&mut self, out: &mut Sealed) -> Result<(), Error> {
        self.take_pending(out);
        self.settle(&Say::Goodbye, out)
    }

    /// Goes on until there is nothing to open, and then says what is to be said.
    fn settle(&mut self, say: &Say<'_>, out: &mut Sealed) -> Result<(), Error> {
        if let Some(error) = &self.failure {
            return Err(error.clone());
        }
        let outcome = self.run(say, out);
        if let Err(error) = &outcome {
            self.failure = Some(error.clone());
            // What is left to say is why. What came is not looked at again: rustls would stumble over it.
            while self.conn.wants_write() {
                let Self { conn, incoming, plain, pending, .. } = self;
                let (used, _) = advance(conn, incoming, &Say::Nothing, plain, pending, out);
                self.incoming.drain(..used.min(self.incoming.len()));
            }
        }
        outcome
    }

    fn run(&mut self, say: &Say<'_>, out: &mut Sealed) -> Result<(), Error> {
        let mut opened = 0_usize;
        let outcome = loop {
            let Self { conn, incoming, plain, pending, .. } = self;
            let rest = incoming.get_mut(opened..).unwrap_or_default();
            let (used, next) = advance(conn, rest, say, plain, pending, out);
            opened = opened.saturating_add(used);
            match next {
                Ok(Next::Again) => {}
                Ok(Next::Blocked) => break Ok(()),
                // A server may speak before it knows who the client is: that is not open yet.
                Ok(Next::Open) => {
                    self.is_open = !self.conn.is_handshaking();
                    break Ok(());
                }
                // A side that has heard the end may still speak.
                Ok(Next::PeerEnded) => self.has_ended = true,
                Err(error) => break Err(error),
            }
        };
        self.incoming.drain(..opened.min(self.incoming.len()));
        outcome
    }
}

/// One step of either end: how much of `incoming` is used up, and where it has led.
fn advance(
    conn: &mut Conn,
    incoming: &mut [u8],
    say: &Say<'_>,
    plain: &mut Vec<u8>,
    pending: &mut Sealed,
    out: &mut Sealed,
) -> (usize, Result<Next, Error>) {
    match conn {
        Conn::Client(conn) => act::<ClientConnectionData>(conn.process_tls_records(incoming), say, plain, pending, out),
        Conn::Server(conn) => act::<ServerConnectionData>(conn.process_tls_records(incoming), say, plain, pending, out),
    }
}

fn act<D>(
    status: UnbufferedStatus<'_, '_, D>,
    say: &Say<'_>,
    plain: &mut Vec<u8>,
    pending: &mut Sealed,
    out: &mut Sealed,
) -> (usize, Result<Next, Error>) {
    let UnbufferedStatus { discard, state } = status;
    let next = state.and_then(|state| match state {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                plain.extend_from_slice(record?.payload);
            }
            Ok(Next::Again)
        }
        ConnectionState::EncodeTlsData(data) => encode(data, pending),
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Ok(Next::Again)
        }
        ConnectionState::BlockedHandshake => Ok(Next::Blocked),
        ConnectionState::WriteTraffic(traffic) => write(traffic, say, pending, out),
        ConnectionState::PeerClosed => Ok(Next::PeerEnded),
        ConnectionState::Closed => Ok(Next::Open),
        _ => Err(Error::General("data before the handshake, which this side does not take".into())),
    });
    (discard, next)
}

fn encode<D>(mut data: EncodeTlsData<'_, D>, pending: &mut Sealed) -> Result<Next, Error> {
    pending.fill(|room| {
        data.encode(room).map_err(|error| match error {
            EncodeError::InsufficientSize(size) => Ok(size),
            EncodeError::AlreadyEncoded => Err(Error::General("encoded twice".into())),
        })
    })?;
    Ok(Next::Again)
}

fn write<D>(
    mut traffic: WriteTraffic<'_, D>,
    say: &Say<'_>,
    pending: &mut Sealed,
    out: &mut Sealed,
) -> Result<Next, Error> {
    let size = |error| match error {
        EncryptError::InsufficientSize(size) => Ok(size),
        EncryptError::EncryptExhausted => Err(Error::EncryptError),
    };
    match say {
        Say::Nothing => {}
        Say::Data(bytes) => {
            // What the protocol has to say comes to light only here.
            out.append(pending);
            out.fill(|room| traffic.encrypt(bytes, room).map_err(size))?;
        }
        Say::Goodbye => {
            out.append(pending);
            out.fill(|room| traffic.queue_close_notify(room).map_err(size))?;
        }
    }
    Ok(Next::Open)
}
