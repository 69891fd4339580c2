// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Segmentation is free: the same bytes move in pieces of any size, on both sides.

use vfio_mig_fsm::State;

use super::check::{Checked, difference, ensure};
use super::context::Ctx;
use super::stream::{self, CHUNK_BYTES};
use super::{Test, test};
use crate::hw_test::event::Group;

/// The tests of this group.
pub(super) const TESTS: &[Test] = &[
    test(Group::Segments, "read in pieces of 1 byte", &[], |ctx| read_in(ctx, 1)),
    test(Group::Segments, "read in pieces of 7 bytes", &[], |ctx| read_in(ctx, 7)),
    test(Group::Segments, "read in pieces of 4096 bytes", &[], |ctx| read_in(ctx, 4096)),
    test(Group::Segments, "read in pieces of 1 MiB", &[], |ctx| read_in(ctx, CHUNK_BYTES)),
    test(Group::Segments, "write in pieces of 1 byte", &[], |ctx| write_in(ctx, 1)),
    test(Group::Segments, "write in pieces of 7 bytes", &[], |ctx| write_in(ctx, 7)),
    test(Group::Segments, "write in pieces of 4096 bytes", &[], |ctx| write_in(ctx, 4096)),
    test(Group::Segments, "write in pieces of 1 MiB", &[], |ctx| write_in(ctx, CHUNK_BYTES)),
];

fn read_in(ctx: &Ctx, piece_bytes: usize) -> Checked {
    let reference = stream::save(&ctx.first)?;
    let mut data = ctx.first.enter_session(State::StopCopy)?;
    let pieces = stream::read_to_end(&mut data, piece_bytes)?;
    ctx.note(format!("{} bytes", pieces.len()));
    if ctx.first.profile.repeatable {
        let parted = difference(&reference, &pieces);
        ensure(parted.is_none(), || format!("read in pieces of {piece_bytes}: {}", parted.unwrap_or_default()))?;
    }
    stream::load(&ctx.first, &pieces, State::Running)
}

fn write_in(ctx: &Ctx, piece_bytes: usize) -> Checked {
    let target = ctx.target();
    let reference = stream::save(&ctx.first)?;
    let mut data = target.enter_session(State::Resuming)?;
    stream::write_all(&mut data, &reference, piece_bytes)?;
    target.set_quietly(State::Stop)?;
    let mut data = target.open_session(State::StopCopy)?;
    let again = stream::read_to_end(&mut data, CHUNK_BYTES)?;
    if target.profile.repeatable {
        let parted = difference(&reference, &again);
        ensure(parted.is_none(), || {
            format!("written in pieces of {piece_bytes}, saved again: {}", parted.unwrap_or_default())
        })?;
    }
    target.reset()
}
