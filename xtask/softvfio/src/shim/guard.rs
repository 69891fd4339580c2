// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What every interposed function goes through: no recursion into ourselves, no panic across C, errno kept.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;

use savevm_core::sim::Errno;

use super::engine::{self, Engine};

thread_local! {
    /// Whether this thread is inside our code: its calls to libc are then our own, and go straight on.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// The result type of a C function that reports failure through errno.
pub(super) trait Answer: Sized {
    fn success(value: i64) -> Self;
    fn failure() -> Self;

    /// The C result for `answer`, with errno set on failure.
    fn give(answer: Result<i64, Errno>) -> Self {
        match answer {
            Ok(value) => Self::success(value),
            Err(errno) => {
                set_errno(errno.raw());
                Self::failure()
            }
        }
    }
}

impl Answer for i32 {
    fn success(value: i64) -> Self {
        Self::try_from(value).unwrap_or(Self::MAX)
    }

    fn failure() -> Self {
        -1
    }
}

impl Answer for isize {
    fn success(value: i64) -> Self {
        Self::try_from(value).unwrap_or(Self::MAX)
    }

    fn failure() -> Self {
        -1
    }
}

impl Answer for i64 {
    fn success(value: i64) -> Self {
        value
    }

    fn failure() -> Self {
        -1
    }
}

impl<T> Answer for *mut T {
    /// Functions that return pointers are never answered with success by number.
    fn success(_: i64) -> Self {
        null_mut()
    }

    fn failure() -> Self {
        null_mut()
    }
}

/// Asks `handler`; `None`: the call is libc's.
pub(super) fn answer(
    handler: impl FnOnce(&'static Engine) -> Option<Result<i64, Errno>>,
) -> Option<Result<i64, Errno>> {
    inside(handler).unwrap_or(Some(Err(Errno::EIO)))
}

/// Runs `action` with the engine, unless this thread is inside already or nothing is configured. `None`: it panicked.
pub(super) fn inside<T>(action: impl FnOnce(&'static Engine) -> Option<T>) -> Option<Option<T>> {
    // A thread that is being torn down has no thread-local storage any more: its calls go on.
    if INSIDE.try_with(|inside| inside.replace(true)).unwrap_or(true) {
        return Some(None);
    }
    let errno = errno();
    let result = catch_unwind(AssertUnwindSafe(|| engine::get().and_then(action)));
    set_errno(errno);
    let _ = INSIDE.try_with(|inside| inside.set(false));
    result.ok()
}

/// Has every call of this thread go to libc: it is one of ours.
pub(super) fn stay_inside() {
    let _ = INSIDE.try_with(|inside| inside.set(true));
}

pub(super) fn errno() -> i32 {
    // SAFETY: returns the address of this thread's errno, which is always valid.
    let location = unsafe { libc::__errno_location() };
    // SAFETY: the address is valid and aligned, and only this thread uses it.
    unsafe { location.read() }
}

fn set_errno(errno: i32) {
    // SAFETY: returns the address of this thread's errno, which is always valid.
    let location = unsafe { libc::__errno_location() };
    // SAFETY: the address is valid and aligned, and only this thread uses it.
    unsafe { location.write(errno) };
}
