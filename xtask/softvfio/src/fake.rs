// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A process for tests: a page of memory and a table of files.
#![allow(clippy::arithmetic_side_effects)]

use std::cell::RefCell;
use std::sync::Arc;

use savevm_core::sim::Errno;

use crate::abi::UserMemory;
use crate::machine::{Access, File, Process};

/// Where the memory begins; below and above nothing is mapped.
pub(crate) const BASE: u64 = 0x1000;
const BYTES: usize = 0x1000;

pub(crate) struct FakeProcess {
    memory: RefCell<Vec<u8>>,
    files: RefCell<Vec<Arc<File>>>,
}

impl FakeProcess {
    pub(crate) fn new() -> Self {
        Self { memory: RefCell::new(vec![0; BYTES]), files: RefCell::default() }
    }

    /// Stores fields of four bytes from the begin of memory on, and returns its address.
    pub(crate) fn words(&self, words: &[u32]) -> u64 {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.copy_out(BASE, &bytes).unwrap();
        BASE
    }

    pub(crate) fn u32_at(&self, offset: u64) -> u32 {
        self.word(BASE + offset).unwrap()
    }
}

/// The two halves of a field of eight bytes.
pub(crate) fn halves(value: u64) -> [u32; 2] {
    let bytes = value.to_ne_bytes();
    [0, 4].map(|at| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap()))
}

impl UserMemory for FakeProcess {
    fn copy_in(&self, address: u64, to: &mut [u8]) -> Result<(), Errno> {
        let at = usize::try_from(address.checked_sub(BASE).ok_or(Errno::EFAULT)?).unwrap();
        let end = at.checked_add(to.len()).ok_or(Errno::EFAULT)?;
        to.copy_from_slice(self.memory.borrow().get(at..end).ok_or(Errno::EFAULT)?);
        Ok(())
    }

    fn copy_out(&self, address: u64, from: &[u8]) -> Result<(), Errno> {
        let at = usize::try_from(address.checked_sub(BASE).ok_or(Errno::EFAULT)?).unwrap();
        let end = at.checked_add(from.len()).ok_or(Errno::EFAULT)?;
        self.memory.borrow_mut().get_mut(at..end).ok_or(Errno::EFAULT)?.copy_from_slice(from);
        Ok(())
    }
}

impl Process for FakeProcess {
    fn install(&self, file: Arc<File>, _: Access) -> Result<i32, Errno> {
        let mut files = self.files.borrow_mut();
        files.push(file);
        Ok(i32::try_from(files.len()).unwrap() - 1)
    }

    fn discard(&self, _: i32) {
        self.files.borrow_mut().pop();
    }

    fn file(&self, fd: i32) -> Result<Option<Arc<File>>, Errno> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        self.files.borrow().get(index).cloned().map(Some).ok_or(Errno::EBADF)
    }
}
