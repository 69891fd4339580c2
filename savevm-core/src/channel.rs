// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the VMM hands in to talk over: connections that are read and written at the same time, and cut from outside.

mod patient;
mod plain;
mod prompt;
mod replayed;
mod turns;

use core::fmt;
use std::boxed::Box;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::vec;
use std::vec::Vec;

use patient::Patient;
use plain::Plain;
use prompt::Prompt;
use replayed::Replayed;
use turns::Turns;

/// Cuts a connection for writing, or altogether, from any thread.
pub(crate) type Cut<'a> = Box<dyn Fn(Shutdown) + Send + Sync + 'a>;

/// The reading half of a connection.
pub(crate) trait Receiving: Read {
    /// The socket that the next bytes come from, once there are any, or the end; `None` where they come from something else, or are
    /// looked at on their way. What is read from it past this half is what this half would have read next.
    ///
    /// # Errors
    /// As a read.
    fn socket(&self) -> Option<io::Result<BorrowedFd<'_>>> {
        None
    }

    /// Whether there is such a socket, or will be.
    fn is_socket(&self) -> bool {
        false
    }
}

/// One connection to the other side: a reader and a writer that are used by different threads at the same time, and a
/// way to cut both.
///
/// A migration over several channels is given several of these. Both sides give the same number, in any order: they find
/// each other by what they say first. A session's nonce binds them together, so a stray connection is refused.
///
/// ```
/// use std::os::unix::net::UnixStream;
/// use savevm_core::Channel;
///
/// let (left, right) = UnixStream::pair()?;
/// let channel = Channel::unix(left)?;
/// # drop((channel, right));
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Channel<'a> {
    pub(crate) reader: Box<dyn Receiving + Send + 'a>,
    pub(crate) writer: Box<dyn Write + Send + 'a>,
    pub(crate) cut: Option<Cut<'a>>,
}

impl<'a> Channel<'a> {
    /// A connection of two halves that do not disturb each other.
    ///
    /// Without [`Channel::with_shutdown`] a cancel, or a peer that falls silent, is noticed by a half only when its
    /// call returns: let reads and writes time out (`WouldBlock` or `TimedOut`; a timed-out read is repeated, a
    /// timed-out write ends the migration).
    #[must_use]
    pub fn new(reader: impl Read + Send + 'a, writer: impl Write + Send + 'a) -> Self {
        Self::of(Plain(reader), writer)
    }

    fn of(reader: impl Receiving + Send + 'a, writer: impl Write + Send + 'a) -> Self {
        Self { reader: Box::new(reader), writer: Box::new(writer), cut: None }
    }

    /// The same with a way to make calls under way return: `cut` is called from another thread with
    /// [`Shutdown::Write`] once everything is said, and with [`Shutdown::Both`] to end the connection.
    #[must_use]
    pub fn with_shutdown(mut self, cut: impl Fn(Shutdown) + Send + Sync + 'a) -> Self {
        self.cut = Some(Box::new(cut));
        self
    }

    /// The same with another reader, made of its own: one that looks at what passes, for instance.
    #[must_use]
    pub fn map_reader<R: Read + Send + 'a>(self, wrap: impl FnOnce(Box<dyn Read + Send + 'a>) -> R) -> Self {
        Self { reader: Box::new(Plain(wrap(Box::new(self.reader)))), ..self }
    }

    /// The same, of which this was read before.
    pub(crate) fn after(self, said: Vec<u8>) -> Self {
        Self { reader: Box::new(Replayed::new(said, self.reader)), ..self }
    }

    /// A TCP connection. Sets TCP_NODELAY, because a credit of 32 bytes must not wait for company. Its reader waits as long as the
    /// read time-out set now says, and by `poll`: `recv` would wake up for each piece that the writer gets rid of. After each short answer
    /// its writer asks for acknowledgements to go out as before: `setsockopt` with TCP_QUICKACK, which a filter of system calls has to let
    /// pass.
    ///
    /// # Errors
    /// When the descriptor cannot be duplicated, or its options not be asked for or set.
    pub fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let reader = Patient::new(stream.try_clone()?, stream.read_timeout()?);
        let handle = stream.try_clone()?;
        // A connection that is gone already needs no cut.
        Ok(Self::of(reader, Prompt(stream)).with_shutdown(move |how| drop(handle.shutdown(how))))
    }

    /// A Unix socket, which is waited for as a TCP connection is. What comes over it goes through a buffer in any case: it came without a
    /// network's copies, and memory moved past the buffers is slower then.
    ///
    /// # Errors
    /// When the descriptor cannot be duplicated, or its options not be asked for.
    pub fn unix(stream: UnixStream) -> io::Result<Self> {
        let reader = Patient::new(stream.try_clone()?, stream.read_timeout()?);
        let handle = stream.try_clone()?;
        Ok(Self::new(reader, stream).with_shutdown(move |how| drop(handle.shutdown(how))))
    }

    /// A transport that cannot be split, such as a TLS connection: its two halves take turns.
    ///
    /// A read must time out (`WouldBlock` or `TimedOut`) after a few milliseconds, for a writer waits that long for its
    /// turn. That costs throughput: prefer two halves where the transport has them. Cancelling is as with
    /// [`Channel::new`].
    #[must_use]
    pub fn turns(transport: impl Read + Write + Send + 'a) -> Self {
        let (reader, writer) = Turns::pair(transport);
        Self::new(reader, writer)
    }
}

impl fmt::Debug for Channel<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("can_be_cut", &self.cut.is_some()).finish_non_exhaustive()
    }
}

impl<'a> From<Channel<'a>> for Vec<Channel<'a>> {
    fn from(channel: Channel<'a>) -> Self {
        vec![channel]
    }
}
