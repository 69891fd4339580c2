// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! libc's functions on paths.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};

use libc::{AT_FDCWD, AT_SYMLINK_NOFOLLOW, mode_t, size_t, ssize_t};

use super::guard;
use super::next::interpose;
use super::paths;

interpose! {
    /// `open`
    fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int =
        |engine| paths::open(engine, AT_FDCWD, path, flags, mode);

    /// `open64`
    fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int =
        |engine| paths::open(engine, AT_FDCWD, path, flags, mode);

    /// `open`, fortified
    fn __open_2(path: *const c_char, flags: c_int) -> c_int =
        |engine| paths::open(engine, AT_FDCWD, path, flags, 0);

    /// `open64`, fortified
    fn __open64_2(path: *const c_char, flags: c_int) -> c_int =
        |engine| paths::open(engine, AT_FDCWD, path, flags, 0);

    /// `openat`
    fn openat(folder: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int =
        |engine| paths::open(engine, folder, path, flags, mode);

    /// `openat64`
    fn openat64(folder: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int =
        |engine| paths::open(engine, folder, path, flags, mode);

    /// `openat`, fortified
    fn __openat_2(folder: c_int, path: *const c_char, flags: c_int) -> c_int =
        |engine| paths::open(engine, folder, path, flags, 0);

    /// `openat64`, fortified
    fn __openat64_2(folder: c_int, path: *const c_char, flags: c_int) -> c_int =
        |engine| paths::open(engine, folder, path, flags, 0);

    /// `access`
    fn access(path: *const c_char, mode: c_int) -> c_int = |engine| paths::access(engine, AT_FDCWD, path, mode);

    /// `faccessat`
    fn faccessat(folder: c_int, path: *const c_char, mode: c_int, flags: c_int) -> c_int =
        |engine| paths::access(engine, folder, path, mode);

    /// `readlink`
    fn readlink(path: *const c_char, buffer: *mut c_char, len: size_t) -> ssize_t =
        |engine| paths::read_link(engine, AT_FDCWD, path, address(buffer), len);

    /// `readlinkat`
    fn readlinkat(folder: c_int, path: *const c_char, buffer: *mut c_char, len: size_t) -> ssize_t =
        |engine| paths::read_link(engine, folder, path, address(buffer), len);

    /// `readlink`, fortified
    fn __readlink_chk(path: *const c_char, buffer: *mut c_char, len: size_t, room: size_t) -> ssize_t =
        |engine| paths::read_link(engine, AT_FDCWD, path, address(buffer), len.min(room));

    /// `stat`
    fn stat(path: *const c_char, buffer: *mut c_void) -> c_int =
        |engine| paths::stat(engine, AT_FDCWD, path, 0, address(buffer));

    /// `stat64`
    fn stat64(path: *const c_char, buffer: *mut c_void) -> c_int =
        |engine| paths::stat(engine, AT_FDCWD, path, 0, address(buffer));

    /// `lstat`
    fn lstat(path: *const c_char, buffer: *mut c_void) -> c_int =
        |engine| paths::stat(engine, AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, address(buffer));

    /// `lstat64`
    fn lstat64(path: *const c_char, buffer: *mut c_void) -> c_int =
        |engine| paths::stat(engine, AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, address(buffer));

    /// `fstatat`
    fn fstatat(folder: c_int, path: *const c_char, buffer: *mut c_void, flags: c_int) -> c_int =
        |engine| paths::stat(engine, folder, path, flags, address(buffer));

    /// `fstatat64`
    fn fstatat64(folder: c_int, path: *const c_char, buffer: *mut c_void, flags: c_int) -> c_int =
        |engine| paths::stat(engine, folder, path, flags, address(buffer));

    /// `fstat`
    fn fstat(fd: c_int, buffer: *mut c_void) -> c_int =
        |engine| paths::stat_descriptor(engine, fd, address(buffer));

    /// `fstat64`
    fn fstat64(fd: c_int, buffer: *mut c_void) -> c_int =
        |engine| paths::stat_descriptor(engine, fd, address(buffer));

    /// `stat` of programs built for a glibc before 2.33
    fn __xstat(version: c_int, path: *const c_char, buffer: *mut c_void) -> c_int =
        |engine| paths::stat(engine, AT_FDCWD, path, 0, address(buffer));

    /// `stat64` of programs built for a glibc before 2.33
    fn __xstat64(version: c_int, path: *const c_char, buffer: *mut c_void) -> c_int =
        |engine| paths::stat(engine, AT_FDCWD, path, 0, address(buffer));

    /// `lstat` of programs built for a glibc before 2.33
    fn __lxstat(version: c_int, path: *const c_char, buffer: *mut c_void) -> c_int =
        |engine| paths::stat(engine, AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, address(buffer));

    /// `lstat64` of programs built for a glibc before 2.33
    fn __lxstat64(version: c_int, path: *const c_char, buffer: *mut c_void) -> c_int =
        |engine| paths::stat(engine, AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, address(buffer));

    /// `fstat` of programs built for a glibc before 2.33
    fn __fxstat(version: c_int, fd: c_int, buffer: *mut c_void) -> c_int =
        |engine| paths::stat_descriptor(engine, fd, address(buffer));

    /// `fstat64` of programs built for a glibc before 2.33
    fn __fxstat64(version: c_int, fd: c_int, buffer: *mut c_void) -> c_int =
        |engine| paths::stat_descriptor(engine, fd, address(buffer));

    /// `fstatat` of programs built for a glibc before 2.33
    fn __fxstatat(version: c_int, folder: c_int, path: *const c_char, buffer: *mut c_void, flags: c_int) -> c_int =
        |engine| paths::stat(engine, folder, path, flags, address(buffer));

    /// `fstatat64` of programs built for a glibc before 2.33
    fn __fxstatat64(version: c_int, folder: c_int, path: *const c_char, buffer: *mut c_void, flags: c_int) -> c_int =
        |engine| paths::stat(engine, folder, path, flags, address(buffer));

    /// `statx`
    fn statx(folder: c_int, path: *const c_char, flags: c_int, mask: c_uint, buffer: *mut c_void) -> c_int =
        |engine| paths::statx(engine, folder, path, flags, mask, address(buffer));
}

/// Defines libc functions that are called with another path when the path is ours.
macro_rules! redirect {
    ($(
        $(#[$doc:meta])*
        fn $name:ident($path:ident: *const c_char $(, $argument:ident: $type:ty)* $(,)?) -> $result:ty;
    )+) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// That of the C function of this name.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($path: *const c_char $(, $argument: $type)*) -> $result {
            type Function = unsafe extern "C" fn(*const c_char $(, $type)*) -> $result;
            static NEXT: super::next::Next = {
                const NAME: &str = concat!(stringify!($name), "\0");
                super::next::Next::new(match ::std::ffi::CStr::from_bytes_with_nul(NAME.as_bytes()) {
                    Ok(name) => name,
                    Err(_) => c"",
                })
            };
            let other = elsewhere($path);
            let path = other.as_ref().map_or($path, |path| path.as_ptr());
            let next = NEXT.get();
            if next.is_null() {
                return guard::Answer::give(Err(savevm_core::sim::Errno::from_raw(libc::ENOSYS)));
            }
            // SAFETY: libc's symbol of this name has this C signature, and the address is not null.
            let next = unsafe { ::std::mem::transmute::<*mut c_void, Function>(next) };
            // SAFETY: the caller's own arguments, and a path that is either the caller's or NUL-terminated and alive.
            unsafe { next(path $(, $argument)*) }
        }
    )+};
}

redirect! {
    /// `fopen`
    fn fopen(path: *const c_char, mode: *const c_char) -> *mut c_void;
    /// `fopen64`
    fn fopen64(path: *const c_char, mode: *const c_char) -> *mut c_void;
    /// `opendir`
    fn opendir(path: *const c_char) -> *mut c_void;
    /// `scandir`
    fn scandir(path: *const c_char, list: *mut c_void, filter: *mut c_void, compare: *mut c_void) -> c_int;
    /// `scandir64`
    fn scandir64(path: *const c_char, list: *mut c_void, filter: *mut c_void, compare: *mut c_void) -> c_int;
}

/// Where a path of ours really is.
fn elsewhere(path: *const c_char) -> Option<CString> {
    guard::inside(|engine| paths::find(engine, AT_FDCWD, path).map(|found| found.real().clone())).flatten()
}

/// `realpath`: the answer is the path as the program knows it.
///
/// # Safety
/// That of `realpath`.
#[unsafe(no_mangle)]
unsafe extern "C" fn realpath(path: *const c_char, buffer: *mut c_char) -> *mut c_char {
    static NEXT: super::next::Next = super::next::Next::new(c"realpath");
    type Function = unsafe extern "C" fn(*const c_char, *mut c_char) -> *mut c_char;
    let other = elsewhere(path);
    let at = other.as_ref().map_or(path, |path| path.as_ptr());
    let next = NEXT.get();
    if next.is_null() {
        return guard::Answer::give(Err(savevm_core::sim::Errno::from_raw(libc::ENOSYS)));
    }
    // SAFETY: libc's `realpath` has this C signature, and the address is not null.
    let next = unsafe { std::mem::transmute::<*mut c_void, Function>(next) };
    // SAFETY: the caller's buffer, and a path that is either the caller's or NUL-terminated and alive.
    let found = unsafe { next(at, buffer) };
    if other.is_some() && !found.is_null() {
        guard::inside(|engine| {
            paths::strip_root(engine, found);
            Some(())
        });
    }
    found
}

/// A pointer of the program's as the number it is to a kernel.
fn address<T>(pointer: *mut T) -> u64 {
    u64::try_from(pointer.addr()).unwrap_or(u64::MAX)
}
