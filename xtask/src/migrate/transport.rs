// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sockets: connecting, and listening for whoever connects.

use core::time::Duration;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Instant;

use savevm_core::Cancel;

/// How often a wait for a peer looks whether it was cancelled.
const POLL: Duration = Duration::from_millis(20);

/// A connected peer.
#[derive(Debug)]
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
    pub(super) fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nodelay(true),
            Self::Unix(_) => Ok(()),
        }
    }

    /// Whether reads and writes return at once.
    pub(crate) fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nonblocking(nonblocking),
            Self::Unix(stream) => stream.set_nonblocking(nonblocking),
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

    /// The next connection, if one has come.
    pub(crate) fn accept(&self) -> io::Result<Option<Transport>> {
        let accepted = match self {
            Self::Tcp(listener) => listener.accept().map(|(stream, _)| Transport::Tcp(stream)),
            Self::Unix(listener, _) => listener.accept().map(|(stream, _)| Transport::Unix(stream)),
        };
        match accepted {
            Ok(transport) => transport.set_nonblocking(true).map(|()| Some(transport)),
            Err(error) if is_passing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What ends with the connection it came with, or when another one ends, and is no reason to stop listening.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | WouldBlock)
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
