// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! All 256 cells against tables that were read out of the kernel (6.12.117, 7.3.4), not derived.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use vfio_mig_fsm::{Capabilities, State, next};

/// Rows are the current state, columns the requested one; a cell is the state entered first.
/// A state without a row and column is refused on either side.
const TABLES: [(Capabilities, &str); 4] = [
    (
        Capabilities::StopCopy,
        "
                          STOP          RUNNING       STOP_COPY     RESUMING
            STOP          STOP          RUNNING       STOP_COPY     RESUMING
            RUNNING       STOP          RUNNING       STOP          STOP
            STOP_COPY     STOP          STOP          STOP_COPY     STOP
            RESUMING      STOP          STOP          STOP          RESUMING
        ",
    ),
    (
        Capabilities::P2p,
        "
                          STOP          RUNNING       STOP_COPY     RESUMING      RUNNING_P2P
            STOP          STOP          RUNNING_P2P   STOP_COPY     RESUMING      RUNNING_P2P
            RUNNING       RUNNING_P2P   RUNNING       RUNNING_P2P   RUNNING_P2P   RUNNING_P2P
            STOP_COPY     STOP          STOP          STOP_COPY     STOP          STOP
            RESUMING      STOP          STOP          STOP          RESUMING      STOP
            RUNNING_P2P   STOP          RUNNING       STOP          STOP          RUNNING_P2P
        ",
    ),
    (
        Capabilities::PreCopy,
        "
                          STOP          RUNNING       STOP_COPY     RESUMING      PRE_COPY
            STOP          STOP          RUNNING       STOP_COPY     RESUMING      RUNNING
            RUNNING       STOP          RUNNING       STOP          STOP          PRE_COPY
            STOP_COPY     STOP          STOP          STOP_COPY     STOP          EINVAL
            RESUMING      STOP          STOP          STOP          RESUMING      STOP
            PRE_COPY      RUNNING       RUNNING       STOP_COPY     RUNNING       PRE_COPY
        ",
    ),
    (
        Capabilities::P2pPreCopy,
        "
                          STOP          RUNNING       STOP_COPY     RESUMING      RUNNING_P2P   PRE_COPY      PRE_COPY_P2P
            STOP          STOP          RUNNING_P2P   STOP_COPY     RESUMING      RUNNING_P2P   RUNNING_P2P   RUNNING_P2P
            RUNNING       RUNNING_P2P   RUNNING       RUNNING_P2P   RUNNING_P2P   RUNNING_P2P   PRE_COPY      RUNNING_P2P
            STOP_COPY     STOP          STOP          STOP_COPY     STOP          STOP          EINVAL        EINVAL
            RESUMING      STOP          STOP          STOP          RESUMING      STOP          STOP          STOP
            RUNNING_P2P   STOP          RUNNING       STOP          STOP          RUNNING_P2P   RUNNING       PRE_COPY_P2P
            PRE_COPY      RUNNING       RUNNING       PRE_COPY_P2P  RUNNING       RUNNING       PRE_COPY      PRE_COPY_P2P
            PRE_COPY_P2P  RUNNING_P2P   RUNNING_P2P   STOP_COPY     RUNNING_P2P   RUNNING_P2P   PRE_COPY      PRE_COPY_P2P
        ",
    ),
];

fn state(name: &str) -> Option<State> {
    let found = State::ALL.into_iter().find(|state| state.name() == name);
    assert!(found.is_some() || name == "EINVAL", "{name} is no state");
    found
}

fn cells(table: &str) -> HashMap<(State, State), State> {
    let mut lines = table.lines().filter(|line| !line.trim().is_empty());
    let columns: Vec<State> = lines.next().unwrap().split_whitespace().filter_map(state).collect();
    let mut cells = HashMap::new();
    for line in lines {
        let mut words = line.split_whitespace();
        let from = state(words.next().unwrap()).unwrap();
        let row: Vec<&str> = words.collect();
        assert_eq!(row.len(), columns.len(), "row of {from}");
        for (to, cell) in columns.iter().zip(row) {
            if let Some(step) = state(cell) {
                cells.insert((from, *to), step);
            }
        }
    }
    cells
}

#[test]
fn every_cell_is_the_kernels() {
    let mut compared = 0;
    for (caps, table) in TABLES {
        let expected = cells(table);
        for from in State::ALL {
            for to in State::ALL {
                assert_eq!(next(caps, from, to), expected.get(&(from, to)).copied(), "{caps:?}: {from} to {to}");
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 256);
}

/// The transcription is whole: 16, 25, 25 and 49 cells, less one refusal without P2P and two with.
#[test]
fn the_transcribed_tables_are_complete() {
    let sizes = TABLES.map(|(_, table)| cells(table).len());
    assert_eq!(sizes, [16, 25, 24, 47]);
}

#[test]
fn requests_that_hang_old_kernels_are_refused() {
    for caps in Capabilities::ALL {
        assert_eq!(next(caps, State::StopCopy, State::PreCopy), None);
        assert_eq!(next(caps, State::StopCopy, State::PreCopyP2p), None);
    }
}

#[test]
fn error_is_neither_left_nor_requested() {
    for caps in Capabilities::ALL {
        for state in State::ALL {
            assert_eq!(next(caps, State::Error, state), None, "{caps:?}: ERROR to {state}");
            assert_eq!(next(caps, state, State::Error), None, "{caps:?}: {state} to ERROR");
        }
    }
}
