// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Feeding a decoder with a file.

use core::cell::Cell;
use core::fmt;
use core::ops::ControlFlow;
use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use stream_codec::decode::{Blame, Decoder, Located, Step};

use super::fault::Fault;
use super::input::Input;

/// Smaller files are read before a bar could be looked at.
const BAR_BYTES_MIN: u64 = 64 << 20;

/// How far the reading has come, on a terminal.
pub(super) struct Progress {
    bar: ProgressBar,
    /// Bytes of the files before this one.
    before: Cell<u64>,
}

impl Progress {
    /// A bar on standard error, if that is a terminal and nothing else is written to it meanwhile.
    pub(super) fn new(total_bytes: u64, is_tree_shown: bool) -> Self {
        let is_disturbed = is_tree_shown && std::io::stdout().is_terminal();
        let is_seen = std::io::stderr().is_terminal() && !is_disturbed && total_bytes >= BAR_BYTES_MIN;
        let target = if is_seen { ProgressDrawTarget::stderr_with_hz(10) } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total_bytes), target);
        if let Ok(style) = ProgressStyle::with_template("[{wide_bar}] {bytes} of {total_bytes}, {eta} left") {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar, before: Cell::new(0) }
    }

    fn at(&self, position: u64) {
        self.bar.set_position(self.before.get().saturating_add(position));
    }

    /// A file is done.
    pub(super) fn next(&self, bytes: u64) {
        self.before.set(self.before.get().saturating_add(bytes));
    }

    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// How the reading of a file ended.
pub(super) enum End {
    /// The stream ended where it may.
    Whole,
    /// Nobody wants to know more.
    Left,
    /// The stream is refused, or cut.
    Refused(Fault),
}

/// Reads a file to its end or to the first fault.
///
/// # Errors
/// The file cannot be read.
pub(super) fn drive<D, R>(
    input: &mut Input,
    decoder: &mut D,
    progress: &Progress,
    mut handle: impl FnMut(D::Event<'_>) -> ControlFlow<()>,
) -> Result<End, String>
where
    D: Decoder<Error = Located<R>>,
    R: Blame + fmt::Display,
{
    let refused = |input: &Input, error: &Located<R>| {
        let found = input.glimpse(error.offset);
        End::Refused(Fault::of(error).found(&found))
    };
    loop {
        let (at, mut piece) = input.next()?;
        progress.at(at);
        if piece.is_empty() {
            break;
        }
        let error = loop {
            match decoder.decode(piece) {
                Ok(Step { event: None, .. }) => break None,
                Ok(Step { consumed, event: Some(event) }) => {
                    if handle(event).is_break() {
                        return Ok(End::Left);
                    }
                    piece = piece.get(consumed..).unwrap_or_default();
                }
                Err(error) => break Some(error),
            }
        };
        if let Some(error) = error {
            return Ok(refused(input, &error));
        }
    }
    Ok(match decoder.finish() {
        Ok(()) => End::Whole,
        Err(error) => refused(input, &error),
    })
}
