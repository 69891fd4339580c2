// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a side reports at its end, and the parent reads.

use savevm_core::qemu::RamPages;
use savevm_core::{Device, DeviceSum, MigrationError};
use serde::{Deserialize, Serialize};

use crate::vm::Qemu;

/// One side's report.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Outcome {
    /// Whether the state has moved, and the other side knows.
    pub(crate) moved: bool,
    /// Whether the guest is the target's, or may be.
    pub(crate) committed: bool,
    /// What went wrong.
    pub(crate) error: Option<String>,
    /// In which phase.
    pub(crate) failed_in: Option<String>,
    /// In the order of the command line.
    pub(crate) devices: Vec<DeviceReport>,
    /// Acknowledgements of initial bytes, sent or received.
    pub(crate) acks: u32,
    /// Most bytes held of packets that overtook others.
    pub(crate) reorder_peak_bytes: usize,
    /// Most memory this process ever had, in bytes.
    pub(crate) memory_peak_bytes: u64,
    /// Pages of guest memory that moved, those of zeros included; none where it is not moved for this side.
    pub(crate) pages: u64,
    /// What a target was given of RAM.
    pub(crate) ram: Vec<RamReport>,
}

/// A device at the end.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct DeviceReport {
    pub(crate) name: String,
    /// The state it is in now.
    pub(crate) state: String,
    pub(crate) bytes: u64,
    pub(crate) precopy_bytes: u64,
    pub(crate) crc64_nvme: u64,
    /// How it came out of a failure.
    pub(crate) restored: Option<String>,
}

/// A block of RAM at the end.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct RamReport {
    pub(crate) block: String,
    pub(crate) bytes: u64,
    pub(crate) crc64_nvme: u64,
}

impl Outcome {
    /// What is true of any end.
    pub(crate) fn of<D: Device>(devices: &mut [D]) -> Self {
        let report = |device: &mut D| DeviceReport {
            name: device.name().to_owned(),
            state: device.state().map_or_else(|error| error.to_string(), |state| state.to_string()),
            ..DeviceReport::default()
        };
        let devices = devices.iter_mut().map(report).collect();
        Self { devices, memory_peak_bytes: memory_peak_bytes(), ..Self::default() }
    }

    pub(crate) fn with_sums(mut self, sums: &[DeviceSum]) -> Self {
        for (report, sum) in self.devices.iter_mut().zip(sums) {
            report.bytes = sum.sum.bytes;
            report.crc64_nvme = sum.sum.crc64_nvme;
            report.precopy_bytes = sum.precopy_bytes;
        }
        self
    }

    pub(crate) const fn with_pages(mut self, pages: RamPages) -> Self {
        self.pages = pages.normal_pages.saturating_add(pages.zero_pages);
        self
    }

    /// RAM came: the firmware is where it was, as its file has it.
    pub(crate) fn check_firmware(&self, qemu: &Qemu) -> Result<(), String> {
        let bios = self.ram.iter().find(|block| block.block == "pc.bios");
        let bios = bios.ok_or_else(|| format!("no firmware in the RAM that came: {:?}", self.ram))?;
        let image = qemu.firmware.iter().map(|folder| folder.join("bios-256k.bin")).find(|path| path.is_file());
        let image = image.ok_or("there is no bios-256k.bin with this QEMU")?;
        let bytes = std::fs::read(&image).map_err(|error| format!("cannot read {}: {error}", image.display()))?;
        let expected = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &bytes);
        if bios.crc64_nvme == expected {
            return Ok(());
        }
        Err(format!("the firmware came with CRC-64 {:016x}, its file has {expected:016x}", bios.crc64_nvme))
    }

    pub(crate) fn failed(mut self, error: &MigrationError) -> Self {
        self.committed = error.committed;
        self.failed_in = Some(error.phase.name().to_owned());
        // Behind the commit there is more to say than why.
        self.error = Some(if error.committed { error.to_string() } else { error.cause.to_string() });
        for (report, restored) in self.devices.iter_mut().zip(&error.devices) {
            report.restored = Some(restored.outcome.to_string());
        }
        self
    }
}

/// `VmHWM`: all memory that was ever resident, files and libraries included.
fn memory_peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}
