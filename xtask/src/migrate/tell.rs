// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The engine's spans and events, on standard error.

use std::io::{self, IsTerminal};

use tracing::Level;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::fmt::time;

/// Prints what happens in this process from now on, more of it the higher `verbosity` is, and nothing at 0.
pub(super) fn start(verbosity: u8) {
    let level = match verbosity {
        0 => return,
        1 => Level::INFO,
        2 => Level::DEBUG,
        _ => Level::TRACE,
    };
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_span_events(FmtSpan::NEW | FmtSpan::CLOSE)
        .with_timer(time::uptime())
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    // Nobody else sets one in this process.
    let _ = tracing::subscriber::set_global_default(subscriber.finish());
}
