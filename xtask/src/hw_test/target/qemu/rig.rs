// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Two QEMUs and the relay between them.

use core::time::Duration;
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use serde_json::json;
use tempfile::TempDir;

use super::super::super::contract::check::{Checked, failed, must};
use super::super::super::event::Phase;
use super::scenario::{Role, Scenario};
use super::shelf::Shelf;
use crate::qemu::device_log::{DeviceLog, What};
use crate::qemu::devices::Devices;
use crate::qemu::machine::{Machine, Spec};
use crate::qemu::proxy::{Orders, Proxy, Recording};
pub(super) use crate::qemu::terms::Switchover;
use crate::vm::{Qemu, Series};

const POLL: Duration = Duration::from_millis(5);

/// What both sides run.
pub(super) struct Peers {
    pub(super) qemu: Qemu,
    pub(super) series: Series,
    /// The preload library of the devices.
    pub(super) library: PathBuf,
    /// What a QEMU has written, once for all tests.
    pub(super) shelf: Shelf,
}

/// What is worth reporting of a test.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) details: Vec<String>,
    pub(super) phases: Vec<Phase>,
}

/// The source and the target of a scenario.
pub(super) struct Rig {
    pub(super) source: Machine,
    pub(super) target: Machine,
    proxy: Option<Proxy>,
    /// Numbers the targets.
    targets: u32,
    deadline: Instant,
    series: Series,
    folder: TempDir,
}

impl Rig {
    /// Starts both, and prepares them for the scenario.
    pub(super) fn start(scenario: &Scenario, peers: &Peers, limit: Duration) -> Checked<Self> {
        let folder = must("a temporary folder", tempfile::Builder::new().prefix("savevm-qemu-").tempdir())?;
        let deadline = Instant::now().checked_add(limit).ok_or_else(|| failed("the limit is beyond all time"))?;
        let devices = scenario.kind.devices(scenario.count, Role::Source);
        let devices = Devices::Soft { library: &peers.library, devices: &devices };
        let spec = Spec { name: "source", folder: folder.path(), devices, is_target: false };
        let mut source = must("start", Machine::start(&peers.qemu, &spec))?;
        let (major, minor) = peers.series.wanted();
        let version = source.version();
        if !version.starts_with(&format!("{major}.{minor}.")) {
            return Err(failed(format!("QEMU {major}.{minor} says that it is {version}")));
        }
        must("set up the source", scenario.terms(peers.series).set(&mut source))?;
        let target = start_target(scenario, peers, &folder, 0)?;
        Ok(Self { source, target, proxy: None, targets: 1, deadline, series: peers.series, folder })
    }

    /// Replaces the target, whatever became of it, by a new one.
    pub(super) fn replace_target(&mut self, scenario: &Scenario, peers: &Peers) -> Checked {
        self.target = start_target(scenario, peers, &self.folder, self.targets)?;
        self.targets = self.targets.saturating_add(1);
        Ok(())
    }

    /// Begins a migration through a new relay. A target that does not listen hangs up on whoever comes.
    pub(super) fn migrate(&mut self, switchover: Switchover, target_listens: bool, orders: Orders) -> Checked {
        let number = self.targets;
        let at = |name: &str| self.folder.path().join(format!("{name}-{number}"));
        let (relay, listening, recordings) = (at("relay"), at("listening"), at("recordings"));
        must("create a folder", std::fs::create_dir(&recordings))?;
        if target_listens {
            let arguments = json!({ "uri": format!("unix:{}", listening.display()), "exit-on-error": false });
            must("listen", self.target.execute("migrate-incoming", arguments))?;
        }
        self.proxy = Some(must("start the relay", Proxy::start(orders, &relay, &listening, &recordings))?);
        must("set parameters", self.source.execute("migrate-set-parameters", switchover.parameters()))?;
        must("begin", self.source.migrate(&format!("unix:{}", relay.display())))
    }

    /// Of both QEMUs.
    pub(super) fn series(&self) -> Series {
        self.series
    }

    /// The relay of the migration begun last.
    pub(super) fn proxy(&self) -> Checked<&Proxy> {
        self.proxy.as_ref().ok_or_else(|| failed("nothing was begun"))
    }

    /// What was said, once both sides have closed all connections.
    pub(super) fn recordings(&mut self) -> Checked<Vec<Recording>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let proxy = self.proxy.take().ok_or_else(|| failed("nothing was begun"))?;
        must("the relay", proxy.finish(left))
    }

    /// Waits until `condition` holds, at most until the test's limit.
    pub(super) fn wait(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> Checked<bool>) -> Checked {
        while !condition(self)? {
            if Instant::now() > self.deadline {
                let source = self.source.migration().map_or_else(|error| error.to_string(), |it| format!("{it:?}"));
                let target = self.target.migration().map_or_else(|error| error.to_string(), |it| format!("{it:?}"));
                return Err(failed(format!(
                    "waited in vain until {what}; source: {source}, {}; target: {target}, {}",
                    self.source.said(),
                    self.target.said()
                )));
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// The devices' side of the story: source, target.
    pub(super) fn logs(&self) -> Checked<(DeviceLog, DeviceLog)> {
        Ok((must("source", self.source.device_log())?, must("target", self.target.device_log())?))
    }

    /// Leaves the files for whoever looks into a failure, and says where.
    pub(super) fn keep(mut self) -> String {
        // The machines write into the folder until they end.
        self.proxy = None;
        self.folder.disable_cleanup(true);
        self.folder.path().display().to_string()
    }
}

fn start_target(scenario: &Scenario, peers: &Peers, folder: &TempDir, number: u32) -> Checked<Machine> {
    let devices = scenario.kind.devices(scenario.count, Role::Target);
    let name = if number == 0 { "target".to_owned() } else { format!("target-{number}") };
    let devices = Devices::Soft { library: &peers.library, devices: &devices };
    let spec = Spec { name: &name, folder: folder.path(), devices, is_target: true };
    let mut target = must("start", Machine::start(&peers.qemu, &spec))?;
    must("set up the target", scenario.terms(peers.series).set(&mut target))?;
    Ok(target)
}

/// The states of all devices over time, from the first thing the source did after `begin_us`.
pub(super) fn phases(name: &str, source: &DeviceLog, target: &DeviceLog, begin_us: u64) -> Vec<Phase> {
    let entries = |log: &DeviceLog, role: &'static str| {
        let entries = log.entries().to_vec();
        entries.into_iter().filter(move |entry| entry.at_us >= begin_us).map(move |entry| (role, entry))
    };
    let mut all: Vec<_> = entries(source, "source").chain(entries(target, "target")).collect();
    all.sort_by_key(|(_, entry)| entry.at_us);
    let mut phases: Vec<Phase> = Vec::new();
    let mut bytes = std::collections::BTreeMap::new();
    for (role, entry) in all {
        let device = format!("{} {role}", entry.device);
        let phase = match entry.what {
            What::Entered(state) => state.name(),
            What::Reset => "RUNNING",
            What::Ended(_, session) => {
                bytes.insert(device, session.bytes);
                continue;
            }
            What::Other => continue,
        };
        let at_us = u32::try_from(entry.at_us.saturating_sub(begin_us)).unwrap_or(u32::MAX);
        let moved = bytes.get(&device).copied().unwrap_or(0);
        let (migration, phase, at_ms) = (name.to_owned(), phase.to_owned(), f64::from(at_us) / 1e3);
        phases.push(Phase { migration, device, phase, at_ms, bytes: moved });
    }
    phases
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn both_sides_are_drawn_on_one_clock() {
        let source = DeviceLog::parse(
            "9.0 1 d0 reset\n10.000000 1 d0 step RUNNING -> PRE_COPY\n10.004000 1 d0 session 1 save ends bytes=5 crc64=1\n\
             10.005000 1 d0 step STOP_COPY -> STOP\n",
        );
        let target = DeviceLog::parse("10.001500 2 d0 step STOP -> RESUMING\n");
        let phases = phases("x", &source, &target, 10_000_000);
        let drawn: Vec<_> =
            phases.iter().map(|it| (it.device.as_str(), it.phase.as_str(), it.at_ms, it.bytes)).collect();
        assert_eq!(
            drawn,
            [("d0 source", "PRE_COPY", 0.0, 0), ("d0 target", "RESUMING", 1.5, 0), ("d0 source", "STOP", 5.0, 5)]
        );
    }
}
