// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a suite process tells its parent: one JSON object per line.
//!
//! The suite runs where the devices are (under a preload library, in a VM guest, on hardware) and may die with them.
//! So it says what it is about to do before it does it, and the parent can name the test in which the silence began.

use core::fmt;

use serde::{Deserialize, Serialize};

/// Raised when an event changes its meaning; parent and suite are normally the same executable.
pub(crate) const PROTOCOL: u32 = 1;

/// The area a test belongs to, in the order in which the groups run.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Group {
    /// `VFIO_DEVICE_FEATURE`: probing, flag and size rules.
    Features,
    /// Every (from, to) request of the device's capability set.
    Arcs,
    /// Requests the kernel must refuse, and its errnos.
    Illegal,
    /// Lifetime, direction and position of the data fd.
    DataFd,
    /// `VFIO_MIG_GET_PRECOPY_INFO` and reading in the PRE_COPY states.
    Precopy,
    /// Any segmentation moves the same bytes.
    Segments,
    /// Close, reset and cancel in every state.
    Recovery,
    /// Truncated and damaged streams.
    Damage,
    /// No free file descriptor during SET.
    Exhaustion,
    /// Save on one device, load on another.
    Transfer,
    /// DMA logging features.
    DmaLogging,
    /// Dirty pages that an IOMMU keeps.
    DirtyTracking,
    /// What devices write to memory by themselves.
    Dma,
    /// What the libraries make of the device.
    Library,
    /// Whole migrations by two processes, with kills and cuts.
    Migrate,
    /// Streams that are looked at as they pass.
    CheckStream,
    /// The same tests on the simulator, held against the kernel.
    Simulator,
    /// Whole migrations from one QEMU to another, and between a QEMU and us.
    Qemu,
    /// The suite process itself: crashes and lost events are booked here.
    Suite,
}

impl Group {
    /// Every group a test can be in, in the order they run.
    pub(crate) const ALL: [Self; 19] = [
        Self::Features,
        Self::Arcs,
        Self::Illegal,
        Self::DataFd,
        Self::Precopy,
        Self::Segments,
        Self::Recovery,
        Self::Damage,
        Self::Exhaustion,
        Self::Transfer,
        Self::DmaLogging,
        Self::DirtyTracking,
        Self::Dma,
        Self::Library,
        Self::Migrate,
        Self::CheckStream,
        Self::Simulator,
        Self::Qemu,
        Self::Suite,
    ];

    /// The name used in events and in reports.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Features => "features",
            Self::Arcs => "arcs",
            Self::Illegal => "illegal",
            Self::DataFd => "data-fd",
            Self::Precopy => "precopy",
            Self::Segments => "segments",
            Self::Recovery => "recovery",
            Self::Damage => "damage",
            Self::Exhaustion => "exhaustion",
            Self::Transfer => "transfer",
            Self::DmaLogging => "dma-logging",
            Self::DirtyTracking => "dirty-tracking",
            Self::Dma => "dma",
            Self::Library => "library",
            Self::Migrate => "migrate",
            Self::CheckStream => "check-stream",
            Self::Simulator => "simulator",
            Self::Qemu => "qemu",
            Self::Suite => "suite",
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How a test ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// Every check held.
    Passed,
    /// A check did not hold, or the suite ended inside the test.
    Failed,
    /// The test did not apply or could not run; the reason says why.
    Skipped,
}

/// One device under test.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct DeviceFacts {
    /// PCI address or mdev UUID, as given.
    pub name: String,
    /// Bound driver, from sysfs.
    pub driver: String,
    /// `group` or `cdev`.
    pub access: String,
    /// PCI vendor and device id from config space, `vvvv:dddd`.
    pub pci_id: String,
    /// The MIGRATION feature's flags as the device gave them.
    pub flags: u64,
    /// The flags in words: `STOP_COPY|P2P`.
    pub capabilities: String,
    /// The driver rules the expectations follow.
    pub profile: String,
    /// MIG_DATA_SIZE at the start, in bytes.
    pub stop_copy_bytes: Option<u64>,
}

/// Where the suite runs and on what.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Facts {
    /// `uname -r`.
    pub kernel: String,
    /// `uname -m`.
    pub machine: String,
    /// True when the simulator answers instead of a kernel driver.
    pub simulated: bool,
    /// The devices, in the order given.
    pub devices: Vec<DeviceFacts>,
}

/// A test the suite intends to run.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub(crate) struct TestId {
    /// The area.
    pub group: Group,
    /// Unique within the group.
    pub name: String,
}

/// A test as a report shows it and `--filter` looks at it: in which run, in which area, which one.
pub(crate) fn row(label: &str, group: Group, name: &str) -> String {
    format!("{label} · {group}: {name}")
}

impl TestId {
    /// Its row in the run of this label.
    pub(crate) fn row(&self, label: &str) -> String {
        row(label, self.group, &self.name)
    }
}

impl fmt::Display for TestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.group, self.name)
    }
}

/// One point of a migration's timeline.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Phase {
    /// Which migration of the test, when it makes several; shown as the chart's title.
    pub migration: String,
    /// The device, with its role when both sides are shown (`mtty-0 source`).
    pub device: String,
    /// What began: a device state (`PRE_COPY`) or a step of the protocol (`commit`).
    pub phase: String,
    /// Milliseconds since the migration began.
    pub at_ms: f64,
    /// Bytes moved for this device so far.
    pub bytes: u64,
}

/// A line of the event stream.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Event {
    /// First line: what will run and where.
    SuiteStarted {
        /// [`PROTOCOL`] of the writer.
        protocol: u32,
        /// The place and the devices.
        facts: Facts,
        /// Everything that will be started, in order.
        planned: Vec<TestId>,
    },
    /// Written before the test touches a device.
    TestStarted {
        /// The area.
        group: Group,
        /// The name within it.
        name: String,
    },
    /// A point on a timeline, inside a test.
    Phase(Phase),
    /// The end of the test started last.
    TestFinished {
        /// The area.
        group: Group,
        /// The name within it.
        name: String,
        /// How it ended.
        outcome: Outcome,
        /// Why it failed or was skipped.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Observations worth reporting even when it passed.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        details: Vec<String>,
        /// Wall time in milliseconds.
        duration_ms: f64,
    },
    /// Last line, with the suite's own count: lost lines show as a difference.
    SuiteFinished {
        /// Tests that passed.
        passed: usize,
        /// Tests that failed.
        failed: usize,
        /// Tests that were skipped.
        skipped: usize,
    },
}

impl Event {
    /// One line, without its newline. `None` only if the value cannot be represented, which no value here is.
    pub(crate) fn to_line(&self) -> Option<String> {
        serde_json::to_string(self).ok()
    }

    /// The event on `line`, or `None` if the line is something else (a kernel message, a panic).
    pub(crate) fn from_line(line: &str) -> Option<Self> {
        let start = line.find("{\"event\":")?;
        serde_json::from_str(line.get(start..)?.trim_end()).ok()
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn an_event_survives_its_line() {
        let event = Event::TestFinished {
            group: Group::DataFd,
            name: "one \"quoted\"\nname".into(),
            outcome: Outcome::Failed,
            reason: Some("errno 22".into()),
            details: vec![],
            duration_ms: 1.5,
        };
        let line = event.to_line().unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(Event::from_line(&line), Some(event));
    }

    #[test]
    fn an_event_is_found_behind_console_noise_and_noise_is_not_an_event() {
        let event = Event::SuiteFinished { passed: 1, failed: 0, skipped: 2 };
        let line = format!("[    3.1] {}\r", event.to_line().unwrap());
        assert_eq!(Event::from_line(&line), Some(event));
        assert_eq!(Event::from_line("[    3.2] vfio: something"), None);
        assert_eq!(Event::from_line("{\"event\":\"unheard-of\"}"), None);
        assert_eq!(Event::from_line("{\"event\":\"suite-fini"), None);
    }

    #[test]
    fn the_name_of_a_group_is_its_name_on_the_wire() {
        for group in Group::ALL {
            assert_eq!(serde_json::to_string(&group).unwrap(), format!("\"{group}\""));
        }
    }
}
