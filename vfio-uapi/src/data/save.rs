// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The saving side.

use core::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::libc::ENOMSG;
use vfio_bindings::bindings::vfio as sys;

use crate::device::repeat;
use crate::ioctl::RawResult;
use crate::{Call, Error, Refusal, Result, ioctl};

/// The data fd of a saving session, one stream from PRE_COPY over PRE_COPY_P2P to STOP_COPY.
///
/// The stream is opaque, and its bytes in order go to one [`LoadFd`](crate::LoadFd) of a compatible device. One thread
/// reads it: several would tear it up. The fd is blocking, and dropping it leaves the device in its state, with the
/// rest of the data out of reach.
#[derive(Debug)]
pub struct SaveFd {
    fd: OwnedFd,
    label: Arc<str>,
    version: PrecopyInfoVersion,
}

/// The kind of state the device is in while its saving fd is read.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "the uAPI gives a read of 0 bytes one of two meanings")]
pub enum SavePhase {
    /// PRE_COPY or PRE_COPY_P2P.
    PreCopy,
    /// STOP_COPY.
    StopCopy,
}

/// What a read of the saving fd found.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "the uAPI knows these three")]
pub enum Read {
    /// This many bytes, at the start of the buffer. Fewer than asked for is normal and means nothing.
    Bytes(NonZeroUsize),
    /// Nothing now; there may be more later. Only in [`SavePhase::PreCopy`].
    Drained,
    /// The end of the stream, for good. Only in [`SavePhase::StopCopy`].
    End,
}

/// How far the pre-copy is (`struct vfio_precopy_info`): estimates for scheduling, no promise about STOP_COPY.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub struct PrecopyInfo {
    /// Bytes of the initial data still unread. Leave PRE_COPY for STOP_COPY preferably when this is 0.
    pub initial_bytes: u64,
    /// Bytes of incremental data. Starts at 0.
    pub dirty_bytes: u64,
    /// Whether a new initial phase has begun: `initial_bytes` may have jumped up, and any conclusion that the initial
    /// data was done is withdrawn. `None` without [`PrecopyInfoVersion::V2`], where the kernel's flags are an echo.
    pub reinit: Option<bool>,
}

/// Which version of `struct vfio_precopy_info` an open device reports.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum PrecopyInfoVersion {
    /// The flags mean nothing.
    V1,
    /// [`Device::enable_precopy_info_v2`](crate::Device::enable_precopy_info_v2) succeeded: the flags are the driver's.
    V2,
}

impl SaveFd {
    /// Wraps a saving fd that came from elsewhere, such as another process.
    ///
    /// `version` says whether the device had been opted in to the second version of the precopy info.
    pub fn with_label(fd: OwnedFd, label: &str, version: PrecopyInfoVersion) -> Self {
        Self { fd, label: Arc::from(label), version }
    }

    pub(crate) const fn of_session(fd: OwnedFd, label: Arc<str>, version: PrecopyInfoVersion) -> Self {
        Self { fd, label, version }
    }

    /// Reads the next bytes of the stream with one `read`.
    ///
    /// `phase` is the state the device is in: drivers say "nothing now" in PRE_COPY either with ENOMSG or with 0 bytes,
    /// and only the state tells the latter from the end. If another thread takes the device to STOP_COPY meanwhile,
    /// `PreCopy` is the safe choice: `Drained` only asks for another read.
    ///
    /// Blocks, with some drivers for seconds. Block signals in the thread that reads.
    ///
    /// # Errors
    ///
    /// - an empty buffer is refused;
    /// - ENODEV once the session has ended, which a reset of the device by anybody brings about at any time;
    /// - ENOMSG in STOP_COPY, which breaks the uAPI: the driver's stream cannot be trusted;
    /// - EINTR is not repeated: on xe the bytes of an interrupted read are lost and the stream with them. With any
    ///   other driver nothing is lost and the caller may read again;
    /// - EAGAIN on an fd that was made non-blocking (mlx5);
    /// - all others are final for the session.
    pub fn read(&self, buffer: &mut [u8], phase: SavePhase) -> Result<Read> {
        let call = match phase {
            SavePhase::PreCopy => Call::ReadPreCopy,
            SavePhase::StopCopy => Call::ReadStopCopy,
        };
        if buffer.is_empty() {
            return Err(Error::refused(&self.label, call, Refusal::EmptyBuffer));
        }
        let result = nix::unistd::read(&self.fd, buffer).map_err(ioctl::last_errno);
        interpret(result, phase).map_err(|errno| Error::kernel(&self.label, call, errno))
    }

    /// How far the pre-copy is. Only in PRE_COPY and PRE_COPY_P2P.
    ///
    /// With mlx5 and virtio this call is also what makes the driver fetch the next incremental data: without it
    /// [`read`](Self::read) never returns any.
    ///
    /// # Errors
    ///
    /// EINVAL in any other state, ENODEV when the session failed, ENOTTY for a driver without PRE_COPY.
    pub fn precopy_info(&self) -> Result<PrecopyInfo> {
        let info = repeat(|| ioctl::precopy_info(self.fd.as_fd()))
            .map_err(|errno| Error::kernel(&self.label, Call::PrecopyInfo, errno))?;
        let reinit = match self.version {
            PrecopyInfoVersion::V1 => None,
            PrecopyInfoVersion::V2 => Some(info.flags & sys::VFIO_PRECOPY_INFO_REINIT != 0),
        };
        Ok(PrecopyInfo { initial_bytes: info.initial_bytes, dirty_bytes: info.dirty_bytes, reinit })
    }

    /// The version of the precopy info this fd reports.
    #[must_use]
    pub const fn precopy_info_version(&self) -> PrecopyInfoVersion {
        self.version
    }
}

impl From<OwnedFd> for SaveFd {
    fn from(fd: OwnedFd) -> Self {
        Self::with_label(fd, "saving fd", PrecopyInfoVersion::V1)
    }
}

impl From<SaveFd> for OwnedFd {
    fn from(save: SaveFd) -> Self {
        save.fd
    }
}

impl AsFd for SaveFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What the result of a `read` means in this phase. hisi, qat and mtty say "nothing now" with 0 bytes, mlx5 and virtio
/// with ENOMSG.
pub(super) fn interpret(result: RawResult<usize>, phase: SavePhase) -> RawResult<Read> {
    match (result, phase) {
        (Ok(0), SavePhase::PreCopy) | (Err(ENOMSG), SavePhase::PreCopy) => Ok(Read::Drained),
        (Ok(bytes), _) => Ok(NonZeroUsize::new(bytes).map_or(Read::End, Read::Bytes)),
        (Err(errno), _) => Err(errno),
    }
}
