// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A handshake without a socket: bytes of the peer in, bytes for the peer out, and keys in the end.
//!
//! Over rustls' unbuffered interface, which gives up its keys to whoever moves the records. Whatever the peer sends is opened
//! at once, so between two calls only a part of a record is left here.

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{Error, ExtractedSecrets};

use super::record::Protection;

/// One of the two ends.
pub(super) enum Conn {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
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

    fn into_keys(self) -> Result<(ExtractedSecrets, Schedule), Error> {
        match self {
            Self::Client(conn) => {
                let (secrets, keys) = conn.dangerous_into_kernel_connection()?;
                Ok((secrets, Schedule::Client(keys)))
            }
            Self::Server(conn) => {
                let (secrets, keys) = conn.dangerous_into_kernel_connection()?;
                Ok((secrets, Schedule::Server(keys)))
            }
        }
    }
}

/// Where the keys come from that follow the first ones.
pub(super) enum Schedule {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

impl Schedule {
    /// The key that this side seals with from now on.
    pub(super) fn next_sealing(&mut self) -> Result<Protection, Error> {
        let (sequence, secrets) = match self {
            Self::Client(keys) => keys.update_tx_secret()?,
            Self::Server(keys) => keys.update_tx_secret()?,
        };
        Protection::new(secrets, sequence, self.records_max())
    }

    /// The key that the peer seals with from now on.
    pub(super) fn next_opening(&mut self) -> Result<Protection, Error> {
        let (sequence, secrets) = match self {
            Self::Client(keys) => keys.update_rx_secret()?,
            Self::Server(keys) => keys.update_rx_secret()?,
        };
        Protection::new(secrets, sequence, self.records_max())
    }

    /// How many records one key may seal (RFC 8446, section 5.5).
    fn records_max(&self) -> u64 {
        let suite = match self {
            Self::Client(keys) => keys.negotiated_cipher_suite(),
            Self::Server(keys) => keys.negotiated_cipher_suite(),
        };
        suite.tls13().map_or(0, |suite| suite.common.confidentiality_limit)
    }

    /// Whether this side is the client, to whom alone tickets are sent.
    pub(super) const fn is_client(&self) -> bool {
        matches!(self, Self::Client(_))
    }
}

/// What a handshake leaves behind.
pub(super) struct Opened {
    pub(super) sealing: Protection,
    pub(super) opening: Protection,
    pub(super) schedule: Schedule,
    /// What the peer has said already, opened.
    pub(super) plain: Vec<u8>,
    /// A part of a record behind that.
    pub(super) incoming: Vec<u8>,
    /// The peer has said that nothing follows.
    pub(super) has_ended: bool,
}

/// A handshake's state.
pub(super) struct Session {
    conn: Conn,
    /// Received, and not a whole record yet.
    incoming: Vec<u8>,
    /// Opened: a peer may go on speaking in the packet that ends the handshake.
    plain: Vec<u8>,
    /// To be sent.
    pending: Vec<u8>,
    is_open: bool,
    /// The peer has said that nothing follows.
    has_ended: bool,
    /// The first failure is final.
    failure: Option<Error>,
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
            pending: Vec::new(),
            is_open: false,
            has_ended: false,
            failure: None,
        }
    }

    /// Both sides have proved who they are.
    pub(super) const fn is_open(&self) -> bool {
        self.is_open
    }

    /// Takes bytes of the peer. Without any it begins the conversation, or goes on with it.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.incoming.extend_from_slice(bytes);
        if let Some(error) = &self.failure {
            return Err(error.clone());
        }
        let outcome = self.run();
        if let Err(error) = &outcome {
            self.failure = Some(error.clone());
            // What is left to say is why. What came is not looked at again: rustls would stumble over it.
            while self.conn.wants_write() {
                let Self { conn, incoming, plain, pending, .. } = self;
                let (used, _) = advance(conn, incoming, plain, pending);
                self.incoming.drain(..used.min(self.incoming.len()));
            }
        }
        outcome
    }

    /// What is to be sent.
    pub(super) fn take_pending(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.pending)
    }

    /// Gives up the keys, once it is open.
    pub(super) fn into_opened(self) -> Result<Opened, Error> {
        let (ExtractedSecrets { tx, rx }, schedule) = self.conn.into_keys()?;
        let records_max = schedule.records_max();
        Ok(Opened {
            sealing: Protection::new(tx.1, tx.0, records_max)?,
            opening: Protection::new(rx.1, rx.0, records_max)?,
            schedule,
            plain: self.plain,
            incoming: self.incoming,
            has_ended: self.has_ended,
        })
    }

    /// Goes on until there is nothing to open.
    fn run(&mut self) -> Result<(), Error> {
        let mut opened = 0_usize;
        let outcome = loop {
            let Self { conn, incoming, plain, pending, .. } = self;
            let rest = incoming.get_mut(opened..).unwrap_or_default();
            let (used, next) = advance(conn, rest, plain, pending);
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
    plain: &mut Vec<u8>,
    pending: &mut Vec<u8>,
) -> (usize, Result<Next, Error>) {
    match conn {
        Conn::Client(conn) => act::<ClientConnectionData>(conn.process_tls_records(incoming), plain, pending),
        Conn::Server(conn) => act::<ServerConnectionData>(conn.process_tls_records(incoming), plain, pending),
    }
}

fn act<D>(
    status: UnbufferedStatus<'_, '_, D>,
    plain: &mut Vec<u8>,
    pending: &mut Vec<u8>,
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
        ConnectionState::PeerClosed => Ok(Next::PeerEnded),
        ConnectionState::WriteTraffic(_) | ConnectionState::Closed => Ok(Next::Open),
        _ => Err(Error::General("data before the handshake, which this side does not take".into())),
    });
    (discard, next)
}

/// Appends what the handshake says next, which says itself how much room it needs.
fn encode<D>(mut data: EncodeTlsData<'_, D>, pending: &mut Vec<u8>) -> Result<Next, Error> {
    let filled = pending.len();
    loop {
        let room = pending.get_mut(filled..).unwrap_or_default();
        let had = room.len();
        match data.encode(room) {
            Ok(length) => {
                pending.truncate(filled.saturating_add(length));
                return Ok(Next::Again);
            }
            Err(EncodeError::InsufficientSize(size)) if size.required_size > had => {
                pending.resize(filled.saturating_add(size.required_size), 0);
            }
            Err(error) => return Err(Error::General(error.to_string())),
        }
    }
}
