// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What must be true after every step, whatever went wrong.

use core::time::Duration;

use savevm_core::sched::{Cause, Decision, Event, LoadStep, Outcome, Phase, Restored, SectionId, Step};
use vfio_mig_fsm::State;

use super::Ns;
use super::scenario::Scenario;
use super::world::{Source, Target, World};

/// One section's account, kept apart from the scheduler's own.
#[derive(Clone, Debug, Default)]
struct Account {
    calls: u32,
    queried_at: Option<Ns>,
    /// Granted to others since this section, which has bytes as the scheduler knows, was served.
    passed_bytes: u64,
    /// What the section said it has, less what was read since.
    known_bytes: u64,
    weight: u64,
    /// The read under way may take so much.
    granted: u64,
    /// The target acknowledges its initial bytes.
    announces: bool,
    announced: u32,
    acknowledged: u32,
    credit: Option<u64>,
}

/// The accounts of a run.
#[derive(Clone, Debug)]
pub(super) struct Check {
    accounts: Vec<Account>,
    inflight_bytes: u64,
    inflight_bytes_max: u64,
    chunk_bytes_max: u64,
    window_ns: Ns,
    window_bytes: u64,
    paused: bool,
    resumed: bool,
    committed: bool,
    pub(super) source_ended: bool,
    pub(super) target_ended: bool,
    /// The target will say nothing more, and the source nothing to it.
    pub(super) target_silent: bool,
    pub(super) link_lost: bool,
    pub(super) strays: bool,
    /// What an event showed to be broken.
    pub(super) broken: Option<String>,
    unexpected: u32,
}

impl Check {
    pub(super) fn new(scenario: &Scenario) -> Self {
        let config = &scenario.config;
        let chunk_bytes_max = config.chunk_bytes_max.max(config.turn_bytes_max);
        let account = |section: &savevm_core::sched::Section| Account {
            weight: u64::from(section.weight),
            announces: section.acknowledged,
            credit: section.credit_bytes,
            ..Account::default()
        };
        Self {
            accounts: config.sections.iter().map(account).collect(),
            inflight_bytes: 0,
            inflight_bytes_max: config.inflight_bytes_max.max(chunk_bytes_max),
            chunk_bytes_max,
            window_ns: config.window.as_nanos() as Ns,
            window_bytes: scenario.window_bytes,
            paused: false,
            resumed: false,
            committed: false,
            source_ended: false,
            target_ended: false,
            target_silent: false,
            link_lost: false,
            strays: false,
            broken: None,
            unexpected: 0,
        }
    }

    pub(super) fn on_event(&mut self, event: &Event, _now: Ns) {
        match *event {
            Event::Transitioned { section } | Event::TransitionFailed { section, .. } => self.returned(section),
            Event::Reset { section } | Event::ResetFailed { section } => self.returned(section),
            Event::Failed { section } => {
                self.returned(section);
                let unused = self.granted(section, 0);
                self.inflight_bytes = self.inflight_bytes.saturating_sub(unused);
            }
            Event::Drained { section } | Event::Ended { section, .. } => {
                self.returned(section);
                let unused = self.granted(section, 0);
                self.inflight_bytes = self.inflight_bytes.saturating_sub(unused);
                self.set_bytes(section, 0);
            }
            Event::Read { section, bytes } => {
                self.returned(section);
                let unused = self.granted(section, bytes);
                self.inflight_bytes = self.inflight_bytes.saturating_sub(unused);
                if let Some(account) = self.accounts.get_mut(section.index()) {
                    account.credit = account.credit.map(|credit| credit.saturating_sub(bytes));
                    account.known_bytes = account.known_bytes.saturating_sub(bytes);
                }
            }
            Event::Sent { bytes, .. } if bytes != u64::MAX => {
                self.inflight_bytes = self.inflight_bytes.saturating_sub(bytes);
            }
            Event::Queried { section, sizes } => {
                self.returned(section);
                self.set_bytes(section, sizes.initial_bytes + sizes.dirty_bytes);
            }
            Event::Credited { section, bytes, .. } => {
                if let Some(account) = self.accounts.get_mut(section.index()) {
                    account.credit = account.credit.map(|credit| credit + bytes);
                }
            }
            Event::Acknowledged { section, generation } => {
                if let Some(account) = self.accounts.get_mut(section.index()) {
                    account.acknowledged = account.acknowledged.max(generation);
                }
            }
            Event::GuestPaused => self.paused = true,
            _ => {}
        }
    }

    pub(super) fn on_decision(&mut self, decision: &Decision) {
        self.unexpected += u32::from(matches!(decision, Decision::Unexpected { .. }));
    }

    fn returned(&mut self, section: SectionId) {
        if let Some(account) = self.accounts.get_mut(section.index()) {
            account.calls = account.calls.saturating_sub(1);
        }
    }

    fn set_bytes(&mut self, section: SectionId, known_bytes: u64) {
        let account = &mut self.accounts[section.index()];
        if known_bytes == 0 || account.known_bytes == 0 {
            account.passed_bytes = 0;
        }
        account.known_bytes = known_bytes;
    }

    /// What a section was granted last, less `bytes`. Kept in its account until the read returns.
    fn granted(&mut self, section: SectionId, bytes: u64) -> u64 {
        let account = &mut self.accounts[section.index()];
        core::mem::take(&mut account.granted).saturating_sub(bytes)
    }
}

impl World {
    pub(super) fn check_step(&mut self, step: &Step) -> Result<(), String> {
        let undoing = self.is_undoing();
        match *step {
            Step::Transition { section, to } => self.check_transition(section, to, undoing)?,
            Step::Read { section, bytes_max, stopped } => self.check_read(section, bytes_max, stopped)?,
            Step::Query { section } => {
                self.begin_call(section, undoing)?;
                let account = &mut self.check.accounts[section.index()];
                let since = account.queried_at.replace(self.now).map(|at| self.now - at);
                if since.is_some_and(|since| since < self.check.window_ns) {
                    return Err(format!("{section} is asked for its sizes twice in one window"));
                }
            }
            Step::Reset { section } => self.begin_call(section, undoing)?,
            Step::PauseGuest => self.check_barrier()?,
            Step::ResumeGuest => {
                if self.source_dead || !self.check.paused || self.check.resumed {
                    return Err("the guest is resumed after the commit, or was not paused".into());
                }
                self.check.resumed = true;
            }
            Step::TellCommit => {
                if self.truths.iter().any(|truth| truth.target != State::Stop) || self.check.committed {
                    return Err("committed before every section of the target was loaded".into());
                }
                self.check.committed = true;
            }
            Step::Announce { section, generation } => self.check.accounts[section.index()].announced = generation,
            _ => {}
        }
        let inflight = match &self.source {
            Source::Saving(scheduler) => scheduler.inflight_bytes(),
            Source::Committed(_) => 0,
        };
        if inflight.max(self.check.inflight_bytes) > self.check.inflight_bytes_max {
            return Err(format!("{inflight} bytes are under way, {} allowed", self.check.inflight_bytes_max));
        }
        Ok(())
    }

    fn is_undoing(&self) -> bool {
        match &self.source {
            Source::Saving(scheduler) => scheduler.phase() >= Phase::Undoing,
            Source::Committed(_) => false,
        }
    }

    /// One call at a time; while undoing, a transition may come beside a read.
    fn begin_call(&mut self, section: SectionId, undoing: bool) -> Result<(), String> {
        let account = &mut self.check.accounts[section.index()];
        account.calls += 1;
        if account.calls > 1 + u32::from(undoing) {
            return Err(format!("{section} has {} calls under way", account.calls));
        }
        Ok(())
    }

    fn check_transition(&mut self, section: SectionId, to: State, undoing: bool) -> Result<(), String> {
        self.begin_call(section, undoing)?;
        let truth = &self.truths[section.index()];
        if truth.state == State::Error {
            return Err(format!("{section} is in ERROR and {to} is requested"));
        }
        match to {
            State::StopCopy if !self.check.paused => Err(format!("{section} is stopped while the vCPUs run")),
            State::Running | State::RunningP2p | State::PreCopy if self.source_dead => {
                Err(format!("{section} is to run at the source after the commit"))
            }
            State::Running if undoing => {
                let stopped = |truth: &super::truth::Truth| {
                    truth.shape.capabilities.has_p2p()
                        && truth.shape.home == State::Running
                        && matches!(truth.state, State::StopCopy | State::Stop)
                };
                let reset = |index: usize| self.check.accounts[index].calls > 0;
                let standing = self.truths.iter().enumerate().any(|(index, truth)| stopped(truth) && !reset(index));
                if standing && self.faults.is_none() {
                    return Err(format!("{section} runs while a peer still stands"));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn check_read(&mut self, section: SectionId, bytes_max: u64, stopped: bool) -> Result<(), String> {
        self.begin_call(section, false)?;
        let truth = &self.truths[section.index()];
        if stopped != (truth.state == State::StopCopy) || !truth.state.is_saving() {
            return Err(format!("{section} is read in {} as if it were otherwise", truth.state));
        }
        if bytes_max == 0 || bytes_max > self.check.chunk_bytes_max {
            return Err(format!("{section} is asked for {bytes_max} bytes at once"));
        }
        let index = section.index();
        self.check.inflight_bytes += bytes_max;
        self.check.accounts[index].granted = bytes_max;
        if self.check.accounts[index].credit.is_some_and(|credit| credit < bytes_max) {
            return Err(format!("{section} is read beyond the credit of the target"));
        }
        Ok(())
    }

    /// Nobody is passed over for longer than its weight and a few chunks account for.
    pub(super) fn check_starvation(&mut self, served: usize, bytes: u64) {
        // Behind the barrier whoever is about to change its state is passed over on purpose.
        let reads_in_turns = self.phase() == Phase::Precopy;
        let total: u64 = self.check.accounts.iter().map(|account| account.weight).sum();
        let chunk = self.check.chunk_bytes_max;
        for (index, account) in self.check.accounts.iter_mut().enumerate() {
            let truth = &self.truths[index];
            let is_waiting = reads_in_turns
                && account.known_bytes > 0
                && account.calls == 0
                && account.credit != Some(0)
                && matches!(truth.state, State::PreCopy | State::PreCopyP2p);
            if index == served {
                account.passed_bytes = 0;
            } else if is_waiting {
                account.passed_bytes += bytes;
            } else {
                account.passed_bytes = 0;
            }
            // Its round, four times what others saved up, and the share that initial bytes are given before it.
            let round = chunk * total * 2 / account.weight.max(1);
            let saved = 6 * chunk * self.truths.len() as u64;
            if account.passed_bytes > round + saved {
                let waits = format!("section {index} waits while others got {} bytes", account.passed_bytes);
                self.check.broken.get_or_insert(waits);
            }
        }
    }

    fn check_barrier(&mut self) -> Result<(), String> {
        for (index, truth) in self.truths.iter().enumerate() {
            let has_p2p = truth.shape.capabilities.has_p2p() && truth.shape.home == State::Running;
            if has_p2p && !matches!(truth.state, State::RunningP2p | State::PreCopyP2p) {
                return Err(format!("the vCPUs are paused while section {index} is in {}", truth.state));
            }
            if self.check.accounts[index].calls > 0 {
                return Err(format!("the vCPUs are paused while section {index} is busy: its bytes come too late"));
            }
        }
        Ok(())
    }

    pub(super) fn check_target_step(&mut self, step: &LoadStep) -> Result<(), String> {
        if let Target::Loading(loading) = &self.target {
            let most = self.check.window_bytes * self.truths.len() as u64;
            if loading.waiting_bytes() > most {
                return Err(format!("the target holds {} bytes, {most} granted", loading.waiting_bytes()));
            }
        }
        match *step {
            LoadStep::Transition { section, to } => match to {
                State::Running | State::RunningP2p if !self.check.committed => {
                    Err(format!("the target's {section} runs before the commit"))
                }
                State::Stop if !self.truths[section.index()].is_read_out() => {
                    Err(format!("the target completes {section}, of which not everything was read"))
                }
                _ => Ok(()),
            },
            LoadStep::Reset { .. } if matches!(self.target, Target::Owner(_)) => {
                Err("the target resets the guest's only copy".into())
            }
            _ => Ok(()),
        }
    }

    /// What must be true when nothing happens any more.
    pub(super) fn check_end(&mut self) -> Result<(), String> {
        if !self.check.source_ended {
            return Err(format!("the source does not end; {}", self.describe()));
        }
        if self.check.unexpected > 0 && !self.check.strays {
            return Err("the scheduler took an answer for a stray one".into());
        }
        match self.outcome {
            Some(Outcome::Done { downtime, .. }) => self.check_done(downtime),
            Some(Outcome::Aborted(cause)) => {
                let is_own = matches!(cause, Cause::Infeasible | Cause::Late | Cause::Trend(_) | Cause::Switchover);
                if self.faults.is_none() && !is_own {
                    return Err(format!("nothing went wrong, and it is aborted: {cause}"));
                }
                self.check_aborted()
            }
            Some(Outcome::InDoubt(_)) if self.source_dead => Ok(()),
            other => Err(format!("an outcome that cannot be: {other:?}")),
        }
    }

    fn check_done(&self, downtime: Duration) -> Result<(), String> {
        if !self.source_dead || self.guest_runs || downtime.is_zero() {
            return Err("done, and the source may run".into());
        }
        for (index, truth) in self.truths.iter().enumerate() {
            if truth.target != State::Running {
                return Err(format!("done, and the target's section {index} is in {}", truth.target));
            }
            let read = (truth.read_bytes, truth.read_digest);
            if read != (truth.written_bytes, truth.written_digest) || !truth.is_read_out() {
                return Err(format!("section {index}: {} bytes read, {} written", read.0, truth.written_bytes));
            }
        }
        Ok(())
    }

    fn check_aborted(&self) -> Result<(), String> {
        if self.source_dead || (self.check.paused && !self.check.resumed) {
            return Err("aborted, and the guest stands".into());
        }
        let Source::Saving(scheduler) = &self.source else { return Err("aborted after the commit".into()) };
        for (index, truth) in self.truths.iter().enumerate() {
            let restored = scheduler.restored(SectionId::new(index));
            let is_home = truth.state == truth.shape.home;
            let fits = match restored {
                Some(Restored::Untouched | Restored::Returned) => is_home,
                Some(Restored::Reset) => truth.state == State::Running,
                Some(Restored::Lost) => !self.faults.is_none(),
                _ => false,
            };
            if !fits {
                return Err(format!("section {index} is reported as {restored:?} and is in {}", truth.state));
            }
        }
        Ok(())
    }

    fn describe(&self) -> String {
        let phase = match &self.source {
            Source::Saving(scheduler) => format!("{:?}", scheduler.phase()),
            Source::Committed(_) => "committed".into(),
        };
        let states: Vec<String> = self.truths.iter().map(|truth| format!("{}/{}", truth.state, truth.target)).collect();
        format!("it is in {phase} at {} ns, sections in {}", self.now, states.join(", "))
    }
}

impl World {
    /// Every announced generation is acknowledged, and every section that must announce has.
    pub(super) fn is_acknowledged(&self) -> bool {
        self.check.accounts.iter().zip(&self.truths).all(|(account, truth)| {
            let is_read = truth.state != State::PreCopy || account.announced > 0 || !account.announces;
            is_read && account.acknowledged >= account.announced
        })
    }
}
