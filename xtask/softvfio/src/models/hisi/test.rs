// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The facts of hisi.md, each on a device.
#![allow(clippy::arithmetic_side_effects, clippy::as_conversions)]

use std::sync::Arc;

use device_hisi::{MATCH_BYTES, STATE_BYTES, Stream};
use savevm_core::sim::{DirtyLogging, Errno, SimDevice, SimSession, SystemClock};

use crate::config::Config;
use crate::models;

const STOP: u32 = 1;
const RUNNING: u32 = 2;
const STOP_COPY: u32 = 3;
const RESUMING: u32 = 4;
const PRE_COPY: u32 = 6;

fn device(kernel: &str, options: &str) -> SimDevice {
    let config = Config::parse(&format!("kernel={kernel}; device a model=hisi {options}")).unwrap();
    let device = models::device(&config.devices[0].sim, config.kernel, Arc::new(SystemClock::new())).unwrap();
    device.open().unwrap();
    device
}

fn read(session: &SimSession) -> Vec<u8> {
    let mut buffer = [0; 1000];
    let length = session.read(&mut buffer).unwrap();
    buffer[..length].to_vec()
}

fn save(device: &SimDevice) -> Vec<u8> {
    let session = device.set_state(STOP_COPY).unwrap().unwrap();
    let bytes = read(&session);
    assert_eq!(session.read(&mut [0]), Ok(0));
    device.set_state(RUNNING).unwrap();
    bytes
}

fn words(device: &SimDevice) -> [u8; 16] {
    let mut words = [0; 16];
    device.region_read(0, 0, &mut words).unwrap();
    words
}

fn resume(device: &SimDevice, pieces: &[&[u8]]) -> Result<(), Errno> {
    let session = device.set_state(RESUMING).unwrap().unwrap();
    for piece in pieces {
        session.write(piece)?;
    }
    device.set_state(RUNNING).map(|_| ())
}

#[test]
fn the_match_part_comes_first_and_the_rest_without_a_seam() {
    let source = device("6.12", "accelerator=sec isolation=3 seed=5");
    let whole = save(&source);
    assert_eq!(source.mig_data_size(), Ok(176));
    let session = source.set_state(PRE_COPY).unwrap().unwrap();
    let mut early = vec![0; 30];
    assert_eq!(session.read(&mut early), Ok(30));
    let info = session.precopy_info().unwrap();
    assert_eq!((info.initial_bytes, info.dirty_bytes), (10, 0));
    early.extend(read(&session));
    assert_eq!(session.read(&mut [0; 9]), Ok(0), "0, not ENOMSG");
    assert_eq!(session.precopy_info().unwrap().initial_bytes, 0);
    source.set_state(STOP_COPY).unwrap();
    assert_eq!(early.len(), MATCH_BYTES);
    early.extend(read(&session));
    assert_eq!(early, whole);
    assert_eq!(session.precopy_info(), Err(Errno::EINVAL));

    let stream = Stream::decode(&whole).unwrap();
    let findings = stream.check();
    assert_eq!(findings.to_string(), "");
    let head = stream.head();
    assert_eq!((head.dev_id, head.qp_num, head.que_iso_cfg), (0xa256, 256, 3));
}

#[test]
fn there_are_no_p2p_states_and_no_dma_logging() {
    let vf = device("7.3", "");
    assert_eq!(vf.facts().migration_flags, Some(5));
    assert_eq!(vf.facts().dirty_logging, DirtyLogging::Absent);
    for state in [5, 7] {
        assert_eq!((vf.set_state(state).err(), vf.get_state()), (Some(Errno::EINVAL), Ok(RUNNING)), "{state}");
    }
    // One arc from PRE_COPY to STOP_COPY, in the same session.
    let session = vf.set_state(PRE_COPY).unwrap().unwrap();
    assert!(vf.set_state(STOP_COPY).unwrap().is_none() && session.is_alive());
    vf.set_state(RUNNING).unwrap();
    assert_eq!(session.read(&mut [0]), Err(Errno::ENODEV));
}

#[test]
fn no_new_initial_phase_is_ever_told() {
    let vf = device("7.3", "");
    vf.enable_precopy_info_v2().unwrap();
    let session = vf.set_state(PRE_COPY).unwrap().unwrap();
    for (len, initial_bytes) in [(0, 40), (30, 10), (10, 0), (1, 0)] {
        let _ = session.read(&mut vec![0; len]);
        let info = session.precopy_info().unwrap();
        assert_eq!((info.initial_bytes, info.dirty_bytes, info.flags), (initial_bytes, 0, Some(0)));
    }
}

#[test]
fn memory_that_cannot_be_read_leaves_everything_as_it_was() {
    let whole = save(&device("6.12", "seed=1"));
    let target = device("6.12", "seed=2");
    let session = target.set_state(RESUMING).unwrap().unwrap();
    assert_eq!(session.write(&whole[..50]), Ok(50));
    assert_eq!((session.write_unreadable(), session.write_unreadable()), (Errno::EFAULT, Errno::EFAULT));
    assert_eq!(session.write(&whole[50..]), Ok(126), "the position has not moved");
    target.set_state(RUNNING).unwrap();
    assert_eq!(save(&target), whole);
    assert_eq!(session.write_unreadable(), Errno::ENODEV);
}

#[test]
fn a_vf_without_guest_driver_is_forty_bytes() {
    let source = device("6.12", "ready=no");
    let stopped = Stream::decode(&save(&source)).unwrap();
    assert_eq!((stopped.len(), stopped.head().vf_qm_state), (40, 1));
    // Read in PRE_COPY the same VF says 0, and nothing follows.
    let session = source.set_state(PRE_COPY).unwrap().unwrap();
    let early = read(&session);
    source.set_state(STOP_COPY).unwrap();
    assert_eq!(session.read(&mut [0; 9]), Ok(0));
    assert_eq!(Stream::decode(&early).unwrap().head().vf_qm_state, 0);

    let target = device("6.12", "seed=9");
    let before = words(&target);
    resume(&target, &[&early]).unwrap();
    assert_eq!(words(&target), before, "nothing is loaded");
}

#[test]
fn a_state_arrives_in_any_pieces() {
    let source = device("6.12", "seed=1");
    source.region_write(0, 0x40, &[0x5a; 64]).unwrap();
    let whole = save(&source);
    for cut in [1, 40, 41, 175] {
        let target = device("7.3", "seed=2");
        assert_ne!(words(&target), words(&source));
        resume(&target, &[&whole[..cut], &whole[cut..]]).unwrap();
        assert_eq!(words(&target), words(&source));
        assert_eq!(save(&target), whole);
    }
}

#[test]
fn a_refused_match_part_is_neither_forgotten_nor_checked_again_at_the_end() {
    let whole = save(&device("7.3", "seed=1 isolation=1"));
    let target = device("7.3", "seed=2");
    let before = words(&target);
    let session = target.set_state(RESUMING).unwrap().unwrap();
    assert_eq!(session.write(&whole[..39]), Ok(39));
    assert_eq!(session.write(&whole[39..41]), Err(Errno::EFAULT));
    assert_eq!(session.write(&whole[41..]), Err(Errno::EFAULT), "again, but stored");
    assert_eq!(session.write(&[0]), Err(Errno::ENOMEM));
    target.set_state(RUNNING).unwrap();
    assert_ne!(words(&target), before, "the mismatched state was loaded");
}

#[test]
fn what_is_incomplete_is_einval_and_what_is_too_long_enomem() {
    let whole = save(&device("6.12", ""));
    let target = device("6.12", "");
    let session = target.set_state(RESUMING).unwrap().unwrap();
    assert_eq!(target.set_state(STOP).err(), Some(Errno::EINVAL), "nothing");
    assert_eq!(session.write(&whole[..175]), Ok(175));
    assert_eq!(target.set_state(STOP).err(), Some(Errno::EINVAL), "all but one byte");
    assert_eq!(session.write(&[whole[175], 0]), Err(Errno::ENOMEM));
    assert_eq!(session.write(&whole[175..]), Ok(1));
    target.set_state(STOP).unwrap();
    assert_eq!(session.write(&[0; 177]), Err(Errno::ENOMEM), "before the session is looked at");
    assert_eq!(session.write(&[0; 176]), Err(Errno::ENODEV));
}

#[test]
fn the_comparison_happens_once_per_open_or_per_binding() {
    let whole = save(&device("6.12", ""));
    let mut other = whole.clone();
    other[8] ^= 1;
    for (kernel, after_open) in [("7.3", Err(Errno::EFAULT)), ("6.12", Ok(()))] {
        let target = device(kernel, "");
        assert_eq!(resume(&target, &[&other]), Err(Errno::EFAULT));
        target.reset().unwrap();
        resume(&target, &[&whole]).unwrap();
        target.reset().unwrap();
        resume(&target, &[&other]).expect("compared before, and a reset does not matter");
        target.close();
        let (state, contents) = target.export();
        let next = device(kernel, "");
        next.import(state, &contents).unwrap();
        assert_eq!(resume(&next, &[&other]), after_open, "{kernel}");
    }
}

#[test]
fn faulty_version_1_is_repaired_in_one_write_only() {
    let source = device("6.12", "version=1-faulty seed=4");
    let whole = save(&source);
    assert_eq!(Stream::decode(&whole).unwrap().len(), STATE_BYTES);
    for (cut, arrives) in [(176, true), (40, false), (160, true)] {
        let target = device("6.12", "seed=8");
        resume(&target, &[&whole[..cut], &whole[cut..]]).unwrap();
        assert_eq!(words(&target) == words(&source), arrives, "cut at {cut}");
    }
    let right = save(&device("6.12", "version=1 seed=4"));
    let target = device("6.12", "seed=8");
    resume(&target, &[&right[..40], &right[40..]]).unwrap();
    assert_eq!(words(&target), words(&source), "addresses that are right need no repair");
    let old = device("6.12", "version=1");
    assert_eq!(resume(&old, &[&save(&target)]), Err(Errno::EFAULT), "version 1 reads no version 2");
}

#[test]
fn a_state_without_an_address_leaves_the_vf_not_ready() {
    let mut whole = save(&device("6.12", ""));
    whole[160..168].fill(0);
    let target = device("6.12", "");
    resume(&target, &[&whole]).unwrap();
    assert_eq!(words(&target)[8], 1);
    assert_eq!(save(&target).len(), MATCH_BYTES);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    for (options, expected) in [
        ("accelerator=nic", "zip, sec or hpre"),
        ("queues=1025", "1 to 1024"),
        ("version=3", "1, 1-faulty or 2"),
        ("compares=never", "per-binding or per-open"),
        ("caps=7", "a key of this model"),
    ] {
        let config = Config::parse(&format!("device a model=hisi {options}")).unwrap();
        let error = models::device(&config.devices[0].sim, config.kernel, Arc::new(SystemClock::new())).unwrap_err();
        assert_eq!(error.to_string(), format!("line 1: {options}: expected {expected}"));
    }
}
