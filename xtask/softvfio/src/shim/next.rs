// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The definition of a symbol behind ours: libc's.

use std::ffi::{CStr, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

/// One symbol, looked up when first used.
pub(super) struct Next {
    name: &'static CStr,
    found: AtomicPtr<c_void>,
}

impl Next {
    pub(super) const fn new(name: &'static CStr) -> Self {
        Self { name, found: AtomicPtr::new(null_mut()) }
    }

    /// The address of the next definition; null when there is none.
    pub(super) fn get(&self) -> *mut c_void {
        let found = self.found.load(Ordering::Acquire);
        if !found.is_null() {
            return found;
        }
        // SAFETY: the name is a NUL-terminated string that lives forever, and RTLD_NEXT is a valid handle.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        self.found.store(found, Ordering::Release);
        found
    }
}

/// Defines libc functions that ask a handler first and pass on to libc when it has no answer.
///
/// `open`, `ioctl` and `fcntl` are variadic in C. Stable Rust cannot define such functions; a fixed third argument
/// is the same thing in the calling conventions of x86-64 and AArch64 Linux, which pass the first variadic arguments
/// in the registers of named ones. An argument that the caller did not give is then whatever the register held, and
/// is passed on to a callee that does not look at it.
macro_rules! interpose {
    ($(
        $(#[$doc:meta])*
        fn $name:ident($($argument:ident: $type:ty),* $(,)?) -> $result:ty = $handler:expr;
    )+) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// That of the C function of this name.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($argument: $type),*) -> $result {
            static NEXT: $crate::shim::next::Next = {
                const NAME: &str = concat!(stringify!($name), "\0");
                $crate::shim::next::Next::new(match ::std::ffi::CStr::from_bytes_with_nul(NAME.as_bytes()) {
                    Ok(name) => name,
                    Err(_) => c"",
                })
            };
            if let Some(answer) = $crate::shim::guard::answer($handler) {
                return $crate::shim::guard::Answer::give(answer);
            }
            let next = NEXT.get();
            if next.is_null() {
                return $crate::shim::guard::Answer::give(Err(::savevm_core::sim::Errno::from_raw(libc::ENOSYS)));
            }
            type Function = unsafe extern "C" fn($($type),*) -> $result;
            // SAFETY: libc's symbol of this name has this C signature (variadic ones: see the macro's comment), and
            // the address is not null.
            let next = unsafe { ::std::mem::transmute::<*mut ::std::ffi::c_void, Function>(next) };
            // SAFETY: these are the caller's own arguments, whose validity is the caller's promise to libc.
            unsafe { next($($argument),*) }
        }
    )+};
}
pub(super) use interpose;
