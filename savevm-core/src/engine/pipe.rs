// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From a socket to a file inside the kernel: one copy instead of two, and none through this program's memory.
//!
//! `splice` takes what the socket has into a pipe, where it stays the same bytes in the same place, and from there into the file.

use std::io::{self, ErrorKind, Read};
use std::os::fd::BorrowedFd;

/// Between one socket and files.
#[derive(Debug)]
pub(crate) struct Pipe {
    #[cfg(target_os = "linux")]
    ends: [std::os::fd::OwnedFd; 2],
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::File;
    use std::os::fd::AsFd;

    use nix::errno::Errno;
    use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
    use nix::unistd::pipe2;

    use super::*;

    /// What a pipe may hold without a privilege. A smaller one takes more calls.
    const PIPE_BYTES: i32 = 1 << 20;

    impl Pipe {
        pub(crate) fn new() -> io::Result<Self> {
            let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
            // Not where the user has too many of that size.
            let _ = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
            Ok(Self { ends: [reader, writer] })
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

        /// Reads what it holds, as long as `buffer` is, for somebody who has it go elsewhere.
        pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<()> {
            let [reader, _] = &self.ends;
            File::from(reader.as_fd().try_clone_to_owned()?).read_exact(buffer)
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

    pub(crate) fn read(&self, _: &mut [u8]) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }
}

/// Whether this cannot be done between the two at all, and nothing was.
pub(crate) fn is_unfit(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported)
}
