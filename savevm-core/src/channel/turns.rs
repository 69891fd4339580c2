// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One transport used from two threads, one at a time.

use std::io::{IoSlice, IoSliceMut, Read, Result, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

struct Shared<T> {
    transport: Mutex<T>,
    /// Writers that wait for their turn. The reader stands back for them, or it would take the lock again at once.
    writers: Mutex<usize>,
    none_waits: Condvar,
}

/// One half of a transport.
pub(super) struct Turns<T>(Arc<Shared<T>>);

impl<T> Turns<T> {
    pub(super) fn pair(transport: T) -> (Self, Self) {
        let shared =
            Arc::new(Shared { transport: Mutex::new(transport), writers: Mutex::new(0), none_waits: Condvar::new() });
        (Self(Arc::clone(&shared)), Self(shared))
    }

    fn to_read(&self) -> MutexGuard<'_, T> {
        let writers = self.0.writers.lock().unwrap_or_else(PoisonError::into_inner);
        let none = self.0.none_waits.wait_while(writers, |writers| *writers > 0);
        drop(none.unwrap_or_else(PoisonError::into_inner));
        self.0.transport.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn to_write(&self) -> MutexGuard<'_, T> {
        self.count(|writers| writers.saturating_add(1));
        let transport = self.0.transport.lock().unwrap_or_else(PoisonError::into_inner);
        self.count(|writers| writers.saturating_sub(1));
        transport
    }

    fn count(&self, change: impl FnOnce(usize) -> usize) {
        let mut writers = self.0.writers.lock().unwrap_or_else(PoisonError::into_inner);
        *writers = change(*writers);
        if *writers == 0 {
            self.0.none_waits.notify_all();
        }
    }
}

impl<T: Read> Read for Turns<T> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.to_read().read(buffer)
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> Result<usize> {
        self.to_read().read_vectored(buffers)
    }
}

impl<T: Write> Write for Turns<T> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.to_write().write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> Result<usize> {
        self.to_write().write_vectored(slices)
    }

    fn flush(&mut self) -> Result<()> {
        self.to_write().flush()
    }
}
