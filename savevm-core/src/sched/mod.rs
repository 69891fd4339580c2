// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The scheduler: which section reads next, when to ask, when to switch over, and how to undo it all.
//!
//! It is a state machine over values. It has no clock, no thread and does no I/O: an engine asks [`SaveScheduler::poll`] what to do,
//! does it, and tells what came of it with [`SaveScheduler::handle`]. Time is an argument. The same configuration and the same
//! sequence of `(now, Event)` give the same steps and decisions, always; a scheduler can be cloned in the middle, and a log of
//! its events can be run again elsewhere.
//!
//! # Sections
//!
//! Whatever has state to move is a [`Section`]: a device, guest memory, a vDPA-like backend, the VMM's own state that
//! can only be read when nothing runs. All of them are described by the same [`Capabilities`](vfio_mig_fsm::Capabilities) and asked for the
//! same states; for memory, "to PRE_COPY" means "start logging", and "to STOP_COPY" means "this is the last
//! round". So the scheduler has one set of rules, and every request is one that the kernel's state machine allows.
//!
//! # Phases and steps of the source
//!
//! ```text
//!  phase       steps                                        leaves when
//!  Setup       Transition to PRE_COPY ∥, Query ∥            every section's sizes are known
//!  Precopy     Read in turns, Query, Announce               the decision says so, or `Event::Quiesce`
//!  Quiescing   Transition to the P2P state ∥, Read, Query   all are quiet, and none began anew
//!  Quiet       PauseGuest                                   `Event::GuestPaused`
//!  Stopped     Transition to STOP_COPY ∥, Read, Finish      the target has loaded and verified every section
//!  Ready       Ready                                        `commit`, which consumes the scheduler
//!    (Committed)  TellCommit, Transition to STOP ∥          `Event::Confirmed`
//!  Undoing     TellAbort, Transition home ∥, Reset          every section is home, reset or lost
//!  Ended       Ended
//! ```
//!
//! ∥: handed out for all sections without waiting for the first to complete.
//!
//! # The contract of an engine
//!
//! - Call `poll` until it answers [`Step::Wait`], [`Step::Ready`] or [`Step::Ended`]; everything else it answers is to be carried
//!   out, and may be carried out beside everything handed out before.
//! - A section has at most one step under way that calls the device (`Transition`, `Read`, `Query`, `Reset`), so one worker for each section
//!   suffices. Only while undoing may a transition be asked for beside a read: a reader blocked in a driver returns
//!   only when its session is ended.
//! - Every such step is answered by exactly one event. `Announce`, `Finish`, `TellAbort`, `TellCommit` and `ResumeGuest` are messages;
//!   nothing answers them, except that the peer may.
//! - `now` never runs backwards. After an event, `poll` again.
//!
//! # Rules
//!
//! | rule | where |
//! |---|---|
//! | shares by weight, the turn resumes where it stopped, initial bytes have a guaranteed share | `drr` |
//! | one token bucket for all sections and channels | `bucket` |
//! | bandwidth is bytes by time *with demand* | `bandwidth` |
//! | one exact query per section and window, rarer where nothing moves | `query` |
//! | an acknowledgement belongs to a generation | `ack` |
//! | falling, level, rising | `trend` |
//! | downtime is an interval, over all costs | `model` |

mod ack;
mod bandwidth;
mod bucket;
mod channel;
mod committed;
mod config;
mod decision;
mod drr;
mod events;
mod grant;
mod inbox;
mod load_step;
mod log;
mod model;
mod owner;
mod passage;
mod precopy;
mod query;
mod section;
mod source;
mod step;
mod switchover;
mod target;
mod trend;
mod undo;
mod units;
#[cfg(feature = "serde")]
mod wire;
mod words;

pub use committed::Committed;
pub use config::{Config, Kind, Policy, Profile, Section, Switchover, Timing, Verdict};
pub use decision::{Cause, Decision, Estimate, External, Hold, Interval, Outcome, Phase, Restored, Trend, Why};
pub use load_step::{LoadEvent, LoadSection, LoadStep};
pub use log::{Divergence, Logged, Record, Replayed, replay};
pub use owner::Owner;
pub use source::SaveScheduler;
pub use step::{Event, SectionId, Sizes, Step, Sum};
pub use target::LoadScheduler;

#[cfg(test)]
mod test;
