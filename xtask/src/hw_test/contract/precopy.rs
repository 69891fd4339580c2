// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! PRE_COPY: what the device says about its progress, and that nothing to read is not the end.

use std::fs::File;
use std::io::Read;

use nix::errno::Errno;
use vfio_mig_fsm::State;

use super::check::{Checked, ensure, expect, must, name, refuse};
use super::context::Ctx;
use super::profile::Drained;
use super::stream::{self, CHUNK_BYTES};
use super::{Need, Test, raw, test};
use crate::hw_test::event::Group;

const EINVAL: &[Errno] = &[Errno::EINVAL];

/// The tests of this group.
pub(super) const TESTS: &[Test] = &[
    test(Group::Precopy, "info begins with initial bytes and no dirty bytes", &[Need::PreCopy], first_info),
    test(Group::Precopy, "initial bytes fall as they are read", &[Need::PreCopy], falling),
    test(Group::Precopy, "info needs argsz 24 and accepts more", &[Need::PreCopy], argsz),
    test(Group::Precopy, "flags are echoed without the opt-in", &[Need::PreCopy], echo),
    test(Group::Precopy, "info is EINVAL outside PRE_COPY", &[Need::PreCopy], outside),
    test(Group::Precopy, "info on the fd of an ended session", &[Need::PreCopy], ended_session),
    test(Group::Precopy, "info on the resuming fd is ENOTTY", &[], resuming),
    test(Group::Precopy, "info is ENOTTY without PRE_COPY", &[Need::NoPreCopy], without_pre_copy),
    test(Group::Precopy, "drained is not the end", &[Need::PreCopy], drained),
    test(Group::Precopy, "drained in PRE_COPY_P2P is not the end", &[Need::PreCopy, Need::P2p], drained_p2p),
    test(
        Group::Precopy,
        "PRE_COPY and PRE_COPY_P2P are one session, back and forth",
        &[Need::PreCopy, Need::P2p],
        back_and_forth,
    ),
];

struct Info {
    flags: u32,
    initial_bytes: u64,
    dirty_bytes: u64,
}

fn info(data: &File, flags: u32) -> Checked<Info> {
    let answer = raw::precopy_info(data, 24, flags).map_err(|errno| name(Errno::from_raw(errno)));
    let answer = must("PRECOPY_INFO", answer)?;
    let (flags, initial_bytes, dirty_bytes) =
        (raw::u32_at(&answer, 4), raw::u64_at(&answer, 8), raw::u64_at(&answer, 16));
    Ok(Info { flags, initial_bytes, dirty_bytes })
}

fn first_info(ctx: &mut Ctx) -> Checked {
    for state in ctx.first.states().filter(|state| matches!(state, State::PreCopy | State::PreCopyP2p)) {
        let data = ctx.first.enter_session(state)?;
        let found = info(&data, 0)?;
        ctx.note(format!("{state}: {} initial bytes, {} dirty bytes", found.initial_bytes, found.dirty_bytes));
        ensure(found.initial_bytes > 0, || format!("{state}: initial_bytes must begin above 0"))?;
        expect(&format!("{state}: dirty_bytes at the beginning"), found.dirty_bytes, 0)?;
    }
    Ok(())
}

fn falling(ctx: &mut Ctx) -> Checked {
    let mut data = ctx.first.enter_session(State::PreCopy)?;
    let begin = info(&data, 0)?.initial_bytes;
    let mut before = begin;
    for piece in [1, 7, 4096] {
        let got = stream::read_until_drained(&mut data, piece)?.len();
        let now = info(&data, 0)?.initial_bytes;
        ensure(now <= before, || format!("initial_bytes rose from {before} to {now} while {got} bytes were read"))?;
        if ctx.first.profile.exact_initial_bytes {
            let read = u64::try_from(got).unwrap_or(u64::MAX);
            expect(&format!("initial_bytes after reading {got} of {before}"), now, before.saturating_sub(read))?;
        }
        before = now;
    }
    stream::read_until_drained(&mut data, usize::try_from(begin).unwrap_or(usize::MAX).saturating_mul(2))?;
    expect("initial_bytes when all is read", info(&data, 0)?.initial_bytes, 0)
}

fn argsz(ctx: &mut Ctx) -> Checked {
    let data = ctx.first.enter_session(State::PreCopy)?;
    for argsz in [0, 8, 23] {
        refuse(&format!("PRECOPY_INFO with argsz {argsz}"), raw::precopy_info(&data, argsz, 0).map(|_| ()), EINVAL)?;
    }
    let more = raw::precopy_info(&data, 64, 0).map_err(|errno| name(Errno::from_raw(errno)));
    must("PRECOPY_INFO with argsz 64", more).map(|_| ())
}

fn echo(ctx: &mut Ctx) -> Checked {
    let data = ctx.first.enter_session(State::PreCopy)?;
    for flags in [0, 0xdead_beef] {
        expect("PRECOPY_INFO flags without the opt-in", info(&data, flags)?.flags, flags)?;
    }
    Ok(())
}

fn outside(ctx: &mut Ctx) -> Checked {
    let dut = &ctx.first;
    let data = dut.enter_session(State::PreCopy)?;
    dut.set_quietly(State::StopCopy)?;
    refuse("PRECOPY_INFO in STOP_COPY", raw::precopy_info(&data, 24, 0).map(|_| ()), EINVAL)?;
    dut.set_quietly(State::Running)?;
    refuse("PRECOPY_INFO on a dead fd in RUNNING", raw::precopy_info(&data, 24, 0).map(|_| ()), EINVAL)?;
    let data = dut.enter_session(State::StopCopy)?;
    refuse("PRECOPY_INFO in STOP_COPY from RUNNING", raw::precopy_info(&data, 24, 0).map(|_| ()), EINVAL).map(|_| ())
}

fn ended_session(ctx: &mut Ctx) -> Checked {
    let dut = &ctx.first;
    let old = dut.enter_session(State::PreCopy)?;
    dut.set_quietly(State::Running)?;
    let new = dut.open_session(State::PreCopy)?;
    refuse(
        "PRECOPY_INFO on the fd of the session before",
        raw::precopy_info(&old, 24, 0).map(|_| ()),
        &[Errno::ENODEV],
    )?;
    info(&new, 0).map(|_| ())
}

fn resuming(ctx: &mut Ctx) -> Checked {
    let data = ctx.first.enter_session(State::Resuming)?;
    refuse("PRECOPY_INFO on the resuming fd", raw::precopy_info(&data, 24, 0).map(|_| ()), &[Errno::ENOTTY]).map(|_| ())
}

fn without_pre_copy(ctx: &mut Ctx) -> Checked {
    let data = ctx.first.enter_session(State::StopCopy)?;
    // A driver that serves devices with and without PRE_COPY checks the state and says EINVAL.
    let expected = &[Errno::ENOTTY, Errno::EINVAL];
    refuse("PRECOPY_INFO without PRE_COPY", raw::precopy_info(&data, 24, 0).map(|_| ()), expected).map(|_| ())
}

fn drained(ctx: &mut Ctx) -> Checked {
    drained_in(ctx, State::PreCopy)
}

fn drained_p2p(ctx: &mut Ctx) -> Checked {
    drained_in(ctx, State::PreCopyP2p)
}

fn drained_in(ctx: &Ctx, state: State) -> Checked {
    let dut = &ctx.first;
    let mut data = dut.enter_session(state)?;
    let mut whole = stream::read_until_drained(&mut data, 256 << 20)?;
    let answer = data.read(&mut [0; 16]).map_err(|error| error.raw_os_error().map(Errno::from_raw));
    let fits = match (&answer, dut.profile.drained) {
        (Ok(0), Drained::Zero | Drained::Either) => true,
        (Err(Some(Errno::ENOMSG)), Drained::NoMessage | Drained::Either) => true,
        // Between two reads the device may have made new data.
        (Ok(_), Drained::Either) => true,
        _ => false,
    };
    ensure(fits, || {
        format!("a read with nothing left in {state}: expected {:?}, found {answer:?}", dut.profile.drained)
    })?;
    if let Ok(1..) = answer {
        return Err(super::check::skipped("the device makes data as fast as it is read"));
    }
    dut.expect_state("when drained", state)?;
    dut.set_quietly(State::StopCopy)?;
    whole.extend_from_slice(&stream::read_to_end(&mut data, CHUNK_BYTES)?);
    stream::load(dut, &whole, State::Running)
}

fn back_and_forth(ctx: &mut Ctx) -> Checked {
    let dut = &ctx.first;
    let mut data = dut.enter_session(State::PreCopy)?;
    let mut whole = stream::read_until_drained(&mut data, 3)?;
    for (state, limit) in [(State::PreCopyP2p, 5), (State::PreCopy, 2), (State::PreCopyP2p, 1 << 20)] {
        dut.set_quietly(state)?;
        whole.extend_from_slice(&stream::read_until_drained(&mut data, limit)?);
    }
    dut.set_quietly(State::StopCopy)?;
    whole.extend_from_slice(&stream::read_to_end(&mut data, CHUNK_BYTES)?);
    stream::load(dut, &whole, State::Running)
}
