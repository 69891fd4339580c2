// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Error numbers as Linux gives them.

use core::fmt;

/// An errno of Linux: what a simulated call fails with.
///
/// Open on purpose: a driver may answer any number, also one without a name here.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Errno(i32);

macro_rules! errnos {
    ($($name:ident = $raw:literal, $text:literal;)+) => {
        impl Errno {
            $(
                #[doc = concat!($text, " (", stringify!($raw), ").")]
                pub const $name: Errno = Errno($raw);
            )+

            /// Every errno that has a name here.
            pub const NAMED: &'static [(&'static str, Errno)] = &[$((stringify!($name), Errno($raw)),)+];
        }
    };
}

errnos! {
    EPERM = 1, "Operation not permitted";
    ENOENT = 2, "No such object";
    EINTR = 4, "Interrupted by a signal";
    EIO = 5, "Input/output error";
    E2BIG = 7, "Argument too large";
    EBADF = 9, "Bad file descriptor, or the wrong direction";
    EAGAIN = 11, "Try again";
    ENOMEM = 12, "Out of memory; in migration: longer than the driver takes";
    EACCES = 13, "Permission denied";
    EFAULT = 14, "Bad address; in migration also: header refused";
    EBUSY = 16, "Busy";
    EEXIST = 17, "Exists already";
    ENODEV = 19, "No such device; in migration: the session is over";
    EINVAL = 22, "Invalid argument";
    ENFILE = 23, "No file available in the system";
    EMFILE = 24, "No file descriptor available in the process";
    ENOTTY = 25, "Not an operation of this file";
    ENOSPC = 28, "No space";
    ESPIPE = 29, "No positioned access";
    ENOMSG = 42, "Nothing to read for now";
    ETIME = 62, "Timer expired";
    EOVERFLOW = 75, "Value too large";
    EBADFD = 77, "File descriptor of the wrong kind";
    EOPNOTSUPP = 95, "Not supported";
    ENOTCONN = 107, "Not connected: the parent device is gone";
    ETIMEDOUT = 110, "Timed out";
    EREMOTEIO = 121, "Remote input/output error";
}

impl Errno {
    /// The errno with the positive number `raw`.
    #[must_use]
    pub const fn from_raw(raw: i32) -> Self {
        Self(raw)
    }

    /// The positive number.
    #[must_use]
    pub const fn raw(self) -> i32 {
        self.0
    }

    /// The symbolic name, when it is one of [`Errno::NAMED`].
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Self::NAMED.iter().find(|(_, errno)| *errno == self).map(|(name, _)| *name)
    }

    /// The errno called `name` (`"EIO"`), or written as its positive number (`"5"`).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        if let Some((_, errno)) = Self::NAMED.iter().find(|(known, _)| *known == name) {
            return Some(*errno);
        }
        // 4095 is the largest number that the kernel can return as an error.
        name.parse::<i32>().ok().filter(|raw| (1..=4095).contains(raw)).map(Self)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl core::error::Error for Errno {}
