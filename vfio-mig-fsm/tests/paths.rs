// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whole requests: against an independent search over the arcs, and against the paths the kernel
//! was seen to take.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::unwrap_used)]

use std::collections::VecDeque;

use State::{Error, PreCopy, PreCopyP2p, Resuming, Running, RunningP2p, Stop, StopCopy};
use vfio_mig_fsm::{
    Capabilities, SessionEffect, State, StateSet, is_arc, path, request_session, session, successors,
    visible_on_failure,
};

/// The arcs of each capability set as drivers implement them: four in every set, then the rest.
const COMMON: [(State, State); 4] = [(Stop, StopCopy), (StopCopy, Stop), (Stop, Resuming), (Resuming, Stop)];
const OWN: [(Capabilities, &[(State, State)]); 4] = [
    (Capabilities::StopCopy, &[(Running, Stop), (Stop, Running)]),
    (Capabilities::P2p, &[(Running, RunningP2p), (RunningP2p, Running), (RunningP2p, Stop), (Stop, RunningP2p)]),
    (
        Capabilities::PreCopy,
        &[(Running, Stop), (Stop, Running), (Running, PreCopy), (PreCopy, Running), (PreCopy, StopCopy)],
    ),
    (
        Capabilities::P2pPreCopy,
        &[
            (Running, RunningP2p),
            (RunningP2p, Running),
            (RunningP2p, Stop),
            (Stop, RunningP2p),
            (Running, PreCopy),
            (PreCopy, Running),
            (RunningP2p, PreCopyP2p),
            (PreCopyP2p, RunningP2p),
            (PreCopy, PreCopyP2p),
            (PreCopyP2p, PreCopy),
            (PreCopyP2p, StopCopy),
        ],
    ),
];

fn arcs(caps: Capabilities) -> Vec<(State, State)> {
    let (_, own) = OWN.into_iter().find(|(set, _)| *set == caps).unwrap();
    COMMON.iter().chain(own).copied().collect()
}

fn every_request() -> impl Iterator<Item = (Capabilities, State, State)> {
    Capabilities::ALL.into_iter().flat_map(|caps| {
        State::ALL.into_iter().flat_map(move |from| State::ALL.into_iter().map(move |to| (caps, from, to)))
    })
}

#[test]
fn arcs_are_the_drivers() {
    for (caps, from, to) in every_request() {
        let expected = arcs(caps).contains(&(from, to));
        assert_eq!(is_arc(caps, from, to), expected, "{caps:?}: {from} to {to}");
        assert_eq!(successors(caps, from).contains(to), expected);
    }
}

/// Every shortest path from `from` to `to`, by a search that walks forwards over whole paths.
/// The rule is the kernel's, said differently from the crate: nothing in the saving group is
/// passed, but for the one way from `PRE_COPY` to `STOP_COPY`; and nothing leads from `STOP_COPY`
/// to the other two.
fn shortest_paths(caps: Capabilities, from: State, to: State) -> Vec<Vec<State>> {
    if from == StopCopy && [PreCopy, PreCopyP2p].contains(&to) {
        return Vec::new();
    }
    let may_pass = |state: State| match state {
        PreCopyP2p => (from, to) == (PreCopy, StopCopy),
        StopCopy | PreCopy => false,
        _ => true,
    };
    let mut found: Vec<Vec<State>> = Vec::new();
    let mut queue = VecDeque::from([vec![from]]);
    while let Some(walk) = queue.pop_front() {
        let last = *walk.last().unwrap();
        if found.first().is_some_and(|shortest| walk.len() > shortest.len() + 1) {
            break;
        }
        if last == to {
            found.push(walk[1..].to_vec());
        } else if last == from || may_pass(last) {
            for (_, step) in arcs(caps).into_iter().filter(|arc| arc.0 == last) {
                if !walk.contains(&step) {
                    queue.push_back([walk.as_slice(), &[step]].concat());
                }
            }
        }
    }
    found
}

#[test]
fn a_search_over_the_arcs_finds_the_same_single_path() {
    for (caps, from, to) in every_request() {
        let ends_exist = caps.supports(from) && caps.supports(to);
        let expected = if ends_exist { shortest_paths(caps, from, to) } else { Vec::new() };
        assert!(expected.len() <= 1, "{caps:?}: {from} to {to} is ambiguous: {expected:?}");
        let actual = path(caps, from, to);
        assert_eq!(
            actual.as_ref().map(|path| path.steps()),
            expected.first().map(Vec::as_slice),
            "{caps:?}: {from} to {to}"
        );
    }
}

/// The combined requests of a device with all capabilities, as seen in the kernel.
const FULL_PATHS: [(State, State, &[State]); 25] = [
    (Stop, Running, &[RunningP2p, Running]),
    (Stop, PreCopy, &[RunningP2p, Running, PreCopy]),
    (Stop, PreCopyP2p, &[RunningP2p, PreCopyP2p]),
    (Running, Stop, &[RunningP2p, Stop]),
    (Running, StopCopy, &[RunningP2p, Stop, StopCopy]),
    (Running, Resuming, &[RunningP2p, Stop, Resuming]),
    (Running, PreCopyP2p, &[RunningP2p, PreCopyP2p]),
    (RunningP2p, PreCopy, &[Running, PreCopy]),
    (RunningP2p, StopCopy, &[Stop, StopCopy]),
    (RunningP2p, Resuming, &[Stop, Resuming]),
    (StopCopy, Running, &[Stop, RunningP2p, Running]),
    (StopCopy, RunningP2p, &[Stop, RunningP2p]),
    (StopCopy, Resuming, &[Stop, Resuming]),
    (Resuming, Running, &[Stop, RunningP2p, Running]),
    (Resuming, RunningP2p, &[Stop, RunningP2p]),
    (Resuming, StopCopy, &[Stop, StopCopy]),
    (Resuming, PreCopy, &[Stop, RunningP2p, Running, PreCopy]),
    (Resuming, PreCopyP2p, &[Stop, RunningP2p, PreCopyP2p]),
    (PreCopy, StopCopy, &[PreCopyP2p, StopCopy]),
    (PreCopy, Stop, &[Running, RunningP2p, Stop]),
    (PreCopy, RunningP2p, &[Running, RunningP2p]),
    (PreCopy, Resuming, &[Running, RunningP2p, Stop, Resuming]),
    (PreCopyP2p, Stop, &[RunningP2p, Stop]),
    (PreCopyP2p, Running, &[RunningP2p, Running]),
    (PreCopyP2p, Resuming, &[RunningP2p, Stop, Resuming]),
];

#[test]
fn full_paths_are_the_kernels() {
    for (from, to, steps) in FULL_PATHS {
        let path = path(Capabilities::P2pPreCopy, from, to).unwrap();
        assert_eq!(path.steps(), steps, "{from} to {to}");
    }
    let longer = every_request()
        .filter(|&(caps, ..)| caps == Capabilities::P2pPreCopy)
        .filter_map(|(caps, from, to)| path(caps, from, to))
        .filter(|path| path.steps().len() > 1)
        .count();
    assert_eq!(longer, FULL_PATHS.len(), "all others take one step or none");
}

#[test]
fn a_request_for_the_current_state_takes_no_step() {
    for (caps, state, _) in every_request().filter(|(_, from, to)| from == to) {
        let steps = path(caps, state, state).map(|path| path.steps().len());
        assert_eq!(steps, caps.supports(state).then_some(0), "{caps:?}: {state}");
    }
}

#[test]
fn each_arc_treats_the_data_fd_as_the_kernel_does() {
    for (from, to) in arcs(Capabilities::P2pPreCopy).into_iter().chain(arcs(Capabilities::PreCopy)) {
        let expected = match (from, to) {
            (Running, PreCopy) | (RunningP2p, PreCopyP2p) | (Stop, StopCopy) => SessionEffect::OpensSaving,
            (Stop, Resuming) => SessionEffect::OpensResuming,
            (PreCopy, PreCopyP2p) | (PreCopyP2p, PreCopy) => SessionEffect::Keeps,
            (PreCopy | PreCopyP2p, StopCopy) => SessionEffect::Keeps,
            (PreCopy | PreCopyP2p | StopCopy | Resuming, _) => SessionEffect::Ends,
            _ => SessionEffect::None,
        };
        assert_eq!(session(from, to), expected, "{from} to {to}");
    }
}

/// The effect of a request is what its arcs do one after the other, and only the last one opens.
#[test]
fn a_request_does_what_its_arcs_do() {
    for (caps, from, to) in every_request() {
        let Some(path) = path(caps, from, to) else {
            assert_eq!(request_session(caps, from, to), None, "{caps:?}: {from} to {to}");
            continue;
        };
        let has_session = |state: State| state.is_saving() || state == Resuming;
        let mut effect = if has_session(from) { SessionEffect::Keeps } else { SessionEffect::None };
        let mut current = from;
        for &step in path.steps() {
            let opened = [SessionEffect::OpensSaving, SessionEffect::OpensResuming];
            assert!(!opened.contains(&effect), "{caps:?}: {from} to {to} opens before its end");
            effect = match (effect, session(current, step)) {
                (SessionEffect::Ends, SessionEffect::None) => SessionEffect::Ends,
                (_, now) => now,
            };
            current = step;
        }
        assert_eq!(request_session(caps, from, to), Some(effect), "{caps:?}: {from} to {to}");
    }
}

#[test]
fn a_failure_shows_the_start_the_way_the_end_or_error() {
    for (caps, from, to) in every_request() {
        let mut expected = StateSet::from_iter([from]);
        if caps.supports(from) && caps.supports(to) {
            if let Some(steps) = shortest_paths(caps, from, to).first() {
                expected = steps.iter().copied().chain([from, Error]).collect();
            }
        }
        assert_eq!(visible_on_failure(caps, from, to), expected, "{caps:?}: {from} to {to}");
    }
    // The fd of the new session found no number (EMFILE): the device is in PRE_COPY all the same.
    assert!(visible_on_failure(Capabilities::PreCopy, Running, PreCopy).contains(PreCopy));
}
