// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#![allow(clippy::arithmetic_side_effects, clippy::as_conversions)]

use core::time::Duration;
use std::boxed::Box;
use std::sync::Arc;
use std::vec;
use std::vec::Vec;

use super::super::{Errno, FaultPlan, ManualClock, SimDevice, SimSession, Timing};
use super::{Drained, Plain, PlainConfig};

const STOP: u32 = 1;
const RUNNING: u32 = 2;
const STOP_COPY: u32 = 3;
const RESUMING: u32 = 4;
const PRE_COPY: u32 = 6;
const PRE_COPY_P2P: u32 = 7;

fn device(change: impl FnOnce(&mut PlainConfig)) -> (SimDevice, Arc<ManualClock>) {
    let mut config =
        PlainConfig { initial_bytes: 1000, dirty_bytes: 300, stop_bytes: 500, seed: 42, ..Default::default() };
    change(&mut config);
    let clock = Arc::new(ManualClock::new());
    let timing = Timing::default();
    let device =
        SimDevice::with(Box::new(Plain::new(config)), timing, FaultPlan::new(), Arc::<ManualClock>::clone(&clock));
    device.open().unwrap();
    (device, clock)
}

fn drain(session: &SimSession) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut buffer = [0; 77];
    loop {
        match session.read(&mut buffer) {
            Ok(0) | Err(Errno::ENOMSG) => return stream,
            read => stream.extend_from_slice(&buffer[..read.unwrap()]),
        }
    }
}

fn register(device: &SimDevice, offset: u64) -> u64 {
    let mut word = [0; 8];
    device.region_read(0, offset, &mut word).unwrap();
    u64::from_le_bytes(word)
}

fn sizes(session: &SimSession) -> (u64, u64) {
    let info = session.precopy_info().unwrap();
    (info.initial_bytes, info.dirty_bytes)
}

fn load(target: &SimDevice, stream: &[u8]) -> Result<(), Errno> {
    let session = target.set_state(RESUMING).unwrap().unwrap();
    for chunk in stream.chunks(33) {
        assert_eq!(session.write(chunk), Ok(chunk.len()));
    }
    target.set_state(STOP).map(|_| ())
}

#[test]
fn the_target_shows_what_the_source_showed() {
    let (source, _) = device(|_| {});
    let (target, _) = device(|config| config.seed = 7);
    source.region_write(0, 0x48, b"scratch").unwrap();
    let session = source.set_state(PRE_COPY).unwrap().unwrap();
    let mut stream = drain(&session);
    assert_eq!(stream.len(), 1300, "initial and dirty bytes");
    source.region_write(0, 0x40, &[1]).unwrap();
    assert_eq!(source.mig_data_size(), Ok(500));
    source.set_state(STOP_COPY).unwrap();
    stream.extend(drain(&session));
    assert_eq!(stream.len(), 1800);
    assert_eq!(register(&source, 0x28), 1800);

    assert_eq!(load(&target, &stream), Ok(()));
    for offset in [0, 8, 0x40, 0x48] {
        assert_eq!(register(&target, offset), register(&source, offset), "register {offset:#x}");
    }
    assert_eq!(register(&target, 8), 2);
    assert_eq!(register(&target, 0x10), register(&source, 0x20), "checksums");
    assert_eq!((register(&target, 0x18), register(&target, 0x30)), (1800, 1));
}

#[test]
fn every_truncation_and_every_flipped_bit_is_noticed() {
    let (source, _) = device(|config| config.initial_bytes = 100);
    let session = source.set_state(STOP_COPY).unwrap().unwrap();
    let stream = drain(&session);
    assert_eq!(stream.len(), 600);
    let refused = |bad: &[u8]| {
        let (target, _) = device(|config| config.sticky_errors = false);
        let session = target.set_state(RESUMING).unwrap().unwrap();
        let _ = session.write(bad);
        let result = target.set_state(STOP);
        assert_eq!(result.err(), Some(Errno::EINVAL));
        assert_eq!(target.get_state(), Ok(RESUMING));
        assert_eq!(register(&target, 0x30), 0);
    };
    for len in 0..stream.len() {
        refused(&stream[..len]);
    }
    for byte in 0..stream.len() {
        let mut bad = stream.clone();
        bad[byte] ^= 0x10;
        refused(&bad);
    }
    let mut longer = stream.clone();
    longer.push(0);
    refused(&longer);
    let (target, _) = device(|_| {});
    assert_eq!(load(&target, &stream), Ok(()));
}

#[test]
fn a_trailer_that_lies_about_the_length_is_refused() {
    use super::content::{Trailer, trailer_bytes};
    let (source, _) = device(|_| {});
    let mut stream = drain(&source.set_state(STOP_COPY).unwrap().unwrap());
    let at = stream.len() - trailer_bytes(false);
    let mut trailer = Trailer::decode(&stream[at..]).unwrap();
    trailer.total_bytes += 1;
    stream.truncate(at);
    stream.extend(trailer.encode());
    let (target, _) = device(|_| {});
    assert_eq!(load(&target, &stream), Err(Errno::EINVAL));
}

#[test]
fn a_foreign_header_is_refused_as_configured() {
    for (sticky, second) in [(true, Err(Errno::ENODEV)), (false, Ok(1))] {
        let (target, _) = device(|config| config.sticky_errors = sticky);
        let session = target.set_state(RESUMING).unwrap().unwrap();
        assert_eq!(session.write(&[7; 64]), Err(Errno::EINVAL));
        assert_eq!(session.write(&[7]), second);
    }
}

#[test]
fn dirty_bytes_follow_the_clock_up_to_the_working_set() {
    let (source, clock) = device(|config| {
        config.dirty_rate = Some(10);
        config.dirty_total_bytes = 350;
    });
    let session = source.set_state(PRE_COPY).unwrap().unwrap();
    for _ in 0..10 {
        clock.advance(Duration::from_millis(150));
        assert_eq!(sizes(&session), (1000, 0), "nothing is reported before the initial phase is read");
    }
    assert_eq!(session.read(&mut [0; 1000]), Ok(1000));
    assert_eq!(sizes(&session), (0, 15), "no fraction is lost");
    clock.advance(Duration::from_secs(1000));
    assert_eq!(sizes(&session), (0, 300), "the working set");
    assert_eq!(drain(&session).len(), 300);
    source.set_state(PRE_COPY_P2P).unwrap();
    clock.advance(Duration::from_secs(1000));
    assert_eq!(sizes(&session), (0, 0), "P2P: nothing new");
    source.set_state(PRE_COPY).unwrap();
    clock.advance(Duration::from_secs(1000));
    assert_eq!(sizes(&session), (0, 50), "the total");
}

#[test]
fn the_temporary_end_looks_as_configured() {
    for (drained, expected) in [(Drained::Nomsg, Err(Errno::ENOMSG)), (Drained::Zero, Ok(0))] {
        let (source, _) = device(|config| config.drained = drained);
        let session = source.set_state(PRE_COPY).unwrap().unwrap();
        drain(&session);
        assert_eq!(session.read(&mut [0]), expected);
        source.set_state(STOP_COPY).unwrap();
        drain(&session);
        assert_eq!(session.read(&mut [0]), Ok(0), "the end is always zero");
    }
}

#[test]
fn reinit_comes_once_and_only_to_who_opted_in() {
    let (source, _) = device(|config| config.reinit_after = Some(2));
    let session = source.set_state(PRE_COPY).unwrap().unwrap();
    assert_eq!(session.precopy_info().unwrap().flags, None);
    assert_eq!(session.precopy_info().unwrap().flags, None);
    source.enable_precopy_info_v2().unwrap();
    drain(&session);
    let query = || session.precopy_info().map(|info| (info.initial_bytes, info.dirty_bytes, info.flags));
    assert_eq!(query(), Ok((0, 0, Some(0))));
    assert_eq!(query(), Ok((1000, 0, Some(1))));
    assert_eq!(query(), Ok((1000, 0, Some(0))));
    assert_eq!(drain(&session).len(), 1000);
}

#[test]
fn gigabytes_cost_no_memory() {
    let (source, _) = device(|config| {
        config.initial_bytes = 1 << 40;
        config.stop_bytes = u64::MAX;
    });
    let session = source.set_state(STOP_COPY).unwrap().unwrap();
    assert_eq!(source.mig_data_size(), Ok(u64::MAX));
    let mut buffer = vec![0; 1 << 16];
    assert_eq!(session.read(&mut buffer), Ok(1 << 16));
    source.set_state(RUNNING).unwrap();
}
