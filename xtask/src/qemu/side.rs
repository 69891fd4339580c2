// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Running [`super::peer`] as a process on simulated devices.

use core::time::Duration;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::device_log::DeviceLog;
use super::machine::{SoftDevice, configuration, place, soft_address};
use super::peer::outcome::Outcome;
use crate::vm::{Guarded, tail};

const POLL: Duration = Duration::from_millis(5);

/// What to start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SideSpec<'a> {
    /// Tells the processes in one folder apart.
    pub(crate) name: &'a str,
    /// Existing folder for its files.
    pub(crate) folder: &'a Path,
    /// The preload library of the devices.
    pub(crate) library: &'a Path,
    /// Its devices.
    pub(crate) devices: &'a [SoftDevice],
    /// `source` or `target`.
    pub(crate) role: &'a str,
    /// More arguments.
    pub(crate) arguments: &'a [String],
}

/// A side that runs until this is dropped.
#[derive(Debug)]
pub(crate) struct Side {
    name: String,
    folder: PathBuf,
    child: Guarded,
}

impl Side {
    /// Starts it.
    pub(crate) fn start(spec: &SideSpec<'_>) -> io::Result<Self> {
        let file = |suffix: &str| spec.folder.join(format!("{}.{suffix}", spec.name));
        fs::create_dir_all(file("root"))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["qemu-peer", spec.role, "--with-parent"]);
        for (index, device) in spec.devices.iter().enumerate() {
            command.arg("--device").arg(format!("{}={}", place(index), soft_address(index, device)));
        }
        command.args(spec.arguments);
        command.env("LD_PRELOAD", spec.library).env("SOFTVFIO", configuration(spec.devices));
        command.env("SOFTVFIO_LOG", file("log")).env("SOFTVFIO_ROOT", file("root"));
        command.stdin(Stdio::null()).stdout(File::create(file("out"))?).stderr(File::create(file("err"))?);
        let child = Guarded::spawn(&mut command)?;
        Ok(Self { name: spec.name.to_owned(), folder: spec.folder.to_owned(), child })
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.child().try_wait(), Ok(None))
    }

    /// Tells it to cancel.
    pub(crate) fn cancel(&mut self) -> Result<(), String> {
        let pid = i32::try_from(self.child.child().id()).map_err(|_| "a process id beyond all".to_owned())?;
        kill(Pid::from_raw(pid), Signal::SIGTERM).map_err(|errno| format!("cannot signal {}: {errno}", self.name))
    }

    /// Waits for its end and gives its report.
    pub(crate) fn finish(&mut self, deadline: Instant) -> Result<Outcome, String> {
        while self.is_running() {
            if Instant::now() > deadline {
                return Err(format!("{} does not end; {}", self.name, self.said()));
            }
            thread::sleep(POLL);
        }
        let report = fs::read_to_string(self.file("out")).unwrap_or_default();
        serde_json::from_str(&report).map_err(|_| format!("{} ended without a report; {}", self.name, self.said()))
    }

    /// What its devices have seen so far.
    pub(crate) fn device_log(&self) -> io::Result<DeviceLog> {
        DeviceLog::read(&self.file("log"))
    }

    /// The end of its messages.
    pub(crate) fn said(&self) -> String {
        let said = tail(&fs::read_to_string(self.file("err")).unwrap_or_default(), 12);
        if said.is_empty() { "it said nothing".to_owned() } else { said }
    }

    fn file(&self, suffix: &str) -> PathBuf {
        self.folder.join(format!("{}.{suffix}", self.name))
    }
}
