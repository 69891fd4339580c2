// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Standing still at a phase, so that a test can kill or cut exactly there.

use std::io::{self, BufRead, Write};

use savevm_core::Phase;

/// Reads a phase's name from the command line.
pub(super) fn phase(text: &str) -> Result<Phase, String> {
    Phase::ALL.into_iter().find(|phase| phase.name() == text).ok_or_else(|| {
        let names: Vec<&str> = Phase::ALL.iter().map(|phase| phase.name()).collect();
        format!("'{text}' is no phase; there is {}", names.join(", "))
    })
}

/// Says where it stands and waits for a line, or for the end of standard input.
pub(super) fn wait_here(phase: Phase) {
    wait(phase.name());
}

/// The same at a point that is no phase.
pub(super) fn wait(point: &str) {
    // In one piece: whoever traces this process writes there too.
    let _ = io::stderr().write_all(format!("{{\"phase\":\"{point}\"}}\n").as_bytes());
    // An unreadable standard input cannot tell to go on: going on is what its end means too.
    let _ = io::stdin().lock().read_line(&mut String::new());
}
