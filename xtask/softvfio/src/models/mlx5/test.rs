// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The facts of mlx5.md, each on a device.
#![allow(clippy::arithmetic_side_effects, clippy::as_conversions)]

use core::time::Duration;
use std::sync::Arc;

use device_mlx5::record::Header;
use savevm_core::sim::{Errno, ManualClock, SimDevice, SimSession};

use crate::config::Config;
use crate::models;

const STOP: u32 = 1;
const RUNNING: u32 = 2;
const STOP_COPY: u32 = 3;
const RESUMING: u32 = 4;
const PRE_COPY: u32 = 6;
const PRE_COPY_P2P: u32 = 7;

const SMALL: &str = "initial=1000 dirty=300 stop=500";

fn device(kernel: &str, options: &str) -> (SimDevice, Arc<ManualClock>) {
    let config = Config::parse(&format!("kernel={kernel}; device a model=mlx5 {options}")).unwrap();
    let clock = Arc::new(ManualClock::new());
    let own = Arc::<ManualClock>::clone(&clock);
    let device = models::device(&config.devices[0].sim, config.kernel, own).unwrap();
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

/// Tag and size of each record; the stream must end with one.
fn records(stream: &[u8]) -> Vec<(u32, u64)> {
    let mut found = Vec::new();
    let mut rest = stream;
    while let Some((header, payload)) = rest.split_first_chunk() {
        let header = Header::decode(header);
        found.push((header.tag, header.record_bytes));
        rest = &payload[usize::try_from(header.record_bytes).unwrap()..];
    }
    assert!(rest.is_empty());
    found
}

fn sizes(session: &SimSession) -> (u64, u64) {
    let info = session.precopy_info().unwrap();
    (info.initial_bytes, info.dirty_bytes)
}

fn page(device: &SimDevice) -> Vec<u8> {
    let mut page = vec![0; 128];
    device.region_read(0, 0, &mut page).unwrap();
    // Without the account of what was saved and loaded.
    page.drain(0x10..0x40);
    page
}

fn resume(device: &SimDevice, stream: &[u8]) -> Result<(), Errno> {
    let session = device.set_state(RESUMING).unwrap().unwrap();
    session.write(stream)?;
    device.set_state(RUNNING).map(|_| ())
}

fn expect_arrival(source: &SimDevice, stream: &[u8]) {
    let (target, _) = device("7.3", "seed=99");
    assert_ne!(page(&target), page(source));
    for piece in [1, 7, stream.len()] {
        let session = target.set_state(RESUMING).unwrap().unwrap();
        for piece in stream.chunks(piece) {
            assert_eq!(session.write(piece), Ok(piece.len()));
        }
        target.set_state(RUNNING).unwrap();
        assert_eq!(page(&target), page(source));
    }
}

#[test]
fn a_whole_session_is_initial_increments_and_a_final_image() {
    for (kernel, header_bytes) in [("6.12", 0), ("7.3", 16)] {
        let (source, _) = device(kernel, SMALL);
        source.region_write(0, 0x40, &[7; 64]).unwrap();
        let session = source.set_state(PRE_COPY).unwrap().unwrap();
        assert_eq!(sizes(&session), (24 + 16 + 1000, 0));
        let mut stream = drain(&session);
        assert_eq!(drain(&session), [], "increments come of queries only");
        assert_eq!(sizes(&session), (0, 300 + header_bytes), "{kernel}");
        // The guest goes on.
        source.region_write(0, 0x40, &[8; 64]).unwrap();
        stream.extend(drain(&session));
        assert_eq!(sizes(&session), (0, 0));
        assert_eq!(session.read(&mut [0]), Err(Errno::ENOMSG));
        source.set_state(PRE_COPY_P2P).unwrap();
        assert_eq!(sizes(&session), (0, 0));
        source.set_state(STOP_COPY).unwrap();
        stream.extend(drain(&session));
        assert_eq!(session.read(&mut [0]), Ok(0));
        assert_eq!(records(&stream), [(1, 8), (0, 1000), (0, 300), (0, 500)]);
        expect_arrival(&source, &stream);
    }
}

#[test]
fn what_is_dirty_and_was_never_asked_for_comes_in_the_final_image() {
    let (source, clock) = device("7.3", "initial=1000 dirty=3000 dirty-rate=1000/s stop=500");
    let session = source.set_state(PRE_COPY).unwrap().unwrap();
    let mut stream = drain(&session);
    clock.advance(Duration::from_secs(2));
    source.set_state(STOP_COPY).unwrap();
    stream.extend(drain(&session));
    assert_eq!(records(&stream), [(1, 8), (0, 1000), (0, 2500)]);
    expect_arrival(&source, &stream);
}

#[test]
fn stopped_it_is_one_full_image_or_chunks() {
    for (options, images, size) in [
        ("full=2000", vec![2000], 4096),
        ("full=9000 chunk=4096", vec![4096, 4096, 808], 12288),
        ("full=8200 chunk=4096", vec![4096, 4104], 12288),
    ] {
        let (source, _) = device("6.12", options);
        assert_eq!(source.mig_data_size(), Ok(images.iter().sum()), "payload only");
        let session = source.set_state(STOP_COPY).unwrap().unwrap();
        let stream = drain(&session);
        let found = records(&stream);
        let expected: Vec<_> = core::iter::once((1, 8)).chain(images.into_iter().map(|bytes| (0, bytes))).collect();
        assert_eq!(found, expected);
        assert_eq!(stream[16..24], u64::to_le_bytes(size));
        expect_arrival(&source, &stream);
    }
}

#[test]
fn tracking_reserves_a_tenth_more() {
    let (source, _) = device("6.12", "full=8000");
    let session = source.set_state(PRE_COPY).unwrap().unwrap();
    assert_eq!(drain(&session)[16..24], u64::to_le_bytes(12288));
}

#[test]
fn drained_comes_early_on_6_12_and_waits_on_7_3() {
    for (kernel, is_early) in [("6.12", true), ("7.3", false), ("7.3 ", true)] {
        let option = if kernel.ends_with(' ') { "drained=early" } else { "" };
        let (source, clock) = device(kernel.trim(), &format!("{SMALL} save-ms=50 {option}"));
        let session = source.set_state(PRE_COPY).unwrap().unwrap();
        let now = || savevm_core::sim::Clock::now(&*clock).as_millis();
        let mut size = [0; 100];
        assert_eq!((session.read(&mut size), now()), (Ok(24), 0), "the size is there at once");
        assert_eq!((session.read(&mut size), now()), (Ok(100), 50), "the initial image is waited for");
        drain(&session);
        let (_, dirty_bytes) = sizes(&session);
        assert!(dirty_bytes > 0 && now() == 50);
        let read = session.read(&mut size);
        let expected = if is_early { (Err(Errno::ENOMSG), 50) } else { (Ok(100), 100) };
        assert_eq!((read, now()), expected);
        clock.advance(Duration::from_millis(50));
        assert_eq!(session.read(&mut size), Ok(100));
        drain(&session);
        source.set_state(STOP_COPY).unwrap();
        let before = now();
        assert_eq!((session.read(&mut size), now() - before), (Ok(100), 50), "in STOP_COPY it always waits");
    }
}

#[test]
fn queries_and_steps_wait_for_the_image() {
    let (source, clock) = device("6.12", &format!("{SMALL} save-ms=50"));
    let session = source.set_state(PRE_COPY).unwrap().unwrap();
    assert_eq!(sizes(&session), (1040, 0));
    assert_eq!(savevm_core::sim::Clock::now(&*clock).as_millis(), 50);
    source.set_state(RUNNING).unwrap();
    source.set_state(PRE_COPY).unwrap().unwrap();
    source.set_state(PRE_COPY_P2P).unwrap();
    assert_eq!(savevm_core::sim::Clock::now(&*clock).as_millis(), 100);
}

#[test]
fn a_new_initial_phase_is_told_to_those_who_asked() {
    let (source, _) = device("7.3", &format!("{SMALL} reinit-after=2"));
    source.enable_precopy_info_v2().unwrap();
    let session = source.set_state(PRE_COPY).unwrap().unwrap();
    let mut stream = drain(&session);
    assert_eq!(sizes(&session), (0, 316));
    let again = session.precopy_info().unwrap();
    assert_eq!((again.initial_bytes, again.dirty_bytes, again.flags), (316 + 1000 + 16, 0, Some(1)));
    assert_eq!(sizes(&session), (316 + 1000 + 16, 0), "what was queued counts as initial, too");
    stream.extend(drain(&session));
    assert_eq!(session.precopy_info().unwrap().flags, Some(0));
    source.set_state(STOP_COPY).unwrap();
    stream.extend(drain(&session));
    assert_eq!(records(&stream), [(1, 8), (0, 1000), (0, 300), (0, 1000), (0, 500)]);
    expect_arrival(&source, &stream);
}

#[test]
fn a_failed_pre_copy_falls_back_to_a_full_image() {
    for (at, early) in [(1, vec![]), (2, vec![(0, 1000)])] {
        let (source, _) = device("7.3", &format!("{SMALL} full=1800 precopy-error={at}"));
        let session = source.set_state(PRE_COPY).unwrap().unwrap();
        let mut stream = drain(&session);
        let _ = session.precopy_info().unwrap();
        assert_eq!(sizes(&session), (0, 0));
        assert_eq!(session.read(&mut [0]), Err(Errno::ENOMSG));
        source.set_state(STOP_COPY).unwrap();
        stream.extend(drain(&session));
        assert_eq!(records(&stream), [vec![(1, 8)], early, vec![(0, 1800)]].concat());
        expect_arrival(&source, &stream);
    }
}

#[test]
fn without_the_opt_in_there_is_no_new_initial_phase() {
    let (source, _) = device("7.3", &format!("{SMALL} reinit-after=1"));
    let session = source.set_state(PRE_COPY).unwrap().unwrap();
    drain(&session);
    for dirty_bytes in [316, 316] {
        let info = session.precopy_info().unwrap();
        assert_eq!((info.initial_bytes, info.dirty_bytes, info.flags), (0, dirty_bytes, None));
    }
}

#[test]
fn a_failed_pre_copy_is_forgotten_by_going_back() {
    let (source, _) = device("7.3", &format!("{SMALL} precopy-error=1"));
    let session = source.set_state(PRE_COPY).unwrap().unwrap();
    assert_eq!(sizes(&session), (24, 0), "the size alone is initial");
    drain(&session);
    assert_eq!(sizes(&session), (0, 0));
    source.set_state(RUNNING).unwrap();
    assert_eq!(session.read(&mut [0]), Err(Errno::ENODEV));
    assert_eq!(session.precopy_info().err(), Some(Errno::EINVAL), "the state comes first");
}

#[test]
fn an_increment_is_saved_only_when_everything_has_been_read() {
    let (source, clock) = device("7.3", "initial=1000 dirty=3000 dirty-rate=1000/s stop=500");
    let session = source.set_state(PRE_COPY).unwrap().unwrap();
    drain(&session);
    clock.advance(Duration::from_secs(1));
    assert_eq!(sizes(&session), (0, 1000 + 16));
    clock.advance(Duration::from_secs(1));
    assert_eq!(sizes(&session), (0, 1000 + 16 + 1000), "without the header of an image that is not begun");
    assert_eq!(drain(&session).len(), 1000 + 16);
}

#[test]
fn chunks_are_saved_no_further_than_two_ahead() {
    let (source, clock) = device("7.3", "full=20480 chunk=4096 save-ms=50");
    let session = source.set_state(STOP_COPY).unwrap().unwrap();
    clock.advance(Duration::from_secs(1));
    let now = || savevm_core::sim::Clock::now(&*clock).as_millis();
    let read = |len: usize| assert_eq!(session.read(&mut vec![0; len]), Ok(len));
    read(24);
    for expected in [1000, 1000, 1050, 1100, 1150] {
        read(16 + 4096);
        assert_eq!(now(), expected);
    }
    assert_eq!(session.read(&mut [0]), Ok(0));
}

#[test]
fn in_pre_copy_p2p_nothing_new_is_saved() {
    let (source, clock) = device("7.3", "initial=1000 dirty=3000 dirty-rate=1000/s stop=500");
    let session = source.set_state(PRE_COPY).unwrap().unwrap();
    let mut stream = drain(&session);
    clock.advance(Duration::from_secs(1));
    source.set_state(PRE_COPY_P2P).unwrap();
    assert_eq!(sizes(&session), (0, 0), "1000 bytes are dirty, but the firmware is not asked");
    stream.extend(drain(&session));
    source.set_state(STOP_COPY).unwrap();
    assert_eq!(session.precopy_info().err(), Some(Errno::EINVAL));
    stream.extend(drain(&session));
    assert_eq!(records(&stream), [(1, 8), (0, 1000), (0, 1500)]);
}

#[test]
fn a_failed_query_kills_the_fd_and_moves_nothing() {
    let (source, _) = device("7.3", &format!("{SMALL} fault=precopy_info:dead=EIO@2"));
    let session = source.set_state(PRE_COPY).unwrap().unwrap();
    assert_eq!(sizes(&session), (1040, 0));
    assert_eq!(session.precopy_info().err(), Some(Errno::EIO));
    assert_eq!(session.precopy_info().err(), Some(Errno::ENODEV));
    assert_eq!(session.read(&mut [0]), Err(Errno::ENODEV));
    assert_eq!((source.get_state(), source.set_state(RUNNING).err()), (Ok(PRE_COPY), Some(Errno::ENODEV)));
}

#[test]
fn memory_that_cannot_be_read_ends_a_resuming_session() {
    let (target, _) = device("6.12", "");
    let session = target.set_state(RESUMING).unwrap().unwrap();
    assert_eq!(session.write(&[8, 0]), Ok(2));
    assert_eq!((session.write_unreadable(), session.write_unreadable()), (Errno::EFAULT, Errno::ENODEV));
    assert_eq!(session.write(&[0]), Err(Errno::ENODEV));
    target.set_state(RUNNING).unwrap();
}

#[test]
fn a_session_that_failed_in_pre_copy_ends_by_a_reset_only() {
    let (source, _) = device("7.3", &format!("{SMALL} fault=read:dead=EIO@2"));
    let session = source.set_state(PRE_COPY).unwrap().unwrap();
    assert_eq!(session.read(&mut [0; 9]), Ok(9));
    assert_eq!(session.read(&mut [0; 9]), Err(Errno::EIO));
    assert_eq!(session.read(&mut [0; 9]), Err(Errno::ENODEV));
    for (to, found) in [(RUNNING, PRE_COPY), (STOP, PRE_COPY), (RESUMING, PRE_COPY), (STOP_COPY, PRE_COPY_P2P)] {
        assert_eq!(source.set_state(to).err(), Some(Errno::ENODEV));
        assert_eq!(source.get_state(), Ok(found));
    }
    assert!(source.set_state(PRE_COPY_P2P).unwrap().is_none(), "where it is");
    source.reset().unwrap();
    let session = source.set_state(STOP_COPY).unwrap().unwrap();
    assert_eq!(records(&drain(&session)), [(1, 8), (0, 1500)]);
    source.set_state(RUNNING).unwrap();
}

#[test]
fn an_error_while_resuming_is_final_and_leaving_tells_nothing() {
    let (source, _) = device("6.12", SMALL);
    let session = source.set_state(STOP_COPY).unwrap().unwrap();
    let stream = drain(&session);
    // A size, the firmware's own check of the image, and of its head.
    for (offset, expected) in [(4, Errno::ENOMEM), (stream.len() - 100, Errno::EINVAL), (48, Errno::EINVAL)] {
        let (target, _) = device("6.12", "seed=3");
        let before = page(&target);
        let mut damaged = stream.clone();
        damaged[offset] ^= 0x40;
        let session = target.set_state(RESUMING).unwrap().unwrap();
        assert_eq!(session.write(&damaged), Err(expected), "byte {offset}");
        assert_eq!(session.write(&stream), Err(Errno::ENODEV));
        target.set_state(RUNNING).unwrap();
        assert_eq!(page(&target), before);
    }
    let (target, _) = device("6.12", "seed=3 memory=1KiB");
    assert_eq!(resume(&target, &stream), Err(Errno::ENOMEM), "what cannot be pinned");
}

#[test]
fn a_truncated_stream_is_taken_without_a_word() {
    let (source, _) = device("6.12", SMALL);
    let session = source.set_state(PRE_COPY).unwrap().unwrap();
    let early = drain(&session);
    source.region_write(0, 0x40, &[1; 64]).unwrap();
    source.set_state(STOP_COPY).unwrap();
    let whole = [early.clone(), drain(&session)].concat();
    let (target, _) = device("6.12", "seed=3");
    let before = page(&target);
    for cut in [0, 1, 24, early.len() - 1] {
        resume(&target, &whole[..cut]).unwrap();
        assert_eq!(page(&target), before);
    }
    resume(&target, &whole[..whole.len() - 1]).unwrap();
    assert_ne!(page(&target), before, "the state as it was in PRE_COPY");
    assert_ne!(page(&target), page(&source));
    // An increment without what it builds on is refused by the firmware.
    let session = target.set_state(RESUMING).unwrap().unwrap();
    assert_eq!(session.write(&whole[early.len()..]), Err(Errno::EINVAL));
}

#[test]
fn options_that_make_no_sense_are_refused() {
    for (options, expected) in [
        ("initial=7", "line 1: initial: expected 112 to 4294901760 bytes"),
        (
            "full=8GiB",
            "line 1: an image of 8589934592 bytes: expected chunk=…, as no image can be larger than 4294901760",
        ),
        ("full=1", "line 1: full=1: expected at least 112"),
        ("chunk=7", "line 1: chunk: expected 4096 to 4294901760"),
        ("precopy-error=0", "line 1: precopy-error=0: expected the number of an image, from 1"),
        ("drained=late", "line 1: drained=late: expected early or blocking"),
    ] {
        let config = Config::parse(&format!("device a model=mlx5 {options}")).unwrap();
        let error = models::device(&config.devices[0].sim, config.kernel, Arc::new(ManualClock::new())).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}
