// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Calls the state machine with values the optimizer cannot know. The panic handler needs a
//! function that does not exist, so this links only if no panic is left in the program.
#![no_main]
#![no_std]

use core::hint::black_box;

use vfio_mig_fsm::{
    Capabilities, Role, State, is_arc, next, path, recovery, recovery_while_stopped,
    request_session, session, successors, visible_on_failure,
};

// SAFETY: never called in a program that links; the C library provides start-up and `memcpy`.
#[link(name = "c")]
unsafe extern "C" {
    safe fn a_panic_is_reachable() -> !;
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    a_panic_is_reachable()
}

fn ask(flags: u64, from: u32, to: u32) -> Option<()> {
    let caps = Capabilities::from_flags(black_box(flags))?;
    let from = State::from_raw(black_box(from))?;
    let to = State::from_raw(black_box(to))?;
    black_box((
        caps.flags(),
        caps.states(),
        caps.supports(from),
        from.name(),
        from.raw(),
    ));
    black_box((
        is_arc(caps, from, to),
        successors(caps, from),
        next(caps, from, to),
    ));
    let _ = black_box((session(from, to), request_session(caps, from, to)));
    black_box(path(caps, from, to).as_ref().map(|path| path.steps().len()));
    for state in visible_on_failure(caps, from, to) {
        let _ = black_box(recovery(Role::Source, state));
        let _ = black_box(recovery_while_stopped(Role::Target, state));
    }
    Some(())
}

#[unsafe(no_mangle)]
extern "C" fn main() -> i32 {
    for flags in 0..8 {
        for from in 0..=8 {
            for to in 0..=8 {
                black_box(ask(flags, from, to));
            }
        }
    }
    0
}
