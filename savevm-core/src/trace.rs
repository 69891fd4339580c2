// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a migration tells whoever watches: spans for its phases and its devices, events for what it decides and why.
//!
//! ```text
//! migration{side, devices, channels}         info     from the call to the last word
//! ├─ hello, open, pre-copy, switchover, …    info     one after the other; the decisions are events in them
//! ├─ abort                                   info     instead of the rest; what became of each device is an event in it
//! └─ device{device, index}                   info     one for each
//!    └─ describe, transition{to}, …          debug    calls to the device; query and read: trace
//! ```
//!
//! Without feature `tracing` everything here is empty and has no size.

#[cfg(feature = "tracing")]
mod on;
#[cfg(feature = "tracing")]
pub(crate) use on::{Carried, DeviceTrace, Trace};

#[cfg(not(feature = "tracing"))]
mod off;
#[cfg(not(feature = "tracing"))]
pub(crate) use off::{Carried, DeviceTrace, Trace};

use vfio_mig_fsm::State;

/// Something that is done with a device.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "tracing"), allow(dead_code, reason = "only named"))]
pub(crate) enum Activity {
    Describe,
    Transition(State),
    Query,
    Read { bytes_max: u64 },
}
