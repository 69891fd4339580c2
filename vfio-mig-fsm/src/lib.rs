// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The VFIO device-migration state machine, as data.
//!
//! A device that can migrate is moved between eight states by one ioctl. The kernel takes a
//! request apart into the single transitions (*arcs*) a driver implements, and which arcs exist
//! depends on the capability flags of the device. This crate answers, before anything is asked of
//! a device: is the request legal, which states will it pass, what happens to the data fd, where
//! may a failure leave the device, and what leads out of there.
//!
//! **Invariant:** this crate performs no I/O, allocates nothing, has no dependencies and cannot
//! panic. Every function is `const`. The next-state tables are not written down: the compiler
//! derives them from the arcs and the path rule, and refuses to build if a path is ambiguous.
//!
//! It does *not* know ioctls, file descriptors or errnos, and it does not track a device: the
//! kernel is the only owner of the current state, which can change under a session's feet (a reset
//! of the device or its bus), so ask the kernel and hand the answer in.
//!
//! ```
//! use vfio_mig_fsm::{Capabilities, SessionEffect, State, next, path, request_session};
//!
//! let device = Capabilities::from_flags(7).unwrap();
//!
//! // Stopping for the final copy keeps the session of the pre-copy, and its data fd.
//! let to_stop_copy = path(device, State::PreCopy, State::StopCopy).unwrap();
//! assert_eq!(to_stop_copy.steps(), [State::PreCopyP2p, State::StopCopy]);
//! assert_eq!(
//!     request_session(device, State::PreCopy, State::StopCopy),
//!     Some(SessionEffect::Keeps),
//! );
//!
//! // Kernels before June 2026 never return from this request. It must not be sent.
//! assert_eq!(next(device, State::StopCopy, State::PreCopy), None);
//!
//! // Everything is `const`.
//! const LEGAL: bool = next(Capabilities::StopCopy, State::Running, State::StopCopy).is_some();
//! assert!(LEGAL);
//! ```
#![no_std]
#![expect(
    clippy::exhaustive_enums,
    reason = "the capability flags close these sets; a new flag changes every table, and callers must look"
)]

mod arcs;
mod capabilities;
mod dot;
mod path;
mod recovery;
mod session;
mod state;
mod state_set;
mod table;

pub use arcs::{is_arc, successors};
pub use capabilities::Capabilities;
pub use dot::Dot;
pub use path::{Path, path, visible_on_failure};
pub use recovery::{Recovery, Role, recovery, recovery_while_stopped};
pub use session::{SessionEffect, request_session, session};
pub use state::State;
pub use state_set::{StateSet, States};
pub use table::next;

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
