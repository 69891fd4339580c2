// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the thread of a device is asked to do, one thing at a time, and what it answers.

use core::time::Duration;

use vfio_mig_fsm::State;

use crate::digest::DigestSum;
use crate::sched::Sizes;
use crate::sync::{Condvar, Mutex, lock, wait};

/// Something to do with one device.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Task {
    /// Ask for its state and an estimate of its size.
    Describe,
    /// Go to this state.
    Transition(State),
    /// Ask how much is left.
    Query,
    /// Read and send at most so many bytes, until there is nothing for now, or nothing more.
    Read { bytes_max: u64 },
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Done {
    Described {
        state: State,
        stop_copy_bytes: u64,
    },
    Moved,
    Queried(Sizes),
    /// So many bytes were read and sent, the sending took so long, and there may be more. Of memory so much more was looked at. With
    /// them the device has had so many frames.
    Read {
        bytes: u64,
        skipped_bytes: u64,
        sending: Duration,
        frames: u64,
    },
    Drained,
    /// The device has no more state: this much it was, in so many frames.
    Ended {
        sum: DigestSum,
        frames: u64,
    },
    /// Target: everything that was announced is written, and comes to this.
    Filled(DigestSum),
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
