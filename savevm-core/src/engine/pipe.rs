// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From a socket to a file inside the kernel: one copy instead of two, and none through this program's memory.
//!
//! `splice` takes what the socket has into a pipe, where it stays the same bytes in the same place, and from there into the file.

use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;

/// Between one socket and files.
#[derive(Debug)]
pub(crate) struct Pipe {
    #[cfg(target_os = "linux")]
    ends: [std::os::fd::OwnedFd; 2],
}

#[cfg(target_os = "linux")]
mod linux {
    use nix::errno::Errno;
    use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
    use nix::unistd::{pipe2, read};

    use super::*;

    /// What a pipe may hold without a privilege,
    const PIPE_BYTES: i32 = 1 << 20;
    /// and with less than this it takes more calls than it spares: each piece of a packet has a slot of 4096 bytes.
    const PIPE_BYTES_MIN: i32 = 1 << 18;

    impl Pipe {
        /// One that is large enough. A user may have so many of those.
        pub(crate) fn new() -> io::Result<Self> {
            let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
            let pipe_bytes = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES))?;
            if pipe_bytes < PIPE_BYTES_MIN {
                Err(ErrorKind::Unsupported.into())
            } else {
                Ok(Self { ends: [reader, writer] })
            }
        }

        /// Takes up to `left` bytes from a socket, of those that it has. None at its end.
        pub(crate) fn take(&self, socket: BorrowedFd<'_>, left: usize) -> io::Result<usize> {
            let [_, writer] = &self.ends;
            repeat(|| splice(socket, None, writer, None, left, SpliceFFlags::empty()))
        }

        /// Puts some of what it holds, up to `left` bytes, at `offset` of a file, and says how much.
        pub(crate) fn put(&self, file: BorrowedFd<'_>, offset: u64, left: usize) -> io::Result<usize> {
            let [reader, _] = &self.ends;
            let mut at = i64::try_from(offset).map_err(|_| ErrorKind::InvalidInput)?;
            repeat(|| splice(reader, None, file, Some(&mut at), left, SpliceFFlags::empty()))
        }

        /// Reads some of what it holds, for somebody who has it go elsewhere.
        pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
            let [reader, _] = &self.ends;
            repeat(|| read(reader, buffer))
        }
    }

    fn repeat(mut call: impl FnMut() -> nix::Result<usize>) -> io::Result<usize> {
        loop {
            match call() {
                Err(Errno::EINTR) => {}
                other => return Ok(other?),
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl Pipe {
    pub(crate) fn new() -> io::Result<Self> {
        Err(ErrorKind::Unsupported.into())
    }

    pub(crate) fn take(&self, _: BorrowedFd<'_>, _: usize) -> io::Result<usize> {
        Err(ErrorKind::Unsupported.into())
    }

    pub(crate) fn put(&self, _: BorrowedFd<'_>, _: u64, _: usize) -> io::Result<usize> {
        Err(ErrorKind::Unsupported.into())
    }

    pub(crate) fn read(&self, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::Unsupported.into())
    }
}

/// Whether this cannot be done between the two at all, or is not allowed, and nothing was.
pub(crate) fn is_unfit(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported | ErrorKind::PermissionDenied)
}
