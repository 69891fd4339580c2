// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Real descriptors for simulated files.
//!
//! Each of our files is a memfd with a name that says what it is. So descriptor numbers, `dup`, `fcntl`, SCM_RIGHTS
//! and inheritance through `exec` are the kernel's own, and any descriptor can be recognised by one `fstat`: the
//! inode, once seen, tells the file. Nothing has to be kept in step with the program's descriptors.

use std::ffi::{CString, c_int};
use std::mem::MaybeUninit;

use savevm_core::sim::Errno;

use crate::machine::Access;

use super::guard;

/// What all names begin with; the kernel shows a memfd as `/memfd:NAME (deleted)`.
const PREFIX: &str = "softvfio:";

/// The identity of an open file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
}

/// `fstat`, past every interposed symbol.
pub(super) fn stat(fd: c_int) -> Result<libc::stat, Errno> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the pointer is valid for a whole `struct stat`, in which the kernel's and libc's layouts agree on
    // 64-bit Linux.
    let result = unsafe { libc::syscall(libc::SYS_fstat, fd, stat.as_mut_ptr()) };
    check(result)?;
    // SAFETY: the call succeeded, so the kernel has filled it.
    Ok(unsafe { stat.assume_init() })
}

pub(super) fn identity(fd: c_int) -> Result<Identity, Errno> {
    stat(fd).map(|stat| Identity { device: stat.st_dev, inode: stat.st_ino })
}

/// Makes a memfd called `softvfio:NAME` and returns its lowest possible descriptor, with `O_CLOEXEC`.
pub(super) fn create(name: &str, access: Access) -> Result<c_int, Errno> {
    let name = CString::new(format!("{PREFIX}{name}")).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the name is NUL-terminated.
    let fd = unsafe { libc::syscall(libc::SYS_memfd_create, name.as_ptr(), libc::MFD_CLOEXEC) };
    let fd = descriptor(fd)?;
    let flags = match access {
        Access::ReadWrite => return Ok(fd),
        Access::ReadOnly => libc::O_RDONLY,
        Access::WriteOnly => libc::O_WRONLY,
    };
    let reopened = reopen(fd, flags);
    close(fd);
    let reopened = reopened?;
    // The number that the first one had is free again: a kernel would have given that.
    // SAFETY: F_DUPFD_CLOEXEC takes an integer.
    let lower = unsafe { libc::syscall(libc::SYS_fcntl, reopened, libc::F_DUPFD_CLOEXEC, 0) };
    match descriptor(lower) {
        Ok(lower) => {
            close(reopened);
            Ok(lower)
        }
        Err(_) => Ok(reopened),
    }
}

/// Opens the same file once more with other access.
fn reopen(fd: c_int, flags: c_int) -> Result<c_int, Errno> {
    let path = CString::new(format!("/proc/self/fd/{fd}")).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the path is NUL-terminated.
    let fd = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags | libc::O_CLOEXEC, 0) };
    descriptor(fd)
}

/// Puts `fd` onto the number `onto`, and lets it be inherited.
pub(super) fn move_to(fd: c_int, onto: c_int) -> Result<(), Errno> {
    if fd != onto {
        // SAFETY: takes three integers.
        check(unsafe { libc::syscall(libc::SYS_dup3, fd, onto, 0) })?;
        close(fd);
        return Ok(());
    }
    // SAFETY: F_SETFD takes an integer.
    check(unsafe { libc::syscall(libc::SYS_fcntl, fd, libc::F_SETFD, 0) }).map(|_| ())
}

/// Lets `fd` be inherited, unless the program asked for `O_CLOEXEC`.
pub(super) fn set_cloexec(fd: c_int, cloexec: bool) {
    let flag = if cloexec { libc::FD_CLOEXEC } else { 0 };
    // SAFETY: F_SETFD takes an integer.
    unsafe { libc::syscall(libc::SYS_fcntl, fd, libc::F_SETFD, flag) };
}

pub(super) fn close(fd: c_int) {
    // SAFETY: takes an integer; only descriptors of our own are closed here.
    unsafe { libc::syscall(libc::SYS_close, fd) };
}

/// What a descriptor of ours is called; `None` when it is not one of ours.
pub(super) fn name(fd: c_int) -> Option<String> {
    let target = std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
    let target = target.to_str()?.strip_prefix("/memfd:")?;
    target.strip_prefix(PREFIX)?.strip_suffix(" (deleted)").map(str::to_owned)
}

/// The identities of all open descriptors; `None` when `/proc` does not tell.
pub(super) fn open_now() -> Option<Vec<Identity>> {
    let entries = std::fs::read_dir("/proc/self/fd").ok()?;
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Some(numbers.filter_map(|fd: c_int| identity(fd).ok()).collect())
}

/// The result of a raw system call.
fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result < 0 { Err(Errno::from_raw(guard::errno())) } else { Ok(result) }
}

fn descriptor(result: libc::c_long) -> Result<c_int, Errno> {
    check(result).and_then(|fd| c_int::try_from(fd).map_err(|_| Errno::EMFILE))
}
