// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A migration's log, and running it again.
//!
//! A log is a [`Config`] and a sequence of [`Record`]s: each event with its time, each poll with its time and the step it
//! gave, the commit, and the decisions. With feature `serde` a log is a file of JSON lines: the configuration on the first, one
//! record on each of the others. What the source of an event was (a device, a peer, a simulator) does not matter to
//! the scheduler, so a log of a failure on hardware runs on any machine.

use alloc::boxed::Box;
use core::time::Duration;

use super::committed::Committed;
use super::config::Config;
use super::decision::Decision;
use super::source::SaveScheduler;
use super::step::{Event, Step};

/// One thing that the scheduler was told or asked, or that came out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Record {
    /// [`SaveScheduler::handle`] or [`Committed::handle`].
    Event {
        /// When.
        at: Duration,
        /// What.
        event: Event,
    },
    /// [`SaveScheduler::poll`] or [`Committed::poll`], and what it answered.
    Poll {
        /// When.
        at: Duration,
        /// The answer.
        step: Step,
    },
    /// [`SaveScheduler::commit`], which succeeded.
    Commit {
        /// When.
        at: Duration,
    },
    /// [`Committed::never_sent`].
    NeverSent {
        /// When.
        at: Duration,
    },
    /// A decision, in the order they were taken out.
    Decision {
        /// When it was made.
        at: Duration,
        /// What.
        decision: Decision,
    },
}

/// A piece of a log: the configuration first, then the records.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a log has a head and records")]
pub enum Logged<'a> {
    /// What the scheduler was made with.
    Config(&'a Config),
    /// What happened next.
    Record(&'a Record),
}

/// Where a log and the scheduler that runs it part.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Divergence {
    /// A poll answered another step.
    Step {
        /// The record's place, from 0.
        record: usize,
        /// What the log has.
        logged: Step,
        /// What came out now.
        now: Step,
    },
    /// Another decision was made, or none.
    Decision {
        /// The record's place, from 0.
        record: usize,
        /// What the log has.
        logged: Box<(Duration, Decision)>,
        /// What came out now.
        now: Option<Box<(Duration, Decision)>>,
    },
    /// A commit was refused, or there was nothing to commit.
    Commit {
        /// The record's place, from 0.
        record: usize,
    },
}

/// A scheduler on either side of its point of no return.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "the point of no return has two sides")]
pub enum Replayed {
    /// Before it.
    Saving(Box<SaveScheduler>),
    /// Behind it.
    Committed(Box<Committed>),
}

/// Runs a log again, from the beginning.
///
/// # Errors
/// The first place where something else comes out.
pub fn replay(config: Config, records: impl IntoIterator<Item = Record>) -> Result<Replayed, Divergence> {
    let mut replayed = Replayed::Saving(Box::new(SaveScheduler::new(config)));
    for (place, record) in records.into_iter().enumerate() {
        replayed = replayed.apply(place, record)?;
    }
    Ok(replayed)
}

impl Replayed {
    fn apply(mut self, place: usize, record: Record) -> Result<Self, Divergence> {
        match record {
            Record::Event { at, event } => match &mut self {
                Self::Saving(scheduler) => scheduler.handle(at, event),
                Self::Committed(committed) => committed.handle(at, event),
            },
            Record::Poll { at, step: logged } => {
                let now = match &mut self {
                    Self::Saving(scheduler) => scheduler.poll(at),
                    Self::Committed(committed) => committed.poll(at),
                };
                if now != logged {
                    return Err(Divergence::Step { record: place, logged, now });
                }
            }
            Record::Commit { at } => return self.commit(place, at),
            Record::NeverSent { at } => match self {
                Self::Committed(committed) => self = Self::Saving(Box::new(committed.never_sent(at))),
                Self::Saving(_) => return Err(Divergence::Commit { record: place }),
            },
            Record::Decision { at, decision } => {
                let now = match &mut self {
                    Self::Saving(scheduler) => scheduler.take_decision(),
                    Self::Committed(committed) => committed.take_decision(),
                };
                if now != Some((at, decision)) {
                    let logged = Box::new((at, decision));
                    return Err(Divergence::Decision { record: place, logged, now: now.map(Box::new) });
                }
            }
        }
        Ok(self)
    }

    fn commit(self, place: usize, at: Duration) -> Result<Self, Divergence> {
        let refused = Divergence::Commit { record: place };
        match self {
            Self::Saving(scheduler) => match scheduler.commit(at) {
                Ok(committed) => Ok(Self::Committed(Box::new(committed))),
                Err(_) => Err(refused),
            },
            Self::Committed(_) => Err(refused),
        }
    }
}
