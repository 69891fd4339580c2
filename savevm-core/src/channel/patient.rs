// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A socket's reading half that sleeps until there is something to read.
//!
//! A thread asleep in `recv` is woken by everything that happens to its socket: also whenever the peer has made room for what the other
//! half writes, several times for each chunk, only to find nothing and go back to sleep. `poll` is woken by what it asked for.

use core::time::Duration;
use std::io::{ErrorKind, IoSliceMut, Read, Result};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Receiving;

/// The half, and how long it waits at most: as long as the socket was told to.
pub(super) struct Patient<S> {
    socket: S,
    patience: Option<Duration>,
}

impl<S: Read + AsFd> Patient<S> {
    pub(super) const fn new(socket: S, patience: Option<Duration>) -> Self {
        Self { socket, patience }
    }

    /// Until there are bytes, the end, or an error to be read.
    fn wait(&self) -> Result<()> {
        let ends_at = self.patience.and_then(|patience| Instant::now().checked_add(patience));
        loop {
            let left = ends_at.map(|at| at.saturating_duration_since(Instant::now()));
            // A rest of less than a millisecond is waited for as one.
            let left =
                left.map(|left| left.as_millis().saturating_add(u128::from(left.subsec_nanos() % 1_000_000 != 0)));
            let timeout =
                left.map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
            match poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], timeout) {
                Err(Errno::EINTR) => {}
                Ok(0) if left.is_some_and(|left| left > 0) => {}
                Ok(0) => return Err(ErrorKind::WouldBlock.into()),
                Ok(_) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl<S: Read + AsFd> Read for Patient<S> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.wait()?;
        self.socket.read(buffer)
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> Result<usize> {
        self.wait()?;
        self.socket.read_vectored(buffers)
    }
}

impl<S: Read + AsFd> Receiving for Patient<S> {
    fn socket(&self) -> Option<Result<BorrowedFd<'_>>> {
        Some(self.wait().map(|()| self.socket.as_fd()))
    }

    fn is_socket(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod test {
    use std::io::Write;
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;
    use std::{fs, thread, vec};

    use super::*;

    const ROUNDS: usize = 50;

    /// How often this thread has gone to sleep.
    fn sleeps() -> usize {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        line.trim().parse().unwrap()
    }

    #[test]
    fn room_for_the_writer_wakes_no_reader() {
        let (mut near, mut far) = UnixStream::pair().unwrap();
        let mut reader = Patient::new(near.try_clone().unwrap(), None);
        let (tell, told) = mpsc::channel();
        let asleep = thread::spawn(move || {
            tell.send(()).unwrap();
            let before = sleeps();
            assert_eq!(reader.read(&mut [0; 8]).unwrap(), 2);
            sleeps() - before
        });
        told.recv().unwrap();
        near.set_nonblocking(true).unwrap();
        let mut piece = vec![0; 1 << 16];
        for _ in 0..ROUNDS {
            let mut full = 0;
            while let Ok(length) = near.write(&piece) {
                full += length;
            }
            while full > 0 {
                full -= far.read(&mut piece).unwrap();
            }
            thread::sleep(Duration::from_millis(1));
        }
        far.write_all(b"ok").unwrap();
        let slept = asleep.join().unwrap();
        assert!(slept < ROUNDS / 2, "it slept {slept} times");
    }

    #[test]
    fn it_waits_as_long_as_it_was_told() {
        let (near, _far) = UnixStream::pair().unwrap();
        let began = Instant::now();
        let patience = Duration::from_millis(30);
        let error = Patient::new(near, Some(patience)).read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        assert!(began.elapsed() >= patience, "{:?}", began.elapsed());
    }

    #[test]
    fn a_cut_wakes_it() {
        for how in [Shutdown::Both, Shutdown::Read] {
            let (near, _far) = UnixStream::pair().unwrap();
            let handle = near.try_clone().unwrap();
            let waits =
                thread::spawn(move || Patient::new(near, None).read_vectored(&mut [IoSliceMut::new(&mut [0; 8])]));
            thread::sleep(Duration::from_millis(20));
            handle.shutdown(how).unwrap();
            assert_eq!(waits.join().unwrap().unwrap(), 0, "{how:?}");
        }
    }
}
