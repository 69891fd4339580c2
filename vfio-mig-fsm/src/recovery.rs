// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The way out after a failed request.
//!
//! The order is always: ask the device for its state, take the step named here, and if that step
//! fails, reset. A reset ends every session and leaves `RUNNING`, from any state.

use crate::State;

/// Which end of a migration a device is at.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Role {
    /// Its state is being saved: the device holds the only good copy, and the VM may go on here.
    Source,
    /// A state is being loaded into it: what it holds is worthless once loading has failed.
    Target,
}

/// The step that leads out of a failure.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[must_use]
pub enum Recovery {
    /// Request this state, and reset if the request fails.
    Set(State),
    /// Issue `VFIO_DEVICE_RESET`. The state of the device is lost.
    Reset,
}

/// The step that brings a device found in `found` back into service after a failed request.
///
/// A source returns to `RUNNING`. A target is reset, and so is a device in [`State::Error`]: of
/// it nothing may be requested, as most drivers make the kernel print a warning for each such
/// request, which halts a host that panics on warnings. A device found in `RESUMING` is reset in
/// either role, since every request out of that state loads what was written so far.
pub const fn recovery(role: Role, found: State) -> Recovery {
    recovery_into(role, found, State::Running)
}

/// [`recovery`] for a VM that is stopped and stays so: a source goes to `STOP` instead.
///
/// From `PRE_COPY` and `PRE_COPY_P2P` the kernel's path to `STOP` lets the device run for a moment.
pub const fn recovery_while_stopped(role: Role, found: State) -> Recovery {
    recovery_into(role, found, State::Stop)
}

const fn recovery_into(role: Role, found: State, home: State) -> Recovery {
    match (role, found) {
        (Role::Target, _) | (Role::Source, State::Error | State::Resuming) => Recovery::Reset,
        (Role::Source, _) => Recovery::Set(home),
    }
}

#[cfg(test)]
mod test {
    use super::{Recovery, Role, recovery, recovery_while_stopped};
    use crate::{Capabilities, State, next};

    #[test]
    fn a_target_is_always_reset() {
        for found in State::ALL {
            assert_eq!(recovery(Role::Target, found), Recovery::Reset);
            assert_eq!(recovery_while_stopped(Role::Target, found), Recovery::Reset);
        }
    }

    #[test]
    fn a_source_goes_home_unless_only_a_reset_is_safe() {
        for found in State::ALL {
            let (running, stopped) = match found {
                State::Error | State::Resuming => (Recovery::Reset, Recovery::Reset),
                _ => (Recovery::Set(State::Running), Recovery::Set(State::Stop)),
            };
            assert_eq!(recovery(Role::Source, found), running, "{found}");
            assert_eq!(recovery_while_stopped(Role::Source, found), stopped, "{found}");
        }
    }

    #[test]
    fn no_step_is_one_the_kernel_refuses() {
        for caps in Capabilities::ALL {
            for found in State::ALL.into_iter().filter(|&state| caps.supports(state)) {
                for step in [recovery(Role::Source, found), recovery_while_stopped(Role::Source, found)] {
                    if let Recovery::Set(state) = step {
                        assert!(next(caps, found, state).is_some(), "{caps:?}: {found} to {state}");
                    }
                }
            }
        }
    }
}
