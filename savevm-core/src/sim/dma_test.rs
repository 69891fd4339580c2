// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#![allow(clippy::arithmetic_side_effects, clippy::as_conversions)]

use std::vec;
use std::vec::Vec;

use super::super::SimConfig;
use super::*;

const STOP: u32 = 1;
const RUNNING: u32 = 2;
const RUNNING_P2P: u32 = 5;

/// Memory from address 0 on, and what went to the peer.
#[derive(Default)]
struct Bus {
    memory: Vec<u8>,
    peer: Vec<u64>,
}

impl DmaBus for Bus {
    fn write(&mut self, iova: u64, data: &[u8]) -> Result<(), Errno> {
        let at = iova as usize;
        self.memory.get_mut(at..at + data.len()).ok_or(Errno::EFAULT)?.copy_from_slice(data);
        Ok(())
    }

    fn write_peer(&mut self, number: u64) {
        self.peer.push(number);
    }
}

fn device(more: &str) -> SimDevice {
    let config = std::format!("model=plain seed=3 initial=1KiB stop=1KiB dma-rate=1MiB/s dma-write=48 {more}");
    let device = SimConfig::parse(&config).unwrap().device().unwrap();
    device.open().unwrap();
    device
}

fn program(device: &SimDevice, window: [u64; 2], control: u64) {
    for (offset, value) in [(0x80, window[0]), (0x88, window[1]), (0x90, control)] {
        device.region_write(0, offset, &value.to_le_bytes()).unwrap();
    }
}

fn register(device: &SimDevice, offset: u64) -> u64 {
    let mut word = [0; 8];
    device.region_read(0, offset, &mut word).unwrap();
    u64::from_le_bytes(word)
}

/// What memory holds after `writes` writes of a device with `seed`.
fn expected(seed: u64, window: [u64; 2], writes: u64, bytes: usize) -> Vec<u8> {
    let mut memory = vec![0; bytes];
    for number in 0..writes {
        let mut data = [0; 48];
        let at = (window[0] + dma_write(seed, window[1], number, &mut data)) as usize;
        memory[at..at + 48].copy_from_slice(&data);
    }
    memory
}

#[test]
fn writes_follow_from_seed_and_number_and_stay_in_the_window() {
    let mut pages = std::collections::BTreeSet::new();
    for number in 0..1000 {
        let (mut data, mut again) = ([0; 48], [1; 48]);
        let at = dma_write(7, 65536, number, &mut data);
        assert_eq!((at, data), (dma_write(7, 65536, number, &mut again), again));
        assert!(at % 16 == 0 && at + 48 <= 65536, "{at}");
        assert_eq!(data[..8], (number + 1).to_le_bytes());
        pages.insert(at / 4096);
    }
    assert_eq!(pages.len(), 16, "every page of the window is written");
    let mut data = [0; 48];
    assert_eq!(dma_write(7, 48, 5, &mut data), 0, "a window for one write");
}

#[test]
fn a_device_writes_where_a_driver_says_and_only_then() {
    let (device, mut bus) = (device(""), Bus { memory: vec![0; 8192], ..Bus::default() });
    assert!(device.dma(5, &mut bus) == 0 && !device.has_dma_to_do());
    program(&device, [4096, 4096], Dma::MEMORY);
    assert!(device.has_dma_to_do());
    assert_eq!((device.dma(5, &mut bus), device.dma(20, &mut bus)), (5, 20));
    assert_eq!(bus.memory, expected(3, [4096, 4096], 25, 8192));
    assert_eq!([register(&device, 0x98), register(&device, 0xa0), register(&device, 0xa8)], [25, 0, 0]);
    // A window beyond memory, and one that no write fits in.
    program(&device, [8192, 4096], Dma::MEMORY);
    assert_eq!((device.dma(3, &mut bus), register(&device, 0xa0)), (3, 3));
    program(&device, [0, 47], Dma::MEMORY);
    assert_eq!(device.dma(3, &mut bus), 0);
    program(&device, [0, 4096], 0);
    assert_eq!(device.dma(3, &mut bus), 0);
    program(&device, [0, 4096], Dma::MEMORY);
    assert_eq!((register(&device, 0x98), device.dma(1, &mut bus)), (0, 1), "started again, from the first");
    device.reset().unwrap();
    assert_eq!(device.dma(1, &mut bus), 0, "a reset device waits for its driver");
}

#[test]
fn states_say_what_a_device_may_start() {
    for (more, in_p2p) in [("", 16), ("dma-in-p2p=no", 0)] {
        let (device, mut bus) = (device(more), Bus { memory: vec![0; 4096], ..Bus::default() });
        program(&device, [0, 4096], Dma::MEMORY | Dma::PEER);
        // STOP, RUNNING, STOP_COPY, RESUMING, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P.
        for (state, memory, peers) in
            [(2, 16, 1), (6, 16, 1), (7, in_p2p, 0), (3, 0, 0), (1, 0, 0), (5, in_p2p, 0), (2, 16, 1), (4, 0, 0)]
        {
            device.set_state(state).unwrap();
            bus.peer.clear();
            let sent = register(&device, 0xa8);
            assert_eq!(device.dma(16, &mut bus), memory, "state {state} {more}");
            let numbers: Vec<u64> = (sent + 1..=sent + peers).collect();
            assert_eq!(bus.peer, numbers, "state {state} {more}");
        }
    }
}

#[test]
fn a_stopped_device_loses_what_its_peer_sends() {
    let device = device("");
    device.take_peer_write(1);
    device.set_state(RUNNING_P2P).unwrap();
    device.take_peer_write(2);
    device.set_state(STOP).unwrap();
    device.take_peer_write(3);
    assert_eq!([register(&device, 0xb0), register(&device, 0xb8), register(&device, 0xc0)], [2, 2, 1]);
}

#[test]
fn a_resumed_device_goes_on_from_where_it_was() {
    let window = [0, 4096];
    let (source, target) = (device(""), device(""));
    let mut bus = Bus { memory: vec![0; 4096], ..Bus::default() };
    program(&source, window, Dma::MEMORY | Dma::PEER);
    source.dma(40, &mut bus);
    source.take_peer_write(11);
    let session = source.set_state(3).unwrap().unwrap();
    let mut stream = vec![0; 4096];
    let read = session.read(&mut stream).unwrap();
    assert_eq!(read, 2048);
    let session = target.set_state(4).unwrap().unwrap();
    session.write(&stream[..read]).unwrap();
    assert_eq!(target.dma(1, &mut bus), 0);
    target.set_state(RUNNING).unwrap();
    for offset in [0x80, 0x88, 0x90, 0x98, 0xa8, 0xb0, 0xb8] {
        assert_eq!(register(&target, offset), register(&source, offset), "{offset:#x}");
    }
    assert_eq!(target.dma(25, &mut bus), 25);
    assert_eq!(bus.memory, expected(3, window, 65, 4096));
    assert_eq!(bus.peer, [1, 2, 3, 4]);
    // One that performs no DMA cannot take it over.
    let other = SimConfig::parse("model=plain seed=3 initial=1KiB stop=1KiB").unwrap().device().unwrap();
    other.open().unwrap();
    let session = other.set_state(4).unwrap().unwrap();
    assert_eq!(session.write(&stream[..read]), Err(Errno::EINVAL));
}

/// During its first write, has another thread do something to the device, and gives it time to.
struct Meddler<'a> {
    device: &'a SimDevice,
    work: fn(&SimDevice),
    thread: Option<std::thread::JoinHandle<()>>,
    returned_early: bool,
}

impl DmaBus for Meddler<'_> {
    fn write(&mut self, _: u64, _: &[u8]) -> Result<(), Errno> {
        let (device, work) = (self.device.clone(), self.work);
        let thread = self.thread.get_or_insert_with(|| std::thread::spawn(move || work(&device)));
        std::thread::sleep(core::time::Duration::from_millis(5));
        self.returned_early |= thread.is_finished();
        Ok(())
    }

    fn write_peer(&mut self, _: u64) {}
}

type Work = fn(&SimDevice);

#[test]
fn whatever_forbids_writes_waits_for_those_under_way() {
    let works: [(&str, Work); 4] = [
        ("STOP", |device| drop(device.set_state(STOP).unwrap())),
        ("reset", |device| device.reset().unwrap()),
        ("registers", |device| program(device, [0, 0], 0)),
        ("close", SimDevice::close),
    ];
    for (what, work) in works {
        let device = device("");
        program(&device, [0, 4096], Dma::MEMORY);
        let mut meddler = Meddler { device: &device, work, thread: None, returned_early: false };
        assert_eq!(device.dma(4, &mut meddler), 4, "{what}");
        assert!(!meddler.returned_early, "{what} returned while the device was writing");
        meddler.thread.unwrap().join().unwrap();
        assert!(!device.has_dma_to_do(), "{what}");
    }
}
