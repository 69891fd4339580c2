// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Connecting, for one or several channels.

use core::time::Duration;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Instant;

use savevm_core::{Cancel, Channel};

use crate::tls::{Secured, words};

/// How often a wait for a peer looks whether it was cancelled.
const POLL: Duration = Duration::from_millis(20);

/// A connected peer.
pub(crate) enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Transport {
    /// Connects, trying again until `patience` is over: the target may still be starting.
    pub(crate) fn connect_tcp(at: &str, patience: Duration, cancel: &Cancel) -> io::Result<Self> {
        let stream = retry(patience, cancel, || {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            for address in at.to_socket_addrs()? {
                match TcpStream::connect_timeout(&address, patience.max(POLL)) {
                    Ok(stream) => return Ok(stream),
                    Err(error) => last = error,
                }
            }
            Err(last)
        })?;
        Ok(Self::Tcp(stream))
    }

    /// Connects to a socket in the file system, trying again until `patience` is over.
    pub(crate) fn connect_unix(path: &Path, patience: Duration, cancel: &Cancel) -> io::Result<Self> {
        retry(patience, cancel, || UnixStream::connect(path)).map(Self::Unix)
    }

    /// Prepares the socket for credits of 32 bytes, which must not wait for company.
    fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nodelay(true),
            Self::Unix(_) => Ok(()),
        }
    }

    /// How long a read or a write may wait.
    pub(crate) fn set_timeouts(&self, patience: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(patience).and_then(|()| stream.set_write_timeout(patience)),
            Self::Unix(stream) => stream.set_read_timeout(patience).and_then(|()| stream.set_write_timeout(patience)),
        }
    }

    /// A second handle to the connection.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
            Self::Unix(stream) => stream.try_clone().map(Self::Unix),
        }
    }

    /// Cuts the connection.
    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(how),
            Self::Unix(stream) => stream.shutdown(how),
        }
    }
}

impl Read for &Transport {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Transport::Tcp(stream) => (&mut &*stream).read(buffer),
            Transport::Unix(stream) => (&mut &*stream).read(buffer),
        }
    }
}

impl Write for &Transport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Transport::Tcp(stream) => (&mut &*stream).write(bytes),
            Transport::Unix(stream) => (&mut &*stream).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A peer to talk to.
pub(crate) enum Link {
    Plain(Transport),
    Tls(Secured),
}

impl Link {
    /// The connection as the engine takes it.
    pub(crate) fn into_channel(self) -> io::Result<Channel<'static>> {
        self.socket().set_nodelay()?;
        match self {
            Self::Plain(transport) => plain(transport),
            Self::Tls(secured) => Ok(secured.into_channel()),
        }
    }

    /// The socket below, for cutting it from outside.
    pub(crate) fn socket(&self) -> &Transport {
        match self {
            Self::Plain(transport) => transport,
            Self::Tls(secured) => secured.transport(),
        }
    }
}

fn plain(transport: Transport) -> io::Result<Channel<'static>> {
    let handle = transport.try_clone()?;
    // A connection that is gone already needs no cut.
    let cut = move |how| drop(handle.shutdown(how));
    Ok(match transport {
        Transport::Tcp(stream) => Channel::new(Sniffing::new(stream.try_clone()?), stream).with_shutdown(cut),
        Transport::Unix(stream) => Channel::new(Sniffing::new(stream.try_clone()?), stream).with_shutdown(cut),
    })
}

/// Notices a peer that speaks TLS, which a decoder would only call garbage.
struct Sniffing<R> {
    reader: R,
    is_known: bool,
}

impl<R> Sniffing<R> {
    const fn new(reader: R) -> Self {
        Self { reader, is_known: false }
    }
}

impl<R: Read> Read for Sniffing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        if !self.is_known && length > 0 {
            self.is_known = true;
            // A record of an alert or a handshake (RFC 8446, section 5.1), where our streams have their magic.
            if matches!(buffer.get(..length), Some([0x15 | 0x16, 0x03, ..])) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, words::WANTS_TLS));
            }
        }
        Ok(length)
    }

    fn read_vectored(&mut self, buffers: &mut [io::IoSliceMut<'_>]) -> io::Result<usize> {
        if self.is_known {
            return self.reader.read_vectored(buffers);
        }
        buffers.iter_mut().find(|buffer| !buffer.is_empty()).map_or(Ok(0), |buffer| self.read(buffer))
    }
}

/// A listening socket; a unix one removes its path when it is dropped.
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, std::path::PathBuf),
}

impl Listener {
    pub(crate) fn tcp(at: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        Ok(Self::Tcp(listener))
    }

    /// Binds a path. A socket left behind by a dead process is replaced, anything else is not.
    pub(crate) fn unix(path: &Path) -> io::Result<Self> {
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_dead_socket(path) => {
                std::fs::remove_file(path)?;
                UnixListener::bind(path)?
            }
            other => other?,
        };
        listener.set_nonblocking(true)?;
        Ok(Self::Unix(listener, path.to_owned()))
    }

    /// The address to connect to, with the port the system chose where 0 was asked for.
    pub(crate) fn address(&self) -> io::Result<String> {
        match self {
            Self::Tcp(listener) => Ok(format!("tcp:{}", listener.local_addr()?)),
            Self::Unix(_, path) => Ok(format!("unix:{}", path.display())),
        }
    }

    /// Waits for the peer, for as long as nobody cancels.
    pub(crate) fn accept(&self, patience: Option<Duration>, cancel: &Cancel) -> io::Result<Transport> {
        retry(patience.unwrap_or(Duration::MAX), cancel, || match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(false)?;
                Ok(Transport::Tcp(stream))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(false)?;
                Ok(Transport::Unix(stream))
            }
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            // Somebody may have removed it before us, which is as good.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn is_dead_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = path.symlink_metadata().is_ok_and(|meta| meta.file_type().is_socket());
    is_socket && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Repeats `attempt` while nobody is there yet, until `patience` is over or somebody cancels.
fn retry<T>(patience: Duration, cancel: &Cancel, mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let started = Instant::now();
    loop {
        match attempt() {
            Err(error) if is_early(&error) && started.elapsed() < patience => {
                if cancel.is_cancelled() {
                    return Err(io::Error::new(io::ErrorKind::Interrupted, "cancelled while waiting for the peer"));
                }
                thread::sleep(POLL);
            }
            outcome => return outcome,
        }
    }
}

fn is_early(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, NotFound, WouldBlock};
    matches!(error.kind(), ConnectionRefused | NotFound | WouldBlock)
}
