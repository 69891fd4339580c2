// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the two sides of a migration are told beforehand: QEMU negotiates nothing.

use serde_json::{Value, json};

use super::capture::Capture;
use super::machine::{Machine, MachineError};
use crate::vm::Series;

/// Bytes per second: with this the initial bytes of the slow devices take longer than any test.
const RATE_HELD_BACK: u64 = 1 << 20;

/// What comes back from the target.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum WayBack {
    /// Nothing.
    None,
    /// The return path.
    ReturnPath,
    /// The return path, with acknowledgements of initial bytes.
    SwitchoverAck,
}

/// When the source leaves pre-copy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Switchover {
    /// As soon as it may.
    Soon,
    /// As soon as all memory has moved once.
    AfterMemory,
    /// Not by itself.
    Never,
}

/// What two sides agree on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Terms {
    /// Multifd channels, which then also carry device state; 0: everything over the main connection.
    pub(crate) channels: u8,
    /// What comes back.
    pub(crate) way_back: WayBack,
    /// The QEMU's version, which decides what it acknowledges.
    pub(crate) series: Series,
}

impl Switchover {
    /// The source's parameters.
    pub(crate) fn parameters(self) -> Value {
        // With a bandwidth given QEMU does not compare what it measured. 10.0 also switches over whenever nothing is
        // pending for a moment: only a rate below what is there keeps it from that.
        let (downtime_limit_ms, switchover_rate, rate) = match self {
            Self::Soon => (60_000, 1_000_000_000, 1u64 << 40),
            // 8 MB may be left, which is more than a device has, and less than a guest.
            Self::AfterMemory => (8, 1_000_000_000, 1u64 << 40),
            Self::Never => (1, 1, RATE_HELD_BACK),
        };
        json!({
            "downtime-limit": downtime_limit_ms,
            "avail-switchover-bandwidth": switchover_rate,
            "max-bandwidth": rate,
        })
    }
}

impl Terms {
    /// Sets a QEMU up, source or target.
    pub(crate) fn set(self, machine: &mut Machine) -> Result<(), MachineError> {
        let mut capabilities = Vec::new();
        if self.way_back != WayBack::None {
            capabilities.push("return-path");
        }
        if self.way_back == WayBack::SwitchoverAck {
            capabilities.push("switchover-ack");
        }
        if self.channels > 0 {
            capabilities.push("multifd");
        }
        machine.enable(&capabilities)?;
        if self.channels > 0 {
            machine.execute("migrate-set-parameters", json!({ "multifd-channels": self.channels }))?;
        }
        Ok(())
    }

    /// The same for our side: its arguments.
    pub(crate) fn arguments(self) -> Vec<String> {
        let mut words = vec!["--channels".to_owned(), self.channels.to_string()];
        if self.channels > 0 {
            words.push("--multifd-state".into());
        }
        if self.way_back != WayBack::None {
            words.push("--return-path".into());
        }
        let acks = match (self.way_back, self.series) {
            (WayBack::SwitchoverAck, Series::V10_0) => "once",
            (WayBack::SwitchoverAck, Series::V11_1) => "per-request",
            _ => "off",
        };
        words.extend(["--acks".into(), acks.into()]);
        words
    }

    /// What was said must be what was agreed on.
    pub(crate) fn check(self, captured: &Capture) -> Result<(), String> {
        let differ = |what: &str, found: String, expected: String| {
            if found == expected { Ok(()) } else { Err(format!("{what}: expected {expected}, found {found}")) }
        };
        let channels: Vec<u8> = (0..self.channels).collect();
        differ("multifd channels", format!("{:?}", captured.channels), format!("{channels:?}"))?;
        let shut = if self.way_back == WayBack::None { None } else { Some(0) };
        differ("the target's last word", format!("{:?}", captured.shut), format!("{shut:?}"))?;
        let initial_sent = captured.devices.values().map(|device| device.initial_sent);
        let total = initial_sent.fold(0u32, u32::saturating_add);
        // vfio-section.md: one acknowledgement for all, also for none; from 11.1 on one for each.
        let acks = match (self.way_back, self.series) {
            (WayBack::SwitchoverAck, Series::V10_0) => 1,
            (WayBack::SwitchoverAck, Series::V11_1) => total,
            _ => 0,
        };
        differ("acknowledgements", captured.acks.to_string(), acks.to_string())
    }
}

/// Over what a migration goes, in words.
pub(crate) fn connections(channels: u8, way_back: WayBack) -> String {
    let forward = match channels {
        0 => "main connection".to_owned(),
        channels => format!("{channels} multifd channels"),
    };
    match way_back {
        WayBack::None => format!("{forward} one way"),
        WayBack::ReturnPath => forward,
        WayBack::SwitchoverAck => format!("{forward}, switchover-ack"),
    }
}
