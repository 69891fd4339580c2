// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a device tells its observer.

use super::{Direction, Errno};

/// Something that happened to a simulated device. States are raw numbers, as in the ioctl.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum SimEvent {
    /// A SET has finished.
    #[non_exhaustive]
    Set {
        /// The state at its begin.
        from: u32,
        /// The state asked for.
        target: u32,
        /// The state at its end.
        found: u32,
        /// Why it failed, if it did.
        errno: Option<Errno>,
    },
    /// One step of a SET.
    #[non_exhaustive]
    Step {
        /// The state left.
        from: u32,
        /// The state entered, unless it failed.
        to: u32,
        /// Why it failed, if it did.
        errno: Option<Errno>,
    },
    /// A data session began.
    #[non_exhaustive]
    SessionOpened {
        /// Its number.
        id: u64,
        /// Which way its bytes go.
        direction: Direction,
    },
    /// The driver refused a write. Not counted among the session's bytes, and yet the driver has seen it.
    #[non_exhaustive]
    WriteRefused {
        /// The session's number.
        id: u64,
        /// Bytes that were to be written.
        bytes: u64,
        /// Why it failed.
        errno: Errno,
    },
    /// A data session ended.
    #[non_exhaustive]
    SessionEnded {
        /// Its number.
        id: u64,
        /// Which way its bytes went.
        direction: Direction,
        /// Bytes read or written.
        bytes: u64,
        /// CRC-64/NVME over them.
        digest: u64,
    },
    /// A RESET took effect.
    Reset,
}
