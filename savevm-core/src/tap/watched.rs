// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One device's stream with a tap on it, or without.
#![cfg(feature = "std")]

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use super::{Refusal, Side, Tap, TapError};
use crate::hooks::Phase;

/// What the engine asks before it lets bytes pass.
#[derive(Default)]
pub(crate) struct Watched {
    /// Gone once it has seen the end.
    tap: Option<Box<dyn Tap>>,
    refused: Option<TapError>,
    hold_bytes_max: usize,
    held: Vec<u8>,
}

impl Watched {
    pub(super) fn new(tap: Option<Box<dyn Tap>>, side: Side) -> Self {
        // A source has nothing to protect by waiting: what it sends, the target can still refuse.
        let hold_bytes_max = tap.as_ref().filter(|_| side == Side::Target).map_or(0, |tap| tap.hold_bytes_max());
        Self { tap, refused: None, hold_bytes_max, held: Vec::new() }
    }

    /// Shows the next bytes. Gives those that may pass now: all of them, or none if they are held back.
    pub(crate) fn data<'a>(&mut self, phase: Phase, bytes: &'a [u8]) -> Result<&'a [u8], TapError> {
        self.check()?;
        let Some(tap) = &mut self.tap else { return Ok(bytes) };
        if let Err(error) = tap.data(phase, bytes) {
            return Err(self.refuse(error));
        }
        if self.hold_bytes_max == 0 {
            return Ok(bytes);
        }
        if bytes.len() > self.hold_bytes_max.saturating_sub(self.held.len()) {
            let offset = u64::try_from(self.held.len()).unwrap_or(u64::MAX);
            let detail = alloc::format!("it is longer than the {} bytes that are held back", self.hold_bytes_max);
            return Err(self.refuse(TapError::new(Refusal::Damaged, offset, "the device state", detail)));
        }
        self.held.extend_from_slice(bytes);
        Ok(&[])
    }

    /// The stream ends. Gives what was held back, which may pass now.
    pub(crate) fn end(&mut self) -> Result<Vec<u8>, TapError> {
        self.check()?;
        match self.tap.take().map_or(Ok(()), |mut tap| tap.end()) {
            Ok(()) => Ok(core::mem::take(&mut self.held)),
            Err(error) => Err(self.refuse(error)),
        }
    }

    fn check(&self) -> Result<(), TapError> {
        self.refused.clone().map_or(Ok(()), Err)
    }

    fn refuse(&mut self, error: TapError) -> TapError {
        self.refused = Some(error.clone());
        error
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held_bytes = self.held.len();
        f.debug_struct("Watched").field("by_tap", &self.tap.is_some()).field("held_bytes", &held_bytes).finish()
    }
}

#[cfg(test)]
mod test {
    use alloc::sync::Arc;
    use core::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts its calls, and refuses all of one kind.
    struct Refusing {
        calls: Arc<AtomicUsize>,
        data: bool,
        end: bool,
    }

    impl Refusing {
        fn answer(&self, refuse: bool) -> Result<(), TapError> {
            self.calls.fetch_add(1, Ordering::Relaxed);
            if refuse { Err(TapError::new(Refusal::Damaged, 7, "a piece", "no")) } else { Ok(()) }
        }
    }

    impl Tap for Refusing {
        fn data(&mut self, _: Phase, _: &[u8]) -> Result<(), TapError> {
            self.answer(self.data)
        }

        fn end(&mut self) -> Result<(), TapError> {
            self.answer(self.end)
        }
    }

    fn watched(data: bool, end: bool) -> (Watched, Arc<AtomicUsize>) {
        let calls = Arc::new(AtomicUsize::new(0));
        let tap = Refusing { calls: Arc::clone(&calls), data, end };
        (Watched::new(Some(Box::new(tap)), Side::Target), calls)
    }

    #[test]
    fn a_refusal_is_final_and_the_tap_is_not_asked_again() {
        let (mut refused, calls) = watched(true, false);
        let first = refused.data(Phase::PreCopy, b"x").unwrap_err();
        assert_eq!(refused.data(Phase::PreCopy, b"x"), Err(first.clone()));
        assert_eq!(refused.end(), Err(first));
        assert_eq!(calls.load(Ordering::Relaxed), 1);

        let (mut refused, calls) = watched(false, true);
        assert_eq!(refused.data(Phase::StopCopy, b"x"), Ok(&b"x"[..]));
        let first = refused.end().unwrap_err();
        assert_eq!(refused.end(), Err(first));
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn after_the_end_the_tap_is_not_asked_again() {
        let (mut ended, calls) = watched(false, false);
        assert_eq!(ended.end(), Ok(Vec::new()));
        assert_eq!(ended.end(), Ok(Vec::new()));
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }
}
