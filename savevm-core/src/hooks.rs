// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a VMM is told, and asked to do, while its devices move.

use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::sched::Logged;

/// Where a migration is. Both sides walk the same phases in this order.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Phase {
    /// Version and features are agreed.
    Hello,
    /// Devices are offered by the source, checked and put into RESUMING by the target.
    Open,
    /// State moves while the source's guest runs.
    PreCopy,
    /// The source's devices go quiet together, then its vCPUs stop.
    Switchover,
    /// The rest of the state moves; nobody runs.
    StopCopy,
    /// The target loads what it got and compares digests; the source waits for the acknowledgements.
    Load,
    /// Everything is acknowledged. The source gives the devices up: the point of no return.
    Commit,
    /// The target runs.
    Done,
}

impl Phase {
    /// All phases, in order.
    pub const ALL: [Self; 8] = [
        Self::Hello,
        Self::Open,
        Self::PreCopy,
        Self::Switchover,
        Self::StopCopy,
        Self::Load,
        Self::Commit,
        Self::Done,
    ];

    /// The phase's name on a command line and in a report.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Open => "open",
            Self::PreCopy => "pre-copy",
            Self::Switchover => "switchover",
            Self::StopCopy => "stop-copy",
            Self::Load => "load",
            Self::Commit => "commit",
            Self::Done => "done",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The VMM's side of a migration. Every method has a default that does nothing, and `()` implements all of them.
pub trait Hooks {
    /// A phase begins.
    fn phase(&mut self, phase: Phase) {
        let _ = phase;
    }

    /// `bytes` of the state of the device at `index` (of the slice given) have passed, in all.
    fn progress(&mut self, index: usize, bytes: u64) {
        let _ = (index, bytes);
    }

    /// Source only: what the scheduler was given, told, asked and decided, in this order and complete, for a log that
    /// [`sched::replay`](crate::sched::replay) runs again. Many times a second; a failure in keeping it is the VMM's own.
    fn scheduled(&mut self, entry: Logged<'_>) {
        let _ = entry;
    }

    /// Source only: stop the vCPUs. Every device that has a P2P state is in it by now, so that no device is stopped
    /// while a peer still writes to it.
    ///
    /// # Errors
    /// A sentence; the migration is then aborted and the devices run on.
    fn pause_guest(&mut self) -> Result<(), String> {
        Ok(())
    }

    /// Source only, after a failure: the devices are back, let the vCPUs run again. Called only after
    /// [`Hooks::pause_guest`] succeeded.
    fn resume_guest(&mut self) {}
}

impl Hooks for () {}

/// A request to stop, given from any thread.
///
/// The migration looks at it between two calls to a device or the transport, so it takes effect when the call under
/// way returns. After the commit it is ignored.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Not cancelled.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A token over a flag that something else sets, such as a signal handler.
    #[must_use]
    pub const fn from_flag(flag: Arc<AtomicBool>) -> Self {
        Self(flag)
    }

    /// Asks the migration to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
