// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Decisions and their reasons in words, for logs and for people.

use core::fmt;

use super::decision::{Decision, Estimate, Hold, Interval, Outcome, Trend, Why};

impl fmt::Display for Trend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "too early to say where what is left is going",
            Self::Falling => "what is left gets less",
            Self::Level => "what is left stays the same",
            Self::Rising => "what is left grows",
        })
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sizes { section } => write!(f, "the sizes of {section} are not known, or too old to decide by"),
            Self::Unacknowledged { section, generation } => {
                write!(f, "the initial bytes of {section} are not acknowledged (generation {generation})")
            }
            Self::Bandwidth => f.write_str("too little was sent to know what the channels carry"),
            Self::Downtime { trend } => write!(f, "a switchover now would take longer than allowed, and {trend}"),
            Self::Manual => f.write_str("the caller decides when to switch over"),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fits => f.write_str("the predicted downtime is within the limit"),
            Self::Trend(trend) => write!(f, "the policy where {trend}, and does not fit"),
            Self::Late => f.write_str("pre-copy has taken as long as it may"),
            Self::Asked => f.write_str("the caller asked"),
            Self::NothingToPrecopy => f.write_str("nothing can be read while the guest runs"),
        }
    }
}

impl Decision {
    /// What was decided, in one word or two.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Feasible(_) => "feasible",
            Self::Infeasible(_) => "infeasible",
            Self::Iterate(..) => "iterate",
            Self::Switch(..) => "switch over",
            Self::Pause(_) => "pause the guest",
            Self::Reopened { .. } => "reopened",
            Self::GoBack => "go back",
            Self::Persist => "persist",
            Self::StaleAcknowledgement { .. } => "stale acknowledgement",
            Self::Unexpected { .. } => "unexpected event",
            Self::GiveUp(_) => "give up",
            Self::Finished(_) => "finished",
        }
    }

    /// What a switchover was estimated to cost when this was decided, where that mattered.
    #[must_use]
    pub const fn estimate(&self) -> Option<&Estimate> {
        match self {
            Self::Feasible(estimate)
            | Self::Infeasible(estimate)
            | Self::Iterate(_, estimate)
            | Self::Switch(_, estimate)
            | Self::Pause(estimate) => Some(estimate),
            _ => None,
        }
    }
}

/// The reason, as a sentence.
impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Feasible(estimate) => write!(f, "stopping and loading alone take {}", Time(&estimate.fixed)),
            Self::Infeasible(estimate) => {
                write!(f, "stopping and loading alone take {}, longer than allowed", Time(&estimate.fixed))
            }
            Self::Iterate(hold, _) => hold.fmt(f),
            Self::Switch(why, _) => why.fmt(f),
            Self::Pause(estimate) => {
                write!(f, "everything that can is quiet; the downtime will be {}", Time(&estimate.downtime))
            }
            Self::Reopened { section, generation } => {
                write!(f, "{section} began anew: generation {generation} is to be acknowledged")
            }
            Self::GoBack => f.write_str("a section began anew, or what is left no longer fits"),
            Self::Persist => f.write_str("a section began anew too often to go back for it again"),
            Self::StaleAcknowledgement { section, generation } => {
                write!(f, "generation {generation} of {section} was acknowledged, which is over")
            }
            Self::Unexpected { section: Some(section) } => write!(f, "{section} answered what was not asked"),
            Self::Unexpected { section: None } => f.write_str("an answer to nothing that was asked"),
            Self::GiveUp(cause) => cause.fmt(f),
            Self::Finished(Outcome::Done { predicted, downtime }) => {
                write!(f, "{downtime:.1?} of downtime, {} predicted", Time(predicted))
            }
            Self::Finished(Outcome::Aborted(cause)) => write!(f, "{cause}; the guest is here"),
            Self::Finished(Outcome::InDoubt(cause)) => write!(f, "{cause}; whether the target runs is not known"),
        }
    }
}

struct Time<'a>(&'a Interval);

impl fmt::Display for Time<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1?} (at most {:.1?})", self.0.expected, self.0.high)
    }
}
