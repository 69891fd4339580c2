// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Links the `no_std` crates into a program without the standard library. If one of them needs it,
//! the panic handler below is the second one, and the compiler says so.
#![no_main]
#![no_std]

use core::alloc::{GlobalAlloc, Layout};

use device_hisi as _;
use device_mlx5 as _;
use savevm_core as _;
use stream_codec as _;
use vfio_mig_fsm as _;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

struct NoMemory;

// SAFETY: no allocation succeeds, so there is no memory to hand out wrongly.
unsafe impl GlobalAlloc for NoMemory {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        core::ptr::null_mut()
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static ALLOCATOR: NoMemory = NoMemory;

// SAFETY: the C library provides start-up and `memcpy`; it calls `main` and nothing else here.
#[link(name = "c")]
unsafe extern "C" {}

#[unsafe(no_mangle)]
extern "C" fn main() -> i32 {
    0
}
