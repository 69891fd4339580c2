// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The writing half of a TCP connection that says little and hears much.
//!
//! A socket that has answered passes for one that will answer again: from then on it keeps acknowledgements back for an answer to carry
//! them. At a target, where a credit is the answer to megabytes, the source's socket is full for longer, and its thread woken at the wrong
//! time: over one connection on one machine a tenth of the speed with BBR, and next to nothing with CUBIC. So this says after each short
//! answer that no other follows.

use std::io::{IoSlice, Result, Write};
use std::net::TcpStream;

/// Longer than any answer, and shorter than what is worth a connection.
const ANSWER_BYTES_MAX: usize = 4096;

pub(super) struct Prompt(pub(super) TcpStream);

impl Prompt {
    fn after(&self, written: usize) -> usize {
        #[cfg(target_os = "linux")]
        if written <= ANSWER_BYTES_MAX {
            // It works without, only slower.
            let _ = rustix::net::sockopt::set_tcp_quickack(&self.0, true);
        }
        written
    }
}

impl Write for Prompt {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.0.write(bytes).map(|written| self.after(written))
    }

    fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> Result<usize> {
        self.0.write_vectored(bytes).map(|written| self.after(written))
    }

    fn flush(&mut self) -> Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod test {
    use std::io::{ErrorKind, Read};
    use std::net::TcpListener;
    use std::{eprintln, vec};

    use rustix::net::sockopt::tcp_quickack;

    use super::*;

    /// A half whose peer has said something, which is what makes an answer of what comes next.
    fn asked() -> (Prompt, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut near = listener.accept().unwrap().0;
        for _ in 0..5 {
            far.write_all(b"piece").unwrap();
            near.read_exact(&mut [0; 5]).unwrap();
        }
        (Prompt(near), far)
    }

    #[test]
    fn an_answer_leaves_it_prompt() {
        // An answer is what comes within 40 ms, which a busy machine may miss.
        let is_slow = (0..20).any(|_| {
            let (half, _far) = asked();
            (0..5).for_each(|_| (&half.0).write_all(b"answer").unwrap());
            !tcp_quickack(&half.0).unwrap()
        });
        if !is_slow {
            eprintln!("not shown: this system does not keep acknowledgements back");
        }
        let (mut half, _far) = asked();
        for _ in 0..5 {
            half.write_all(b"answer").unwrap();
        }
        assert!(tcp_quickack(&half.0).unwrap());
        assert_eq!(half.write_vectored(&[IoSlice::new(b"ans"), IoSlice::new(b"wer")]).unwrap(), 6);
        assert!(tcp_quickack(&half.0).unwrap());
    }

    #[test]
    fn what_cannot_be_written_is_said_as_ever() {
        let (mut half, _far) = asked();
        half.0.set_nonblocking(true).unwrap();
        let piece = vec![0; 1 << 20];
        let refused = (0..1000).find_map(|_| half.write(&piece).err());
        assert_eq!(refused.unwrap().kind(), ErrorKind::WouldBlock);
        half.flush().unwrap();
    }
}
