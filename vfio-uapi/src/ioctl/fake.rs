// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A kernel for tests: this test program's own `ioctl`, which the linker prefers to that of the C library.
//!
//! A thread that scripted answers gets them, in order and checked against what it asks; any other call goes to the real
//! kernel. So the whole path is tested, from the public method to the errno and back.

use core::cell::RefCell;
use core::ffi::{c_int, c_long, c_void};
use core::ptr::with_exposed_provenance_mut;
use core::slice;
use std::collections::VecDeque;

use nix::errno::Errno;
use nix::libc;
use nix::sys::ioctl::ioctl_num_type;

use crate::ioctls;

/// The answer of the fake kernel: the return value or an errno. It has the whole struct, and may write to it either
/// way.
pub(crate) type Answer = Box<dyn FnOnce(&mut [u8]) -> Result<c_int, c_int>>;

/// What a call must be: the request, and for a feature its flags.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ask {
    Feature(u32),
    Plain(u32),
}

thread_local! {
    static SCRIPT: RefCell<VecDeque<(Ask, Answer)>> = const { RefCell::new(VecDeque::new()) };
}

/// Scripts the answers to this thread's next calls.
pub(crate) fn script<const N: usize>(answers: [(Ask, Answer); N]) {
    SCRIPT.with_borrow_mut(|script| script.extend(answers));
}

/// Asserts that every scripted call was made.
pub(crate) fn done() {
    SCRIPT.with_borrow(|script| assert!(script.is_empty(), "{} scripted calls were not made", script.len()));
}

/// The `count` words behind the address at byte `at` of a message, as the kernel reaches them. The caller of the ioctl has
/// as many there, and waits for the answer.
pub(crate) fn words_at(message: &mut [u8], at: usize, count: usize) -> &mut [u64] {
    let address = u64::from_ne_bytes(message[at..at + 8].try_into().unwrap());
    let words = with_exposed_provenance_mut(usize::try_from(address).unwrap());
    // SAFETY: the words outlive the call, during which the message is borrowed, and their owner does not touch them
    // meanwhile; any u64 is valid.
    unsafe { slice::from_raw_parts_mut(words, count) }
}

/// Answers a call as the kernel would: by address, argsz bytes of it.
#[unsafe(no_mangle)]
extern "C" fn ioctl(fd: c_int, request: ioctl_num_type, argument: *mut c_void) -> c_int {
    let Some((ask, answer)) = SCRIPT.with_borrow_mut(VecDeque::pop_front) else {
        return real(fd, request, argument);
    };
    let request = u32::try_from(request).unwrap();
    if request == ioctls::DEVICE_RESET {
        assert_eq!(ask, Ask::Plain(request));
        return finish(answer(&mut []));
    }
    // SAFETY: all scripted requests but RESET pass the address of a struct that starts with argsz and flags.
    let [argsz, flags] = unsafe { argument.cast::<[u32; 2]>().read() };
    let asked = if request == ioctls::DEVICE_FEATURE { Ask::Feature(flags) } else { Ask::Plain(request) };
    assert_eq!(asked, ask);
    let length = usize::try_from(argsz).unwrap();
    // SAFETY: the struct is argsz bytes long, all integers, and its owner waits for this call to return.
    finish(answer(unsafe { slice::from_raw_parts_mut(argument.cast::<u8>(), length) }))
}

fn real(fd: c_int, request: ioctl_num_type, argument: *mut c_void) -> c_int {
    // SAFETY: the arguments are those of a call of ioctl, whose caller answers for them.
    let result: c_long = unsafe { libc::syscall(libc::SYS_ioctl, fd, request, argument) };
    c_int::try_from(result).unwrap()
}

fn finish(result: Result<c_int, c_int>) -> c_int {
    result.unwrap_or_else(|errno| {
        Errno::set_raw(errno);
        -1
    })
}
