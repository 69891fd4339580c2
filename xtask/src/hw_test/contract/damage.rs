// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Truncated, damaged and overlong streams. The kernel does not validate everything it loads, so no test here writes
//! arbitrary bytes: only lengths, headers and registers whose every value is harmless are changed.

use std::io::Write;

use nix::errno::Errno;
use vfio_mig_fsm::{Capabilities, State};
use vfio_uapi::{DataFd, DeviceState};

use super::check::{Checked, ensure, failed, must, name, refuse, refuse_io, skipped};
use super::context::Ctx;
use super::dut::Dut;
use super::profile::{Compared, Header, Incomplete, Overlong};
use super::stream::{self, CHUNK_BYTES, expect_working};
use super::{Need, Test, mtty, recovery, test};
use crate::hw_test::event::Group;

const TESTS: &[Test] = &[
    test(Group::Damage, "a stream cut by one byte", &[], |ctx| truncated(ctx, |whole| whole.saturating_sub(1))),
    test(Group::Damage, "a stream cut in half", &[], |ctx| truncated(ctx, |whole| whole / 2)),
    test(Group::Damage, "a stream of one byte", &[], |ctx| truncated(ctx, |_| 1)),
    test(Group::Damage, "one byte too many", &[], one_too_many),
    test(Group::Damage, "twice the stream", &[], twice),
    test(Group::Damage, "every damaged header field is refused", &[Need::Header], damaged_header),
    test(Group::Damage, "a header that has fitted once is compared no more", &[Need::ComparedOnce], compared_once),
    test(Group::Damage, "a damaged byte anywhere is noticed", &[Need::Header, Need::Sealed], damaged_contents),
    test(Group::Damage, "the first write error is final in the library", &[Need::Header], first_error_is_final),
    test(Group::Damage, "changed registers arrive changed", &[Need::Uart], changed_registers),
];

/// The table, and one test per state that RESUMING can be left for.
pub(super) fn tests(caps: Capabilities) -> Vec<Test> {
    let states = State::ALL.into_iter().filter(|state| caps.supports(*state) && *state != State::Resuming);
    let empty = states.map(|to| {
        let name = format!("nothing loaded, then RESUMING -> {to}");
        Test::of_state(Group::Damage, name, &[], recovery::leave_empty, to)
    });
    TESTS.iter().cloned().chain(empty).collect()
}

fn truncated(ctx: &Ctx, length: fn(usize) -> usize) -> Checked {
    let dut = &ctx.first;
    let whole = stream::save(dut)?;
    let (some, rest) =
        whole.split_at_checked(length(whole.len())).ok_or_else(|| failed("the state is too short to cut"))?;
    if some.is_empty() || rest.is_empty() {
        return Err(skipped(format!("a state of {} bytes cannot be cut there", whole.len())));
    }
    let mut data = dut.enter_session(State::Resuming)?;
    stream::write_all(&mut data, some, CHUNK_BYTES)?;
    let answer = dut.request(State::Stop.raw())?.map(|_| ());
    match dut.profile.incomplete {
        Incomplete::Refused => {
            let what = format!("SET STOP with {} of {} bytes loaded", some.len(), whole.len());
            refuse(&what, answer, &[Errno::EINVAL])?;
            dut.expect_state("after the refused SET", State::Resuming)?;
            stream::write_all(&mut data, rest, CHUNK_BYTES)?;
            dut.set_quietly(State::Stop)?;
        }
        Incomplete::Accepted => {
            must("SET STOP with a part loaded", answer.map_err(|errno| name(Errno::from_raw(errno))))?;
            dut.expect_state("after the part was loaded", State::Stop)?;
        }
        Incomplete::Unknown => ctx.note(if answer.is_ok() { "not noticed by the driver" } else { "refused" }),
    }
    expect_working(ctx)
}

fn one_too_many(ctx: &mut Ctx) -> Checked {
    overlong(ctx, |_| vec![0])
}

fn twice(ctx: &mut Ctx) -> Checked {
    overlong(ctx, <[u8]>::to_vec)
}

/// Writes a whole state and then more.
fn overlong(ctx: &Ctx, more: fn(&[u8]) -> Vec<u8>) -> Checked {
    let dut = &ctx.first;
    let whole = stream::save(dut)?;
    let more = more(&whole);
    let mut data = dut.enter_session(State::Resuming)?;
    match dut.profile.overlong {
        Overlong::Refused(errno) => {
            let both = [whole.as_slice(), more.as_slice()].concat();
            refuse_io("write of the state and more", data.write(&both), &[errno])?;
            // Nothing of the refused write was stored.
            stream::write_all(&mut data, &whole, CHUNK_BYTES)?;
            refuse_io("write past the end", data.write(&more), &[errno])?;
            dut.set_quietly(State::Stop)?;
        }
        Overlong::NoticedAtTheEnd => {
            stream::write_all(&mut data, &whole, CHUNK_BYTES)?;
            stream::write_all(&mut data, &more, CHUNK_BYTES)?;
            refuse(
                "SET STOP with more than the state loaded",
                dut.request(State::Stop.raw())?.map(|_| ()),
                &[Errno::EINVAL],
            )?;
            dut.expect_state("after the refused SET", State::Resuming)?;
        }
        Overlong::Accepted => {
            stream::write_all(&mut data, &whole, CHUNK_BYTES)?;
            stream::write_all(&mut data, &more, CHUNK_BYTES)?;
            dut.set_quietly(State::Stop)?;
        }
        Overlong::Unknown => return Err(skipped("what this driver says to an overlong write is not known")),
    }
    expect_working(ctx)
}

/// For every field of the header: refused by the write that completes it, and RESET leads out.
fn damaged_header(ctx: &mut Ctx) -> Checked {
    let whole = stream::save(&ctx.first)?;
    compare_again(ctx)?;
    let dut = &ctx.first;
    let header = header(dut)?;
    for (field, offset) in header.fields {
        let damaged = flip(&whole, *offset)?;
        let (head, _) = damaged.split_at_checked(header.bytes).ok_or_else(|| failed("the state is too short"))?;
        for at_once in [true, false] {
            let mut data = dut.enter_session(State::Resuming)?;
            let completing = if at_once { damaged.as_slice() } else { finish(&mut data, head)? };
            let what = format!("write that completes a header with a damaged {field}");
            refuse_io(&what, data.write(completing), &[header.errno])?;
            dut.expect_state("after the refused write", State::Resuming)?;
            dut.reset()?;
        }
    }
    expect_working(ctx)
}

/// Makes the driver compare the next header, whatever it has compared before.
pub(super) fn compare_again(ctx: &mut Ctx) -> Checked {
    if header(&ctx.first)?.compared == Compared::Always {
        return Ok(());
    }
    if !ctx.kernel.compares_after_every_open() {
        return Err(skipped(format!(
            "on kernel {} the driver compares until a header has fitted, and may have done so since it was bound",
            ctx.kernel
        )));
    }
    ctx.first.close();
    ctx.first.open()
}

/// The trap for whoever relies on the driver: a state of another device is taken, even after a reset.
fn compared_once(ctx: &mut Ctx) -> Checked {
    let dut = &ctx.first;
    let header = header(dut)?;
    let whole = stream::save(dut)?;
    stream::load(dut, &whole, State::Stop)?;
    for (field, offset) in header.fields {
        let damaged = flip(&whole, *offset)?;
        let mut data = dut.enter_session(State::Resuming)?;
        let head = damaged.get(..header.bytes).ok_or_else(|| failed("the state is too short"))?;
        must(&format!("write of a header with a damaged {field}"), data.write(head))?;
        // Nothing of it is loaded.
        dut.reset()?;
    }
    expect_working(ctx)
}

fn header(dut: &Dut) -> Checked<Header> {
    dut.profile.header.ok_or_else(|| failed("no header is known"))
}

/// `whole` with one bit changed.
fn flip(whole: &[u8], offset: usize) -> Checked<Vec<u8>> {
    let mut damaged = whole.to_vec();
    let byte = damaged.get_mut(offset).ok_or_else(|| failed(format!("the state has no byte {offset}")))?;
    *byte ^= 0x40;
    Ok(damaged)
}

/// One bit changed anywhere behind the header: noticed when RESUMING is left.
fn damaged_contents(ctx: &mut Ctx) -> Checked {
    let dut = &ctx.first;
    let header = header(dut)?;
    let whole = stream::save(dut)?;
    let last = whole.len().saturating_sub(1);
    for offset in [header.bytes, whole.len() / 2, last.saturating_sub(60), last] {
        let mut data = dut.enter_session(State::Resuming)?;
        stream::write_all(&mut data, &flip(&whole, offset)?, CHUNK_BYTES)?;
        let answer = dut.request(State::Stop.raw())?.map(|_| ());
        refuse(&format!("SET STOP with byte {offset} of {} damaged", whole.len()), answer, &[Errno::EINVAL])?;
        dut.expect_state("after the refused SET", State::Resuming)?;
        dut.reset()?;
    }
    expect_working(ctx)
}

/// Writes all but the last byte of `head` and returns that.
fn finish<'a>(data: &mut std::fs::File, head: &'a [u8]) -> Checked<&'a [u8]> {
    let (most, last) = head.split_at(head.len().saturating_sub(1));
    stream::write_all(data, most, 5)?;
    Ok(last)
}

/// The driver would take more after a refused header, and then load it; the library must not let that happen.
fn first_error_is_final(ctx: &mut Ctx) -> Checked {
    let whole = stream::save(&ctx.first)?;
    compare_again(ctx)?;
    let dut = &ctx.first;
    let (_, offset) = header(dut)?.fields.first().ok_or_else(|| failed("no field of the header is known"))?;
    let damaged = flip(&whole, *offset)?;
    dut.reset()?;
    let device = dut.device()?;
    let opened = must("SET RESUMING", device.set_device_state(DeviceState::RESUMING))?;
    let Some(DataFd::Load(mut load)) = opened else { return Err(failed("SET RESUMING gave no load fd")) };
    let first = load.write_all(&damaged).map_err(|error| error.errno().unwrap_or(0));
    refuse("write_all of a damaged header", first, &[header(dut)?.errno])?;
    let again = load.write_all(&whole);
    ensure(again.is_err(), || "write_all after an error must fail".into())?;
    dut.reset()?;
    expect_working(ctx)
}

fn changed_registers(ctx: &mut Ctx) -> Checked {
    let dut = &ctx.first;
    dut.reset()?;
    mtty::seed(dut)?;
    let mut whole = stream::save(dut)?;
    for change in mtty::HARMLESS_REGISTERS {
        let byte = whole.get_mut(change.offset).ok_or_else(|| failed("the state is too short"))?;
        *byte = change.value;
    }
    stream::load(ctx.target(), &whole, State::Running)?;
    for change in mtty::HARMLESS_REGISTERS {
        mtty::expect_register(ctx.target(), change.register, change.value)?;
    }
    expect_working(ctx)
}
