// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The arcs: the single transitions a driver implements. Everything else follows from them.

use crate::{Capabilities, State, StateSet};

/// The states one arc away from `from` on a device with `caps`.
///
/// Empty for a state the device does not have and for [`State::Error`], which only a reset leaves.
#[must_use]
pub const fn successors(caps: Capabilities, from: State) -> StateSet {
    // With P2P a device is quiesced on its way between running and stopped, else it goes straight.
    let (below_running, above_stop, below_pre_copy) = if caps.has_p2p() {
        (State::RunningP2p, State::RunningP2p, State::PreCopyP2p)
    } else {
        (State::Stop, State::Running, State::StopCopy)
    };
    let none = StateSet::EMPTY;
    let arcs = match from {
        State::Error => none,
        State::Stop => none.with(above_stop).with(State::StopCopy).with(State::Resuming),
        State::Running => none.with(below_running).with(State::PreCopy),
        State::RunningP2p => none.with(State::Running).with(State::Stop).with(State::PreCopyP2p),
        State::StopCopy | State::Resuming => none.with(State::Stop),
        State::PreCopy => none.with(State::Running).with(below_pre_copy),
        State::PreCopyP2p => none.with(State::RunningP2p).with(State::PreCopy).with(State::StopCopy),
    };
    if caps.supports(from) { arcs.intersection(caps.states()) } else { StateSet::EMPTY }
}

/// Whether `from` → `to` is one arc: a driver implements it as a single step.
///
/// A request for the current state is not an arc; it succeeds without a step.
#[must_use]
pub const fn is_arc(caps: Capabilities, from: State, to: State) -> bool {
    successors(caps, from).contains(to)
}
