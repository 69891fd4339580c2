// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The rules that hold for every model.

use core::time::Duration;
use std::sync::{Arc, Mutex};
use std::thread;
use std::vec;
use std::vec::Vec;

use vfio_mig_fsm::{Capabilities, State, path};

use super::{Errno, ManualClock, SimConfig, SimDevice, SimEvent};

const STOP: u32 = 1;
const RUNNING: u32 = 2;
const STOP_COPY: u32 = 3;
const RESUMING: u32 = 4;
const RUNNING_P2P: u32 = 5;
const PRE_COPY: u32 = 6;
const PRE_COPY_P2P: u32 = 7;

fn device(text: &str) -> SimDevice {
    timed(text).0
}

fn timed(text: &str) -> (SimDevice, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new());
    let device = SimConfig::parse(text).unwrap().device_with(&[], Arc::<ManualClock>::clone(&clock)).unwrap();
    device.open().unwrap();
    (device, clock)
}

/// Takes a fresh device to `state`, on a path that every capability set with that state has.
fn at(caps: Capabilities, state: State) -> SimDevice {
    let device = device(&std::format!("model=plain initial=1KiB stop=1KiB caps={}", caps.flags()));
    device.set_state(state.raw()).unwrap();
    device
}

#[test]
fn every_request_follows_the_tables() {
    let mut refused = 0;
    for caps in Capabilities::ALL {
        let states = || State::ALL.into_iter().filter(move |state| caps.supports(*state));
        for from in states() {
            for to in State::ALL {
                let device = at(caps, from);
                let steps = Arc::new(Mutex::new(Vec::new()));
                let seen = Arc::clone(&steps);
                device.observe(std::boxed::Box::new(move |event| {
                    if let SimEvent::Step { to, .. } = event {
                        seen.lock().unwrap().push(*to);
                    }
                }));
                if from == State::Resuming && to != from {
                    // A resuming device needs a whole stream before it leads anywhere.
                    continue;
                }
                let result = device.set_state(to.raw());
                let path = path(caps, from, to);
                let expected: Vec<u32> = path.iter().flat_map(|path| path.steps()).map(|state| state.raw()).collect();
                let walked = steps.lock().unwrap().clone();
                assert_eq!(walked, expected, "{caps:?}: {from} -> {to}");
                if path.is_none() {
                    refused += 1;
                    assert_eq!(result.err(), Some(Errno::EINVAL), "{caps:?}: {from} -> {to}");
                    assert_eq!(device.get_state(), Ok(from.raw()));
                } else {
                    assert_eq!(device.get_state(), Ok(to.raw()));
                }
            }
            let device = at(caps, from);
            assert_eq!(device.set_state(8).err(), Some(Errno::EINVAL));
            assert_eq!(device.set_state(u32::MAX).err(), Some(Errno::EINVAL));
            assert_eq!(device.get_state(), Ok(from.raw()));
        }
    }
    assert!(refused > 0);
}

#[test]
fn sessions_begin_continue_and_end_as_the_kernels_do() {
    let device = device("model=plain initial=1KiB stop=1KiB");
    let first = device.set_state(PRE_COPY).unwrap().expect("a session");
    assert!(device.set_state(PRE_COPY).unwrap().is_none(), "already there");
    assert!(device.set_state(PRE_COPY_P2P).unwrap().is_none(), "the same session");
    assert!(device.set_state(STOP_COPY).unwrap().is_none(), "the same session");
    assert!(first.is_alive());
    let second = device.set_state(RESUMING).unwrap().expect("a resuming session");
    assert!(!first.is_alive());
    assert_eq!(first.read(&mut [0]), Err(Errno::ENODEV));
    assert_eq!(first.read(&mut []), Err(Errno::ENODEV));
    assert_eq!(second.read(&mut [0]), Err(Errno::EBADF));
    assert_eq!(first.write(&[0]), Err(Errno::EBADF));
    assert_eq!(second.precopy_info(), Err(Errno::ENOTTY));
    device.reset().unwrap();
    assert_eq!(device.get_state(), Ok(RUNNING));
    assert_eq!(second.write(&[0]), Err(Errno::ENODEV));
    let ended = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&ended);
    device.observe(std::boxed::Box::new(move |event| {
        if let SimEvent::SessionEnded { id, bytes, .. } = event {
            seen.lock().unwrap().push((*id, *bytes));
        }
    }));
    let third = device.set_state(PRE_COPY).unwrap().unwrap();
    assert_eq!(third.read(&mut [0; 9]), Ok(9));
    device.set_state(RUNNING).unwrap();
    assert!(!third.is_alive(), "leaving the saving states ends the session");
    assert_eq!(*ended.lock().unwrap(), [(3, 9)]);
}

#[test]
fn precopy_info_checks_the_state_before_the_session() {
    let device = device("model=plain initial=1KiB stop=1KiB");
    let old = device.set_state(PRE_COPY).unwrap().unwrap();
    device.set_state(RUNNING).unwrap();
    assert_eq!(old.precopy_info(), Err(Errno::EINVAL), "not in PRE_COPY, although the session is over as well");
    let new = device.set_state(PRE_COPY).unwrap().unwrap();
    assert_eq!(old.precopy_info(), Err(Errno::ENODEV));
    assert_eq!(new.precopy_info().unwrap().flags, None);
    device.enable_precopy_info_v2().unwrap();
    assert_eq!(new.precopy_info().unwrap().flags, Some(0));
    device.close();
    device.open().unwrap();
    let again = device.set_state(PRE_COPY).unwrap().unwrap();
    assert_eq!(again.precopy_info().unwrap().flags, None, "the opt-in ends with the last close");
}

#[test]
fn a_close_is_the_last_one_or_nothing() {
    let device = device("model=plain initial=1KiB stop=1KiB");
    device.open().unwrap();
    let session = device.set_state(PRE_COPY).unwrap().unwrap();
    device.close();
    assert!(session.is_alive(), "one of two opens");
    device.close();
    assert!(!session.is_alive());
    device.open().unwrap();
    assert_eq!(device.get_state(), Ok(RUNNING));
}

#[test]
fn devices_without_a_capability_say_so() {
    let simple = device("model=plain caps=1 initial=1KiB stop=1KiB");
    assert_eq!(simple.enable_precopy_info_v2(), Err(Errno::EINVAL));
    for state in [RUNNING_P2P, PRE_COPY, PRE_COPY_P2P] {
        assert_eq!(simple.set_state(state).err(), Some(Errno::EINVAL));
    }
    let session = simple.set_state(STOP_COPY).unwrap().unwrap();
    assert_eq!(session.precopy_info(), Err(Errno::ENOTTY));
}

#[test]
fn a_failing_step_leaves_the_last_good_state() {
    let device = device("model=plain initial=1KiB stop=1KiB fault=step:STOP>STOP_COPY:EIO@1");
    assert_eq!(device.set_state(STOP_COPY).err(), Some(Errno::EIO));
    assert_eq!(device.get_state(), Ok(STOP));
    assert!(device.set_state(STOP_COPY).unwrap().is_some(), "only the first time");
}

#[test]
fn faults_hit_the_call_they_name() {
    let text = "model=plain initial=1KiB stop=1KiB
        fault=set_state:PRE_COPY:EBUSY@1 fault=read:EINTR@1 fault=read:short=3@2 fault=read:dead=EINVAL@3
        fault=precopy_info:answer=7/0xffffffffffffffff fault=mig_data_size:answer=18446744073709551611
        fault=get_state:answer=42@2 fault=reset:EAGAIN@1";
    let device = device(text);
    assert_eq!(device.set_state(PRE_COPY).err(), Some(Errno::EBUSY));
    assert_eq!(device.get_state(), Ok(RUNNING), "a refused request has moved nothing");
    let session = device.set_state(PRE_COPY).unwrap().unwrap();
    assert_eq!(device.get_state(), Ok(42));
    assert_eq!(session.precopy_info().map(|info| (info.initial_bytes, info.dirty_bytes)), Ok((7, u64::MAX)));
    assert_eq!(device.mig_data_size(), Ok(-5_i64 as u64));
    let mut buffer = [0; 10];
    assert_eq!(session.read(&mut buffer), Err(Errno::EINTR));
    assert_eq!(session.read(&mut buffer), Ok(3));
    assert_eq!(session.read(&mut buffer), Err(Errno::EINVAL));
    assert_eq!(session.read(&mut buffer), Err(Errno::ENODEV));
    assert_eq!(device.reset(), Err(Errno::EAGAIN));
    assert_eq!(device.reset(), Ok(()));
}

#[test]
fn a_flipped_bit_is_the_only_difference() {
    let saved = |fault: &str| {
        let device = device(&std::format!("model=plain initial=1KiB stop=1KiB {fault}"));
        let session = device.set_state(STOP_COPY).unwrap().unwrap();
        let mut buffer = [0; 100];
        let mut read = || session.read(&mut buffer).map(|length| buffer[..length].to_vec()).unwrap();
        [read(), read()].concat()
    };
    let (whole, damaged) = (saved(""), saved("fault=read:flip=7@2 fault=read:flip=100@1"));
    let differences: Vec<usize> = (0..whole.len()).filter(|byte| whole[*byte] != damaged[*byte]).collect();
    assert_eq!(differences, [107], "a byte that was not read cannot be wrong");
    assert_eq!(whole[107] ^ damaged[107], 0x80);
}

#[test]
fn from_error_only_a_reset_leads_out() {
    let device = device("model=plain initial=1KiB stop=1KiB fault=step:STOP>STOP_COPY:error-state=EIO@1");
    assert_eq!(device.set_state(STOP_COPY).err(), Some(Errno::EIO));
    assert_eq!(device.get_state(), Ok(0));
    assert!(device.set_state(0).is_ok(), "drivers compare before they validate");
    for state in 1..8 {
        assert_eq!(device.set_state(state).err(), Some(Errno::EINVAL));
    }
    device.reset().unwrap();
    assert_eq!(device.get_state(), Ok(RUNNING));
}

#[test]
fn delays_are_those_configured() {
    let text = "model=plain initial=1KiB stop=1KiB transition-ms=5 step-ms=RUNNING_P2P>STOP:20 write-ms-per-mib=8
        query-ms=3 fault=get_state:delay=100ms@1";
    let (device, clock) = timed(text);
    let elapsed = |action: &dyn Fn()| {
        let before = super::Clock::now(&*clock);
        action();
        super::Clock::now(&*clock) - before
    };
    let set = elapsed(&|| drop(device.set_state(STOP_COPY).unwrap()));
    assert_eq!(set, Duration::from_millis(5 + 20 + 5));
    assert_eq!(elapsed(&|| assert!(device.mig_data_size().is_ok())), Duration::from_millis(3));
    assert_eq!(elapsed(&|| assert!(device.get_state().is_ok())), Duration::from_millis(100));
    let session = device.set_state(RESUMING).unwrap().unwrap();
    let chunk = vec![0; 1 << 16];
    let written = elapsed(&|| {
        for _ in 0..32 {
            let _ = session.write(&chunk);
        }
    });
    // The header is wrong, so the first write ends the session: it alone is paid for, when it amounts to anything.
    assert_eq!(written, Duration::ZERO);
    let (free, clock) = timed("model=plain sticky-errors=no write-ms-per-mib=8");
    let session = free.set_state(RESUMING).unwrap().unwrap();
    for _ in 0..32 {
        let _ = session.write(&chunk);
    }
    assert_eq!(super::Clock::now(&*clock), Duration::from_millis(16), "2 MiB at 8 ms each");
}

#[test]
fn a_get_waits_for_a_set_and_a_reset_ends_a_hang() {
    let config = SimConfig::parse("model=plain initial=1KiB stop=1KiB fault=step:RUNNING>PRE_COPY:hang=600s").unwrap();
    let device = config.device().unwrap();
    device.open().unwrap();
    thread::scope(|scope| {
        let hanging = scope.spawn(|| device.set_state(PRE_COPY).map(|_| ()));
        thread::sleep(Duration::from_millis(50));
        assert!(!hanging.is_finished());
        let waiting = scope.spawn(|| device.get_state());
        thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished(), "GET waits for the SET");
        device.reset().unwrap();
        assert_eq!(hanging.join().unwrap(), Err(Errno::ETIMEDOUT));
        assert_eq!(waiting.join().unwrap(), Ok(RUNNING));
    });
}

#[test]
fn a_reset_overrides_where_a_set_in_progress_leads() {
    let device = SimConfig::parse("model=plain transition-ms=60").unwrap().device().unwrap();
    device.open().unwrap();
    thread::scope(|scope| {
        let setting = scope.spawn(|| device.set_state(PRE_COPY).map(Option::unwrap));
        thread::sleep(Duration::from_millis(20));
        device.reset().unwrap();
        let session = setting.join().unwrap().expect("the SET itself succeeds");
        assert_eq!(device.get_state(), Ok(RUNNING));
        assert!(!session.is_alive());
    });
}

#[test]
fn a_session_can_be_read_beside_a_slow_set() {
    let device = SimConfig::parse("model=plain step-ms=PRE_COPY>PRE_COPY_P2P:300").unwrap().device().unwrap();
    device.open().unwrap();
    let session = device.set_state(PRE_COPY).unwrap().unwrap();
    thread::scope(|scope| {
        let setting = scope.spawn(|| device.set_state(PRE_COPY_P2P).map(|_| ()));
        thread::sleep(Duration::from_millis(50));
        assert_eq!(session.read(&mut [0; 100]), Ok(100));
        assert!(!setting.is_finished(), "the read came while the SET was in progress");
        setting.join().unwrap().unwrap();
    });
}

#[test]
fn contents_outlive_a_process_only_with_the_models_leave() {
    let before = device("model=mtty");
    before.region_write(0, 7, &[0x42]).unwrap();
    before.set_state(STOP).unwrap();
    let (state, contents) = before.export();
    let after = device("model=mtty");
    after.import(state, &contents).unwrap();
    assert_eq!(after.get_state(), Ok(STOP));
    assert_eq!(after.export(), (state, contents.clone()));
    assert_eq!(device("model=mtty ports=2").import(state, &contents), Err(Errno::EINVAL));

    let plain = device("model=plain");
    plain.region_write(0, 0x40, &[1]).unwrap();
    let (_, contents) = plain.export();
    let other = device("model=plain seed=9");
    other.import(STOP, &contents).unwrap();
    assert_eq!(other.get_state(), Ok(RUNNING), "its state does not survive a close");
    assert_eq!(other.export().1, contents);
}
