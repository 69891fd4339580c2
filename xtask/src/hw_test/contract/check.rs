// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Checks that say what was expected and what was found.

use core::fmt::{Debug, Display};
use std::io;

use nix::errno::Errno;

/// Why a test did not pass.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Failure {
    /// The device broke the contract, or a step on the way failed.
    Failed(String),
    /// The test does not apply here, for this reason.
    Skipped(String),
}

/// What a test returns.
pub(crate) type Checked<T = ()> = Result<T, Failure>;

/// A failure with `text`.
pub(crate) fn failed(text: impl Into<String>) -> Failure {
    Failure::Failed(text.into())
}

/// A skip because of `text`.
pub(crate) fn skipped(text: impl Into<String>) -> Failure {
    Failure::Skipped(text.into())
}

/// Fails with `text` unless `condition` holds.
pub(crate) fn ensure(condition: bool, text: impl FnOnce() -> String) -> Checked {
    if condition { Ok(()) } else { Err(failed(text())) }
}

/// `found` must be `expected`.
pub(crate) fn expect<T: Debug + PartialEq>(what: &str, found: T, expected: T) -> Checked {
    ensure(found == expected, || format!("{what}: expected {expected:?}, found {found:?}"))
}

/// `result` must be a success, else the failure says what was being done.
pub(crate) fn must<T, E: Display>(what: &str, result: Result<T, E>) -> Checked<T> {
    result.map_err(|error| failed(format!("{what}: {error}")))
}

/// A call must fail with one of `expected`. Returns the errno it failed with.
pub(crate) fn refuse<T: Debug>(what: &str, result: Result<T, i32>, expected: &[Errno]) -> Checked<Errno> {
    let names = || expected.iter().map(|errno| name(*errno)).collect::<Vec<_>>().join(" or ");
    match result {
        Ok(value) => Err(failed(format!("{what}: expected {}, but it succeeded with {value:?}", names()))),
        Err(raw) => {
            let errno = Errno::from_raw(raw);
            ensure(expected.contains(&errno), || format!("{what}: expected {}, found {}", names(), name(errno)))?;
            Ok(errno)
        }
    }
}

/// As [`refuse`], for calls of the standard library.
pub(crate) fn refuse_io<T: Debug>(what: &str, result: io::Result<T>, expected: &[Errno]) -> Checked<Errno> {
    match result {
        Ok(value) => refuse(what, Ok(value), expected),
        Err(error) => match error.raw_os_error() {
            Some(errno) => refuse::<T>(what, Err(errno), expected),
            None => Err(failed(format!("{what}: {error}"))),
        },
    }
}

/// `EINVAL`, with its number for errnos without a name.
pub(crate) fn name(errno: Errno) -> String {
    match errno {
        Errno::UnknownErrno => "an unknown errno".into(),
        known => format!("{known:?}"),
    }
}

/// Where two byte streams part, in words; `None` if they are equal.
pub(crate) fn difference(expected: &[u8], found: &[u8]) -> Option<String> {
    if expected == found {
        return None;
    }
    if expected.len() != found.len() {
        return Some(format!("expected {} bytes, found {}", expected.len(), found.len()));
    }
    let offset = expected.iter().zip(found).position(|(left, right)| left != right)?;
    let byte = |bytes: &[u8]| bytes.get(offset).copied().unwrap_or_default();
    Some(format!("byte {offset}: expected {:#04x}, found {:#04x}", byte(expected), byte(found)))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_right_errno_passes_and_nothing_else() {
        assert_eq!(refuse::<()>("x", Err(22), &[Errno::EINVAL]), Ok(Errno::EINVAL));
        assert_eq!(refuse::<()>("x", Err(25), &[Errno::EINVAL, Errno::ENOTTY]), Ok(Errno::ENOTTY));
        let found = refuse::<()>("SET 42", Err(5), &[Errno::EINVAL]);
        assert_eq!(found, Err(failed("SET 42: expected EINVAL, found EIO")));
        assert!(
            matches!(refuse("x", Ok(7), &[Errno::EINVAL]), Err(Failure::Failed(text)) if text.contains("succeeded with 7"))
        );
    }

    #[test]
    fn the_first_difference_is_named() {
        assert_eq!(difference(b"abc", b"abc"), None);
        assert_eq!(difference(b"abc", b"abd").unwrap(), "byte 2: expected 0x63, found 0x64");
        assert_eq!(difference(b"abc", b"ab").unwrap(), "expected 3 bytes, found 2");
    }
}
