// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Devices by their PCI address or mdev UUID.

use core::error::Error;
use std::os::fd::OwnedFd;

use savevm_core::kernel::KernelDevice;
use vfio_uapi::open::{self, Roots};

/// Opens them. The two sides call them by their place: `device0`, `device1`.
pub(crate) fn open(ids: &[&str]) -> Result<Vec<KernelDevice<OwnedFd>>, Box<dyn Error>> {
    let roots = Roots::default();
    let mut devices = Vec::new();
    for (index, id) in ids.iter().enumerate() {
        let found = open::find(&roots, id)?.ok_or_else(|| format!("there is no VFIO device {id}"))?;
        let device = if found.cdev.is_some() {
            open::open_by_cdev(&roots, &found)?.device
        } else {
            open::open_by_group(&roots, &found)?.device
        };
        // A VMM says more: format and versions of the stream (`savevm_core::identity`).
        let identity = found.driver.clone().unwrap_or_default();
        devices.push(KernelDevice::new(device, format!("device{index}"), identity)?);
    }
    Ok(devices)
}
