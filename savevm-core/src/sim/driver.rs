// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the calls of a device share: its data, its locks, its faults and its waits.
//!
//! Locks as in the kernel. `state_lock` is the driver's state mutex: SET, GET, MIG_DATA_SIZE and
//! PRECOPY_INFO hold it, delays included, so a GET waits for a slow SET. `core` guards the data and is never
//! held while time passes, so a session can be read beside a SET. A third one, `gate`, is held while the device writes to
//! memory by itself, and by whatever may forbid that: so nothing is under way when it has. Order: `state_lock`, `gate`,
//! `core`.

use core::time::Duration;
use std::boxed::Box;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vfio_mig_fsm::{Capabilities, State};

use super::fault::{Action, Call, Place};
use super::session::{Live, Progress};
use super::{Clock, Direction, Errno, Facts, FaultPlan, Model, Observer, SimEvent, Timing};

pub(super) struct Shared {
    pub(super) facts: Facts,
    pub(super) capabilities: Option<Capabilities>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) timing: Timing,
    pub(super) state_lock: Mutex<()>,
    pub(super) gate: Mutex<()>,
    pub(super) core: Mutex<Core>,
}

pub(super) struct Core {
    pub(super) model: Box<dyn Model>,
    pub(super) state: State,
    pub(super) live: Option<Live>,
    pub(super) faults: FaultPlan,
    pub(super) precopy_v2: bool,
    pub(super) opens: u32,
    pub(super) sessions: u64,
    pub(super) reset_pending: bool,
    pub(super) logging: bool,
    pub(super) observer: Option<Observer>,
}

/// Longest uninterrupted wait: how late a killed session or a reset is noticed.
const SLICE: Duration = Duration::from_millis(10);

/// What faults change about a call that goes on.
#[derive(Clone, Copy, Default)]
pub(super) struct Faulted {
    pub(super) short: Option<u64>,
    pub(super) flip: Option<usize>,
    pub(super) answer: Option<(u64, u64)>,
}

impl Shared {
    pub(super) fn has_pre_copy(&self) -> bool {
        self.capabilities.is_some_and(Capabilities::has_pre_copy)
    }

    pub(super) fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No DMA is under way, and none begins while this is held.
    pub(super) fn gate(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn hold(&self) -> Held<'_> {
        Held { shared: self, guard: Some(self.state_lock.lock().unwrap_or_else(PoisonError::into_inner)) }
    }

    /// Applies the faults due at this call. `held` tells that the caller holds the state lock.
    pub(super) fn faulted(&self, call: Call, place: Option<Place>, held: Option<&Held<'_>>) -> Result<Faulted, Errno> {
        let hits = self.core().faults.hits(call, place);
        let mut faulted = Faulted::default();
        for action in hits {
            match action {
                Action::Fail(errno) => return Err(errno),
                Action::FailIntoError(errno) => {
                    if held.is_some() {
                        let _gate = self.gate();
                        let mut core = self.core();
                        core.end_session();
                        core.state = State::Error;
                    }
                    return Err(errno);
                }
                Action::FailSession(errno) => {
                    let mut core = self.core();
                    core.end_session();
                    core.model.session_failed();
                    return Err(errno);
                }
                Action::Delay(time) => self.clock.sleep_if(time),
                Action::Hang(time) => {
                    self.wait(time, |core| core.reset_pending);
                    return Err(Errno::ETIMEDOUT);
                }
                Action::Short(bytes) => faulted.short = Some(bytes),
                Action::Flip(byte) => faulted.flip = usize::try_from(byte).ok(),
                Action::Answer(first, second) => faulted.answer = Some((first, second)),
            }
        }
        Ok(faulted)
    }

    /// Waits for what the model is busy with. A reset does not wait for it.
    pub(super) fn wait_until_idle(&self) {
        let until = self.core().model.busy_until();
        if let Some(until) = until {
            self.wait(until.saturating_sub(self.clock.now()), |core| core.reset_pending);
        }
    }

    /// Lets `time` pass in slices, less when `over` becomes true.
    pub(super) fn wait(&self, time: Duration, over: impl Fn(&Core) -> bool) {
        let end = self.clock.now().saturating_add(time);
        loop {
            let left = end.saturating_sub(self.clock.now());
            if left.is_zero() || over(&self.core()) {
                return;
            }
            self.clock.sleep(left.min(SLICE));
        }
    }
}

/// The state lock, held. Letting go applies a reset that came meanwhile.
pub(super) struct Held<'a> {
    shared: &'a Shared,
    guard: Option<MutexGuard<'a, ()>>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let _gate = self.shared.gate();
        // Under `core`, so that a reset either finds the lock free or is seen here.
        let mut core = self.shared.core();
        if core.reset_pending {
            core.apply_reset();
        }
        drop(self.guard.take());
    }
}

impl Core {
    pub(super) fn alive(&self, id: u64) -> bool {
        self.live.as_ref().is_some_and(|live| live.id == id)
    }

    pub(super) fn tell(&mut self, event: &SimEvent) {
        if let Some(observer) = &mut self.observer {
            observer(event);
        }
    }

    pub(super) fn end_session(&mut self) {
        if let Some(live) = self.live.take() {
            let Progress { bytes, digest } = live.progress();
            self.tell(&SimEvent::SessionEnded { id: live.id, direction: live.direction, bytes, digest });
        }
    }

    pub(super) fn begin_session(&mut self, direction: Direction) -> u64 {
        self.end_session();
        self.sessions = self.sessions.saturating_add(1);
        let id = self.sessions;
        self.live = Some(Live::new(id, direction));
        self.tell(&SimEvent::SessionOpened { id, direction });
        id
    }

    pub(super) fn apply_reset(&mut self) {
        self.reset_pending = false;
        self.end_session();
        self.model.reset();
        self.state = State::Running;
        self.tell(&SimEvent::Reset);
    }
}

/// Sleeping for nothing must not cost a system call.
pub(super) trait SleepIf {
    fn sleep_if(&self, time: Duration);
}

impl SleepIf for Arc<dyn Clock> {
    fn sleep_if(&self, time: Duration) {
        if !time.is_zero() {
            self.sleep(time);
        }
    }
}
