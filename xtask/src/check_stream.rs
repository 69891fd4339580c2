// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `--check-stream`: what the vendors' crates know of a stream, as taps of the engine.
//!
//! This is where the two meet: the engine knows no vendor, and the vendors' crates know no engine.

mod hisi;
mod records;
#[cfg(test)]
mod test;

use std::collections::BTreeMap;

use device_hisi::compatible::Target;
use savevm_core::Device;
use savevm_core::identity::{Format, Identity};
use savevm_core::tap::{Side, Subject, Tap, Taps};
use vfio_mig_fsm::Capabilities;

pub(crate) use hisi::HisiTap;
pub(crate) use records::{Mlx5Tap, VirtioTap};

/// What is checked on one side of a migration.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checks {
    pub(crate) taps: Taps,
    /// By the devices' names: as what their streams are checked. Without an entry a stream passes unchecked.
    pub(crate) checked_as: BTreeMap<String, &'static str>,
    /// What is not checked, and why.
    pub(crate) notes: Vec<String>,
}

/// The streams that can be checked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Known {
    Hisi,
    Mlx5,
    Virtio,
}

impl Known {
    /// As which format a device's stream is checked, if it is one of these.
    fn of(identity: &str, capabilities: Capabilities) -> Option<Self> {
        let identity: Identity = identity.parse().ok()?;
        let format: &Format = identity.format();
        match format.name() {
            "hisi_acc" => Some(Self::Hisi),
            // mlx5.md section 2, legacy forms: a device without PRE_COPY writes a bare image, which nothing describes.
            "mlx5" if format.version().major == 2 && capabilities.has_pre_copy() => Some(Self::Mlx5),
            "virtio" => Some(Self::Virtio),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Hisi => "hisi_acc",
            Self::Mlx5 => "mlx5",
            Self::Virtio => "virtio",
        }
    }
}

/// Prepares the checks of `devices`. On a target this asks those that are compared with the stream what they are, which takes
/// them to PRE_COPY and back.
///
/// # Errors
/// A device did not come back from PRE_COPY.
pub(crate) fn prepare<D: Device>(side: Side, devices: &mut [D], state_bytes_max: u64) -> Result<Checks, String> {
    let mut checks = Checks::default();
    let mut own: BTreeMap<String, Target> = BTreeMap::new();
    for device in devices.iter_mut() {
        let name = device.name().to_owned();
        let Some(known) = Known::of(device.identity(), device.capabilities()) else {
            checks.notes.push(format!("{name}: the format of its stream is not known here ({})", device.identity()));
            continue;
        };
        checks.checked_as.insert(name.clone(), known.name());
        if (side, known) != (Side::Target, Known::Hisi) {
            continue;
        }
        match hisi::own_match(device)? {
            Ok(head) => {
                own.insert(name, Target::from(&head));
            }
            Err(why) => checks.notes.push(format!("{name}: the stream is not compared with this device: {why}")),
        }
    }
    checks.taps = Taps::new(move |subject| tap(subject, own.get(subject.name).copied(), state_bytes_max));
    Ok(checks)
}

fn tap(subject: &Subject<'_>, own: Option<Target>, state_bytes_max: u64) -> Option<Box<dyn Tap>> {
    // The stream is the source's; what its device can do, the target's can too, or the two would not fit.
    let known = Known::of(subject.stream_identity, subject.capabilities)?;
    Some(match known {
        Known::Hisi => Box::new(HisiTap::new(own)),
        Known::Mlx5 => Box::new(Mlx5Tap::new(state_bytes_max)),
        Known::Virtio => Box::new(VirtioTap::new(state_bytes_max)),
    })
}
