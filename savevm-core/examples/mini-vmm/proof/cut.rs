// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where an attempt is cut, and by whom.

use core::fmt;
use core::str::FromStr;
use core::time::Duration;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use savevm_core::{Hooks, Phase};

use super::Random;

/// A point in an attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) enum When {
    /// So long after its beginning.
    Time(Duration),
    /// When so many bytes have passed.
    Bytes(u64),
    /// When this phase begins.
    Phase(Phase),
}

/// Who ends it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Who {
    /// The source cancels.
    Source,
    /// The target is gone, killed.
    Target,
}

/// An attempt that is not to succeed. One that is quicker than its cut does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    pub(super) who: Who,
    pub(super) when: When,
}

/// None to three.
pub(super) fn draw(random: &mut Random, memory_mib: u64) -> Vec<Cut> {
    const PHASES: [Phase; 5] = [Phase::Open, Phase::PreCopy, Phase::Switchover, Phase::StopCopy, Phase::Load];
    let cut = |random: &mut Random| {
        let who = if random.below(2) == 0 { Who::Source } else { Who::Target };
        let when = match random.below(3) {
            0 => When::Time(Duration::from_millis(random.below(100 + memory_mib))),
            // Half of memory is zeros, which do not pass.
            1 => When::Bytes(random.below(memory_mib << 19)),
            _ => When::Phase(PHASES[random.below(PHASES.len() as u64) as usize]),
        };
        Cut { who, when }
    };
    (0..random.below(4)).map(|_| cut(random)).collect()
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(time) => write!(f, "ms={}", time.as_millis()),
            Self::Bytes(bytes) => write!(f, "bytes={bytes}"),
            Self::Phase(phase) => write!(f, "phase={phase}"),
        }
    }
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse().ok();
        let phase = |name: &str| Phase::ALL.into_iter().find(|phase| phase.name() == name);
        let parsed = match text.split_once('=') {
            Some(("ms", text)) => number(text).map(Duration::from_millis).map(Self::Time),
            Some(("bytes", text)) => number(text).map(Self::Bytes),
            Some(("phase", name)) => phase(name).map(Self::Phase),
            _ => None,
        };
        parsed.ok_or_else(|| format!("{text}: expected ms=, bytes= or phase="))
    }
}

type Act = Option<Box<dyn FnOnce() + Send>>;

/// Hooks that do something else at a point of the attempt, unless it comes too late.
pub(crate) struct Cutting<'h> {
    inner: &'h mut dyn Hooks,
    when: Option<When>,
    /// Behind the beginning of this phase it is too late.
    last: Phase,
    act: Arc<Mutex<Act>>,
    bytes: Vec<u64>,
}

impl<'h> Cutting<'h> {
    pub(super) fn new(
        inner: &'h mut dyn Hooks,
        when: Option<When>,
        last: Phase,
        act: impl FnOnce() + Send + 'static,
    ) -> Self {
        let act: Arc<Mutex<Act>> = Arc::new(Mutex::new(when.is_some().then_some(Box::new(act))));
        if let Some(When::Time(time)) = when {
            let act = Arc::clone(&act);
            thread::spawn(move || {
                thread::sleep(time);
                do_it(&act);
            });
        }
        Self { inner, when, last, act, bytes: Vec::new() }
    }
}

/// Once, and with the lock held: who disarms it waits for it.
fn do_it(act: &Mutex<Act>) {
    let mut act = act.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(act) = act.take() {
        act();
    }
}

impl Hooks for Cutting<'_> {
    fn phase(&mut self, phase: Phase) {
        if matches!(self.when, Some(When::Phase(at)) if at == phase) {
            do_it(&self.act);
        }
        if phase >= self.last {
            drop(self.act.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
        self.inner.phase(phase);
    }

    fn progress(&mut self, index: usize, bytes: u64) {
        if self.bytes.len() <= index {
            self.bytes.resize(index + 1, 0);
        }
        self.bytes[index] = bytes;
        if matches!(self.when, Some(When::Bytes(at)) if self.bytes.iter().sum::<u64>() >= at) {
            do_it(&self.act);
        }
        self.inner.progress(index, bytes);
    }

    fn pause_guest(&mut self) -> Result<(), String> {
        self.inner.pause_guest()
    }

    fn resume_guest(&mut self) {
        self.inner.resume_guest();
    }
}
