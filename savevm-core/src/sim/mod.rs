// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Simulated devices that obey and enforce the kernel's rules.
//!
//! [`SimDevice`] is the kernel's side: raw states in, errnos out, the state machine walked step by step, data
//! sessions that live and die as the kernel's data fds do. What one driver does differently from the next is a
//! [`Model`]; [`Plain`] and [`Mtty`] are built in, and vendor crates bring their own. [`SimPort`] is the same device
//! as a `Device`, for tests in one process.
//!
//! Everything is deterministic given a seed and a [`ManualClock`]: contents come from the seed and the position in
//! the stream, dirty bytes from the clock, and faults from a [`FaultPlan`] that counts calls.

mod config;
mod device;
mod dma;
mod driver;
mod errno;
mod event;
mod fault;
mod model;
mod mtty;
mod options;
mod pci;
mod plain;
mod port;
mod session;
mod time;
mod timing;
mod units;

pub use self::config::{ModelFactory, SimConfig};
pub use self::device::{Observer, SimDevice};
pub use self::dma::{Dma, DmaBus, DmaFacts, dma_write};
pub use self::errno::Errno;
pub use self::event::SimEvent;
pub use self::fault::{Action, Call, FaultPlan, FaultRule, Place, When};
pub use self::model::{DirtyLogging, Facts, Failure, Irq, Model, PrecopySizes, Region, Step};
pub use self::mtty::Mtty;
pub use self::options::{ConfigError, Options};
pub use self::pci::ConfigSpace;
pub use self::plain::{Drained, Plain, PlainConfig, fill_contents};
pub use self::port::SimPort;
pub use self::session::{Direction, PrecopyInfo, Progress, SimSession};
pub use self::time::{Clock, ManualClock, SystemClock};
pub use self::timing::Timing;

#[cfg(test)]
mod test;
