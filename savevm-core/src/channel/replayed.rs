// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A reading half of which somebody has read the beginning.

use std::boxed::Box;
use std::io::{Cursor, IoSliceMut, Read, Result};
use std::os::fd::BorrowedFd;
use std::vec::Vec;

use super::Receiving;

/// What was read, and then the rest.
pub(super) struct Replayed<'a> {
    said: Cursor<Vec<u8>>,
    rest: Box<dyn Receiving + Send + 'a>,
}

impl<'a> Replayed<'a> {
    pub(super) fn new(said: Vec<u8>, rest: Box<dyn Receiving + Send + 'a>) -> Self {
        Self { said: Cursor::new(said), rest }
    }

    fn is_said(&self) -> bool {
        usize::try_from(self.said.position()).is_ok_and(|position| position >= self.said.get_ref().len())
    }
}

impl Read for Replayed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if self.is_said() { self.rest.read(buffer) } else { self.said.read(buffer) }
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> Result<usize> {
        if self.is_said() { self.rest.read_vectored(buffers) } else { self.said.read_vectored(buffers) }
    }
}

impl Receiving for Replayed<'_> {
    fn socket(&self) -> Option<Result<BorrowedFd<'_>>> {
        if self.is_said() { self.rest.socket() } else { None }
    }

    fn is_socket(&self) -> bool {
        self.rest.is_socket()
    }
}

#[cfg(test)]
mod test {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::vec;

    use super::super::patient::Patient;
    use super::*;

    #[test]
    fn the_socket_is_there_once_all_that_was_said_is_read_again() {
        let (near, mut far) = UnixStream::pair().unwrap();
        far.write_all(b" and more").unwrap();
        let mut reader = Replayed::new(b"said".to_vec(), Box::new(Patient::new(near, None)));
        let mut heard = vec![0; 13];
        for range in [0..3, 3..4] {
            assert!(reader.socket().is_none() && reader.is_socket());
            reader.read_exact(&mut heard[range]).unwrap();
        }
        assert!(matches!(reader.socket(), Some(Ok(_))));
        reader.read_exact(&mut heard[4..]).unwrap();
        assert_eq!(heard, b"said and more");
    }
}
