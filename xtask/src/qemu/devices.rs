// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a QEMU or a side of ours is given: simulated devices, or the kernel's own.

use std::path::Path;

use super::machine::{SoftDevice, soft_address};

/// Slots on the guest's root bus, from the first device's. The chipset has 1f, and the rest are below.
const FIRST_SLOTS: core::ops::Range<usize> = 0x10..0x1f;
const OTHER_SLOTS: core::ops::Range<usize> = 2..0x10;

/// The devices of a machine, or of a side of ours.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Devices<'a> {
    /// Simulated ones, and the preload library that answers for them.
    Soft {
        /// The library.
        library: &'a Path,
        /// At most as many as there are slots: 29.
        devices: &'a [SoftDevice],
    },
    /// Mediated devices of the running kernel, by their UUIDs. A QEMU opens them by their groups.
    Real(&'a [String]),
}

/// Where the guest sees a device.
pub(crate) fn place(index: usize) -> String {
    format!("0000:00:{:02x}.0", slot(index))
}

/// The name of a device's section in the stream.
pub(crate) fn idstr(index: usize) -> String {
    savevm_core::qemu::idstr(&place(index))
}

fn slot(index: usize) -> usize {
    FIRST_SLOTS.chain(OTHER_SLOTS).nth(index).unwrap_or(FIRST_SLOTS.end)
}

impl Devices<'_> {
    /// By what our side opens them: PCI addresses and UUIDs.
    pub(crate) fn addresses(&self) -> Vec<String> {
        match self {
            Self::Soft { devices, .. } => {
                devices.iter().enumerate().map(|(index, device)| soft_address(index, device)).collect()
            }
            Self::Real(uuids) => uuids.to_vec(),
        }
    }

    /// QEMU's arguments for them, with more properties, each after a comma.
    pub(super) fn arguments(&self, properties: &str) -> Vec<String> {
        let (object, devices): (&[&str], Vec<String>) = match self {
            Self::Soft { devices, .. } => {
                let options = devices.iter().enumerate().map(|(index, device)| soft(index, device));
                (&["-object", "iommufd,id=iommufd0"], options.collect())
            }
            Self::Real(uuids) => (&[], uuids.iter().map(|uuid| real(uuid)).collect()),
        };
        let places = devices.into_iter().enumerate().flat_map(|(index, device)| {
            ["-device".to_owned(), format!("vfio-pci,{device},enable-migration=on,addr={:x}{properties}", slot(index))]
        });
        object.iter().map(|word| (*word).to_owned()).chain(places).collect()
    }
}

fn soft(index: usize, device: &SoftDevice) -> String {
    let address = soft_address(index, device);
    let host = if device.is_mediated { mediated(&address) } else { format!("host={address}") };
    format!("{host},iommufd=iommufd0")
}

/// Kernels without `CONFIG_IOMMUFD_DRIVER` offer to track what a device writes and answer EOPNOTSUPP when asked for it,
/// which ends a migration in its setup (mtty.md, 6). mtty writes nothing. QEMU is to say which states it puts a device in
/// (vfio-section.md, `VFIO_MIGRATION`): nothing else does while it has the device.
fn real(uuid: &str) -> String {
    format!("{},x-device-dirty-page-tracking=off,migration-events=on", mediated(uuid))
}

fn mediated(uuid: &str) -> String {
    format!("sysfsdev=/sys/bus/mdev/devices/{uuid}")
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn real_devices_are_opened_by_their_groups() {
        let uuids = ["5afe".to_owned(), "50f7".to_owned()];
        let words = Devices::Real(&uuids).arguments("");
        let options = "vfio-pci,sysfsdev=/sys/bus/mdev/devices/5afe,x-device-dirty-page-tracking=off,\
                       migration-events=on,enable-migration=on,addr=10";
        assert_eq!(words[..3], ["-device", options, "-device"]);
        assert!(words[3].contains("/50f7,") && words[3].ends_with(",addr=11"), "{words:?}");
        assert_eq!(Devices::Real(&uuids).addresses(), uuids);
    }

    #[test]
    fn devices_are_where_their_sections_say() {
        assert_eq!((idstr(0), idstr(1)), ("0000:00:10.0/vfio".into(), "0000:00:11.0/vfio".into()));
        assert_eq!(
            (place(14), place(15), place(28)),
            ("0000:00:1e.0".into(), "0000:00:02.0".into(), "0000:00:0f.0".into())
        );
    }
}
