// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Requests the kernel must refuse with EINVAL, leaving state and session as they were.

use nix::errno::Errno;
use vfio_mig_fsm::{Capabilities, State};

use super::check::{Checked, ensure, refuse};
use super::context::Ctx;
use super::fd;
use super::{Need, Test};
use crate::hw_test::event::Group;

/// Numbers that are no state a request may name: ERROR, the first unknown one, and others.
const NEVER: [u32; 5] = [0, 8, 42, 0x8000_0002, u32::MAX];

/// One test per state; the two arcs on which old kernels hang stand alone.
pub(super) fn tests(caps: Capabilities) -> Vec<Test> {
    let states = State::ALL.into_iter().filter(|state| caps.supports(*state));
    let mut tests: Vec<Test> = states
        .map(|from| {
            let name = format!("{from}: ERROR, unknown numbers and missing states are EINVAL");
            Test::of_state(Group::Illegal, name, &[], from_state, from)
        })
        .collect();
    for to in [State::PreCopy, State::PreCopyP2p].into_iter().filter(|to| caps.supports(*to)) {
        let name = format!("STOP_COPY -> {to} is EINVAL");
        tests.push(Test::of_state(Group::Illegal, name, &[Need::KernelWithoutHang], blocked, to));
    }
    tests
}

fn from_state(ctx: &mut Ctx, from: State) -> Checked {
    let dut = &ctx.first;
    let mut data = dut.enter(from)?;
    let missing = State::ALL.into_iter().filter(|state| *state != State::Error && !dut.caps.supports(*state));
    for to in NEVER.into_iter().chain(missing.map(State::raw)) {
        refuse(&format!("SET {to} in {from}"), dut.request(to)?.map(|_| ()), &[Errno::EINVAL])?;
        dut.expect_state(&format!("after the refused SET {to}"), from)?;
    }
    match &mut data {
        Some(data) => {
            ensure(fd::is_alive(data, from == State::Resuming)?, || "a refused request ended the session".into())
        }
        None => Ok(()),
    }
}

fn blocked(ctx: &mut Ctx, to: State) -> Checked {
    let dut = &ctx.first;
    let mut data = dut.enter_session(State::StopCopy)?;
    refuse(&format!("SET {to} in STOP_COPY"), dut.request(to.raw())?.map(|_| ()), &[Errno::EINVAL])?;
    dut.expect_state("after the refused SET", State::StopCopy)?;
    ensure(fd::is_alive(&mut data, false)?, || "a refused request ended the session".into())
}
