// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a guest is asked to do, and what came of it.

use std::path::PathBuf;

use core::time::Duration;

use crate::vm::error::VmError;

/// More ports than the driver has in all are refused by it (`mtty.c`, 24 ports).
const PORTS: usize = 24;

/// A type of mediated device that mtty offers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum MdevType {
    /// `mtty-1`.
    OnePort,
    /// `mtty-2`.
    TwoPorts,
}

/// A mediated device that exists before the job begins.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Mdev {
    /// Its name, by which the job's program finds it.
    pub(crate) uuid: String,
    /// Its type.
    pub(crate) kind: MdevType,
}

/// One run of a program in a fresh guest.
#[derive(Clone, Debug)]
pub(crate) struct GuestJob {
    /// A statically linked program.
    pub(crate) binary: PathBuf,
    /// Its arguments.
    pub(crate) args: Vec<String>,
    /// Its environment besides PATH, HOME and the wish for no colours: its standard output is a terminal, which keeps
    /// any program's output line by line.
    pub(crate) env: Vec<(String, String)>,
    /// More files: absolute path in the guest, file on the host. Folders are made for them; all become executable.
    pub(crate) files: Vec<(String, PathBuf)>,
    /// Devices.
    pub(crate) mdevs: Vec<Mdev>,
    /// The guest's memory.
    pub(crate) memory_mib: u32,
    /// The guest's CPUs.
    pub(crate) cpus: u32,
    /// Wall clock until the guest is killed, boot included.
    pub(crate) timeout: Duration,
    /// Where the guest's console is written, with the program's standard error. Overwritten.
    pub(crate) console_log: PathBuf,
}

/// What came of a job whose program ran to its end.
#[derive(Clone, Debug)]
pub(crate) struct GuestExit {
    /// The program's exit status; 128 + n if signal n killed it (the shell's convention).
    pub(crate) status: i32,
    /// The console.
    pub(crate) console_log: PathBuf,
    /// What the kernel complained about (`WARNING:`, `BUG:` and the like) although it went on, one line each.
    pub(crate) kernel_complaints: Vec<String>,
    /// From starting the emulator to its end.
    pub(crate) seconds: f64,
}

impl MdevType {
    /// The type's name in sysfs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::OnePort => "mtty-1",
            Self::TwoPorts => "mtty-2",
        }
    }

    fn ports(self) -> usize {
        match self {
            Self::OnePort => 1,
            Self::TwoPorts => 2,
        }
    }
}

impl Mdev {
    /// A device with a UUID made of its number, the same in every run.
    pub(crate) fn numbered(kind: MdevType, number: u16) -> Self {
        Self { uuid: format!("5afe0000-0000-4000-8000-00000000{number:04x}"), kind }
    }
}

impl GuestJob {
    /// A job with no arguments and no devices, 512 MiB and two CPUs.
    pub(crate) fn new(binary: PathBuf, console_log: PathBuf, timeout: Duration) -> Self {
        Self {
            binary,
            args: Vec::new(),
            env: Vec::new(),
            files: Vec::new(),
            mdevs: Vec::new(),
            memory_mib: 512,
            cpus: 2,
            timeout,
            console_log,
        }
    }

    /// Refuses what the guest could not be given.
    pub(crate) fn check(&self) -> Result<(), VmError> {
        let refuse = |reason: String| Err(VmError::Job { reason });
        let ports = self.mdevs.iter().fold(0usize, |sum, mdev| sum.saturating_add(mdev.kind.ports()));
        if ports > PORTS {
            return refuse(format!("its mdevs have {ports} ports together, the driver has {PORTS}"));
        }
        let is_uuid = |text: &str| text.len() == 36 && text.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
        if let Some(mdev) = self.mdevs.iter().find(|mdev| !is_uuid(&mdev.uuid)) {
            return refuse(format!("{:?} is no UUID", mdev.uuid));
        }
        let is_name = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if let Some((name, _)) = self.env.iter().find(|(name, _)| !is_name(name)) {
            return refuse(format!("{name:?} is no name of an environment variable"));
        }
        if self.memory_mib < 128 || self.cpus == 0 {
            return refuse("a guest needs at least 128 MiB and one CPU".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn job(change: impl FnOnce(&mut GuestJob)) -> Result<(), VmError> {
        let mut job = GuestJob::new("/p".into(), "/c".into(), Duration::from_secs(1));
        job.mdevs = vec![Mdev::numbered(MdevType::OnePort, 7), Mdev::numbered(MdevType::TwoPorts, 0xab)];
        change(&mut job);
        job.check()
    }

    #[test]
    fn numbered_devices_have_distinct_well_formed_names() {
        let uuid = Mdev::numbered(MdevType::OnePort, 0xab).uuid;
        assert_eq!(uuid, "5afe0000-0000-4000-8000-0000000000ab");
        assert_eq!(uuid.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
    }

    #[test]
    fn impossible_jobs_are_refused_before_a_machine_starts() {
        job(|_| ()).unwrap();
        job(|job| job.mdevs = (0..12).map(|n| Mdev::numbered(MdevType::TwoPorts, n)).collect()).unwrap();
        job(|job| job.mdevs = (0..13).map(|n| Mdev::numbered(MdevType::TwoPorts, n)).collect()).unwrap_err();
        job(|job| job.mdevs[0].uuid = "x; reboot".into()).unwrap_err();
        job(|job| job.env.push(("A B".into(), String::new()))).unwrap_err();
        job(|job| job.memory_mib = 16).unwrap_err();
        job(|job| job.cpus = 0).unwrap_err();
    }
}
