// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a transition does to the data fd.
//!
//! A session belongs to a group of states: saving (`PRE_COPY`, `PRE_COPY_P2P`, `STOP_COPY`) or
//! resuming (`RESUMING`). Entering a group opens a session, leaving it kills the session. Hence
//! the two ends of a transition decide alone.

use crate::{Capabilities, State, next};

/// What a successful transition does to the data session of the device.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[must_use]
pub enum SessionEffect {
    /// There is no session, before or after. The kernel returns −1 as the data fd.
    None,
    /// The kernel returns a new read-only fd. A session that was open before has ended.
    OpensSaving,
    /// The kernel returns a new write-only fd. A session that was open before has ended.
    OpensResuming,
    /// The open fd stays valid, at the same byte position. The kernel returns −1.
    Keeps,
    /// The open fd is dead: reads and writes fail with `ENODEV`, and it must still be closed.
    /// What was not read is lost. The kernel returns −1.
    Ends,
}

/// What one arc does to the data session.
///
/// Of a pair that is not an arc this says what [`request_session`] says if a device accepts the
/// request, and nothing otherwise.
pub const fn session(from: State, to: State) -> SessionEffect {
    match (group(from), group(to)) {
        (Group::Idle, Group::Idle) => SessionEffect::None,
        (Group::Saving, Group::Saving) | (Group::Resuming, Group::Resuming) => SessionEffect::Keeps,
        (Group::Idle | Group::Resuming, Group::Saving) => SessionEffect::OpensSaving,
        (Group::Idle | Group::Saving, Group::Resuming) => SessionEffect::OpensResuming,
        (Group::Saving | Group::Resuming, Group::Idle) => SessionEffect::Ends,
    }
}

/// What a whole request does to the data session if it succeeds; `None` exactly if [`next`] is
/// `None`.
///
/// A new fd can only come from the last arc of a path, so a request never returns more than one.
/// If a request fails, whatever it passed still counts: a session may be dead, and one may have
/// been opened whose fd was lost (see [`visible_on_failure`](crate::visible_on_failure)).
#[must_use]
pub const fn request_session(caps: Capabilities, from: State, to: State) -> Option<SessionEffect> {
    match next(caps, from, to) {
        Some(_) => Some(session(from, to)),
        None => None,
    }
}

#[derive(Clone, Copy)]
enum Group {
    Idle,
    Saving,
    Resuming,
}

const fn group(state: State) -> Group {
    if state.is_saving() {
        Group::Saving
    } else if state.is(State::Resuming) {
        Group::Resuming
    } else {
        Group::Idle
    }
}
