// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Paths of ours: which they are, and what is behind them.

use std::ffi::{CString, c_char, c_int};
use std::mem::MaybeUninit;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use savevm_core::sim::Errno;

use crate::abi::UserMemory as _;
use crate::machine::{Access, Process as _};
use crate::tree::{self, DeviceNumber};

use super::descriptors;
use super::engine::Engine;
use super::guard;
use super::memory::{self, Memory};

/// A path of ours.
pub(super) struct Found {
    /// What the program calls it.
    path: String,
    /// Where it is.
    real: CString,
}

impl Found {
    /// A null-terminated path for libc.
    pub(super) fn real(&self) -> &CString {
        &self.real
    }

    fn device_number(&self) -> Option<DeviceNumber> {
        tree::device_number(&self.path)
    }
}

/// Looks a path up, relative to `folder` when it is not absolute; `None`: not ours.
///
/// A path relative to the working directory is not looked at.
pub(super) fn find(engine: &Engine, folder: c_int, path: *const c_char) -> Option<Found> {
    let text = memory::string(path)?;
    let path =
        if text.starts_with('/') { tree::concerns(&text).then_some(text)? } else { below(engine, folder, &text)? };
    let real = engine.tree()?.redirect(&path)?;
    Some(Found { path, real: c_string(&real)? })
}

/// `text` below the open folder `folder`, when that is in the tree.
fn below(engine: &Engine, folder: c_int, text: &str) -> Option<String> {
    if folder < 0 || text.is_empty() {
        return None;
    }
    let tree = engine.tree_if_made()?;
    let folder = std::fs::read_link(format!("/proc/self/fd/{folder}")).ok()?;
    let path = tree.outside(&folder)?.join(text);
    path.into_os_string().into_string().ok()
}

fn c_string(path: &Path) -> Option<CString> {
    CString::new(path.as_os_str().as_bytes()).ok()
}

/// `open` and its kin.
pub(super) fn open(
    engine: &Engine,
    folder: c_int,
    path: *const c_char,
    flags: c_int,
    mode: libc::mode_t,
) -> Option<Result<i64, Errno>> {
    let found = find(engine, folder, path)?;
    if found.device_number().is_some() && flags & libc::O_PATH == 0 {
        return Some(open_node(engine, &found, flags));
    }
    // SAFETY: the path is NUL-terminated, the rest are integers.
    let fd = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, found.real.as_ptr(), flags, mode) };
    Some(result(fd))
}

fn open_node(engine: &Engine, found: &Found, flags: c_int) -> Result<i64, Errno> {
    let file = engine.machine.open(found.path.trim_start_matches("/dev/"))?;
    let fd = engine.install(Arc::new(file), Access::ReadWrite)?;
    descriptors::set_cloexec(fd, flags & libc::O_CLOEXEC != 0);
    Ok(i64::from(fd))
}

/// `access` and its kin.
pub(super) fn access(engine: &Engine, folder: c_int, path: *const c_char, mode: c_int) -> Option<Result<i64, Errno>> {
    let found = find(engine, folder, path)?;
    // SAFETY: the path is NUL-terminated, the rest are integers.
    let answer = unsafe { libc::syscall(libc::SYS_faccessat, libc::AT_FDCWD, found.real.as_ptr(), mode) };
    Some(result(answer))
}

/// `readlink` and its kin. Links in the tree are relative, so they hold outside as well.
pub(super) fn read_link(
    engine: &Engine,
    folder: c_int,
    path: *const c_char,
    buffer: u64,
    len: usize,
) -> Option<Result<i64, Errno>> {
    let found = find(engine, folder, path)?;
    let answer = std::fs::read_link(PathBuf::from(std::ffi::OsString::from_vec(found.real.into_bytes())));
    Some(match answer {
        Ok(target) => {
            let bytes = target.as_os_str().as_bytes();
            let bytes = bytes.get(..len.min(bytes.len())).unwrap_or_default();
            Memory.copy_out(buffer, bytes).map(|()| i64::try_from(bytes.len()).unwrap_or(0))
        }
        Err(error) => Err(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)),
    })
}

/// `stat` and its kin.
pub(super) fn stat(
    engine: &Engine,
    folder: c_int,
    path: *const c_char,
    flags: c_int,
    buffer: u64,
) -> Option<Result<i64, Errno>> {
    let found = find(engine, folder, path)?;
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    let flags = flags & libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: the path is NUL-terminated and the buffer holds a whole `struct stat`.
    let answer =
        unsafe { libc::syscall(libc::SYS_newfstatat, libc::AT_FDCWD, found.real.as_ptr(), stat.as_mut_ptr(), flags) };
    // SAFETY: all bits zero is a valid `struct stat`, and so is what the kernel has filled.
    let stat = unsafe { stat.assume_init() };
    Some(result(answer).and_then(|_| give_stat(stat, found.device_number(), buffer)))
}

/// `fstat` of one of our descriptors that stands for a node below `/dev`.
pub(super) fn stat_descriptor(engine: &Engine, fd: c_int, buffer: u64) -> Option<Result<i64, Errno>> {
    let number = tree::file_number(&*engine.file(fd).ok().flatten()?)?;
    let stat = descriptors::stat(fd);
    Some(stat.and_then(|stat| give_stat(stat, Some(number), buffer)))
}

fn give_stat(mut stat: libc::stat, number: Option<DeviceNumber>, buffer: u64) -> Result<i64, Errno> {
    if let Some(DeviceNumber { major, minor }) = number {
        stat.st_mode = stat.st_mode & !libc::S_IFMT | libc::S_IFCHR;
        stat.st_rdev = libc::makedev(major, minor);
    }
    give(&stat, buffer)
}

/// `statx`, of a path or with an empty path of a descriptor.
pub(super) fn statx(
    engine: &Engine,
    folder: c_int,
    path: *const c_char,
    flags: c_int,
    mask: libc::c_uint,
    buffer: u64,
) -> Option<Result<i64, Errno>> {
    let by_descriptor = flags & libc::AT_EMPTY_PATH != 0 && memory::string(path).is_none_or(|path| path.is_empty());
    let (folder, real, number) = if by_descriptor {
        let number = tree::file_number(&*engine.file(folder).ok().flatten()?)?;
        (folder, CString::default(), Some(number))
    } else {
        let found = find(engine, folder, path)?;
        let number = found.device_number();
        (libc::AT_FDCWD, found.real, number)
    };
    let mut statx = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is NUL-terminated and the buffer holds a whole `struct statx`.
    let answer = unsafe { libc::syscall(libc::SYS_statx, folder, real.as_ptr(), flags, mask, statx.as_mut_ptr()) };
    // SAFETY: all bits zero is a valid `struct statx`, and so is what the kernel has filled.
    let mut statx = unsafe { statx.assume_init() };
    if let Some(DeviceNumber { major, minor }) = number {
        let kind = u16::try_from(libc::S_IFCHR).unwrap_or(0);
        statx.stx_mode = statx.stx_mode & 0o7777 | kind;
        statx.stx_rdev_major = major;
        statx.stx_rdev_minor = minor;
    }
    Some(result(answer).and_then(|_| give(&statx, buffer)))
}

/// Copies a C structure to the program.
fn give<T: Copy>(structure: &T, buffer: u64) -> Result<i64, Errno> {
    let address: *const T = structure;
    // SAFETY: the bytes of a C structure that was zeroed, or filled by the kernel, before its fields were set: all of
    // them are initialised, padding included.
    let bytes = unsafe { std::slice::from_raw_parts(address.cast::<u8>(), size_of::<T>()) };
    Memory.copy_out(buffer, bytes).map(|()| 0)
}

/// The result of a raw system call.
fn result(answer: libc::c_long) -> Result<i64, Errno> {
    if answer < 0 { Err(Errno::from_raw(guard::errno())) } else { Ok(answer) }
}

/// Takes the tree's root off a path that libc has resolved, in place: what is left is shorter.
pub(super) fn strip_root(engine: &Engine, path: *mut c_char) {
    let Some(text) = memory::string(path) else {
        return;
    };
    let outside = engine.tree_if_made().and_then(|tree| tree.outside(Path::new(&text)));
    let Some(outside) = outside.as_deref().and_then(c_string) else {
        return;
    };
    let at = u64::try_from(path.addr()).unwrap_or(0);
    // The place was written by libc a moment ago.
    let _ = Memory.copy_out(at, outside.as_bytes_with_nul());
}
