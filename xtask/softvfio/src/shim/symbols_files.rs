// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! libc's functions on descriptors.

use std::ffi::{c_int, c_uint, c_ulong, c_void};
use std::sync::Arc;

use libc::{iovec, off_t, size_t, ssize_t};
use savevm_core::sim::Errno;

use crate::dispatch;
use crate::machine::{File, Process as _};

use super::engine::Engine;
use super::next::interpose;
use super::transfer::{self, Way};

interpose! {
    /// `ioctl`: VFIO's and iommufd's requests on files of ours.
    fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int = |engine| {
        // The kernel sees 32 bits of the request.
        let number = u32::try_from(request & 0xffff_ffff).unwrap_or(0);
        if !dispatch::is_ours(number) {
            return None;
        }
        let file = engine.file(fd).ok().flatten()?;
        Some(dispatch::ioctl(&engine.machine, &file, engine, number, address(argument)))
    };

    /// `read`
    fn read(fd: c_int, buffer: *mut c_void, len: size_t) -> ssize_t =
        |engine| transfer::bytes(engine, Way::Read, fd, address(buffer), len, None);

    /// `write`
    fn write(fd: c_int, buffer: *mut c_void, len: size_t) -> ssize_t =
        |engine| transfer::bytes(engine, Way::Write, fd, address(buffer), len, None);

    /// `pread`
    fn pread(fd: c_int, buffer: *mut c_void, len: size_t, offset: off_t) -> ssize_t =
        |engine| transfer::bytes(engine, Way::Read, fd, address(buffer), len, Some(offset));

    /// `pread64`
    fn pread64(fd: c_int, buffer: *mut c_void, len: size_t, offset: off_t) -> ssize_t =
        |engine| transfer::bytes(engine, Way::Read, fd, address(buffer), len, Some(offset));

    /// `pwrite`
    fn pwrite(fd: c_int, buffer: *mut c_void, len: size_t, offset: off_t) -> ssize_t =
        |engine| transfer::bytes(engine, Way::Write, fd, address(buffer), len, Some(offset));

    /// `pwrite64`
    fn pwrite64(fd: c_int, buffer: *mut c_void, len: size_t, offset: off_t) -> ssize_t =
        |engine| transfer::bytes(engine, Way::Write, fd, address(buffer), len, Some(offset));

    /// `readv`
    fn readv(fd: c_int, vectors: *mut iovec, count: c_int) -> ssize_t =
        |engine| transfer::vectors(engine, Way::Read, fd, address(vectors), count, None);

    /// `writev`
    fn writev(fd: c_int, vectors: *mut iovec, count: c_int) -> ssize_t =
        |engine| transfer::vectors(engine, Way::Write, fd, address(vectors), count, None);

    /// `preadv`
    fn preadv(fd: c_int, vectors: *mut iovec, count: c_int, offset: off_t) -> ssize_t =
        |engine| transfer::vectors(engine, Way::Read, fd, address(vectors), count, Some(offset));

    /// `preadv64`
    fn preadv64(fd: c_int, vectors: *mut iovec, count: c_int, offset: off_t) -> ssize_t =
        |engine| transfer::vectors(engine, Way::Read, fd, address(vectors), count, Some(offset));

    /// `pwritev`
    fn pwritev(fd: c_int, vectors: *mut iovec, count: c_int, offset: off_t) -> ssize_t =
        |engine| transfer::vectors(engine, Way::Write, fd, address(vectors), count, Some(offset));

    /// `pwritev64`
    fn pwritev64(fd: c_int, vectors: *mut iovec, count: c_int, offset: off_t) -> ssize_t =
        |engine| transfer::vectors(engine, Way::Write, fd, address(vectors), count, Some(offset));

    /// `lseek`: none of our files has positions to seek.
    fn lseek(fd: c_int, offset: off_t, whence: c_int) -> off_t =
        |engine| engine.file(fd).ok().flatten().map(|_| Err(Errno::ESPIPE));

    /// `lseek64`
    fn lseek64(fd: c_int, offset: off_t, whence: c_int) -> off_t =
        |engine| engine.file(fd).ok().flatten().map(|_| Err(Errno::ESPIPE));

    /// `mmap`: no region of a device can be mapped.
    fn mmap(address: *mut c_void, len: size_t, protection: c_int, flags: c_int, fd: c_int, offset: off_t) -> MapResult =
        |engine| refuse_map(engine, fd);

    /// `mmap64`
    fn mmap64(address: *mut c_void, len: size_t, protection: c_int, flags: c_int, fd: c_int, offset: off_t) -> MapResult =
        |engine| refuse_map(engine, fd);

    /// `close`: releases the file with its last descriptor.
    fn close(fd: c_int) -> c_int = |engine| {
        engine.identity_of_ours(fd)?;
        super::descriptors::close(fd);
        engine.sweep(false);
        Some(Ok(0))
    };

    /// `dup2`: the number it takes may have been one of ours.
    fn dup2(from: c_int, onto: c_int) -> c_int = |engine| replace(engine, from, onto, None);

    /// `dup3`
    fn dup3(from: c_int, onto: c_int, flags: c_int) -> c_int = |engine| replace(engine, from, onto, Some(flags));

    /// `close_range`
    fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int = |engine| {
        // SAFETY: takes three integers; which descriptors are closed is the program's choice.
        let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
        let answer = if result < 0 { Err(Errno::from_raw(super::guard::errno())) } else { Ok(0) };
        engine.sweep(false);
        Some(answer)
    };
}

/// The result of `mmap`, whose failure is not null.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct MapResult(#[allow(dead_code)] *mut c_void);

impl super::guard::Answer for MapResult {
    fn success(_: i64) -> Self {
        Self(libc::MAP_FAILED)
    }

    fn failure() -> Self {
        Self(libc::MAP_FAILED)
    }
}

/// A pointer of the program's as the number it is to a kernel.
fn address<T>(pointer: *mut T) -> u64 {
    u64::try_from(pointer.addr()).unwrap_or(u64::MAX)
}

fn refuse_map(engine: &Engine, fd: c_int) -> Option<Result<i64, Errno>> {
    if fd < 0 {
        return None;
    }
    let file: Arc<File> = engine.file(fd).ok().flatten()?;
    Some(Err(match &*file {
        File::Device(_) => Errno::EINVAL,
        _ => Errno::ENODEV,
    }))
}

fn replace(engine: &Engine, from: c_int, onto: c_int, flags: Option<c_int>) -> Option<Result<i64, Errno>> {
    engine.identity_of_ours(onto)?;
    let result = match flags {
        // `dup2` of a descriptor onto itself does nothing, where `dup3` fails.
        None if from == onto => return None,
        flags => {
            // SAFETY: takes three integers; which descriptor is replaced is the program's choice.
            unsafe { libc::syscall(libc::SYS_dup3, from, onto, flags.unwrap_or(0)) }
        }
    };
    if result < 0 {
        return Some(Err(Errno::from_raw(super::guard::errno())));
    }
    engine.sweep(false);
    Some(Ok(i64::from(onto)))
}
