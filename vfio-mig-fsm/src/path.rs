// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whole requests: the states they pass, and the states a failure can leave behind.

use crate::{Capabilities, State, StateSet, next};

/// The longest path of any capability set, `PRE_COPY` → `RESUMING` with P2P. The assertions beside
/// the tables fail to compile if it is too short.
const STEPS_MAX: usize = 4;

/// The states a request takes a device through, the requested one last.
#[derive(Clone, Copy)]
pub struct Path {
    /// Unused places repeat the requested state.
    states: [State; STEPS_MAX],
    steps: usize,
}

impl Path {
    /// The states entered, in order: empty if the device is already there, else the last one is
    /// the requested state. The state the request starts from is not among them.
    #[must_use]
    pub const fn steps(&self) -> &[State] {
        match self.states.split_at_checked(self.steps) {
            Some((steps, _unused)) => steps,
            None => &self.states,
        }
    }
}

impl PartialEq for Path {
    fn eq(&self, other: &Self) -> bool {
        self.steps() == other.steps()
    }
}

impl Eq for Path {}

impl core::fmt::Debug for Path {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.debug_list().entries(self.steps()).finish()
    }
}

/// The path the kernel takes when a device with `caps` in `from` is asked for `to`; `None` exactly
/// if [`next`] is `None`.
#[must_use]
pub const fn path(caps: Capabilities, from: State, to: State) -> Option<Path> {
    let mut states = [to; STEPS_MAX];
    let mut steps = 0_usize;
    let mut unused: &mut [State] = &mut states;
    let mut current = from;
    loop {
        let Some(step) = next(caps, current, to) else {
            return None;
        };
        if step.is(current) {
            return Some(Path { states, steps });
        }
        let [slot, rest @ ..] = unused else {
            return None;
        };
        *slot = step;
        unused = rest;
        steps = steps.saturating_add(1);
        current = step;
    }
}

/// Every state in which a failed request for `to` may leave a device with `caps` that was in
/// `from`.
///
/// A failing request stops at the last step that succeeded, so `from` and every state on the path
/// can be seen (vfio.h), and a driver may answer any failure by moving to [`State::Error`]. The
/// requested state itself is among them: if no number is left for the data fd (`EMFILE`), the
/// ioctl fails *after* the transition, and the device stays in the new state without an fd.
///
/// A request without a path is refused before the driver sees it: only `from` remains. Nothing is
/// promised of states a newer kernel may have in between, and a reset by somebody else
/// leaves `RUNNING` at any time. Ask the device; expect one of these.
#[must_use]
pub const fn visible_on_failure(caps: Capabilities, from: State, to: State) -> StateSet {
    let mut visible = StateSet::EMPTY.with(from);
    let Some(path) = path(caps, from, to) else {
        return visible;
    };
    visible = visible.with(State::Error);
    let mut steps = path.steps();
    while let [step, rest @ ..] = steps {
        visible = visible.with(*step);
        steps = rest;
    }
    visible
}
