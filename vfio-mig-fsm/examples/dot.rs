// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Prints the graph of a capability set: `cargo run --example dot 7 | dot -Tsvg`.

use std::{env, process::ExitCode};

use vfio_mig_fsm::{Capabilities, Dot};

fn main() -> ExitCode {
    let flags = env::args().nth(1).and_then(|argument| argument.parse().ok());
    if let Some(caps) = flags.and_then(Capabilities::from_flags) {
        print!("{}", Dot(caps));
        ExitCode::SUCCESS
    } else {
        eprintln!("usage: dot FLAGS\n\nFLAGS are a device's migration flags: 1, 3, 5 or 7");
        ExitCode::from(2)
    }
}
