// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Save on one device, load on another: what a guest could see must be the same afterwards.
//!
//! With a single device the state goes into memory, the device is given another one, and the first is loaded again.

use vfio_mig_fsm::State;

use super::check::{Checked, difference, ensure, expect, skipped};
use super::context::Ctx;
use super::dut::Dut;
use super::profile::Registers;
use super::stream::{self, CHUNK_BYTES, Route, load_along, save_along};
use super::{Need, Test, digest, mtty, test};
use crate::hw_test::event::Group;

/// The tests of this group.
pub(super) const TESTS: &[Test] = &[
    test(Group::Transfer, "stopped: STOP_COPY only", &[], |ctx| transfer(ctx, Route::Stopped)),
    test(Group::Transfer, "live: PRE_COPY, STOP_COPY", &[Need::PreCopy], |ctx| transfer(ctx, Route::PreCopy)),
    test(Group::Transfer, "live: PRE_COPY, PRE_COPY_P2P, STOP_COPY", &[Need::PreCopy, Need::P2p], |ctx| {
        transfer(ctx, Route::PreCopyP2p)
    }),
    test(Group::Transfer, "there and back again", &[Need::SecondDevice], there_and_back),
    test(Group::Transfer, "loaded and saved again without running: the same bytes", &[Need::Repeatable], same_bytes),
    test(Group::Transfer, "an open divisor latch survives", &[Need::Uart], open_latch),
];

fn transfer(ctx: &Ctx, route: Route) -> Checked {
    let (source, target) = (&ctx.first, ctx.target());
    source.reset()?;
    let before = observe_before(source)?;
    let timeline = ctx.timeline("");
    let whole = save_along(source, route, &timeline)?;
    spoil(target)?;
    load_along(target, &whole, &timeline)?;
    if source.profile.registers == Registers::Digest {
        digest::expect_same_stream(source, target, whole.len())?;
    }
    ctx.note(format!("{} bytes", whole.len()));
    observe_after(target, &before)
}

/// What can be compared, read from the source before it is saved.
pub(super) enum Observed {
    /// The UART is in the state that `mtty::seed` makes.
    Uart,
    /// The simulator's own digest of the device state.
    Digest(digest::Digest),
    /// Nothing but success.
    Nothing,
}

pub(super) fn observe_before(source: &Dut) -> Checked<Observed> {
    Ok(match source.profile.registers {
        Registers::Uart => {
            mtty::seed(source)?;
            Observed::Uart
        }
        Registers::Digest => {
            digest::seed(source)?;
            Observed::Digest(digest::read(source)?)
        }
        Registers::None => Observed::Nothing,
    })
}

/// Another state on the target, so that a load that does nothing is seen.
pub(super) fn spoil(target: &Dut) -> Checked {
    match target.profile.registers {
        Registers::Uart => mtty::spoil(target),
        Registers::Digest => digest::spoil(target),
        Registers::None => Ok(()),
    }
}

pub(super) fn observe_after(target: &Dut, before: &Observed) -> Checked {
    match before {
        Observed::Uart => mtty::expect_seeded(target),
        Observed::Digest(expected) => expect("the digest of the target's state", &digest::read(target)?, expected),
        Observed::Nothing => target.expect_state("after loading", State::Running),
    }
}

fn there_and_back(ctx: &mut Ctx) -> Checked {
    let Some(second) = &ctx.second else { return Err(skipped("one device was given")) };
    let (first, second) = (&ctx.first, second);
    first.reset()?;
    let before = observe_before(first)?;
    let whole = stream::save(first)?;
    spoil(second)?;
    stream::load(second, &whole, State::Running)?;
    let back = stream::save(second)?;
    first.reset()?;
    spoil(first)?;
    stream::load(first, &back, State::Running)?;
    observe_after(first, &before)
}

fn same_bytes(ctx: &mut Ctx) -> Checked {
    let (source, target) = (&ctx.first, ctx.target());
    source.reset()?;
    observe_before(source)?;
    let whole = stream::save(source)?;
    stream::load(target, &whole, State::Stop)?;
    let mut data = target.open_session(State::StopCopy)?;
    let again = stream::read_to_end(&mut data, CHUNK_BYTES)?;
    let parted = difference(&whole, &again);
    ensure(parted.is_none(), || format!("saved again after loading: {}", parted.unwrap_or_default()))
}

fn open_latch(ctx: &mut Ctx) -> Checked {
    let (source, target) = (&ctx.first, ctx.target());
    source.reset()?;
    mtty::seed_latch(source)?;
    let whole = stream::save(source)?;
    target.reset()?;
    mtty::spoil(target)?;
    stream::load(target, &whole, State::Running)?;
    mtty::expect_latch(target)
}
