// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Running [`super::peer`] as a process with devices of its own.

use core::time::Duration;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::thread;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::device_log::DeviceLog;
use super::devices::{Devices, place};
use super::machine::configuration;
use super::peer::outcome::Outcome;
use crate::soft::scratch;
use crate::vm::{Guarded, tail};

const POLL: Duration = Duration::from_millis(5);

/// What to start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SideSpec<'a> {
    /// Tells the processes in one folder apart.
    pub(crate) name: &'a str,
    /// Existing folder for its files.
    pub(crate) folder: &'a Path,
    /// Its devices.
    pub(crate) devices: Devices<'a>,
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
    /// Where it is told what to do next.
    next: Option<ChildStdin>,
    /// Its role and devices, which stay.
    fixed: Vec<String>,
    /// Attempts whose reports have been taken.
    finished: usize,
    /// The simulated paths.
    _root: TempDir,
}

impl Side {
    /// Starts it.
    pub(crate) fn start(spec: &SideSpec<'_>) -> io::Result<Self> {
        let file = |suffix: &str| spec.folder.join(format!("{}.{suffix}", spec.name));
        let root = scratch()?;
        let mut fixed = vec![spec.role.to_owned()];
        for (index, address) in spec.devices.addresses().into_iter().enumerate() {
            fixed.extend(["--device".to_owned(), format!("{}={address}", place(index))]);
        }
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("qemu-peer").args(&fixed).args(["--with-parent", "--again"]).args(spec.arguments);
        if let Devices::Soft { library, devices } = spec.devices {
            command.env("LD_PRELOAD", library).env("SOFTVFIO", configuration(devices));
            command.env("SOFTVFIO_LOG", file("log")).env("SOFTVFIO_ROOT", root.path());
        }
        command.stdin(Stdio::piped()).stdout(File::create(file("out"))?).stderr(File::create(file("err"))?);
        let mut child = Guarded::spawn(&mut command)?;
        let next = child.child().stdin.take();
        Ok(Self {
            name: spec.name.to_owned(),
            folder: spec.folder.to_owned(),
            child,
            next,
            fixed,
            finished: 0,
            _root: root,
        })
    }

    /// Begins another attempt with the same devices, and these arguments instead of the former ones.
    pub(crate) fn again(&mut self, arguments: &[String]) -> io::Result<()> {
        let words: Vec<&String> = self.fixed.iter().chain(arguments).collect();
        let mut line = serde_json::to_string(&words)?;
        line.push('\n');
        match &mut self.next {
            Some(next) => next.write_all(line.as_bytes()),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Whether the attempt goes on.
    pub(crate) fn is_busy(&mut self) -> bool {
        self.is_running() && self.report().is_none()
    }

    fn is_running(&mut self) -> bool {
        matches!(self.child.child().try_wait(), Ok(None))
    }

    /// Tells it to cancel.
    pub(crate) fn cancel(&mut self) -> Result<(), String> {
        let pid = i32::try_from(self.child.child().id()).map_err(|_| "a process id beyond all".to_owned())?;
        kill(Pid::from_raw(pid), Signal::SIGTERM).map_err(|errno| format!("cannot signal {}: {errno}", self.name))
    }

    /// Waits for the end of the attempt and gives its report.
    pub(crate) fn finish(&mut self, deadline: Instant) -> Result<Outcome, String> {
        loop {
            // Asked first: what it has written by then is there.
            let is_running = self.is_running();
            if let Some(report) = self.report() {
                self.finished = self.finished.saturating_add(1);
                return serde_json::from_str(&report).map_err(|error| format!("{}: no report: {error}", self.name));
            }
            if !is_running {
                return Err(format!("{} ended without a report; {}", self.name, self.said()));
            }
            if Instant::now() > deadline {
                return Err(format!("{} does not end; {}", self.name, self.said()));
            }
            thread::sleep(POLL);
        }
    }

    /// The line that the attempt has written, once it is whole.
    fn report(&self) -> Option<String> {
        let reports = fs::read_to_string(self.file("out")).unwrap_or_default();
        let line = reports.split_inclusive('\n').nth(self.finished)?;
        line.ends_with('\n').then(|| line.to_owned())
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
