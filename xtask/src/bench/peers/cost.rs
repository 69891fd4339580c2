// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The work that all do, and what it has cost.

use core::time::Duration;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use vfio_mig_fsm::State;

use crate::qemu::device_log::{DeviceLog, Way, What};
use crate::qemu::machine::SoftDevice;

/// Devices that have all their state in STOP_COPY, and what they move over.
pub(super) struct Work {
    pub(super) devices: usize,
    /// Connections; QEMU has one more for everything else.
    pub(super) channels: usize,
    /// Of all devices together.
    pub(super) state_bytes: u64,
    /// What is particular about the devices, as softvfio's configurations say it.
    pub(super) options: &'static str,
    /// The simulated driver.
    pub(super) library: PathBuf,
    pub(super) folder: PathBuf,
}

/// What a migration took.
pub(in crate::bench) struct Usage {
    pub(in crate::bench) processor: Duration,
    pub(in crate::bench) target_peak_bytes: u64,
}

impl Work {
    /// A place for the files of one run.
    pub(super) fn run_folder(&self) -> Result<TempDir, String> {
        tempfile::Builder::new()
            .prefix("savevm-bench-")
            .tempdir_in(&self.folder)
            .map_err(|error| format!("cannot make a folder in {}: {error}", self.folder.display()))
    }

    /// The devices of one side; seeds differ, so that a device that was not loaded shows.
    pub(super) fn soft_devices(&self, first_seed: usize) -> Vec<SoftDevice> {
        let count = u64::try_from(self.devices).unwrap_or(u64::MAX).max(1);
        let stop = self.state_bytes.checked_div(count).unwrap_or(self.state_bytes);
        let device = |index: usize| SoftDevice {
            name: format!("d{index}"),
            options: format!(
                "model=plain caps=3 initial=0 dirty=0 stop={stop} seed={} {}",
                first_seed.saturating_add(index),
                self.options
            ),
            is_mediated: false,
        };
        (0..self.devices).map(device).collect()
    }

    /// What one run cost, from what the devices saw; an error if the target did not get what the source gave.
    pub(super) fn cost(&self, source: &Path, target: &Path, usage: &Usage) -> Result<[f64; 3], String> {
        let read =
            |path: &Path| DeviceLog::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()));
        let (source, target) = (read(source)?, read(target)?);
        let mut moved_bytes = 0_u64;
        for index in 0..self.devices {
            let device = format!("d{index}");
            let saved = source.sessions(&device, Way::Save);
            let loaded = target.sessions(&device, Way::Load);
            if saved.is_empty() || saved != loaded {
                return Err(format!("{device} gave {saved:?}, and its target got {loaded:?}"));
            }
            let bytes = saved.iter().map(|session| session.bytes).fold(0, u64::saturating_add);
            moved_bytes = moved_bytes.saturating_add(bytes);
        }
        if moved_bytes < self.state_bytes {
            return Err(format!("{moved_bytes} bytes were moved instead of {}", self.state_bytes));
        }
        let begin = first_entry(&source, State::StopCopy).ok_or("no source entered STOP_COPY")?;
        let end = last_loaded(&target).ok_or("no target was loaded")?;
        let seconds = Duration::from_micros(end.saturating_sub(begin)).as_secs_f64().max(f64::MIN_POSITIVE);
        let bytes = float(moved_bytes);
        Ok([bytes / seconds, usage.processor.as_secs_f64() / (bytes / 1e9), float(usage.target_peak_bytes)])
    }
}

/// Exact up to 2⁵³, far beyond anything measured here.
pub(in crate::bench) fn float(number: u64) -> f64 {
    let low = u32::try_from(number & 0xffff_ffff).unwrap_or(u32::MAX);
    let high = u32::try_from(number >> 32).unwrap_or(u32::MAX);
    f64::from(high) * 4_294_967_296.0 + f64::from(low)
}

fn first_entry(log: &DeviceLog, state: State) -> Option<u64> {
    log.entries().iter().find(|entry| entry.what == What::Entered(state)).map(|entry| entry.at_us)
}

/// When the last load session ended.
fn last_loaded(log: &DeviceLog) -> Option<u64> {
    let ended = |entry: &&crate::qemu::device_log::Entry| matches!(entry.what, What::Ended(Way::Load, _));
    log.entries().iter().filter(ended).map(|entry| entry.at_us).max()
}

#[cfg(test)]
mod test {
    use super::*;

    fn work(state_bytes: u64) -> Work {
        Work {
            devices: 2,
            channels: 1,
            state_bytes,
            options: "",
            library: PathBuf::new(),
            folder: std::env::temp_dir(),
        }
    }

    fn cost(work: &Work, source: &str, target: &str) -> Result<[f64; 3], String> {
        let folder = work.run_folder().unwrap();
        let files = [("source", source), ("target", target)].map(|(name, text)| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        });
        let usage = Usage { processor: Duration::from_secs(3), target_peak_bytes: 7 };
        work.cost(&files[0], &files[1], &usage)
    }

    const SOURCE: &str = "10.000000 1 d0 step STOP -> STOP_COPY\n10.1 1 d1 step STOP -> STOP_COPY\n\
        11.000000 1 d0 session 1 save ends bytes=600000000 crc64=1\n11.0 1 d1 session 1 save ends bytes=400000000 crc64=2\n";
    const TARGET: &str = "12.000000 2 d1 session 1 load ends bytes=400000000 crc64=2\n\
        12.500000 2 d0 session 1 load ends bytes=600000000 crc64=1\n";

    /// From the first STOP_COPY to the last end of a load, over the bytes of all.
    #[test]
    fn the_logs_say_how_long_it_took() {
        let [speed, processor, memory] = cost(&work(1_000_000_000), SOURCE, TARGET).unwrap();
        assert_eq!((speed, processor, memory), (1e9 / 2.5, 3.0, 7.0));
    }

    #[test]
    fn what_did_not_arrive_does_not_count() {
        let damaged = TARGET.replace("crc64=1", "crc64=3");
        assert!(cost(&work(1), SOURCE, &damaged).unwrap_err().starts_with("d0 gave"));
        assert!(cost(&work(1), "", "").unwrap_err().starts_with("d0 gave"));
        assert!(cost(&work(2_000_000_000), SOURCE, TARGET).unwrap_err().contains("instead of 2000000000"));
    }

    #[test]
    fn numbers_are_exact() {
        assert_eq!(float(0x3_0000_0001), 12_884_901_889.0);
    }
}
