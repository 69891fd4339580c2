// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The next-state tables, derived by the compiler.
//!
//! The kernel holds one table of 64 cells and a rule to skip states a device lacks. Here the same
//! cells follow from the arcs and the sentence of vfio.h that the path of a combined request is
//! the shortest one, with the exceptions the kernel's table makes put into one rule:
//!
//! *A request between two saving states stays inside the saving group; any other request never
//! passes through it.*
//!
//! The first half is what lets `PRE_COPY` → `STOP_COPY` pass `PRE_COPY_P2P` and keep its session,
//! and what refuses `STOP_COPY` → `PRE_COPY`: no arc leads back inside the group. The second half
//! keeps a request from opening a session on the way that nobody could ever read.

use crate::{Capabilities, State, StateSet, path, successors};

/// The state the kernel enters first when a device with `caps` in `from` is asked for `to`.
///
/// `Some(from)` if `from` is `to`: such a request succeeds without a step. `None` if the request
/// is refused or must not be made: a state the device lacks, [`State::Error`] on either side, or
/// leaving `STOP_COPY` for `PRE_COPY` or `PRE_COPY_P2P`, which kernels before June 2026 (6.12.96
/// of the 6.12 series) never return from while they hold the lock of the device.
#[must_use]
pub const fn next(caps: Capabilities, from: State, to: State) -> Option<State> {
    let table: &'static Table = match caps {
        Capabilities::StopCopy => const { &derive(Capabilities::StopCopy) },
        Capabilities::P2p => const { &derive(Capabilities::P2p) },
        Capabilities::PreCopy => const { &derive(Capabilities::PreCopy) },
        Capabilities::P2pPreCopy => const { &derive(Capabilities::P2pPreCopy) },
    };
    table.get(from).get(to)
}

/// Rows by current state, cells by requested state.
type Table = PerState<PerState<Option<State>>>;

/// One value for each state. Reading it cannot miss.
#[derive(Clone, Copy)]
struct PerState<T>([T; 8]);

impl<T: Copy> PerState<T> {
    const fn get(&self, state: State) -> T {
        let [error, stop, running, stop_copy, resuming, running_p2p, pre_copy, pre_copy_p2p] = self.0;
        match state {
            State::Error => error,
            State::Stop => stop,
            State::Running => running,
            State::StopCopy => stop_copy,
            State::Resuming => resuming,
            State::RunningP2p => running_p2p,
            State::PreCopy => pre_copy,
            State::PreCopyP2p => pre_copy_p2p,
        }
    }
}

/// `PerState` of an expression over each state.
macro_rules! per_state {
    ($state:ident => $value:expr) => {
        PerState([
            per_state!($state = Error => $value),
            per_state!($state = Stop => $value),
            per_state!($state = Running => $value),
            per_state!($state = StopCopy => $value),
            per_state!($state = Resuming => $value),
            per_state!($state = RunningP2p => $value),
            per_state!($state = PreCopy => $value),
            per_state!($state = PreCopyP2p => $value),
        ])
    };
    ($state:ident = $variant:ident => $value:expr) => {{
        let $state = State::$variant;
        $value
    }};
}

const fn derive(caps: Capabilities) -> Table {
    per_state!(from => per_state!(to => first_steps(caps, from, to).first()))
}

/// Every state that begins a shortest path from `from` to `to`: none if the request is refused,
/// and never more than one, which is asserted below.
const fn first_steps(caps: Capabilities, from: State, to: State) -> StateSet {
    let target = StateSet::EMPTY.with(to).intersection(caps.states());
    if from.is(to) {
        return target;
    }
    let interior = interior(from, to);
    // Layer by layer backwards from the target; `layer` holds the states at equal distance from it.
    let mut layer = target;
    let mut seen = target;
    while !layer.is_empty() {
        let steps = successors(caps, from).intersection(layer);
        if !steps.is_empty() {
            return steps;
        }
        layer = predecessors(caps, layer).intersection(interior).difference(seen);
        seen = seen.union(layer);
    }
    StateSet::EMPTY
}

/// The states a request may pass between its ends.
const fn interior(from: State, to: State) -> StateSet {
    let within_the_group = from.is_saving() && to.is_saving();
    let mut allowed = StateSet::EMPTY;
    let mut states: &[State] = &State::ALL;
    while let [state, rest @ ..] = states {
        if state.is_saving() == within_the_group {
            allowed = allowed.with(*state);
        }
        states = rest;
    }
    allowed
}

/// The states with an arc into `targets`.
const fn predecessors(caps: Capabilities, targets: StateSet) -> StateSet {
    let mut found = StateSet::EMPTY;
    let mut states: &[State] = &State::ALL;
    while let [state, rest @ ..] = states {
        if !successors(caps, *state).intersection(targets).is_empty() {
            found = found.with(*state);
        }
        states = rest;
    }
    found
}

/// No request has two shortest paths, and following the table arrives: a request has a path
/// exactly if it has a next state.
const _: () = {
    let mut sets: &[Capabilities] = &Capabilities::ALL;
    while let [caps, other_sets @ ..] = sets {
        let mut sources: &[State] = &State::ALL;
        while let [from, other_sources @ ..] = sources {
            let mut targets: &[State] = &State::ALL;
            while let [to, other_targets @ ..] = targets {
                assert!(first_steps(*caps, *from, *to).len() <= 1, "ambiguous path");
                assert!(
                    next(*caps, *from, *to).is_some() == path(*caps, *from, *to).is_some(),
                    "a path does not arrive, or is longer than a Path can hold"
                );
                targets = other_targets;
            }
            sources = other_sources;
        }
        sets = other_sets;
    }
};
