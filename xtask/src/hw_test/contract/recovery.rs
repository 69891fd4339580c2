// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Close, reset and cancel in every state; after each the device can be saved and loaded again.

use nix::errno::Errno;
use vfio_mig_fsm::{Capabilities, State};

use super::Test;
use super::check::{Checked, expect, must, name, refuse};
use super::context::Ctx;
use super::dut::expect_dead;
use super::profile::Incomplete;
use super::stream::{self, expect_working};
use crate::hw_test::event::Group;

/// How a state is left.
type Way = fn(&mut Ctx, State) -> Checked;

/// Three tests per state: how it is left.
pub(super) fn tests(caps: Capabilities) -> Vec<Test> {
    let states = || State::ALL.into_iter().filter(move |state| caps.supports(*state));
    let ways: [(&str, Way); 3] = [("RESET", reset), ("close and open", close), ("cancel", cancel)];
    let tests = ways.into_iter().flat_map(|(way, body)| {
        states().map(move |state| Test::of_state(Group::Recovery, format!("{way} in {state}"), &[], body, state))
    });
    tests.collect()
}

fn reset(ctx: &mut Ctx, state: State) -> Checked {
    let mut data = ctx.first.enter(state)?;
    ctx.first.reset()?;
    if let Some(data) = &mut data {
        expect_dead(&format!("the fd of {state} after RESET"), data, &ctx.first.profile, state == State::Resuming)?;
    }
    expect_working(ctx)
}

fn close(ctx: &mut Ctx, state: State) -> Checked {
    let mut data = ctx.first.enter(state)?;
    ctx.first.close();
    if let Some(data) = &mut data {
        expect_dead(
            &format!("the fd of {state} after closing the device"),
            data,
            &ctx.first.profile,
            state == State::Resuming,
        )?;
    }
    ctx.first.open()?;
    let expected = if ctx.first.profile.state_survives_close { state } else { State::Running };
    ctx.first.expect_state("after close and open", expected)?;
    expect_working(ctx)
}

/// A source goes back to RUNNING, a target is reset: what it loaded so far belongs to nobody.
fn cancel(ctx: &mut Ctx, state: State) -> Checked {
    let dut = &ctx.first;
    let mut data = dut.enter(state)?;
    if state == State::Resuming {
        dut.reset()?;
    } else {
        dut.set_quietly(State::Running)?;
    }
    dut.expect_state("after the cancel", State::Running)?;
    if let Some(data) = &mut data {
        expect_dead(&format!("the fd of {state} after the cancel"), data, &dut.profile, state == State::Resuming)?;
    }
    expect_working(ctx)
}

/// Leaving RESUMING for each state with nothing loaded.
pub(super) fn leave_empty(ctx: &mut Ctx, to: State) -> Checked {
    let dut = &ctx.first;
    let whole = stream::save(dut)?;
    let data = dut.enter_session(State::Resuming)?;
    let answer = dut.request(to.raw())?;
    match dut.profile.incomplete {
        Incomplete::Refused => {
            refuse(&format!("SET {to} with nothing loaded"), answer.map(|_| ()), &[Errno::EINVAL])?;
            dut.expect_state("after the refused SET", State::Resuming)?;
            let mut data = data;
            stream::write_all(&mut data, &whole, stream::CHUNK_BYTES)?;
            let opened = dut.set(to)?;
            expect("a data fd came with the request", opened.is_some(), to.is_saving())?;
        }
        Incomplete::Accepted => {
            let what = format!("SET {to} with nothing loaded");
            let opened = must(&what, answer.map_err(|errno| name(Errno::from_raw(errno))))?;
            expect("a data fd came with the request", opened.is_some(), to.is_saving())?;
            dut.expect_state("after nothing was loaded", to)?;
        }
        Incomplete::Unknown => ctx.note(if answer.is_ok() { "accepted" } else { "refused" }),
    }
    expect_working(ctx)
}
