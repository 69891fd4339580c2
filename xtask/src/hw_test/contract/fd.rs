// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The data fd as a file: direction, flags, and whether its session lives.

use std::fs::File;
use std::io::{Read, Write};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};

use super::check::{Checked, ensure, failed, must};

/// Closed on exec; read-only for saving, write-only for resuming (uAPI of MIG_DEVICE_STATE).
pub(crate) fn expect_session_fd(data: &File, resuming: bool) -> Checked {
    let flags = must("F_GETFD", fcntl(data, FcntlArg::F_GETFD))?;
    let closes = FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC);
    ensure(closes, || "the data fd is not close-on-exec".into())?;
    let flags = must("F_GETFL", fcntl(data, FcntlArg::F_GETFL))?;
    let mode = OFlag::from_bits_retain(flags) & OFlag::O_ACCMODE;
    let (expected, name) = if resuming { (OFlag::O_WRONLY, "write-only") } else { (OFlag::O_RDONLY, "read-only") };
    ensure(mode == expected, || format!("the data fd is not {name}: F_GETFL says {flags:#x}"))
}

/// Whether the session of `data` still answers, without moving its position.
pub(crate) fn is_alive(data: &mut File, resuming: bool) -> Checked<bool> {
    // A zero-length write need not reach the driver, so a resuming fd is asked by writing nothing only if that says no.
    let answer = if resuming { data.write(&[]) } else { data.read(&mut [0; 1]) };
    match answer.map_err(|error| error.raw_os_error().map(Errno::from_raw)) {
        Ok(_) | Err(Some(Errno::ENOMSG)) => Ok(true),
        Err(Some(Errno::ENODEV)) => Ok(false),
        Err(other) => Err(failed(format!("the data fd answers {other:?}"))),
    }
}
