// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Live migration of VFIO device state: the [`Device`] trait, devices of the kernel and simulated ones, and a blocking
//! [`save`] and [`load`] of a set of devices over any number of [`Channel`]s.
//!
//! # What it is not
//!
//! It is no VMM: it neither owns guest memory nor pauses vCPUs, but asks ([`ram`], [`Hooks`]). It opens no socket, and no
//! thread of it outlives the call that started it. It knows no vendor's format: device state is bytes with a count and a
//! digest. Who knows one can look at the bytes as they pass, and stop the migration ([`tap`]).
//!
//! # The promise
//!
//! **Invariant:** at any moment one side owns the guest. The source owns it until [`save::Ready::commit`], which
//! exists only after the target acknowledged every device with the digest the source computed
//! ([memory](Limits::memory_digest) may do with a count). Whatever fails before
//! that point leaves the source's devices as they were found, and resets the target's.
//!
//! # Example
//!
//! Two simulated devices, a socket pair, one migration. With devices of `kernel` (feature `kernel`) nothing changes but the first lines.
//!
//! ```
//! # #[cfg(feature = "sim")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::os::unix::net::UnixStream;
//! use savevm_core::{Channel, load, save, sim};
//!
//! let config = sim::SimConfig::parse("model=plain caps=7 initial=64KiB stop=1MiB seed=1")?;
//! let mut ours = [sim::SimPort::open(&config.device()?, "net0")?];
//! let mut theirs = [sim::SimPort::open(&config.device()?, "net0")?];
//! let (left, right) = UnixStream::pair()?;
//! let (left, right) = (Channel::unix(left)?, Channel::unix(right)?);
//!
//! let target = std::thread::spawn(move || {
//!     let mut hooks = ();
//!     load::load(&mut theirs, right, &mut hooks, &load::LoadOptions::default())?.run()
//! });
//! let mut hooks = ();
//! let ready = save::save(&mut ours, left, &mut hooks, &save::SaveOptions::default())?;
//! let committed = ready.commit()?;
//!
//! let running = target.join().expect("a target that does not panic")?;
//! assert_eq!(committed.devices[0].sum, running.devices[0].sum);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "sim"))]
//! # fn main() {}
//! ```
#![no_std]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects, clippy::as_conversions))]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

pub mod device;
pub mod dirty;
mod hooks;
pub mod identity;
mod limits;
pub mod sched;
pub mod tap;

#[cfg(feature = "std")]
mod channel;
#[cfg(feature = "std")]
pub mod digest;
#[cfg(feature = "std")]
mod engine;
#[cfg(feature = "std")]
mod error;
#[cfg(feature = "kernel")]
pub mod kernel;
#[cfg(feature = "std")]
mod link;
#[cfg(feature = "std")]
pub mod load;
#[cfg(feature = "std")]
pub mod lobby;
#[cfg(feature = "std")]
pub mod qemu;
#[cfg(feature = "std")]
pub mod ram;
#[cfg(feature = "std")]
mod restore;
#[cfg(feature = "std")]
pub mod save;
#[cfg(feature = "sim")]
pub mod sim;
#[cfg(feature = "std")]
mod sync;
#[cfg(feature = "std")]
mod trace;

pub use device::{Device, DeviceError, PrecopyInfo, TransitionError};
pub use hooks::{Cancel, Hooks, Phase};
pub use limits::Limits;

#[cfg(feature = "std")]
pub use channel::Channel;
#[cfg(feature = "std")]
pub use engine::counters::{ChannelCounters, Counters};
#[cfg(feature = "std")]
pub use error::{Cause, MigrationError};
#[cfg(feature = "std")]
pub use link::LinkError;
#[cfg(feature = "std")]
pub use restore::{Outcome, Restored, run_together};
#[cfg(feature = "std")]
pub use save::DeviceSum;
