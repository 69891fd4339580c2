// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One transport used from two ends: frames are read from it and written to it.

use std::io::{IoSlice, IoSliceMut, Read, Result, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The reading or the writing end.
pub(super) struct Half<T>(Arc<Mutex<T>>);

impl<T> Half<T> {
    pub(super) fn pair(transport: T) -> (Self, Self) {
        let shared = Arc::new(Mutex::new(transport));
        (Self(Arc::clone(&shared)), Self(shared))
    }

    /// A lock that nobody else waits for: one thread has both ends. A panic of the transport leaves its bytes as they
    /// are, so a poisoned lock is as good as any.
    fn transport(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Read> Read for Half<T> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.transport().read(buffer)
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> Result<usize> {
        self.transport().read_vectored(buffers)
    }
}

impl<T: Write> Write for Half<T> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.transport().write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> Result<usize> {
        self.transport().write_vectored(slices)
    }

    fn flush(&mut self) -> Result<()> {
        self.transport().flush()
    }
}
