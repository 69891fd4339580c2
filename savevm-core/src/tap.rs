// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A look at a device's stream while it passes, that can stop the migration.
//!
//! The engine takes device state for bytes with a count and a digest, and so it notices what is lost between two hosts.
//! It does not notice what was wrong before: a driver that ended its stream too early, a firmware that wrote nonsense, a
//! device that is not configured like the one the state goes to. Many drivers do not notice either (mlx5 and virtio leave
//! RESUMING after any truncated stream, hisi compares once per open). Whoever knows the format can, with a [`Tap`] per
//! device: this crate knows no vendor's.
//!
//! Off by default. A VMM that wants it puts [`Taps`] into `SaveOptions` or `LoadOptions`, on either side or both:
//!
//! - On the **source** a tap sees every piece after the device yielded it and before it is sent, and the end before the
//!   end is announced. If it refuses, the target is told, and the devices go back to the state they were found in.
//! - On the **target** a tap sees every piece before it is written to the device, and the end after count and digest were
//!   compared and before the device loads it. If it refuses, the source is told, and the devices are reset.
//!
//! A state of bounded size can be held back whole ([`Tap::hold_bytes_max`]): then the target's device is not written to
//! before all of it has been checked. What is larger passes piece by piece, each checked before it is written; that
//! something is missing shows at the end, which is still before the target acknowledges and long before a device runs.
//!
//! # Example
//!
//! A format of records with a length in front, for devices that say so in their identity:
//!
//! ```
//! use savevm_core::Phase;
//! use savevm_core::tap::{Refusal, Subject, Tap, TapError, Taps};
//!
//! #[derive(Default)]
//! struct Lengths {
//!     offset: u64,
//!     /// Bytes of the current record that have not come yet.
//!     missing: u64,
//! }
//!
//! impl Tap for Lengths {
//!     fn data(&mut self, _phase: Phase, bytes: &[u8]) -> Result<(), TapError> {
//!         for byte in bytes {
//!             self.missing = if self.missing == 0 { u64::from(*byte) } else { self.missing - 1 };
//!             if self.missing > 16 {
//!                 let what = format!("{} bytes, a record has at most 16", self.missing);
//!                 return Err(TapError::new(Refusal::Damaged, self.offset, "a record's length", what));
//!             }
//!             self.offset += 1;
//!         }
//!         Ok(())
//!     }
//!
//!     fn end(&mut self) -> Result<(), TapError> {
//!         if self.missing == 0 {
//!             return Ok(());
//!         }
//!         Err(TapError::new(Refusal::Incomplete, self.offset, "a record", format!("{} bytes are missing", self.missing)))
//!     }
//! }
//!
//! # #[cfg(feature = "std")] {
//! let mut options = savevm_core::save::SaveOptions::default();
//! options.taps = Taps::new(|subject: &Subject<'_>| {
//!     let identity: savevm_core::identity::Identity = subject.stream_identity.parse().ok()?;
//!     (identity.format().name() == "lengths").then(|| Box::<Lengths>::default() as Box<dyn Tap>)
//! });
//! # }
//! ```

mod error;
mod watched;

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;

use vfio_mig_fsm::Capabilities;

use crate::hooks::Phase;
pub use error::{Refusal, TapError};
#[cfg(feature = "std")]
pub(crate) use watched::Watched;

/// Sees the stream of one device on one side, for one migration.
///
/// It is called by one thread at a time, but not always by the same. It sees exactly the bytes of the stream, in their
/// order, in pieces of any size; it cannot change them. After it has refused, or has been asked for the end, it is not
/// called again. A migration that fails elsewhere drops it without asking for the end.
pub trait Tap: Send {
    /// The next bytes, at least one.
    ///
    /// `phase` is that in which the source read them: [`Phase::PreCopy`] while its guest ran, [`Phase::StopCopy`] after.
    /// A call must not wait for anything: the device's stream stands still meanwhile.
    ///
    /// # Errors
    /// The migration must not go on. These bytes go nowhere.
    fn data(&mut self, phase: Phase, bytes: &[u8]) -> Result<(), TapError>;

    /// The stream ends here. On a target, count and digest equal those of the source.
    ///
    /// # Errors
    /// The stream is not whole, or must not be loaded.
    fn end(&mut self) -> Result<(), TapError>;

    /// Target only, asked once at the beginning: how long a stream is held back. 0, the default, lets every piece pass
    /// once [`Tap::data`] has seen it. With any other number nothing is written to the device before [`Tap::end`], then
    /// all of it in one piece; a longer stream is refused. The engine keeps the bytes, so this is memory.
    fn hold_bytes_max(&self) -> usize {
        0
    }
}

/// Which side a tap is on.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "a migration has two sides")]
pub enum Side {
    /// The state is read here.
    Source,
    /// The state is loaded here.
    Target,
}

/// The device a tap is wanted for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Subject<'a> {
    /// The side that asks.
    pub side: Side,
    /// The device's name, the same on both sides.
    pub name: &'a str,
    /// The identity of the source's device, whose stream it is. On a target it has been found compatible with
    /// `identity`.
    pub stream_identity: &'a str,
    /// The identity of the device on this side.
    pub identity: &'a str,
    /// The optional states of the device on this side.
    pub capabilities: Capabilities,
}

/// Who makes the taps of a migration. The default makes none.
#[derive(Clone, Default)]
pub struct Taps(Option<Arc<Factory>>);

type Factory = dyn Fn(&Subject<'_>) -> Option<Box<dyn Tap>> + Send + Sync;

impl Taps {
    /// Asks `factory` for every device, once per migration, before the device is touched. `None` lets the device's stream
    /// pass unseen.
    #[must_use]
    pub fn new(factory: impl Fn(&Subject<'_>) -> Option<Box<dyn Tap>> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(factory)))
    }

    #[cfg(feature = "std")]
    pub(crate) fn watch(&self, subject: &Subject<'_>) -> Watched {
        Watched::new(self.0.as_ref().and_then(|factory| factory(subject)), subject.side)
    }
}

impl fmt::Debug for Taps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Taps(by a factory)" } else { "Taps(none)" })
    }
}
