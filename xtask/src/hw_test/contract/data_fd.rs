// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The data fd: one way, no seeking, one stream from PRE_COPY to STOP_COPY, dead when its session ends.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use vfio_mig_fsm::State;

use super::check::{Checked, difference, ensure, expect, failed, must, refuse, refuse_io};
use super::context::Ctx;
use super::dut::expect_dead;
use super::stream::{self, CHUNK_BYTES};
use super::{Need, Test, fd, raw, test};
use crate::hw_test::event::Group;

/// The tests of this group.
pub(super) const TESTS: &[Test] = &[
    test(Group::DataFd, "saving fd: close-on-exec, read-only", &[], saving_flags),
    test(Group::DataFd, "resuming fd: close-on-exec, write-only", &[], resuming_flags),
    test(Group::DataFd, "the wrong direction is EBADF", &[], wrong_direction),
    test(Group::DataFd, "pread, pwrite and lseek are ESPIPE", &[], no_seeking),
    test(Group::DataFd, "a read of no bytes returns 0", &[], empty_read),
    test(Group::DataFd, "the end of the stream is permanent", &[], permanent_end),
    test(Group::DataFd, "ENODEV after STOP", &[], dead_after_stop),
    test(Group::DataFd, "ENODEV after RESET", &[], dead_after_reset),
    test(Group::DataFd, "an old fd does not join the next session", &[], dead_in_next_session),
    test(Group::DataFd, "PRE_COPY -> STOP_COPY goes on at the same byte", &[Need::PreCopy], one_stream),
    test(Group::DataFd, "STOP_COPY -> RESUMING ends one session and begins the other", &[], stop_copy_to_resuming),
    test(
        Group::DataFd,
        "PRE_COPY -> RESUMING ends one session and begins the other",
        &[Need::PreCopy],
        pre_copy_to_resuming,
    ),
    test(Group::DataFd, "closing the fd in STOP_COPY does not change the state", &[], closed_in_stop_copy),
    test(
        Group::DataFd,
        "closing the fd in PRE_COPY loses the data, not the state",
        &[Need::PreCopy],
        closed_in_pre_copy,
    ),
    test(Group::DataFd, "closing the fd in RESUMING does not change the state", &[], closed_in_resuming),
    test(Group::DataFd, "two descriptors of one session share its position", &[], shared_position),
    test(Group::DataFd, "ioctls of a device are ENOTTY", &[], device_ioctls),
    test(Group::DataFd, "a second device fd sees the same state", &[Need::SecondOpen], second_device_fd),
];

fn saving_flags(ctx: &mut Ctx) -> Checked {
    for state in ctx.first.states().filter(|state| state.is_saving()) {
        fd::expect_session_fd(&ctx.first.enter_session(state)?, false)?;
    }
    Ok(())
}

fn resuming_flags(ctx: &mut Ctx) -> Checked {
    fd::expect_session_fd(&ctx.first.enter_session(State::Resuming)?, true)
}

fn wrong_direction(ctx: &mut Ctx) -> Checked {
    let mut saving = ctx.first.enter_session(State::StopCopy)?;
    refuse_io("write to a saving fd", saving.write(&[0; 4]), &[Errno::EBADF])?;
    let mut resuming = ctx.first.enter_session(State::Resuming)?;
    refuse_io("read from a resuming fd", resuming.read(&mut [0; 4]), &[Errno::EBADF]).map(|_| ())
}

fn no_seeking(ctx: &mut Ctx) -> Checked {
    for state in [State::StopCopy, State::Resuming] {
        let mut data = ctx.first.enter_session(state)?;
        refuse_io(&format!("pread in {state}"), data.read_at(&mut [0; 4], 0), &[Errno::ESPIPE])?;
        refuse_io(&format!("pwrite in {state}"), data.write_at(&[0; 4], 0), &[Errno::ESPIPE])?;
        for to in [SeekFrom::Start(0), SeekFrom::Current(0), SeekFrom::End(0)] {
            refuse_io(&format!("lseek to {to:?} in {state}"), data.seek(to), &[Errno::ESPIPE])?;
        }
    }
    Ok(())
}

fn empty_read(ctx: &mut Ctx) -> Checked {
    let mut data = ctx.first.enter_session(State::StopCopy)?;
    expect("a read of no bytes", must("read", data.read(&mut []))?, 0)?;
    ensure(!stream::read_to_end(&mut data, CHUNK_BYTES)?.is_empty(), || "it ended the stream".into())
}

fn permanent_end(ctx: &mut Ctx) -> Checked {
    let mut data = ctx.first.enter_session(State::StopCopy)?;
    stream::read_to_end(&mut data, CHUNK_BYTES)?;
    for _ in 0..3 {
        expect("a read at the end", must("read", data.read(&mut [0; 16]))?, 0)?;
    }
    ctx.first.expect_state("at the end of the stream", State::StopCopy)
}

fn dead_after_stop(ctx: &mut Ctx) -> Checked {
    let dut = &ctx.first;
    for state in dut.states().filter(|state| state.is_saving()) {
        let mut data = dut.enter_session(state)?;
        dut.set_quietly(State::Stop)?;
        expect_dead(&format!("the fd of {state} in STOP"), &mut data, &dut.profile, false)?;
    }
    let whole = stream::save(dut)?;
    let mut data = dut.enter_session(State::Resuming)?;
    stream::write_all(&mut data, &whole, CHUNK_BYTES)?;
    dut.set_quietly(State::Stop)?;
    expect_dead("the fd of RESUMING in STOP", &mut data, &dut.profile, true)
}

fn dead_after_reset(ctx: &mut Ctx) -> Checked {
    let dut = &ctx.first;
    for state in dut.states().filter(|state| state.is_saving() || *state == State::Resuming) {
        let mut data = dut.enter_session(state)?;
        dut.reset()?;
        expect_dead(&format!("the fd of {state} after RESET"), &mut data, &dut.profile, state == State::Resuming)?;
    }
    Ok(())
}

fn dead_in_next_session(ctx: &mut Ctx) -> Checked {
    let dut = &ctx.first;
    let mut old = dut.enter_session(State::StopCopy)?;
    dut.set_quietly(State::Stop)?;
    let mut new = dut.open_session(State::StopCopy)?;
    expect_dead("the first session's fd during the second session", &mut old, &dut.profile, false)?;
    drop(old);
    ensure(!stream::read_to_end(&mut new, CHUNK_BYTES)?.is_empty(), || "the second session is empty".into())
}

/// Reads `first` bytes in PRE_COPY and the rest in STOP_COPY.
fn split_save(ctx: &Ctx, first: usize) -> Checked<(Vec<u8>, usize)> {
    let mut data = ctx.first.enter_session(State::PreCopy)?;
    let mut whole = stream::read_until_drained(&mut data, first)?;
    let early = whole.len();
    ctx.first.set_quietly(State::StopCopy)?;
    whole.extend_from_slice(&stream::read_to_end(&mut data, CHUNK_BYTES)?);
    Ok((whole, early))
}

fn one_stream(ctx: &mut Ctx) -> Checked {
    let (reference, _) = split_save(ctx, 0)?;
    for first in [1, 7, usize::MAX >> 36] {
        let (whole, early) = split_save(ctx, first)?;
        ctx.note(format!("{early} bytes in PRE_COPY, {} after", whole.len().saturating_sub(early)));
        if ctx.first.profile.repeatable_live {
            let parted = difference(&reference, &whole);
            ensure(parted.is_none(), || {
                format!("{early} bytes read early change the stream: {}", parted.unwrap_or_default())
            })?;
        }
        stream::load(&ctx.first, &whole, State::Running)?;
    }
    Ok(())
}

fn stop_copy_to_resuming(ctx: &mut Ctx) -> Checked {
    turn_around(ctx, State::StopCopy)
}

fn pre_copy_to_resuming(ctx: &mut Ctx) -> Checked {
    turn_around(ctx, State::PreCopy)
}

fn turn_around(ctx: &Ctx, from: State) -> Checked {
    let dut = &ctx.first;
    let whole = stream::save(dut)?;
    let mut saving = dut.enter_session(from)?;
    let mut resuming = dut.open_session(State::Resuming)?;
    fd::expect_session_fd(&resuming, true)?;
    expect_dead(&format!("the saving fd of {from} in RESUMING"), &mut saving, &dut.profile, false)?;
    stream::write_all(&mut resuming, &whole, CHUNK_BYTES)?;
    dut.set_quietly(State::Running)
}

fn closed_in_stop_copy(ctx: &mut Ctx) -> Checked {
    let dut = &ctx.first;
    drop(dut.enter_session(State::StopCopy)?);
    dut.expect_state("after closing the data fd", State::StopCopy)?;
    dut.set_quietly(State::Running)?;
    dut.expect_state("after SET RUNNING", State::Running)
}

fn closed_in_pre_copy(ctx: &mut Ctx) -> Checked {
    let dut = &ctx.first;
    drop(dut.enter_session(State::PreCopy)?);
    dut.expect_state("after closing the data fd", State::PreCopy)?;
    dut.set_quietly(State::StopCopy)?;
    dut.expect_state("after SET STOP_COPY", State::StopCopy)
}

fn closed_in_resuming(ctx: &mut Ctx) -> Checked {
    let dut = &ctx.first;
    drop(dut.enter_session(State::Resuming)?);
    dut.expect_state("after closing the data fd", State::Resuming)?;
    dut.reset()
}

fn shared_position(ctx: &mut Ctx) -> Checked {
    let reference = stream::save(&ctx.first)?;
    let mut one = ctx.first.enter_session(State::StopCopy)?;
    let mut other = must("dup", one.try_clone())?;
    let mut whole = Vec::new();
    let mut ended = false;
    while !ended {
        let readers: [&mut File; 2] = [&mut one, &mut other];
        for reader in readers {
            let mut piece = vec![0; 4099];
            let got = must("read", reader.read(&mut piece))?;
            ended = got == 0;
            whole.extend_from_slice(piece.get(..got).ok_or_else(|| failed("read returned more than asked"))?);
        }
    }
    if ctx.first.profile.repeatable {
        let parted = difference(&reference, &whole);
        ensure(parted.is_none(), || format!("read alternately: {}", parted.unwrap_or_default()))?;
    }
    stream::load(&ctx.first, &whole, State::Running)
}

fn device_ioctls(ctx: &mut Ctx) -> Checked {
    for state in [State::StopCopy, State::Resuming] {
        let data = ctx.first.enter_session(state)?;
        let answer = raw::feature(&data, 16, 2 | raw::GET, &mut [0; 64]);
        refuse(&format!("VFIO_DEVICE_FEATURE on the data fd of {state}"), answer, &[Errno::ENOTTY])?;
    }
    let answer = raw::precopy_info(ctx.first.device()?, 24, 0);
    refuse("VFIO_MIG_GET_PRECOPY_INFO on the device fd", answer, &[Errno::ENOTTY]).map(|_| ())
}

fn second_device_fd(ctx: &mut Ctx) -> Checked {
    let second = ctx.first.another()?;
    let mut data = ctx.first.enter_session(State::StopCopy)?;
    let seen = must("GET by the second device fd", second.device_state())?;
    expect("the state seen by the second device fd", seen.raw(), State::StopCopy.raw())?;
    drop(second);
    ctx.first.expect_state("after closing the second device fd", State::StopCopy)?;
    ensure(!stream::read_to_end(&mut data, CHUNK_BYTES)?.is_empty(), || {
        "closing the second device fd ended the stream".into()
    })
}
