// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The target's scheduler, the mirror of the source's: take what arrives in order, prove it whole, complete, and run when told.
//!
//! ```text
//!  phase      steps                                             leaves when
//!  Opening    Transition to RESUMING ∥, Accept                  every section is in RESUMING
//!  Loading    Write in order, Grant, AcknowledgeInitial,        every section is complete
//!             Transition to STOP ∥, Acknowledge
//!  Loaded     Loaded                                            `take_over`, which consumes the scheduler
//!    (Owner)  Transition to RUNNING_P2P ∥, then RUNNING ∥, Confirm
//!  Undoing    TellAbort, Reset ∥                                every touched section is reset
//! ```

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use vfio_mig_fsm::State;

use super::decision::{Cause, Restored};
use super::inbox::{Inbox, Refusal};
use super::load_step::{LoadEvent, LoadSection, LoadStep};
use super::step::{SectionId, Sum};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Busy {
    Idle,
    Transition { to: State, since: Duration },
    Write { bytes: u64, since: Duration },
    Reset,
}

#[derive(Clone, Debug)]
pub(super) struct Filling {
    pub(super) state: Option<State>,
    pub(super) busy: Busy,
    pub(super) touched: bool,
    accepted: bool,
    pub(super) inbox: Inbox,
    written_bytes: u64,
    digest: u64,
    to_grant: Option<(u64, Duration)>,
    /// Generation, and the chunks that must be written before it is acknowledged.
    initial: Option<(u32, u64)>,
    end: Option<(u64, Sum)>,
    /// The engine says that it has written all chunks itself.
    filled: bool,
    to_acknowledge: Option<Duration>,
    complete: bool,
    restored: Option<Restored>,
}

/// The target's scheduler, up to the moment it owns the guest.
#[derive(Clone, Debug)]
pub struct LoadScheduler {
    pub(super) sections: Vec<LoadSection>,
    pub(super) filling: Vec<Filling>,
    cause: Option<Cause>,
    tell_abort: bool,
}

impl LoadScheduler {
    /// A load that has not begun.
    #[must_use]
    pub fn new(sections: Vec<LoadSection>) -> Self {
        let fill = |section: &LoadSection| Filling {
            state: Some(State::Running),
            busy: Busy::Idle,
            touched: false,
            accepted: false,
            inbox: Inbox::new(section.window_bytes),
            written_bytes: 0,
            digest: 0,
            to_grant: None,
            initial: None,
            end: None,
            filled: false,
            to_acknowledge: None,
            complete: false,
            restored: None,
        };
        Self { filling: sections.iter().map(fill).collect(), sections, cause: None, tell_abort: false }
    }

    /// Why nothing comes of it: the first cause, if there is one.
    #[must_use]
    pub const fn cause(&self) -> Option<Cause> {
        self.cause
    }

    /// Bytes that arrived and are not written, all sections together. Never more than the windows.
    #[must_use]
    pub fn waiting_bytes(&self) -> u64 {
        self.filling.iter().fold(0, |sum, filling| sum.saturating_add(filling.inbox.waiting_bytes()))
    }

    /// How a section came out of a failure, once that is known.
    #[must_use]
    pub fn restored(&self, section: SectionId) -> Option<Restored> {
        self.filling.get(section.index()).and_then(|filling| filling.restored)
    }

    /// What to do next.
    pub fn poll(&mut self, now: Duration) -> LoadStep {
        if self.cause.is_some() {
            return self.poll_undoing();
        }
        if let Some(step) = self.message() {
            return step;
        }
        let stage = self.stage();
        let calls = self.sections.iter().zip(&mut self.filling).enumerate();
        for (index, (section, filling)) in calls {
            let section_id = SectionId::new(index);
            if filling.busy != Busy::Idle || filling.complete {
                continue;
            }
            if filling.state != Some(State::Resuming) {
                filling.touched = true;
                filling.busy = Busy::Transition { to: State::Resuming, since: now };
                return LoadStep::Transition { section: section_id, to: State::Resuming };
            }
            if let Some((sequence, bytes)) = filling.inbox.take_next() {
                filling.busy = Busy::Write { bytes, since: now };
                return LoadStep::Write { section: section_id, sequence, bytes };
            }
            if filling.is_whole() && section.stage == stage {
                filling.busy = Busy::Transition { to: State::Stop, since: now };
                return LoadStep::Transition { section: section_id, to: State::Stop };
            }
        }
        if self.filling.iter().all(|filling| filling.complete) { LoadStep::Loaded } else { LoadStep::Wait }
    }

    /// Messages to the source that are due.
    fn message(&mut self) -> Option<LoadStep> {
        for (index, filling) in self.filling.iter_mut().enumerate() {
            let section = SectionId::new(index);
            if filling.state == Some(State::Resuming) && !filling.accepted {
                filling.accepted = true;
                return Some(LoadStep::Accept { section });
            }
            if let Some((bytes, busy)) = filling.to_grant.take() {
                return Some(LoadStep::Grant { section, bytes, busy });
            }
            if let Some((generation, chunks)) = filling.initial {
                if filling.inbox.written_chunks() >= chunks && filling.busy == Busy::Idle {
                    filling.initial = None;
                    return Some(LoadStep::AcknowledgeInitial { section, generation });
                }
            }
            if let Some(took) = filling.to_acknowledge.take() {
                let sum = Sum::new(filling.written_bytes, filling.digest);
                return Some(LoadStep::Acknowledge { section, sum, took });
            }
        }
        None
    }

    /// The stage that may complete now.
    fn stage(&self) -> u8 {
        let open = self.sections.iter().zip(&self.filling).filter(|(_, filling)| !filling.complete);
        open.map(|(section, _)| section.stage).min().unwrap_or(u8::MAX)
    }

    /// Something happened.
    pub fn handle(&mut self, now: Duration, event: LoadEvent) {
        match event {
            LoadEvent::Transitioned { section } => self.transitioned(now, section),
            LoadEvent::TransitionFailed { section } => self.transition_failed(section),
            LoadEvent::Arrived { section, sequence, bytes } => {
                let arrived = self.filling.get_mut(section.index()).map(|filling| match filling.end {
                    Some(_) if filling.is_whole() => Err(Refusal::Repeated),
                    _ => filling.inbox.arrived(sequence, bytes),
                });
                match arrived {
                    Some(Ok(())) => {}
                    Some(Err(Refusal::Overrun)) => self.fail(Cause::Overrun { section }),
                    Some(Err(Refusal::Repeated)) | None => self.fail(Cause::Contract { section }),
                }
            }
            LoadEvent::Written { section, digest } => self.written(now, section, digest),
            LoadEvent::Filled { section, sum } => self.filled(section, sum),
            LoadEvent::Failed { section } => self.call_failed(section),
            LoadEvent::InitialComplete { section, generation, chunks } => {
                if let Some(filling) = self.filling.get_mut(section.index()) {
                    filling.initial = Some((generation, chunks));
                }
            }
            LoadEvent::SectionEnd { section, chunks, sum } => self.section_end(section, chunks, sum),
            LoadEvent::LinkFailed => self.fail(Cause::Link),
            LoadEvent::PeerFailed => self.fail(Cause::Peer { section: None }),
            // With everything acknowledged the source may have given the guest up already: only its word, or its silence,
            // decides now.
            LoadEvent::Cancel if self.is_acknowledged() => {}
            LoadEvent::Cancel => self.fail(Cause::Cancelled),
            LoadEvent::Reset { section } => self.was_reset(section, Restored::Reset),
            LoadEvent::ResetFailed { section } => self.was_reset(section, Restored::Lost),
        }
    }

    /// The source has given the guest up: it is this side's now.
    ///
    /// # Errors
    /// The scheduler as it was, if not everything is loaded and acknowledged. A commit then is the source's fault.
    pub fn take_over(self) -> Result<super::owner::Owner, Box<Self>> {
        if self.cause.is_some() || !self.is_acknowledged() {
            Err(Box::new(self))
        } else {
            Ok(super::owner::Owner::new(self))
        }
    }

    fn is_acknowledged(&self) -> bool {
        self.filling.iter().all(|filling| filling.complete && filling.to_acknowledge.is_none())
    }

    fn transitioned(&mut self, now: Duration, section: SectionId) {
        let Some(filling) = self.filling.get_mut(section.index()) else { return };
        let Busy::Transition { to, since } = filling.busy else { return };
        filling.busy = Busy::Idle;
        filling.state = Some(to);
        if to == State::Stop && self.cause.is_none() {
            filling.complete = true;
            filling.to_acknowledge = Some(now.saturating_sub(since));
        }
    }

    fn transition_failed(&mut self, section: SectionId) {
        let Some(filling) = self.filling.get_mut(section.index()) else { return };
        let Busy::Transition { to, .. } = filling.busy else { return };
        filling.busy = Busy::Idle;
        filling.state = None;
        self.fail(Cause::Transition { section, to });
    }

    fn written(&mut self, now: Duration, section: SectionId, digest: u64) {
        let Some(filling) = self.filling.get_mut(section.index()) else { return };
        let Busy::Write { bytes, since } = filling.busy else { return };
        filling.busy = Busy::Idle;
        filling.inbox.written(bytes);
        filling.written_bytes = filling.written_bytes.saturating_add(bytes);
        filling.digest = digest;
        let (granted, busy) = filling.to_grant.unwrap_or_default();
        filling.to_grant = Some((granted.saturating_add(bytes), busy.saturating_add(now.saturating_sub(since))));
        self.check_sum(section);
    }

    /// Only at the end, and only of a section whose chunks the scheduler was told nothing of.
    fn filled(&mut self, section: SectionId, sum: Sum) {
        match self.filling.get_mut(section.index()) {
            Some(filling) if filling.end.is_some() && filling.inbox.is_untouched() && filling.busy == Busy::Idle => {
                filling.filled = true;
                (filling.written_bytes, filling.digest) = (sum.bytes, sum.digest);
                self.check_sum(section);
            }
            _ => self.fail(Cause::Contract { section }),
        }
    }

    fn section_end(&mut self, section: SectionId, chunks: u64, sum: Sum) {
        match self.filling.get_mut(section.index()) {
            Some(filling) if filling.end.is_none() && filling.inbox.accepts_end(chunks) => {
                filling.end = Some((chunks, sum));
                self.check_sum(section);
            }
            _ => self.fail(Cause::Contract { section }),
        }
    }

    /// mlx5, virtio and pds load a truncated state without complaint (`spec/kernel/uapi.md` section 3.4), so the comparison
    /// is the proof and the driver's answer is not.
    fn check_sum(&mut self, section: SectionId) {
        let Some(filling) = self.filling.get(section.index()) else { return };
        let received = Sum::new(filling.written_bytes, filling.digest);
        let sent = match filling.end {
            Some((_, sum)) if filling.is_whole() && filling.busy == Busy::Idle => sum,
            _ => return,
        };
        if sent != received {
            self.fail(Cause::Mismatch { section, sent, received });
        }
    }

    fn call_failed(&mut self, section: SectionId) {
        let Some(filling) = self.filling.get_mut(section.index()) else { return };
        if matches!(filling.busy, Busy::Write { .. }) {
            filling.busy = Busy::Idle;
            self.fail(Cause::Section { section });
        }
    }

    /// The first cause counts.
    fn fail(&mut self, cause: Cause) {
        if self.cause.is_none() {
            self.cause = Some(cause);
            self.tell_abort = !matches!(cause, Cause::Link | Cause::Peer { .. });
        }
    }

    /// What was half loaded must not run: every touched section is reset.
    fn poll_undoing(&mut self) -> LoadStep {
        if core::mem::take(&mut self.tell_abort) {
            return LoadStep::TellAbort;
        }
        for (index, filling) in self.filling.iter_mut().enumerate() {
            if filling.restored.is_none() && !filling.touched {
                filling.restored = Some(Restored::Untouched);
            }
            // fsm.md section 7: a write may hold the device for seconds; a reset beside it would race with it.
            if filling.restored.is_none() && filling.busy == Busy::Idle {
                filling.busy = Busy::Reset;
                return LoadStep::Reset { section: SectionId::new(index) };
            }
        }
        let is_open = self.filling.iter().any(|filling| filling.restored.is_none());
        if is_open { LoadStep::Wait } else { LoadStep::Ended }
    }

    fn was_reset(&mut self, section: SectionId, restored: Restored) {
        let Some(filling) = self.filling.get_mut(section.index()) else { return };
        if filling.busy == Busy::Reset {
            filling.busy = Busy::Idle;
            filling.restored = Some(restored);
        }
    }
}

impl Filling {
    /// Everything the source sent is written.
    fn is_whole(&self) -> bool {
        self.end.is_some_and(|(chunks, _)| self.filled || self.inbox.written_chunks() == chunks)
    }
}
