// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Descriptors out of a message of a unix socket (SCM_RIGHTS).
//!
//! A message of which the kernel could install only some is exactly one whose descriptors must be closed, and `nix` hands none of
//! them out then (`RecvMsg::cmsgs` fails, and they stay open). So the call is made, and its answer read, here.

use core::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::libc;

use super::{RawResult, last_errno};

/// What came.
#[derive(Debug)]
pub(crate) struct Message {
    /// The number of bytes beside the descriptors: 0 at the end of the stream, otherwise 1.
    pub(crate) bytes: usize,
    /// The descriptors, in the order in which they were sent.
    pub(crate) fds: Vec<OwnedFd>,
    /// More were sent than are here.
    pub(crate) is_cut: bool,
}

/// Of the kernel's `struct cmsghdr`: a length, a level and a type. What follows is aligned to words, and so is the header.
const HEADER_BYTES: usize = 2 * size_of::<u32>() + WORD_BYTES;
const WORD_BYTES: usize = size_of::<usize>();
const FD_BYTES: usize = size_of::<RawFd>();

const _: () = assert!(HEADER_BYTES % WORD_BYTES == 0);

/// `SCM_MAX_FD`: the kernel sends no more in one message.
pub(crate) const FDS_MAX: usize = 253;

/// Takes one byte, and the descriptors that come with it: at most `limit`, which the kernel never installs more than.
pub(crate) fn receive(socket: BorrowedFd<'_>, limit: usize) -> RawResult<Message> {
    let room = HEADER_BYTES.saturating_add(limit.min(FDS_MAX).saturating_mul(FD_BYTES));
    let mut control = vec![0_usize; room.div_ceil(WORD_BYTES)];
    let mut byte = 0_u8;
    let mut part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // SAFETY: a msghdr is integers and pointers (and padding, with musl), for all of which zero is a value: no name, no parts, no control.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    #[allow(clippy::useless_conversion, reason = "the length is a u32 with musl")]
    let controllen = room.try_into().map_err(|_| libc::EINVAL)?;
    message.msg_controllen = controllen;
    // SAFETY: the one part is the one byte `byte`; `control` has at least `room` bytes. All of them and `message` are borrowed for this call
    // alone, in which the kernel writes them and nothing else: there is no name.
    let bytes = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let bytes = usize::try_from(bytes).map_err(last_errno)?;
    let control: Vec<u8> = control.into_iter().flat_map(usize::to_ne_bytes).collect();
    #[allow(clippy::useless_conversion, reason = "the length is a u32 with musl")]
    let filled = usize::try_from(message.msg_controllen).unwrap_or(0);
    let numbers = numbers(control.get(..filled.min(room)).unwrap_or_default());
    let own = |number| {
        // SAFETY: by unix(7) each number of SCM_RIGHTS is a descriptor that this very call has installed in this process, for its caller
        // alone. `numbers` gives each once and none that is negative, and nothing was in `control` but what the call wrote there.
        unsafe { OwnedFd::from_raw_fd(number) }
    };
    let is_cut = message.msg_flags & libc::MSG_CTRUNC != 0;
    Ok(Message { bytes, fds: numbers.into_iter().map(own).collect(), is_cut })
}

/// The numbers in the SCM_RIGHTS messages of what the kernel wrote. Other messages (credentials, for a socket that asks for them) are
/// skipped; a length that leaves nothing to go on with ends it.
fn numbers(mut control: &[u8]) -> Vec<RawFd> {
    let mut numbers = Vec::new();
    while let Some((header, _)) = control.split_at_checked(HEADER_BYTES) {
        let (length, kind) = header.split_at(WORD_BYTES);
        let (level, kind) = kind.split_at(size_of::<i32>());
        let length = length.try_into().map_or(0, usize::from_ne_bytes);
        let is_rights = integer(level) == Some(libc::SOL_SOCKET) && integer(kind) == Some(libc::SCM_RIGHTS);
        let Some(data) = control.get(HEADER_BYTES..length) else { break };
        if is_rights {
            numbers.extend(data.chunks_exact(FD_BYTES).filter_map(integer).filter(|number| *number >= 0));
        }
        control = control.get(length.next_multiple_of(WORD_BYTES)..).unwrap_or_default();
    }
    numbers
}

fn integer(bytes: &[u8]) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod test {
    use super::*;

    /// A control message as the kernel writes it, up to its length or to the next word.
    fn written(level: i32, kind: i32, data: &[i32], is_padded: bool) -> Vec<u8> {
        let length = HEADER_BYTES + data.len() * FD_BYTES;
        let mut bytes: Vec<u8> = length.to_ne_bytes().into();
        bytes.extend([level, kind].iter().chain(data).flat_map(|integer| integer.to_ne_bytes()));
        bytes.resize(if is_padded { length.next_multiple_of(WORD_BYTES) } else { length }, 0);
        bytes
    }

    #[test]
    fn the_header_is_the_kernels() {
        assert_eq!(HEADER_BYTES, size_of::<libc::cmsghdr>());
        // SAFETY: computes a length from a length.
        let length = unsafe { libc::CMSG_LEN(12) };
        assert_eq!(usize::try_from(length), Ok(HEADER_BYTES + 12));
    }

    #[test]
    fn numbers_are_those_of_rights_whatever_stands_beside_them() {
        let rights = |data: &[i32], is_padded| written(libc::SOL_SOCKET, libc::SCM_RIGHTS, data, is_padded);
        let others = written(libc::SOL_SOCKET, libc::SCM_CREDENTIALS, &[7, 8, 9], true);
        assert_eq!(numbers(&rights(&[3, 4, 5], false)), [3, 4, 5]);
        assert_eq!(numbers(&[others.clone(), rights(&[3], true), others].concat()), [3]);
        assert_eq!(numbers(&[rights(&[3], true), rights(&[4, 5], false)].concat()), [3, 4, 5]);
        assert_eq!(numbers(&rights(&[3, -1], false)), [3]);
        assert_eq!(numbers(&rights(&[], false)), [0; 0]);
        assert_eq!(numbers(&[]), [0; 0]);
    }

    #[test]
    fn a_length_that_is_none_ends_it() {
        let sound = written(libc::SOL_SOCKET, libc::SCM_RIGHTS, &[3, 4], true);
        for length in [0, 1, HEADER_BYTES - 1, sound.len() + 1, usize::MAX - 6, usize::MAX] {
            let mut damaged = sound.clone();
            damaged[..WORD_BYTES].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(numbers(&damaged), [0; 0], "{length}");
        }
        for cut in 0..HEADER_BYTES {
            assert_eq!(numbers(&sound[..cut]), [0; 0], "{cut}");
        }
    }
}
