// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What both ways of migrating have in common: a folder, a deadline, our side.

use core::time::Duration;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Instant, SystemTime};

use tempfile::TempDir;

use super::super::super::super::contract::check::{Checked, Failure, failed, must};
use super::super::rig::Peers;
use super::super::scenario::{Role, Scenario};
use crate::qemu::devices::Devices;
use crate::qemu::side::{Side, SideSpec};
use crate::qemu::terms::Terms;

const POLL: Duration = Duration::from_millis(5);

pub(super) struct Bench<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) peers: &'a Peers,
    pub(super) deadline: Instant,
    folder: TempDir,
}

impl<'a> Bench<'a> {
    pub(super) fn new(scenario: &'a Scenario, peers: &'a Peers, limit: Duration) -> Checked<Self> {
        let folder = must("a temporary folder", tempfile::Builder::new().prefix("savevm-qemu-").tempdir())?;
        let deadline = Instant::now().checked_add(limit).ok_or_else(|| failed("the limit is beyond all time"))?;
        Ok(Self { scenario, peers, deadline, folder })
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn terms(&self) -> Terms {
        self.scenario.terms(self.peers.series)
    }

    /// Microseconds since the epoch.
    pub(super) fn now_us(&self) -> u64 {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
    }

    /// Starts our side with the scenario's devices.
    pub(super) fn side(&self, name: &str, role: Role, arguments: &[String]) -> Checked<Side> {
        let devices = self.scenario.kind.devices(self.scenario.count, role);
        let spec = SideSpec {
            name,
            folder: self.folder(),
            devices: Devices::Soft { library: &self.peers.library, devices: &devices },
            role: if role == Role::Target { "target" } else { "source" },
            arguments,
        };
        must("start our side", Side::start(&spec))
    }

    /// Waits until a condition holds, at most until the deadline.
    pub(super) fn wait(&self, what: &str, mut condition: impl FnMut() -> Checked<bool>) -> Checked {
        while !condition()? {
            if Instant::now() > self.deadline {
                return Err(failed(format!("waited in vain until {what}")));
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Says with a failure where the files are.
    pub(super) fn conclude(mut self, result: Checked) -> Checked {
        match result {
            Err(Failure::Failed(reason)) => {
                self.folder.disable_cleanup(true);
                Err(failed(format!("{reason} (recordings and logs: {})", self.folder().display())))
            }
            other => other,
        }
    }
}
