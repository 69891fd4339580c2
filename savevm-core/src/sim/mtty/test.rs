// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#![allow(clippy::arithmetic_side_effects, clippy::as_conversions)]

use std::boxed::Box;
use std::vec;
use std::vec::Vec;

use super::super::{Errno, SimDevice, SimSession};
use super::Mtty;

const STOP: u32 = 1;
const RUNNING: u32 = 2;
const STOP_COPY: u32 = 3;
const RESUMING: u32 = 4;
const PRE_COPY: u32 = 6;

fn card(ports: u32) -> SimDevice {
    let device = SimDevice::new(Box::new(Mtty::new(ports)));
    device.open().unwrap();
    device
}

fn put(device: &SimDevice, register: u64, value: u8) {
    assert_eq!(device.region_write(0, register, &[value]), Ok(1));
}

fn get(device: &SimDevice, register: u64) -> u8 {
    let mut byte = [0xee];
    assert_eq!(device.region_read(0, register, &mut byte), Ok(1));
    byte[0]
}

fn drain(session: &SimSession) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut buffer = [0; 7];
    loop {
        match session.read(&mut buffer).unwrap() {
            0 => return stream,
            read => stream.extend_from_slice(&buffer[..read]),
        }
    }
}

/// The writes of the example in the notes on the real driver, and the bytes it was seen to save.
fn set_up_example(device: &SimDevice) {
    for (register, value) in [(2, 1), (3, 0x80), (0, 0x0c), (1, 0x01), (3, 3), (4, 0x0b), (7, 0x5a), (1, 5)] {
        put(device, register, value);
    }
    for byte in b"hello" {
        put(device, 0, *byte);
    }
}

const EXAMPLE: [u8; 60] = [
    0x4e, 0x2c, 0x3e, 0x8c, 0x89, 0x09, 0x9d, 0x7e, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, //
    0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x05, 0x00, 0x03, 0x0b, 0x00, 0x00, 0x5a, //
    0x68, 0x65, 0x6c, 0x6c, 0x6f, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, //
    0x05, 0x00, 0x05, 0x00, 0x00, 0x00, 0x0c, 0x01, 0x01, 0x10, 0x01, 0x00,
];

#[test]
fn saves_the_bytes_of_the_real_driver_and_loads_them() {
    let (source, target) = (card(1), card(1));
    set_up_example(&source);
    let saving = source.set_state(STOP_COPY).unwrap().unwrap();
    let stream = drain(&saving);
    assert_eq!(stream, EXAMPLE);

    let resuming = target.set_state(RESUMING).unwrap().unwrap();
    assert_eq!(resuming.write(&stream), Ok(60));
    assert_eq!(get(&target, 7), 0, "nothing is loaded before RESUMING is left");
    assert!(target.set_state(RUNNING).unwrap().is_none());
    let seen: Vec<u8> = [7, 3, 4, 1, 2, 5].map(|register| get(&target, register)).to_vec();
    assert_eq!(seen, [0x5a, 0x03, 0x0b, 0x05, 0xc4, 0x01]);
    let received: Vec<u8> = (0..5).map(|_| get(&target, 0)).collect();
    assert_eq!(received, b"hello");
    assert_eq!(get(&target, 5), 0x60);
    put(&target, 3, 0x83);
    assert_eq!((get(&target, 0), get(&target, 1)), (0, 0), "setting DLAB clears the divisor");
}

#[test]
fn a_fresh_card_shows_what_the_real_one_shows() {
    let device = card(2);
    let seen: Vec<u8> = (0..8).map(|register| get(&device, register)).collect();
    assert_eq!(seen, [0, 0, 0xc1, 0, 0, 0x60, 0xb3, 0]);
    assert_eq!(device.mig_data_size(), Ok(96));
    assert_eq!(device.region_read(2, 0, &mut [0]), Err(Errno::EINVAL), "there is no BAR2");
    let mut ids = [0; 4];
    device.region_read(7, 0, &mut ids).unwrap();
    assert_eq!(ids, [0x48, 0x43, 0x53, 0x32]);
}

#[test]
fn the_fifo_overruns_and_looks_empty_when_full() {
    let device = card(1);
    put(&device, 2, 1);
    put(&device, 4, 0x20);
    for value in 0..16 {
        assert_eq!(get(&device, 6), 0xb3, "clear to send");
        put(&device, 0, value);
    }
    assert_eq!(get(&device, 5), 0x60, "all sixteen: the indices meet");
    assert_eq!(get(&device, 6), 0xa2, "full, with automatic flow control");
    put(&device, 0, 99);
    assert_eq!(get(&device, 5), 0x62, "overrun");
    put(&device, 2, 3);
    put(&device, 0, 7);
    assert_eq!(get(&device, 5), 0x01, "the next byte that fits clears the overrun");
    assert_eq!(get(&device, 0), 7);
    put(&device, 2, 0);
    put(&device, 0, 1);
    put(&device, 0, 2);
    assert_eq!(get(&device, 5), 0x03, "without the FIFO there is room for one byte");
    put(&device, 1, 0x0f);
    assert_eq!(get(&device, 2), 0xc6, "line status and data");
}

#[test]
fn a_wide_access_reaches_one_register() {
    let device = card(1);
    device.region_write(0, 4, &[0x0b, 0x11, 0x22, 0x33]).unwrap();
    assert_eq!((get(&device, 4), get(&device, 7)), (0x0b, 0));
    let mut word = [0xee; 4];
    device.region_read(0, 4, &mut word).unwrap();
    assert_eq!(word, [0x0b, 0, 0, 0]);
}

#[test]
fn pre_copy_gives_the_header_and_stop_copy_the_rest() {
    let device = card(2);
    let session = device.set_state(PRE_COPY).unwrap().unwrap();
    let info = session.precopy_info().unwrap();
    assert_eq!((info.initial_bytes, info.dirty_bytes, info.flags), (24, 0, None));
    assert_eq!(drain(&session).len(), 24);
    assert_eq!(session.precopy_info().unwrap().initial_bytes, 0);
    assert!(device.set_state(STOP_COPY).unwrap().is_none(), "the session goes on");
    assert_eq!(session.precopy_info(), Err(Errno::EINVAL));
    assert_eq!(drain(&session).len(), 72);
    device.set_state(STOP).unwrap();
    assert_eq!(session.read(&mut [0]), Err(Errno::ENODEV));
}

#[test]
fn the_saved_copy_is_taken_at_stop_copy() {
    let device = card(1);
    put(&device, 7, 1);
    let session = device.set_state(STOP_COPY).unwrap().unwrap();
    put(&device, 7, 2);
    assert_eq!(drain(&session)[24 + 7], 1);
    assert_eq!(get(&device, 7), 2, "and the registers stay writable");
}

#[test]
fn too_long_a_write_stores_nothing() {
    let device = card(1);
    let session = device.set_state(RESUMING).unwrap().unwrap();
    assert_eq!(session.write(&[0; 61]), Err(Errno::ENOMEM));
    assert_eq!(session.write(&EXAMPLE), Ok(60));
    assert_eq!(session.write(&[0]), Err(Errno::ENOMEM));
    device.set_state(STOP).unwrap();
    assert_eq!(get(&device, 7), 0x5a);
    assert_eq!(session.write(&[0]), Err(Errno::ENODEV));
}

#[test]
fn a_refused_header_is_refused_once_and_then_loaded() {
    for (offset, what) in [(0, "magic"), (8, "major"), (12, "minor"), (16, "ports"), (20, "flags")] {
        let device = card(1);
        let session = device.set_state(RESUMING).unwrap().unwrap();
        let mut bad = EXAMPLE;
        bad[offset] ^= 2;
        assert_eq!(session.write(&bad[..20]), Ok(20), "{what}: not complete yet");
        assert_eq!(session.write(&bad[20..30]), Err(Errno::EFAULT), "{what}");
        assert_eq!(session.write(&bad[30..]), Ok(30), "{what}: the bytes were kept");
        device.set_state(STOP).unwrap();
        assert_eq!(get(&device, 7), 0x5a, "{what}");
    }
}

#[test]
fn an_incomplete_stream_keeps_the_device_in_resuming() {
    let device = card(1);
    let session = device.set_state(RESUMING).unwrap().unwrap();
    for target in [STOP, RUNNING, PRE_COPY] {
        assert_eq!(device.set_state(target).err(), Some(Errno::EINVAL));
        assert_eq!(device.get_state(), Ok(RESUMING));
    }
    assert_eq!(session.write(&EXAMPLE[..59]), Ok(59));
    assert_eq!(device.set_state(STOP).err(), Some(Errno::EINVAL));
    assert!(device.set_state(RESUMING).unwrap().is_none(), "already there");
    assert_eq!(session.write(&EXAMPLE[59..]), Ok(1));
    assert!(device.set_state(STOP).is_ok());
}

#[test]
fn the_state_survives_a_close_and_registers_survive_a_reset() {
    let device = card(1);
    put(&device, 7, 0x77);
    let lost = device.set_state(PRE_COPY).unwrap().unwrap();
    device.close();
    device.open().unwrap();
    assert_eq!(device.get_state(), Ok(PRE_COPY));
    assert_eq!(lost.read(&mut [0]), Err(Errno::ENODEV));
    let found = device.set_state(STOP_COPY).unwrap().expect("a new session");
    assert_eq!(drain(&found).len(), 60);
    device.reset().unwrap();
    assert_eq!(device.get_state(), Ok(RUNNING));
    assert_eq!(get(&device, 7), 0x77);
    assert_eq!(found.read(&mut [0]), Err(Errno::ENODEV));
}

#[test]
fn wild_port_contents_are_contained() {
    let mut wild = vec![0xff; 60];
    wild[..24].copy_from_slice(&EXAMPLE[..24]);
    let device = card(1);
    let session = device.set_state(RESUMING).unwrap().unwrap();
    assert_eq!(session.write(&wild), Ok(60));
    device.set_state(STOP).unwrap();
    // Clear DLAB, then use the FIFO through the indices 255.
    put(&device, 3, 0);
    for value in 0..40 {
        put(&device, 0, value);
        get(&device, 0);
        get(&device, 5);
    }
    let session = device.set_state(STOP_COPY).unwrap().unwrap();
    assert_eq!(drain(&session).len(), 60);
}
