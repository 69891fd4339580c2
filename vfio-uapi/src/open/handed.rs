// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Fds from a process that may open nodes, for one that may not.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use crate::ioctl::rights;
use crate::{Call, Error, Result};

/// Receives the fds that the peer sends over a unix socket with SCM_RIGHTS, in its order: at most `limit`.
///
/// They belong to one byte of the stream, which is taken with them, whatever it is; further bytes stay in the socket. They are
/// close-on-exec. No more than `limit` ever get into this process (253 is what the kernel sends at a time), and with an error none stays.
///
/// What each of them is, the kernel says at its first use: hand them to [`Container::new`](super::Container::new),
/// [`Group::new`](super::Group::new), [`Iommufd::new`](super::Iommufd::new), [`Cdev::new`](super::Cdev::new) or
/// [`Device::with_label`](crate::Device::with_label).
///
/// # Errors
///
/// Those of `recvmsg`: EAGAIN when the socket's timeout is over. [`Error::Answer`] if the peer has closed the connection, sent a byte and no
/// fd, more than `limit` of them, or more than this process has numbers left for (RLIMIT_NOFILE).
pub fn receive_fds(socket: &UnixStream, limit: usize) -> Result<Vec<OwnedFd>> {
    let label = Arc::from("unix socket");
    let call = Call::ReceiveFds;
    let message = loop {
        match rights::receive(socket.as_fd(), limit) {
            // Nothing was taken.
            Err(nix::libc::EINTR) => {}
            other => break other.map_err(|errno| Error::kernel(&label, call, errno))?,
        }
    };
    let what = match (message.bytes, message.fds.len()) {
        _ if message.is_cut && message.fds.len() >= limit => "more fds were sent than are expected; all were closed",
        _ if message.is_cut => "this process has no numbers left for all the fds that were sent; all were closed",
        (0, _) => "the peer has closed the connection",
        (_, 0) => "the peer sent a byte and no fd with it",
        _ => return Ok(message.fds),
    };
    Err(Error::answer(&label, call, what))
}
