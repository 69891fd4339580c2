// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The connections of a migration with a QEMU: one main connection, and the multifd channels.

use core::time::Duration;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use savevm_core::Cancel;
use stream_codec::qemu::ChannelKind;

const POLL: Duration = Duration::from_millis(5);
/// How often a reader looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(20);
const WRITE_LIMIT: Duration = Duration::from_secs(15);

/// What a source has opened.
pub(super) struct Connections {
    pub(super) main: UnixStream,
    pub(super) channels: Vec<UnixStream>,
    /// Kept for connections that nobody here wants: a source whose channel is refused fails before it has said anything
    /// on the main connection that could be explained.
    pub(super) listener: Option<UnixListener>,
}

/// What a side says when connections to the path are taken.
pub(crate) fn listening(path: &Path) -> String {
    format!("listening on {}", path.display())
}

/// Waits for a source, and for as many channels as were agreed on. A QEMU says nothing before all are there.
pub(super) fn accept(path: &Path, channels: u8, cancel: &Cancel, limit: Duration) -> Result<Connections, String> {
    let listener = UnixListener::bind(path).map_err(|error| format!("cannot listen on {}: {error}", path.display()))?;
    listener.set_nonblocking(true).map_err(|error| format!("cannot listen: {error}"))?;
    // Until the listen(2) behind this line a connection to the path is refused, though the path is there.
    eprintln!("{}", listening(path));
    let wanted = usize::from(channels).saturating_add(1);
    let (mut streams, begin) = (Vec::new(), Instant::now());
    while streams.len() < wanted {
        match listener.accept() {
            Ok((stream, _)) => streams.push(bounded(stream)?),
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(POLL),
            Err(error) => return Err(format!("cannot accept a connection: {error}")),
        }
        let here = streams.len();
        if cancel.is_cancelled() {
            return Err(format!("cancelled with {here} of {wanted} connections"));
        }
        if begin.elapsed() > limit {
            return Err(format!(
                "{here} of {wanted} connections came within {} s: is multifd on at the source, with as many channels?",
                limit.as_secs()
            ));
        }
    }
    sort(streams, cancel, limit).map(|found| Connections { listener: Some(listener), ..found })
}

/// Connects to a target: the main connection first, as a QEMU does.
pub(super) fn connect(path: &Path, channels: u8) -> Result<Connections, String> {
    let connect = || {
        UnixStream::connect(path)
            .map_err(|error| format!("cannot connect to {}: {error}", path.display()))
            .and_then(bounded)
    };
    let main = connect()?;
    let channels = (0..channels).map(|_| connect()).collect::<Result<_, _>>()?;
    Ok(Connections { main, channels, listener: None })
}

/// Bounds every wait on the connection.
pub(super) fn bounded(stream: UnixStream) -> Result<UnixStream, String> {
    stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_read_timeout(Some(LOOK)))
        .and_then(|()| stream.set_write_timeout(Some(WRITE_LIMIT)))
        .map_err(|error| format!("cannot set up a connection: {error}"))?;
    Ok(stream)
}

/// Tells the main connection from the others by what it starts with.
fn sort(streams: Vec<UnixStream>, cancel: &Cancel, limit: Duration) -> Result<Connections, String> {
    let (mut mains, mut channels) = (Vec::new(), Vec::new());
    for stream in streams {
        match peek(&stream, cancel, limit)? {
            Some(ChannelKind::Main) => mains.push(stream),
            Some(ChannelKind::Multifd) => channels.push(stream),
            _ => return Err("a connection starts with neither QEVM nor the magic of multifd".to_owned()),
        }
    }
    match (mains.pop(), mains.len()) {
        (Some(main), 0) => Ok(Connections { main, channels, listener: None }),
        (found, more) => {
            Err(format!("{} of the connections are main streams", more.saturating_add(usize::from(found.is_some()))))
        }
    }
}

fn peek(stream: &UnixStream, cancel: &Cancel, limit: Duration) -> Result<Option<ChannelKind>, String> {
    let begin = Instant::now();
    let mut first = [0; 4];
    loop {
        match recv(stream.as_raw_fd(), &mut first, MsgFlags::MSG_PEEK) {
            Ok(4) => return Ok(ChannelKind::from_first_bytes(first)),
            Ok(0) => return Err("a connection was closed before it said anything".to_owned()),
            Ok(_) => thread::sleep(POLL),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Err(format!("cannot read the start of a connection: {errno}")),
        }
        if cancel.is_cancelled() {
            return Err("cancelled before a connection said what it is".to_owned());
        }
        if begin.elapsed() > limit {
            return Err(format!("a connection said nothing for {} s", limit.as_secs()));
        }
    }
}
