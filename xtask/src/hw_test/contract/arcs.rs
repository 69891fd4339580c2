// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Every request that has a path, from every state: where it leads and what becomes of the data fd.

use std::fs::File;

use vfio_mig_fsm::{Capabilities, SessionEffect, State, path, request_session};

use super::Test;
use super::check::{Checked, ensure, expect, failed};
use super::context::Ctx;
use super::dut::{Dut, expect_dead};
use super::fd;
use super::stream::{self, CHUNK_BYTES};
use crate::hw_test::event::Group;

/// One test per pair of states with a path between them.
pub(super) fn tests(caps: Capabilities) -> Vec<Test> {
    let states = || State::ALL.into_iter().filter(move |state| caps.supports(*state));
    let pairs = states().flat_map(|from| states().map(move |to| (from, to)));
    let legal = pairs.filter(|(from, to)| path(caps, *from, *to).is_some());
    legal.map(|(from, to)| Test::of_pair(Group::Arcs, name(caps, from, to), arc, (from, to))).collect()
}

/// `PRE_COPY -> STOP (by RUNNING, RUNNING_P2P)`.
fn name(caps: Capabilities, from: State, to: State) -> String {
    let steps = path(caps, from, to);
    let inner = steps.as_ref().and_then(|path| path.steps().split_last()).map_or(&[][..], |(_, inner)| inner);
    if inner.is_empty() {
        return format!("{from} -> {to}");
    }
    let inner: Vec<_> = inner.iter().map(|state| state.name()).collect();
    format!("{from} -> {to} (by {})", inner.join(", "))
}

fn arc(ctx: &mut Ctx, from: State, to: State) -> Checked {
    let dut = &ctx.first;
    // A device leaves RESUMING only with a whole state loaded.
    let whole = if from == State::Resuming { stream::save(dut)? } else { Vec::new() };
    let mut before = dut.enter(from)?;
    if let (State::Resuming, Some(data)) = (from, &mut before) {
        stream::write_all(data, &whole, CHUNK_BYTES)?;
    }
    let opened = dut.set(to)?;
    dut.expect_state("after the request", to)?;
    let effect = request_session(dut.caps, from, to).ok_or_else(|| failed("no such path"))?;
    check_session(dut, effect, from, to, before, opened)
}

fn check_session(
    dut: &Dut,
    effect: SessionEffect,
    from: State,
    to: State,
    before: Option<File>,
    opened: Option<File>,
) -> Checked {
    let opens = matches!(effect, SessionEffect::OpensSaving | SessionEffect::OpensResuming);
    expect("a data fd came with the request", opened.is_some(), opens)?;
    if let Some(data) = &opened {
        fd::expect_session_fd(data, effect == SessionEffect::OpensResuming)?;
    }
    let Some(mut before) = before else { return Ok(()) };
    let resuming = from == State::Resuming;
    if effect == SessionEffect::Keeps {
        return ensure(fd::is_alive(&mut before, resuming)?, || {
            format!("the data fd died on the way from {from} to {to}")
        });
    }
    expect_dead(&format!("the data fd of {from}, now in {to}"), &mut before, &dut.profile, resuming)
}
