// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The resuming side.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::Epoch;
use crate::{Call, Error, Refusal, Result, ioctl};

/// The data fd of a resuming session.
///
/// It takes the bytes of exactly one [`SaveFd`](crate::SaveFd), in order, in any segmentation. (One exception: the
/// whole of a version 1 hisi_acc stream, 176 bytes, has to come in one write.)
///
/// That leaving RESUMING succeeds proves nothing about completeness: several drivers do not notice a truncated or
/// empty stream. Count and check what was sent, by other means.
#[derive(Debug)]
pub struct LoadFd {
    fd: OwnedFd,
    label: Arc<str>,
    /// The device's sessions and the one this fd is of, if it came from a [`Device`](crate::Device).
    session: Option<(Epoch, u64)>,
    /// The errno of the write that failed.
    failed: Option<i32>,
}

impl LoadFd {
    /// Wraps a resuming fd that came from elsewhere, such as another process.
    ///
    /// The fd cannot know when its session ends: never write to it after the device left RESUMING.
    pub fn with_label(fd: OwnedFd, label: &str) -> Self {
        Self { fd, label: Arc::from(label), session: None, failed: None }
    }

    pub(crate) fn of_session(fd: OwnedFd, label: Arc<str>, epoch: &Epoch) -> Self {
        Self { fd, label, session: Some((epoch.clone(), epoch.current())), failed: None }
    }

    /// Writes all of `data`, in one `write` where the driver takes it whole.
    ///
    /// Blocks, with some drivers for seconds: they load the data inside the call. Block signals in the thread that
    /// writes.
    ///
    /// # Errors
    ///
    /// The first error is final: some drivers keep data they rejected, accept more and load it all. Every later call
    /// is refused without a `write`, and the way out is [`Device::reset`](crate::Device::reset). This holds for EINTR
    /// too, since drivers do not tell what an interrupted write has taken.
    ///
    /// After its [`Device`](crate::Device) left RESUMING or was reset, a call is refused: the session is over, and with
    /// one driver the write would crash the kernel.
    pub fn write_all(&mut self, data: &[u8]) -> Result<()> {
        if let Some(errno) = self.failed {
            return Err(self.refused(Refusal::AfterFailedWrite { errno }));
        }
        if self.session.as_ref().is_some_and(|(epoch, own)| epoch.current() != *own) {
            return Err(self.refused(Refusal::SessionEnded));
        }
        let mut rest = data;
        while !rest.is_empty() {
            match nix::unistd::write(&self.fd, rest).map_err(ioctl::last_errno) {
                Ok(0) => {
                    self.failed = Some(0);
                    return Err(Error::answer(&self.label, Call::Write, "took no byte and said no error"));
                }
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(errno) => {
                    self.failed = Some(errno);
                    return Err(Error::kernel(&self.label, Call::Write, errno));
                }
            }
        }
        Ok(())
    }

    fn refused(&self, reason: Refusal) -> Error {
        Error::refused(&self.label, Call::Write, reason)
    }
}

impl From<OwnedFd> for LoadFd {
    fn from(fd: OwnedFd) -> Self {
        Self::with_label(fd, "resuming fd")
    }
}

impl From<LoadFd> for OwnedFd {
    fn from(load: LoadFd) -> Self {
        load.fd
    }
}

impl AsFd for LoadFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
