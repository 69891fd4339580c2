// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The program's memory, as the kernel treats it: a bad address is `EFAULT`, not a crash.
//!
//! Copies go through `process_vm_readv` and `process_vm_writev` on the process itself: the kernel does the checking.

use std::mem::MaybeUninit;
use std::thread::JoinHandle;

use savevm_core::sim::Errno;

use crate::abi::UserMemory;
use crate::dma::Host;

use super::guard;

/// This process's memory.
pub(super) struct Memory;

/// Memory of ours, or of the program, in the form of the system calls.
fn span(address: *mut libc::c_void, len: usize) -> libc::iovec {
    libc::iovec { iov_base: address, iov_len: len }
}

/// A number as an address of the program's. Nothing here dereferences it.
fn foreign(address: u64, len: usize) -> Result<libc::iovec, Errno> {
    let address = usize::try_from(address).map_err(|_| Errno::EFAULT)?;
    Ok(span(std::ptr::without_provenance_mut(address), len))
}

impl UserMemory for Memory {
    fn copy_in(&self, address: u64, to: &mut [u8]) -> Result<(), Errno> {
        let local = span(to.as_mut_ptr().cast(), to.len());
        let remote = foreign(address, to.len())?;
        // SAFETY: `local` is exclusively borrowed and as long as it says; the kernel checks `remote` itself.
        let copied = unsafe { libc::process_vm_readv(process_id(), &local, 1, &remote, 1, 0) };
        whole(copied, to.len())
    }

    fn copy_out(&self, address: u64, from: &[u8]) -> Result<(), Errno> {
        let local = span(from.as_ptr().cast_mut().cast(), from.len());
        let remote = foreign(address, from.len())?;
        // SAFETY: `local` is borrowed, as long as it says, and only read; the kernel checks `remote` itself.
        let copied = unsafe { libc::process_vm_writev(process_id(), &local, 1, &remote, 1, 0) };
        whole(copied, from.len())
    }
}

impl Host for Memory {
    fn spawn(&self, work: Box<dyn FnOnce() + Send>) -> std::io::Result<JoinHandle<()>> {
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the pointer is valid for a whole signal set, which the call fills.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        let mut old = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `all` has been filled, and `old` is valid for a whole set.
        let blocked = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), old.as_mut_ptr()) };
        // The mask is inherited: what the program does with signals is its own threads' affair.
        let thread = std::thread::Builder::new().name("softvfio-dma".to_owned()).spawn(move || {
            guard::stay_inside();
            work();
        });
        if blocked == 0 {
            // SAFETY: the call above succeeded and filled `old`; nothing is returned.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, old.as_ptr(), std::ptr::null_mut()) };
        }
        thread
    }
}

fn process_id() -> libc::pid_t {
    libc::pid_t::try_from(std::process::id()).unwrap_or(0)
}

fn whole(copied: isize, len: usize) -> Result<(), Errno> {
    if usize::try_from(copied) == Ok(len) { Ok(()) } else { Err(Errno::EFAULT) }
}

/// The first and the last address of a range that is not empty.
fn ends(address: u64, len: usize) -> Result<[u64; 2], Errno> {
    let last = len.checked_sub(1).and_then(|last| u64::try_from(last).ok()).ok_or(Errno::EFAULT)?;
    Ok([address, address.checked_add(last).ok_or(Errno::EFAULT)?])
}

/// Lends the program's bytes to `action`.
///
/// The first and the last byte are checked. A hole between them would still be a crash and not `EFAULT`: checking
/// every page of every transfer would cost more than the transfer.
pub(super) fn with_bytes<T>(
    address: u64,
    len: usize,
    action: impl FnOnce(&[u8]) -> Result<T, Errno>,
) -> Result<T, Errno> {
    if len == 0 {
        return action(&[]);
    }
    for at in ends(address, len)? {
        Memory.copy_in(at, &mut [0])?;
    }
    let span = foreign(address, len)?;
    let address: *const u8 = span.iov_base.cast_const().cast();
    // SAFETY: the caller of write(2) has promised `len` readable bytes here that nobody changes meanwhile; the ends
    // were just read. Lengths above isize::MAX never get here: transfers are cut to the kernel's maximum.
    action(unsafe { std::slice::from_raw_parts(address, len) })
}

/// Lends the program's buffer to `action`. Checked as in [`with_bytes`], and for writing.
pub(super) fn with_buffer<T>(
    address: u64,
    len: usize,
    action: impl FnOnce(&mut [u8]) -> Result<T, Errno>,
) -> Result<T, Errno> {
    if len == 0 {
        return action(&mut []);
    }
    for at in ends(address, len)? {
        // What is there is written back: the buffer belongs to this call, so nobody sees it.
        let mut byte = [0];
        Memory.copy_in(at, &mut byte)?;
        Memory.copy_out(at, &byte)?;
    }
    let span = foreign(address, len)?;
    let address: *mut u8 = span.iov_base.cast();
    // SAFETY: the caller of read(2) has promised `len` writable bytes here that nobody else uses meanwhile; the ends
    // were just written. Lengths above isize::MAX never get here: transfers are cut to the kernel's maximum. Bytes
    // that were never initialised are read by nobody: every reader of the buffer has written it before.
    action(unsafe { std::slice::from_raw_parts_mut(address, len) })
}

/// A NUL-terminated string of the program's, at most `PATH_MAX` long; `None` when it is none, or not UTF-8.
pub(super) fn string(address: *const libc::c_char) -> Option<String> {
    const PAGE: u64 = 4096;
    const PATH_MAX: usize = 4096;
    let mut at = u64::try_from(address.addr()).ok().filter(|at| *at != 0)?;
    let mut text = Vec::new();
    while text.len() < PATH_MAX {
        // Up to the end of the page: the string may end on the last byte before a hole.
        let len = PAGE.checked_sub(at % PAGE)?;
        let start = text.len();
        text.resize(start.checked_add(usize::try_from(len).ok()?)?, 0);
        Memory.copy_in(at, text.get_mut(start..)?).ok()?;
        if let Some(end) = text.iter().position(|byte| *byte == 0) {
            text.truncate(end);
            return String::from_utf8(text).ok();
        }
        at = at.checked_add(len)?;
    }
    None
}
