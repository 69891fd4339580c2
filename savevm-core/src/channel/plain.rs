// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A reader of which nothing is known but that it reads.

use std::io::{IoSliceMut, Read, Result};

use super::Receiving;

pub(super) struct Plain<R>(pub(super) R);

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.0.read(buffer)
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> Result<usize> {
        self.0.read_vectored(buffers)
    }
}

impl<R: Read> Receiving for Plain<R> {}
