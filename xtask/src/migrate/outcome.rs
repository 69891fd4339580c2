// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What one side reports at its end, for a person and as JSON.

use std::os::fd::OwnedFd;
use std::process::ExitCode;

use savevm_core::kernel::KernelDevice;
use savevm_core::{ChannelCounters, Counters, Device, DeviceSum, MigrationError, Phase};
use serde::Serialize;

use crate::check_stream::Checks;
use crate::out::{out, outln};

/// One side's report.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    side: &'static str,
    /// Whether the state is now the target's (or the file's) and acknowledged.
    moved: bool,
    /// Whether the source gave its devices up, or may have.
    committed: bool,
    error: Option<String>,
    /// The phase in which it failed.
    failed_in: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    downtime_ms: Option<f64>,
    devices: Vec<DeviceReport>,
    /// How the channels were used; empty for a file.
    channels: Vec<ChannelReport>,
    /// The most bytes of buffers in use at once, and what they may come to.
    #[serde(skip_serializing_if = "Option::is_none")]
    buffer_bytes: Option<BufferReport>,
    phases: Vec<PhaseReport>,
}

#[derive(Debug, Serialize)]
struct ChannelReport {
    frames: u64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct BufferReport {
    peak: u64,
    bound: u64,
}

#[derive(Debug, Serialize)]
struct DeviceReport {
    name: String,
    identity: String,
    /// The state the device is in now.
    state: String,
    bytes: Option<u64>,
    precopy_bytes: Option<u64>,
    crc64_nvme: Option<String>,
    /// As which format `--check-stream` looks at its stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    checked_as: Option<&'static str>,
    /// How it came out of a failure.
    restored: Option<String>,
}

#[derive(Debug, Serialize)]
struct PhaseReport {
    phase: &'static str,
    at_ms: u64,
}

impl Outcome {
    /// A report on `devices` as they are now.
    pub(super) fn new<D: Device>(side: &'static str, devices: &mut [D], phases: &[(Phase, u64)]) -> Self {
        let report = |device: &mut D| DeviceReport {
            name: device.name().to_owned(),
            identity: device.identity().to_owned(),
            state: device.state().map_or_else(|error| error.to_string(), |state| state.to_string()),
            bytes: None,
            precopy_bytes: None,
            crc64_nvme: None,
            checked_as: None,
            restored: None,
        };
        Self {
            side,
            moved: false,
            committed: false,
            error: None,
            failed_in: None,
            downtime_ms: None,
            devices: devices.iter_mut().map(report).collect(),
            channels: Vec::new(),
            buffer_bytes: None,
            phases: phases.iter().map(|(phase, at_ms)| PhaseReport { phase: phase.name(), at_ms: *at_ms }).collect(),
        }
    }

    /// A side that could not even open its devices.
    pub(super) fn unopened(side: &'static str, error: String) -> Self {
        Self::new::<KernelDevice<OwnedFd>>(side, &mut [], &[]).broken(error)
    }

    pub(super) fn moved(mut self, sums: &[DeviceSum]) -> Self {
        self.moved = true;
        self.committed = true;
        for sum in sums {
            if let Some(device) = self.devices.iter_mut().find(|device| device.name == sum.device) {
                device.bytes = Some(sum.sum.bytes);
                device.precopy_bytes = Some(sum.precopy_bytes);
                device.crc64_nvme = Some(format!("{:016x}", sum.sum.crc64_nvme));
            }
        }
        self
    }

    pub(super) fn downtime(mut self, downtime: core::time::Duration) -> Self {
        self.downtime_ms = Some(downtime.as_secs_f64() * 1000.0);
        self
    }

    pub(super) fn counted(mut self, counters: &Counters) -> Self {
        let channel = |channel: &ChannelCounters| ChannelReport { frames: channel.frames, bytes: channel.bytes };
        self.channels = counters.channels.iter().map(channel).collect();
        let (peak, bound) = (counters.buffer_bytes_peak, counters.buffer_bytes_bound);
        self.buffer_bytes = Some(BufferReport { peak, bound });
        self
    }

    pub(super) fn failed(mut self, error: &MigrationError) -> Self {
        self.committed = error.committed;
        self.error = Some(error.cause.to_string());
        self.failed_in = Some(error.phase.name());
        for restored in &error.devices {
            if let Some(device) = self.devices.iter_mut().find(|device| device.name == restored.device) {
                device.restored = Some(restored.outcome.to_string());
            }
        }
        self
    }

    /// A failure before or beside the migration itself.
    pub(super) fn broken(mut self, error: String) -> Self {
        self.error = Some(error);
        self
    }

    /// Says which streams were looked at.
    pub(super) fn checked(mut self, checks: &Checks) -> Self {
        for device in &mut self.devices {
            device.checked_as = checks.checked_as.get(&device.name).copied();
        }
        self
    }

    /// Prints the report and gives the exit status.
    pub(super) fn print(&self, json: bool) -> ExitCode {
        if json {
            crate::cli::print_json(self);
        } else {
            self.print_for_a_person();
        }
        if self.moved && self.error.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn print_for_a_person(&self) {
        for device in &self.devices {
            out!("{} ({}): {}", device.name, device.identity, device.state);
            if let (Some(bytes), Some(precopy), Some(crc)) = (device.bytes, device.precopy_bytes, &device.crc64_nvme) {
                out!(", {bytes} bytes moved, {precopy} of them before the stop, CRC-64 {crc}");
            }
            if let Some(checked_as) = device.checked_as {
                out!(", stream checked as {checked_as}");
            }
            if let Some(restored) = &device.restored {
                out!(" ({restored})");
            }
            outln!("");
        }
        if let Some(downtime_ms) = self.downtime_ms {
            outln!("downtime {downtime_ms:.1} ms");
        }
        match (&self.error, self.failed_in) {
            (None, _) => outln!("{}: done", self.side),
            (Some(error), Some(phase)) => eprintln!("{}: failed in phase {phase}: {error}", self.side),
            (Some(error), None) => eprintln!("{}: {error}", self.side),
        }
        if self.committed && !self.moved {
            eprintln!(
                "{}: the devices had already been given up; do not run both sides. Ask the other side whether it runs.",
                self.side
            );
        }
    }
}
