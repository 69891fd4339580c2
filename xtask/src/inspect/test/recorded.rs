// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Real migrations of simulated devices, recorded on the way and explained.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread;

use savevm_core::load::{self, LoadOptions};
use savevm_core::save::{self, SaveOptions};
use savevm_core::sim::{SimConfig, SimPort};
use savevm_core::{Channel, DeviceSum};

use super::Run;

const SET: [&str; 2] = [
    "model=plain caps=7 initial=150KiB dirty=70KiB stop=200KiB seed=1",
    "model=plain caps=7 initial=10KiB dirty=10KiB stop=30KiB seed=2",
];

type Record = Arc<Mutex<Vec<u8>>>;

/// A half of a connection, and what passed through it.
struct Tee<T>(T, Record);

impl<T: Read> Read for Tee<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        self.1.lock().unwrap().extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}

impl<T: Write> Write for Tee<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.0.write(bytes)?;
        self.1.lock().unwrap().extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// What went over each channel, there and back, and what moved.
fn migrate(channels: usize, checksums: bool) -> (Vec<Vec<u8>>, Vec<DeviceSum>) {
    let open = |(index, config): (usize, &&str)| {
        let device = SimConfig::parse(config).unwrap().device().unwrap();
        SimPort::open(&device, format!("d{index}")).unwrap()
    };
    let mut ours: Vec<SimPort> = SET.iter().enumerate().map(open).collect();
    let mut theirs: Vec<SimPort> = SET.iter().enumerate().map(open).collect();
    let (mut here, mut there, mut records) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..channels {
        let (left, right) = UnixStream::pair().unwrap();
        let (forth, back) = (Record::default(), Record::default());
        let (reader, handle) = (left.try_clone().unwrap(), left.try_clone().unwrap());
        let channel = Channel::new(Tee(reader, Arc::clone(&back)), Tee(left, Arc::clone(&forth)));
        here.push(channel.with_shutdown(move |how| drop(handle.shutdown(how))));
        there.push(Channel::unix(right).unwrap());
        records.extend([forth, back]);
    }
    let (mut save, mut load) = (SaveOptions::default(), LoadOptions::default());
    save.nonce = [9; 16];
    save.limits.chunk_bytes_max = 10_000;
    (save.limits.payload_checksums, load.limits.payload_checksums) = (checksums, checksums);
    let devices = thread::scope(|scope| {
        let target = scope.spawn(|| load::load(&mut theirs, there, &mut (), &load)?.run());
        let committed = save::save(&mut ours, here, &mut (), &save).and_then(save::Ready::commit).unwrap();
        target.join().unwrap().unwrap();
        committed.devices
    });
    (records.iter().map(|record| record.lock().unwrap().clone()).collect(), devices)
}

/// The digest of a state as it is extracted.
fn extracted(files: &[&[u8]], device: &str) -> u64 {
    let (outcome, state) = Run::on(files).extract(device);
    assert!(outcome.is_good, "{outcome:?}");
    let mut digest = savevm_core::digest::Digest::new();
    digest.update(&state);
    digest.sum().crc64_nvme
}

#[test]
fn both_directions_of_one_channel_are_without_fault() {
    for checksums in [true, false] {
        let (files, sums) = migrate(1, checksums);
        let files: Vec<&[u8]> = files.iter().map(Vec::as_slice).collect();
        let good = Run::on(&files).check();
        assert!(good.is_good, "{good:?}");
        let tree = Run::on(&files).tree();
        for wanted in ["frame Credit", "room for", "the target runs the guest"] {
            assert!(tree.contains(wanted), "no {wanted:?} in\n{tree}");
        }
        for sum in &sums {
            assert_eq!(extracted(&files, &sum.device), sum.sum.crc64_nvme, "{}", sum.device);
        }
    }
}

#[test]
fn the_channels_of_a_migration_are_put_in_order() {
    let (files, sums) = migrate(3, true);
    let files: Vec<&[u8]> = files.iter().map(Vec::as_slice).collect();
    // In any order of the files.
    let shuffled: Vec<&[u8]> = files.iter().rev().copied().collect();
    for files in [&files, &shuffled] {
        let good = Run::on(files).check();
        assert!(good.is_good, "{good:?}");
        for sum in &sums {
            assert_eq!(extracted(files, &sum.device), sum.sum.crc64_nvme, "{}", sum.device);
        }
    }
    let json = Run::on(&files).json();
    let devices = &json["migrations"][0]["devices"];
    for (index, sum) in sums.iter().enumerate() {
        assert_eq!(devices[index]["device"], sum.device);
        assert_eq!(devices[index]["precopy_bytes"], sum.precopy_bytes, "{}", sum.device);
    }
    // Of d0, which keeps to it, there is nothing without the second channel.
    let without: Vec<&[u8]> = [&files[..2], &files[4..]].concat();
    let missing = Run::on(&without).check();
    assert!(!missing.is_good, "{missing:?}");
    for wanted in ["device d0 ends after", "give all channels"] {
        assert!(missing.text.contains(wanted), "no {wanted:?} in {}", missing.text);
    }
    let note = Run::on(&without).tree();
    assert!(note.contains("of the source's 3 channels these are not among the FILEs: 1"), "{note}");
    // Cut inside the last frame of a channel.
    let cut = &files[2][..files[2].len() - 40];
    let short = [&files[..2], &[cut], &files[3..]].concat();
    assert!(!Run::on(&short).check().is_good);
}
