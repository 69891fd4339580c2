// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Nobody watches.

use core::fmt::Display;
use core::time::Duration;

use super::Activity;
use crate::digest::DigestSum;
use crate::hooks::Phase;
use crate::restore::Restored;
use crate::sched::{Decision, Sizes};

#[derive(Clone, Debug, Default)]
pub(crate) struct Trace;

impl Trace {
    #[inline]
    pub(crate) const fn new(_: &'static str, _: usize, _: usize) -> Self {
        Self
    }

    #[inline]
    pub(crate) fn device(&self, _: usize, _: &str) -> DeviceTrace {
        DeviceTrace
    }

    #[inline]
    pub(crate) fn begin(&mut self, _: Phase) {}

    #[inline]
    pub(crate) fn abort(&mut self, _: Phase, _: &dyn Display) {}

    #[inline]
    pub(crate) fn in_phase<R>(&self, body: impl FnOnce() -> R) -> R {
        body()
    }

    #[inline]
    pub(crate) fn restored(&self, _: &[Restored]) {}

    #[inline]
    pub(crate) fn end(&mut self) {}

    #[inline]
    pub(crate) fn decision(&self, _: Duration, _: &Decision) {}

    #[inline]
    pub(crate) fn offered(&self, _: &str, _: Result<(), &str>) {}

    #[inline]
    pub(crate) fn in_doubt(&self, _: &dyn Display) {}
}

#[derive(Clone, Debug, Default)]
pub(crate) struct DeviceTrace;

impl DeviceTrace {
    #[inline]
    pub(crate) fn call<R>(&self, _: Activity, body: impl FnOnce() -> R) -> R {
        body()
    }

    #[inline]
    pub(crate) fn sizes(&self, _: &Sizes) {}

    #[inline]
    pub(crate) fn spreads(&self, _: bool) {}

    #[inline]
    pub(crate) fn granted(&self, _: u64) {}

    #[inline]
    pub(crate) fn done(&self, _: &'static str, _: DigestSum) {}
}

/// What a thread takes over from the one that starts it.
#[derive(Clone, Debug)]
pub(crate) struct Carried;

impl Carried {
    #[inline]
    pub(crate) const fn here() -> Self {
        Self
    }

    #[inline]
    pub(crate) fn run<R>(&self, body: impl FnOnce() -> R) -> R {
        body()
    }
}
