// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! No fd number is left when a transition has succeeded: EMFILE, and the device stays in the new state without a fd.

use std::fs::File;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use vfio_mig_fsm::State;

use super::check::{Checked, must, refuse};
use super::context::Ctx;
use super::stream::expect_working;
use super::{Need, Test, test};
use crate::hw_test::event::Group;

/// The tests of this group.
pub(super) const TESTS: &[Test] = &[
    test(Group::Exhaustion, "SET STOP_COPY without a free fd", &[], |ctx| exhausted(ctx, State::StopCopy)),
    test(Group::Exhaustion, "SET PRE_COPY without a free fd", &[Need::PreCopy], |ctx| exhausted(ctx, State::PreCopy)),
    test(Group::Exhaustion, "SET RESUMING without a free fd", &[], |ctx| exhausted(ctx, State::Resuming)),
    test(Group::Exhaustion, "SET without a session needs no free fd", &[], no_session),
];

/// Leaves no fd number free until it is dropped.
struct Exhausted {
    soft: u64,
    hard: u64,
    _fillers: Vec<File>,
}

/// More than any suite has open, few enough to fill.
const NUMBERS: u64 = 256;

impl Exhausted {
    fn begin() -> Checked<Self> {
        let (soft, hard) = must("getrlimit", getrlimit(Resource::RLIMIT_NOFILE))?;
        let first = must("open /dev/null", File::open("/dev/null"))?;
        must("setrlimit", setrlimit(Resource::RLIMIT_NOFILE, NUMBERS.min(soft), hard))?;
        let mut exhausted = Self { soft, hard, _fillers: Vec::new() };
        while let Ok(filler) = first.try_clone() {
            exhausted._fillers.push(filler);
        }
        exhausted._fillers.push(first);
        Ok(exhausted)
    }
}

impl Drop for Exhausted {
    fn drop(&mut self) {
        // Nothing can be done about a failure here; the next test would notice.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, self.soft, self.hard);
    }
}

fn exhausted(ctx: &Ctx, to: State) -> Checked {
    let dut = &ctx.first;
    dut.reset()?;
    let exhausted = Exhausted::begin()?;
    let answer = dut.request(to.raw());
    let state = dut.state();
    drop(exhausted);
    refuse(&format!("SET {to} without a free fd"), answer?.map(|data| data.is_some()), &[Errno::EMFILE])?;
    super::check::expect("state after the failed SET: the transition has happened", state?, to)?;
    // The session exists without a fd; asking for the state again opens none.
    dut.set_quietly(to)?;
    if to == State::Resuming {
        dut.reset()?;
    } else {
        dut.set_quietly(State::Running)?;
    }
    expect_working(ctx)
}

fn no_session(ctx: &mut Ctx) -> Checked {
    let dut = &ctx.first;
    dut.reset()?;
    let exhausted = Exhausted::begin()?;
    let answers = [State::Stop, State::Running].map(|to| dut.set_quietly(to));
    drop(exhausted);
    answers.into_iter().collect::<Checked>()?;
    expect_working(ctx)
}
