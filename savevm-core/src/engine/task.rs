// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the thread of a device is asked to do, one thing at a time, and what it answers.

use vfio_mig_fsm::{Capabilities, State};

use crate::device::PrecopyInfo;
use crate::digest::DigestSum;
use crate::sync::{Condvar, Mutex, lock, wait};

/// From where a device is to where it shall go; `None` leaves it there.
pub(crate) type Rule = fn(Capabilities, State) -> Option<State>;

/// Something to do with one device.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Task {
    /// Ask for its state and an estimate of its size.
    Describe,
    /// Go where the rule leads.
    Follow(Rule),
    /// Source: read and send until there is nothing for now, or this many chunks; then ask how much is left.
    Round { chunks_max: u32 },
    /// Source: ask how much is left, where the state answers that.
    Info,
    /// Source: read and send to the end, and say so.
    Drain,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Done {
    Described {
        state: State,
        stop_copy_bytes: u64,
    },
    /// Where the device is now.
    Followed(State),
    Round {
        moved_bytes: u64,
        info: PrecopyInfo,
    },
    Info(Option<PrecopyInfo>),
    Drained,
    /// Target: it has its whole state and stands in STOP.
    Loaded(DigestSum),
}

/// Where a device's thread waits for its next task.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    state: Mutex<(Option<Task>, bool)>,
    changed: Condvar,
}

impl Mailbox {
    pub(crate) fn put(&self, task: Task) {
        lock(&self.state).0 = Some(task);
        self.changed.notify_all();
    }

    /// The next task; `None` when there will be none.
    pub(crate) fn take(&self) -> Option<Task> {
        let mut state = lock(&self.state);
        loop {
            if state.1 {
                return None;
            }
            match state.0.take() {
                Some(task) => return Some(task),
                None => state = wait(&self.changed, state),
            }
        }
    }

    pub(crate) fn close(&self) {
        lock(&self.state).1 = true;
        self.changed.notify_all();
    }
}

/// Where threads wait until something is known.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    is_open: Mutex<Option<bool>>,
    changed: Condvar,
}

impl Gate {
    /// Waits; false if it will not open.
    pub(crate) fn wait(&self) -> bool {
        let mut state = lock(&self.is_open);
        loop {
            match *state {
                Some(is_open) => return is_open,
                None => state = wait(&self.changed, state),
            }
        }
    }

    pub(crate) fn open(&self) {
        lock(&self.is_open).get_or_insert(true);
        self.changed.notify_all();
    }

    pub(crate) fn close(&self) {
        lock(&self.is_open).get_or_insert(false);
        self.changed.notify_all();
    }
}
