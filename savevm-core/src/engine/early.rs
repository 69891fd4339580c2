// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Payloads that come with their header, in one read.
//!
//! Who reads a header alone is woken when that is there, finds nothing behind it, and is woken again: over a TCP connection that is
//! otherwise idle this costs a sixth of the speed. But what follows a header is known only once it is there. So pieces of one length
//! let this expect another, and have a buffer ready.

use super::buffer::{Buffer, Pool};

/// What one channel expects.
#[derive(Debug, Default)]
pub(super) struct Early {
    buffer: Option<Buffer>,
    /// The length of the last piece.
    length: usize,
    /// And of the one before it.
    is_steady: bool,
}

impl Early {
    /// Whether a payload is expected for which there is no buffer yet.
    pub(super) const fn is_expecting(&self) -> bool {
        self.is_steady && self.buffer.is_none()
    }

    /// Where a payload of the length that is expected may go.
    pub(super) fn room(&mut self, pool: Option<&Pool>) -> &mut [u8] {
        if !self.is_steady {
            return &mut [];
        }
        if self.buffer.is_none() {
            self.buffer = pool.and_then(Pool::try_take);
        }
        let space = self.buffer.as_mut().map(Buffer::space).unwrap_or_default();
        space.get_mut(..self.length).unwrap_or_default()
    }

    /// The buffer, for the piece whose header has come, or to give back.
    pub(super) fn take(&mut self) -> Option<Buffer> {
        self.buffer.take()
    }

    /// A piece of this length has come.
    pub(super) fn saw(&mut self, length: usize) {
        (self.is_steady, self.length) = (length == self.length, length);
    }
}

#[cfg(all(test, not(loom)))]
mod test {
    use super::*;

    #[test]
    fn two_of_a_length_let_it_expect_a_third() {
        let (pool, mut early) = (Pool::new(4096, 1), Early::default());
        let mut room_after = |length| {
            early.saw(length);
            early.room(Some(&pool)).len()
        };
        assert_eq!([100, 100, 100, 40, 40, 5000, 5000].map(&mut room_after), [0, 100, 100, 0, 40, 0, 0]);
        assert!(pool.try_take().is_none() && early.take().is_some(), "it has the only one");
        assert_eq!(early.room(None).len(), 0, "and gets no other");
    }
}
