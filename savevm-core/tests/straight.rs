// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest memory that goes from the socket straight to its file, because both sides do without checksums and a digest of it.

#![cfg(target_os = "linux")]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod common;
#[path = "common/guest.rs"]
#[allow(dead_code, reason = "each test file uses a part of it")]
mod guest;

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::thread;

use common::{Ends, channels, devices, load_options, ports, save_options, tcp_channels};
use guest::{Guest, PAGE, Random, contents, memory, region};
use savevm_core::dirty::{Region, RegionTable, Tracking};
use savevm_core::load::{self, LoadOptions, Running};
use savevm_core::ram::{FileMemory, GuestMemory, MemoryError, Source};
use savevm_core::save::{self, Committed, SaveOptions};
use savevm_core::sim::SimPort;
use savevm_core::{Cause, Hooks, MigrationError};

/// Memory that counts what is written to it, and hands out the files it is told to.
struct Counted {
    memory: FileMemory,
    files: Option<Vec<File>>,
    written_bytes: AtomicU64,
}

impl Counted {
    fn new(regions: &[Region]) -> Self {
        Self { memory: memory(regions), files: None, written_bytes: AtomicU64::new(0) }
    }

    /// With the same files, opened in another way.
    fn opened(regions: &[Region], options: &OpenOptions) -> Self {
        let mut counted = Self::new(regions);
        let open = |region| {
            let file = counted.memory.file(region).unwrap();
            options.open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap()
        };
        counted.files = Some((0..regions.len()).map(open).collect());
        counted
    }

    fn written_bytes(&self) -> u64 {
        self.written_bytes.load(Ordering::Relaxed)
    }
}

impl GuestMemory for Counted {
    fn regions(&self) -> &RegionTable {
        self.memory.regions()
    }

    fn read(&self, region: usize, offset: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
        self.memory.read(region, offset, buffer)
    }

    fn write(&self, region: usize, offset: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        self.written_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.memory.write(region, offset, bytes)
    }

    fn as_file(&self, region: usize) -> Option<BorrowedFd<'_>> {
        match &self.files {
            Some(files) => files.get(region).map(AsFd::as_fd),
            None => self.memory.as_file(region),
        }
    }
}

/// The guest's part: it stands when it is told to.
struct Vcpus<'g>(&'g Guest);

impl Hooks for Vcpus<'_> {
    fn pause_guest(&mut self) -> Result<(), String> {
        self.0.pause(true);
        Ok(())
    }

    fn resume_guest(&mut self) {
        self.0.pause(false);
    }
}

/// Both sides' options, without anything that has to see the bytes.
fn unseen() -> (SaveOptions, LoadOptions) {
    let (mut save, mut load) = (save_options(), load_options());
    for limits in [&mut save.limits, &mut load.limits] {
        (limits.payload_checksums, limits.memory_digest) = (false, false);
        limits.chunk_bytes_max = 1 << 20;
    }
    (save, load)
}

/// The guest is gone, by a panic too.
struct End<'g>(&'g Guest);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

type Outcome = (Result<Committed, MigrationError>, Result<Running, MigrationError>);

fn attempt(guest: &Arc<Guest>, theirs: &Counted, ends: Ends, options: &(SaveOptions, LoadOptions)) -> Outcome {
    attempt_with(&mut guest.tracking(), guest, theirs, ends, options)
}

/// The same with an account that outlives it.
fn attempt_with(
    tracking: &mut Tracking<'static>,
    guest: &Arc<Guest>,
    theirs: &Counted,
    (left, right): Ends,
    (save, load): &(SaveOptions, LoadOptions),
) -> Outcome {
    let (mut ours, mut hooks): ([SimPort; 0], _) = ([], Vcpus(guest));
    let source = Source::new(&guest.memory, tracking).unwrap();
    thread::scope(|scope| {
        let target = scope.spawn(|| {
            let mut none: [SimPort; 0] = [];
            load::load_with_memory(&mut none, theirs, right, &mut (), load).and_then(load::Loaded::run)
        });
        let saved = save::save_with_memory(&mut ours, source, left, &mut hooks, save);
        (saved.and_then(save::Ready::commit), target.join().unwrap())
    })
}

/// Moves it, and looks whether it came. Says how much, and whether there was a digest.
fn moved(guest: &Arc<Guest>, theirs: &Counted, ends: Ends, options: &(SaveOptions, LoadOptions)) -> (u64, bool) {
    let (source, target) = attempt(guest, theirs, ends, options);
    let (ours, theirs_sum) = (source.unwrap().memory.unwrap().sum, target.unwrap().memory.unwrap().sum);
    assert_eq!(ours, theirs_sum);
    assert!(contents(&guest.memory) == contents(&theirs.memory), "the target has another memory");
    (ours.bytes, ours.crc64_nvme != 0)
}

/// A guest in whose memory no page is zero.
fn full(regions: &[Region]) -> Arc<Guest> {
    let guest = Guest::new(regions);
    let mut random = Random(77);
    for (index, region) in regions.iter().enumerate() {
        for offset in (0..region.bytes).step_by(1 << 16) {
            let length = (region.bytes - offset).min(1 << 16);
            let bytes: Vec<u8> = (0..length / 8).flat_map(|_| (random.next() | 1).to_le_bytes()).collect();
            guest.write(index, offset, &bytes);
        }
    }
    guest
}

#[test]
fn stretches_go_past_the_buffers() {
    let regions = [region("low", 700, PAGE), region("high", 4000, PAGE)];
    let guest = full(&regions);
    for ends in [tcp_channels(1), tcp_channels(2)] {
        let theirs = Counted::new(&regions);
        let (bytes, has_digest) = moved(&guest, &theirs, ends, &unseen());
        assert!(!has_digest && bytes > 4700 * PAGE);
        assert!(theirs.written_bytes() < 1 << 20, "{} of {bytes} were written", theirs.written_bytes());
    }
}

#[test]
fn it_takes_both_sides_and_no_checksums() {
    let regions = [region("ram", 1500, PAGE)];
    let guest = full(&regions);
    let all = 1500 * PAGE;
    let with = |change: fn(&mut SaveOptions, &mut LoadOptions)| {
        let mut options = unseen();
        change(&mut options.0, &mut options.1);
        let theirs = Counted::new(&regions);
        let (_, has_digest) = moved(&guest, &theirs, tcp_channels(2), &options);
        (theirs.written_bytes() == all, has_digest)
    };
    assert_eq!(with(|save, _| save.limits.memory_digest = true), (true, true));
    assert_eq!(with(|_, load| load.limits.memory_digest = true), (true, true));
    assert_eq!(with(|save, _| save.limits.payload_checksums = true), (true, false), "each frame has to be looked at");
    assert_eq!(with(|_, load| load.limits.payload_checksums = true), (true, false));
}

#[test]
fn pages_anywhere_and_zeros_come_too_while_the_guest_writes() {
    let regions = [region("low", 1024, PAGE), region("high", 3000, PAGE), region("huge", 2, 2 << 20)];
    for seed in 1..4 {
        let guest = full(&regions);
        let mut random = Random(seed);
        for _ in 0..200 {
            guest.write(1, random.below(3000) * PAGE, &[0; PAGE as usize]);
        }
        let theirs = Counted::new(&regions);
        thread::scope(|scope| {
            scope.spawn(|| guest.run(seed));
            let mut options = unseen();
            let rule = options.0.precopy.as_mut().unwrap();
            (rule.downtime_max, rule.bandwidth_bytes_per_s) = (Duration::from_millis(300), Some(40 << 20));
            let ended = End(&guest);
            let (bytes, _) = moved(&guest, &theirs, tcp_channels(2), &options);
            drop(ended);
            assert!(theirs.written_bytes() < bytes * 3 / 4, "{} of {bytes} were written", theirs.written_bytes());
        });
    }
}

#[test]
fn memory_of_which_little_is_not_zero_comes_too() {
    let regions = [region("ram", 20_000, PAGE)];
    let guest = Guest::new(&regions);
    for page in (0..20_000).step_by(16) {
        guest.write(0, page * PAGE, &[7; PAGE as usize]);
    }
    let theirs = Counted::new(&regions);
    moved(&guest, &theirs, tcp_channels(2), &unseen());
    let nothing = Guest::new(&regions);
    let (bytes, _) = moved(&nothing, &theirs, tcp_channels(2), &unseen());
    assert!(bytes < 1 << 16, "{bytes} for zeros");
}

#[test]
fn memory_that_takes_no_bytes_this_way_gets_them_through_a_buffer() {
    let regions = [region("ram", 2000, PAGE)];
    let guest = full(&regions);
    // What a pipe is emptied into may not be open for appending.
    let theirs = Counted::opened(&regions, OpenOptions::new().append(true));
    moved(&guest, &theirs, tcp_channels(2), &unseen());
    assert_eq!(theirs.written_bytes(), 2000 * PAGE);
}

#[test]
fn a_channel_that_somebody_looks_at_is_read() {
    let regions = [region("ram", 1000, PAGE)];
    let guest = full(&regions);
    let theirs = Counted::new(&regions);
    let (left, right) = tcp_channels(1);
    let right = right.into_iter().map(|channel| channel.map_reader(|reader| reader)).collect();
    moved(&guest, &theirs, (left, right), &unseen());
    assert_eq!(theirs.written_bytes(), 1000 * PAGE);
    let theirs = Counted::new(&regions);
    moved(&guest, &theirs, channels(2), &unseen());
    assert_eq!(theirs.written_bytes(), 1000 * PAGE, "and so is a Unix socket");
}

#[test]
fn memory_that_fails_is_named_and_the_guest_runs_on() {
    let regions = [region("ram", 2000, PAGE)];
    let guest = full(&regions);
    let theirs = Counted::opened(&regions, OpenOptions::new().read(true));
    let (source, target) = attempt(&guest, &theirs, tcp_channels(1), &unseen());
    let (source, target) = (source.unwrap_err(), target.unwrap_err());
    assert!(!source.committed, "{source}");
    let target = target.to_string();
    assert!(target.contains("guest memory ram: writing") && target.contains("Bad file descriptor"), "{target}");
}

#[test]
fn a_second_attempt_after_a_cancel_loses_nothing() {
    let regions = [region("ram", 3000, PAGE)];
    let mut random = Random(5);
    let mut cancelled = 0;
    for _ in 0..12 {
        let guest = full(&regions);
        let options = unseen();
        let (cancel, delay) = (options.0.cancel.clone(), Duration::from_micros(random.below(4000)));
        let theirs = Counted::new(&regions);
        let canceller = thread::spawn(move || {
            thread::sleep(delay);
            cancel.cancel();
        });
        let mut tracking = guest.tracking();
        let (source, _) = attempt_with(&mut tracking, &guest, &theirs, tcp_channels(2), &options);
        canceller.join().unwrap();
        guest.pause(false);
        if source.is_err() {
            cancelled += 1;
            // With the account of the attempt that failed, and into a memory that has nothing of it.
            let theirs = Counted::new(&regions);
            let (source, target) = attempt_with(&mut tracking, &guest, &theirs, tcp_channels(2), &unseen());
            assert!(source.is_ok() && target.is_ok());
            assert!(contents(&guest.memory) == contents(&theirs.memory), "something was lost");
        }
    }
    assert!(cancelled > 0, "no attempt was cancelled in time");
}

#[test]
fn devices_beside_it_have_their_digests() {
    let configs = ["model=plain caps=7 initial=64KiB dirty=16KiB stop=300KiB seed=1"];
    let regions = [region("ram", 1000, PAGE)];
    let (guest, theirs) = (full(&regions), Counted::new(&regions));
    let (source, target) = (devices(&configs), devices(&configs));
    let (mut ours, mut tracking, mut hooks) = (ports(&source), guest.tracking(), Vcpus(&guest));
    let ((save, load), (left, right)) = (unseen(), tcp_channels(2));
    let memory = Source::new(&guest.memory, &mut tracking).unwrap();
    let (committed, running) = thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let mut waiting = ports(&target);
            load::load_with_memory(&mut waiting, &theirs, right, &mut (), &load).and_then(load::Loaded::run).unwrap()
        });
        let saved = save::save_with_memory(&mut ours, memory, left, &mut hooks, &save);
        (saved.and_then(save::Ready::commit).unwrap(), waiting.join().unwrap())
    });
    assert_ne!(committed.devices[0].sum.crc64_nvme, 0);
    assert_eq!(committed.devices[0].sum, running.devices[0].sum);
    assert_eq!(committed.memory.unwrap().sum.crc64_nvme, 0);
    assert!(contents(&guest.memory) == contents(&theirs.memory) && theirs.written_bytes() < 1 << 20);
}

#[test]
fn more_than_the_limit_is_refused_on_this_way_too() {
    let regions = [region("ram", 2000, PAGE)];
    let guest = full(&regions);
    let mut options = unseen();
    options.1.limits.state_bytes_max = 3 << 20;
    let theirs = Counted::new(&regions);
    let (source, target) = attempt(&guest, &theirs, tcp_channels(1), &options);
    assert!(!source.unwrap_err().committed);
    let target = target.unwrap_err();
    assert!(matches!(&target.cause, Cause::TooLarge { limit, .. } if *limit == 3 << 20), "{target}");
}
