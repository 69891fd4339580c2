// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The data fd of a migration session.

use core::sync::atomic::{AtomicU64, Ordering};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

mod load;
mod save;
#[cfg(test)]
mod test;

pub use load::LoadFd;
pub use save::{PrecopyInfo, PrecopyInfoVersion, Read, SaveFd, SavePhase};

/// The fd a transition returned, by the direction of its data.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "data goes out of a device or into it")]
pub enum DataFd {
    /// Of a saving session: PRE_COPY, PRE_COPY_P2P or STOP_COPY.
    Save(SaveFd),
    /// Of a resuming session.
    Load(LoadFd),
}

impl DataFd {
    /// The saving fd, if it is one.
    #[must_use]
    pub fn save(self) -> Option<SaveFd> {
        match self {
            Self::Save(fd) => Some(fd),
            Self::Load(_) => None,
        }
    }

    /// The resuming fd, if it is one.
    #[must_use]
    pub fn load(self) -> Option<LoadFd> {
        match self {
            Self::Save(_) => None,
            Self::Load(fd) => Some(fd),
        }
    }
}

impl AsFd for DataFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Save(fd) => fd.as_fd(),
            Self::Load(fd) => fd.as_fd(),
        }
    }
}

impl From<DataFd> for OwnedFd {
    fn from(fd: DataFd) -> Self {
        match fd {
            DataFd::Save(fd) => fd.into(),
            DataFd::Load(fd) => fd.into(),
        }
    }
}

/// Counts the resuming sessions of a device, so that an fd can tell whether its own is the current one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Epoch(Arc<AtomicU64>);

impl Epoch {
    /// Ends the current session.
    pub(crate) fn advance(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn current(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}
