// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Standard output of commands whose reader may leave early, as `head` does.

use core::fmt;
use std::io::{self, ErrorKind, Write};

/// Writes text. When nobody reads any more that is no failure: the exit status still tells.
pub(crate) fn text(arguments: fmt::Arguments<'_>) {
    match io::stdout().write_fmt(arguments) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => eprintln!("cannot write to standard output: {error}"),
        _ => {}
    }
}

/// As `print!`, for a reader that may leave.
macro_rules! out {
    ($($arguments:tt)*) => { $crate::out::text(format_args!($($arguments)*)) };
}

/// As `println!`, for a reader that may leave.
macro_rules! outln {
    ($($arguments:tt)*) => { $crate::out::text(format_args!("{}\n", format_args!($($arguments)*))) };
}

pub(crate) use {out, outln};
