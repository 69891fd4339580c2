// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Foreign values in a log: states and capability sets by the kernel's numbers.

/// A state, by the kernel's number.
pub(super) mod state {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
    use vfio_mig_fsm::State;

    pub(in crate::sched) fn serialize<S: Serializer>(state: &State, serializer: S) -> Result<S::Ok, S::Error> {
        state.raw().serialize(serializer)
    }

    pub(in crate::sched) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<State, D::Error> {
        let raw = u32::deserialize(deserializer)?;
        State::from_raw(raw).ok_or_else(|| D::Error::custom(format_args!("{raw} is no device state")))
    }
}

/// A state that may be unknown.
pub(super) mod found {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
    use vfio_mig_fsm::State;

    pub(in crate::sched) fn serialize<S: Serializer>(found: &Option<State>, serializer: S) -> Result<S::Ok, S::Error> {
        found.map(State::raw).serialize(serializer)
    }

    pub(in crate::sched) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<State>, D::Error> {
        match Option::<u32>::deserialize(deserializer)? {
            None => Ok(None),
            Some(raw) => {
                let state = State::from_raw(raw);
                state.map(Some).ok_or_else(|| D::Error::custom(format_args!("{raw} is no device state")))
            }
        }
    }
}

/// A capability set, by the kernel's flags.
pub(super) mod capabilities {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
    use vfio_mig_fsm::Capabilities;

    pub(in crate::sched) fn serialize<S: Serializer>(set: &Capabilities, serializer: S) -> Result<S::Ok, S::Error> {
        set.flags().serialize(serializer)
    }

    pub(in crate::sched) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Capabilities, D::Error> {
        let flags = u64::deserialize(deserializer)?;
        Capabilities::from_flags(flags).ok_or_else(|| D::Error::custom(format_args!("{flags} is no capability set")))
    }
}
