// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Putting devices back after a migration that did not happen.
//!
//! The order follows `spec/kernel/fsm.md` section 6: ask first, never request a state from ERROR, prefer the way back
//! over a reset, because on the source a reset destroys what the guest's driver has set up in the device.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use vfio_mig_fsm::State;

use crate::device::{Device, TransitionError};
use crate::engine::threads::in_parallel;

/// How one device came out of a migration that did not happen.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Restored {
    /// The device's name.
    pub device: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a device.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// It had not been touched.
    Untouched,
    /// It is back in the state the migration found it in, contents intact.
    Returned(State),
    /// Only a reset helped: it is usable, but on the source the guest's driver must set it up anew.
    Reset {
        /// Why the way back was closed, where a way back was tried.
        because: Option<String>,
    },
    /// Neither the way back nor a reset worked.
    Lost {
        /// What failed.
        because: String,
    },
}

impl fmt::Display for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.device, self.outcome)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untouched => f.write_str("not touched"),
            Self::Returned(state) => write!(f, "back in {state}"),
            Self::Reset { because: None } => f.write_str("reset"),
            Self::Reset { because: Some(why) } => write!(f, "reset, because {why}"),
            Self::Lost { because } => write!(f, "lost: {because}; reset it by hand or close and reopen it"),
        }
    }
}

/// Brings every device of a source back to `homes`, the states they were found in, all at the same time.
///
/// Devices that stopped pass RUNNING_P2P together before any of them runs: the barrier of the switchover, walked
/// backwards, so that none of them reaches into a peer that is still stopped.
pub(crate) fn return_to<D: Device + Send>(devices: &mut [D], homes: &[Option<State>]) -> Vec<Restored> {
    let home = |index: usize| homes.get(index).copied().flatten();
    in_parallel(devices, |index, device| {
        let stopped = matches!(device.state(), Ok(State::Stop | State::StopCopy));
        if stopped && home(index) == Some(State::Running) && device.capabilities().has_p2p() {
            // A failure here shows again, with its reason, in the step below.
            let _ = device.transition(State::RunningP2p);
        }
    });
    in_parallel(devices, |index, device| return_one(device, home(index)))
}

fn return_one<D: Device>(device: &mut D, home: Option<State>) -> Restored {
    let name = device.name().to_string();
    let Some(home) = home else {
        return Restored { device: name, outcome: Outcome::Untouched };
    };
    let refused = match device.state() {
        Ok(State::Error) => "it was in ERROR, which only a reset leaves".to_string(),
        Ok(_) => match device.transition(home) {
            Ok(()) => return Restored { device: name, outcome: Outcome::Returned(home) },
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    };
    Restored { device: name, outcome: reset(device, home, Some(refused)) }
}

/// Runs stopped devices, all at the same time: those that can pass RUNNING_P2P together first, so that none reaches into
/// a peer that still stands.
///
/// # Errors
/// The first device that does not follow; the others are as far as they came.
pub fn run_together<D: Device + Send>(devices: &mut [D]) -> Result<(), TransitionError> {
    let quiet = in_parallel(devices, |_, device| {
        if device.capabilities().has_p2p() { device.transition(State::RunningP2p) } else { Ok(()) }
    });
    quiet.into_iter().collect::<Result<(), _>>()?;
    in_parallel(devices, |_, device| device.transition(State::Running)).into_iter().collect()
}

/// Resets every touched device of a target: what was half loaded must not run.
pub(crate) fn reset_all<D: Device + Send>(devices: &mut [D], touched: &[bool]) -> Vec<Restored> {
    in_parallel(devices, |index, device| Restored {
        device: device.name().to_string(),
        outcome: match touched.get(index) {
            Some(true) => reset(device, State::Running, None),
            _ => Outcome::Untouched,
        },
    })
}

fn reset<D: Device>(device: &mut D, home: State, because: Option<String>) -> Outcome {
    let lost = |error: String| Outcome::Lost {
        because: because.as_ref().map_or_else(|| error.clone(), |why| alloc::format!("{why}; then {error}")),
    };
    if let Err(error) = device.reset() {
        return lost(error.to_string());
    }
    // A reset leaves RUNNING; a guest that was paused when the migration began expects its device stopped.
    if home != State::Running {
        if let Err(error) = device.transition(home) {
            return lost(error.to_string());
        }
    }
    Outcome::Reset { because }
}
