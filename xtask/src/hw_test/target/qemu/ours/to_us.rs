// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A stock QEMU is the source, and we are the target.

use core::time::Duration;
use std::path::PathBuf;
use std::thread;
use std::time::{Instant, SystemTime};

use serde_json::json;
use tempfile::TempDir;
use vfio_mig_fsm::State;

use super::super::super::super::contract::check::{Checked, Failure, ensure, expect, failed, must};
use super::super::check::{all_in, check_connections, check_device, check_sessions, over};
use super::super::rig::{Notes, Peers, Switchover, phases, prepare};
use super::super::scenario::{Role, Scenario};
use super::{Row, arguments};
use crate::qemu::capture;
use crate::qemu::device_log::Way;
use crate::qemu::machine::{Machine, Spec, idstr};
use crate::qemu::peer::outcome::Outcome;
use crate::qemu::proxy::Proxy;
use crate::qemu::side::{Side, SideSpec};

const POLL: Duration = Duration::from_millis(5);

/// A QEMU as source, the relay, and us.
struct Rig<'a> {
    scenario: &'a Scenario,
    peers: &'a Peers,
    source: Machine,
    deadline: Instant,
    folder: TempDir,
}

/// Runs it.
pub(super) fn run(row: &Row, peers: &Peers, limit: Duration, notes: &mut Notes) -> Checked {
    let mut rig = Rig::start(&row.scenario, peers, limit)?;
    match rig.whole(notes) {
        Err(Failure::Failed(reason)) => {
            let kept = rig.keep();
            Err(failed(format!("{reason} (recordings and logs: {kept})")))
        }
        other => other,
    }
}

impl<'a> Rig<'a> {
    fn start(scenario: &'a Scenario, peers: &'a Peers, limit: Duration) -> Checked<Self> {
        let folder = must("a temporary folder", tempfile::Builder::new().prefix("savevm-qemu-").tempdir())?;
        let deadline = Instant::now().checked_add(limit).ok_or_else(|| failed("the limit is beyond all time"))?;
        let devices = scenario.kind.devices(scenario.count, Role::Source);
        let (folder_path, library) = (folder.path(), peers.library.as_path());
        let spec = Spec { name: "source", folder: folder_path, library, devices: &devices, is_target: false };
        let mut source = must("start", Machine::start(&peers.qemu, &spec))?;
        prepare(&mut source, scenario)?;
        Ok(Self { scenario, peers, source, deadline, folder })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts our side, which listens.
    fn target(&self, more: &[&str]) -> Checked<Side> {
        let devices = self.scenario.kind.devices(self.scenario.count, Role::Target);
        let mut words = arguments(self.scenario, self.peers.series);
        words.extend(["--socket".into(), self.at("listening").display().to_string()]);
        words.extend(more.iter().map(|word| (*word).to_owned()));
        let spec = SideSpec {
            name: "target",
            folder: self.folder.path(),
            library: &self.peers.library,
            devices: &devices,
            role: "target",
            arguments: &words,
        };
        let mut target = must("start our side", Side::start(&spec))?;
        while !target.said().contains("listening") {
            ensure(target.is_running(), || format!("our side ended at once: {}", target.said()))?;
            ensure(Instant::now() < self.deadline, || format!("our side does not listen: {}", target.said()))?;
            thread::sleep(POLL);
        }
        Ok(target)
    }

    /// Begins a migration into our side through a relay.
    fn migrate(&mut self, switchover: Switchover) -> Checked<Proxy> {
        let (relay, recordings) = (self.at("relay"), self.at("recordings"));
        must("create a folder", std::fs::create_dir(&recordings))?;
        let proxy = must("start the relay", Proxy::start(&relay, &self.at("listening"), &recordings))?;
        must("set parameters", self.source.execute("migrate-set-parameters", switchover.parameters()))?;
        let arguments = json!({ "uri": format!("unix:{}", relay.display()) });
        must("begin", self.source.execute("migrate", arguments))?;
        Ok(proxy)
    }

    fn wait(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> Checked<bool>) -> Checked {
        while !condition(self)? {
            if Instant::now() > self.deadline {
                let source = self.source.migration().map_or_else(|error| error.to_string(), |it| format!("{it:?}"));
                let said = self.source.said();
                return Err(failed(format!("waited in vain until {what}; source: {source}, {said}")));
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    fn whole(&mut self, notes: &mut Notes) -> Checked {
        let mut target = self.target(&[])?;
        let begin = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let proxy = self.migrate(Switchover::Soon)?;
        let outcome = must("our side", target.finish(self.deadline))?;
        ensure(outcome.moved, || format!("our side: {}", outcome.error.clone().unwrap_or_default()))?;
        self.wait("the source is done", |rig| over(rig.source.migration()))?;
        let migration = must("source", self.source.migration())?;
        ensure(migration.status == "completed", || format!("the source ended with {migration:?}"))?;
        self.wait("the source's devices are stopped", |rig| {
            all_in(&must("source", rig.source.device_log())?, rig.scenario, State::Stop)
        })?;
        let (source, ours) = (must("source", self.source.device_log())?, must("our side", target.device_log())?);
        ensure(all_in(&ours, self.scenario, State::Running)?, || format!("our devices do not run: {outcome:?}"))?;
        let begin_us = u64::try_from(begin.as_micros()).unwrap_or(u64::MAX);
        notes.phases.extend(phases(&format!("QEMU to us: {}", self.scenario.name), &source, &ours, begin_us));

        let left = self.deadline.saturating_duration_since(Instant::now());
        let recordings = must("the relay", proxy.finish(left))?;
        let captured = must("reading the recording", capture::read(&recordings))?;
        for (index, report) in outcome.devices.iter().enumerate() {
            let device = format!("d{index}");
            let sent = check_sessions(&device, (&source, &ours), 0)?;
            let found = captured.devices.get(&idstr(index));
            let found = found.ok_or_else(|| failed(format!("the stream has no section {}", idstr(index))))?;
            must(&device, check_device(self.scenario, found, sent))?;
            expect(&format!("what our side says of {device}"), (report.bytes, report.crc64_nvme), (sent.bytes, sent.digest))?;
            notes.details.push(format!("{device}: {} bytes, CRC-64 {:016x}", sent.bytes, sent.digest));
        }
        expect("devices", outcome.devices.len(), self.scenario.count)?;
        check_connections(self.scenario, self.peers.series, &captured)?;
        expect("acknowledgements our side counts", outcome.acks, captured.acks)?;
        self.check_memory(&outcome)?;
        notes.details.push(format!(
            "{} acknowledgements; held {} bytes of packets that overtook others; {} MiB at most in our process; the guest \
             stood still for {} ms",
            outcome.acks,
            outcome.reorder_peak_bytes,
            outcome.memory_peak_bytes >> 20,
            migration.downtime_ms.unwrap_or_default()
        ));
        drop(ours.sessions("d0", Way::Load));
        Ok(())
    }

    /// RAM came: the firmware is where it was, as its file has it.
    fn check_memory(&self, outcome: &Outcome) -> Checked {
        let bios = outcome.ram.iter().find(|block| block.block == "pc.bios");
        let bios = bios.ok_or_else(|| failed(format!("no firmware in the RAM that came: {:?}", outcome.ram)))?;
        let image = self.peers.qemu.firmware.iter().map(|folder| folder.join("bios-256k.bin")).find(|path| path.is_file());
        let image = image.ok_or_else(|| failed("there is no bios-256k.bin with this QEMU"))?;
        let image = must("read the firmware", std::fs::read(image))?;
        let digest = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &image);
        expect("the firmware in the RAM that came", bios.crc64_nvme, digest)
    }

    /// Leaves the files for whoever looks into a failure, and says where.
    fn keep(mut self) -> String {
        self.folder.disable_cleanup(true);
        self.folder.path().display().to_string()
    }
}
