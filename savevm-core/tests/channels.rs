// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Several devices over several channels: who uses what, in how much memory, and what becomes of it when a channel, a
//! device or somebody's patience ends.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod common;

use core::time::Duration;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use common::{
    assert_all, channels, connection, devices, load_options, migrate_over, migrate_with, ports, save_options,
};
use savevm_core::load::LoadOptions;
use savevm_core::save::{self, SaveOptions};
use savevm_core::sim::FaultRule;
use savevm_core::{Cancel, Cause, Channel, Hooks, Phase};
use vfio_mig_fsm::State;

/// Devices of odd sizes, all capability sets among them.
fn set(count: usize) -> Vec<String> {
    let caps = [7, 5, 3, 1];
    (0..count)
        .map(|index| {
            let caps = caps[index % 4];
            let (initial, dirty, stop) = (3000 + 7 * index, 5000 + index, 40_000 + 1001 * index);
            format!("model=plain caps={caps} initial={initial} dirty={dirty} stop={stop} seed={index}")
        })
        .collect()
}

fn borrowed(set: &[String]) -> Vec<&str> {
    set.iter().map(String::as_str).collect()
}

#[test]
fn any_number_of_devices_over_any_number_of_channels() {
    for device_count in 1..=8 {
        for channel_count in 1..=4 {
            let set = set(device_count);
            let (source, target) = (devices(&borrowed(&set)), devices(&borrowed(&set)));
            let mut save = save_options();
            save.limits.chunk_bytes_max = 4096;
            let both =
                migrate_over(&source, &target, channels(channel_count), &mut (), &mut (), &save, &load_options());
            both.assert_moved();
            let committed = both.source.unwrap();
            assert_eq!(committed.counters.channels.len(), channel_count);
            let sent: u64 = committed.counters.channels.iter().map(|channel| channel.bytes).sum();
            let moved: u64 = committed.devices.iter().map(|device| device.sum.bytes).sum();
            assert_eq!(sent, moved, "{device_count} devices, {channel_count} channels");
            let used = committed.counters.channels.iter().filter(|channel| channel.frames > 0).count();
            assert!(used >= device_count.min(channel_count), "{used} of {channel_count} channels were used");
        }
    }
}

/// Notes when each device was last heard of.
struct LastHeard(Arc<Mutex<Vec<(u64, Instant)>>>);

impl Hooks for LastHeard {
    fn progress(&mut self, index: usize, bytes: u64) {
        self.0.lock().unwrap()[index] = (bytes, Instant::now());
    }
}

#[test]
fn a_slow_device_neither_fills_the_memory_nor_holds_up_the_others() {
    let slow = "model=plain caps=1 stop=1MiB write-ms-per-mib=600 seed=1";
    let quick = "model=plain caps=1 stop=1MiB seed=2";
    let (source, target) = (devices(&[slow, quick]), devices(&[slow, quick]));
    let (mut save, mut load) = (save_options(), load_options());
    (save.limits.chunk_bytes_max, load.limits.chunk_bytes_max) = (64 << 10, 64 << 10);
    load.limits.buffer_bytes_max = 256 << 10;
    let heard = Arc::new(Mutex::new(vec![(0, Instant::now()); 2]));
    let mut hooks = LastHeard(Arc::clone(&heard));
    // One channel: what waits for the slow device must not stand in the way of the other.
    let both = migrate_over(&source, &target, channels(1), &mut (), &mut hooks, &save, &load);
    both.assert_moved();
    let counters = both.target.unwrap().counters;
    assert_eq!(counters.buffer_bytes_bound, 256 << 10);
    assert!(counters.buffer_bytes_peak <= 256 << 10, "{counters:?}");
    assert!(counters.buffer_bytes_peak >= 128 << 10, "the slow device's share was used: {counters:?}");
    let heard = heard.lock().unwrap();
    assert!(heard[0].0 == heard[1].0 && heard[0].0 >= 1 << 20, "both are done: {heard:?}");
    let ahead = heard[0].1.saturating_duration_since(heard[1].1);
    assert!(ahead > Duration::from_millis(300), "the quick device was done only {ahead:?} before the slow one");
}

#[test]
fn the_bound_holds_however_many_devices_share_it() {
    let set = set(8);
    for bound in [8, 100, 5000, 64 << 10] {
        let (source, target) = (devices(&borrowed(&set)), devices(&borrowed(&set)));
        let mut load = load_options();
        load.limits.buffer_bytes_max = bound;
        if bound < 1000 {
            // One byte at a time would take its time.
            load.limits.state_bytes_max = 100;
        }
        let both = migrate_over(&source, &target, channels(2), &mut (), &mut (), &save_options(), &load);
        both.assert_one_owner();
        if let Ok(running) = &both.target {
            let counters = &running.counters;
            assert!(counters.buffer_bytes_peak <= counters.buffer_bytes_bound);
            assert!(counters.buffer_bytes_bound <= bound, "{counters:?}");
        }
        assert_eq!(both.target.is_ok(), bound >= 1000);
    }
    let (source, target) = (devices(&borrowed(&set)), devices(&borrowed(&set)));
    let mut load = load_options();
    load.limits.buffer_bytes_max = 7;
    let both = migrate_over(&source, &target, channels(2), &mut (), &mut (), &save_options(), &load);
    assert!(both.target.unwrap_err().to_string().contains("too few for 8 devices"));
}

#[test]
fn over_tcp_in_turns_and_over_halves_without_a_shutdown() {
    let tcp = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let left = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (Channel::tcp(left).unwrap(), Channel::tcp(listener.accept().unwrap().0).unwrap())
    };
    let timed = |stream: &UnixStream| stream.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
    let turns = || {
        let (left, right) = connection();
        timed(&left);
        timed(&right);
        (Channel::turns(left), Channel::turns(right))
    };
    let halves = || {
        let (left, right) = connection();
        timed(&left);
        timed(&right);
        let halves = |stream: UnixStream| Channel::new(stream.try_clone().unwrap(), stream);
        (halves(left), halves(right))
    };
    let kinds: [&dyn Fn() -> (Channel<'static>, Channel<'static>); 3] = [&tcp, &turns, &halves];
    for kind in kinds {
        let set = set(3);
        for fault in [false, true] {
            let (source, target) = (devices(&borrowed(&set)), devices(&borrowed(&set)));
            if fault {
                target[1].set_faults([FaultRule::parse("write:EIO@1").unwrap()].into_iter().collect());
            }
            let ends = (0..2).map(|_| kind()).unzip();
            let both = migrate_over(&source, &target, ends, &mut (), &mut (), &save_options(), &load_options());
            both.assert_one_owner();
            if !fault {
                both.assert_moved();
            }
            assert_eq!(both.source.is_ok(), !fault);
        }
    }
}

#[test]
fn the_targets_channels_may_come_in_any_order() {
    let set = set(3);
    let (source, target) = (devices(&borrowed(&set)), devices(&borrowed(&set)));
    let (left, mut right) = channels(3);
    right.rotate_left(1);
    migrate_over(&source, &target, (left, right), &mut (), &mut (), &save_options(), &load_options()).assert_moved();
}

#[test]
fn checksums_are_left_out_only_where_both_sides_agree() {
    let set = set(2);
    for (ours, theirs) in [(true, false), (false, true), (false, false)] {
        let (source, target) = (devices(&borrowed(&set)), devices(&borrowed(&set)));
        let (mut save, mut load) = (save_options(), load_options());
        (save.limits.payload_checksums, load.limits.payload_checksums) = (ours, theirs);
        migrate_with(&source, &target, &mut (), &mut (), &save, &load).assert_moved();
    }
}

#[test]
fn a_different_number_of_channels_is_refused_by_both() {
    for (ours, theirs) in [(1, 2), (3, 2)] {
        let set = set(1);
        let (source, target) = (devices(&borrowed(&set)), devices(&borrowed(&set)));
        let (mut left, mut right) = channels(3);
        // Held, not closed.
        let _rest = (left.split_off(ours), right.split_off(theirs));
        let both = migrate_over(&source, &target, (left, right), &mut (), &mut (), &save_options(), &load_options());
        both.assert_one_owner();
        let said = format!("the source uses {ours} channels, and {theirs} are open here");
        assert!(both.target.unwrap_err().to_string().contains(&said));
        let told = both.source.unwrap_err();
        assert!(told.to_string().contains(&said), "{told}");
    }
}

/// Cuts a connection when a phase begins.
struct CutAt(Phase, UnixStream);

impl Hooks for CutAt {
    fn phase(&mut self, phase: Phase) {
        if phase == self.0 {
            self.1.shutdown(Shutdown::Both).unwrap();
        }
    }
}

#[test]
fn a_channel_lost_in_any_phase_ends_the_migration_in_time() {
    for phase in Phase::ALL {
        for lost in 0..3 {
            for on_source in [true, false] {
                let set = set(4);
                let (source, target) = (devices(&borrowed(&set)), devices(&borrowed(&set)));
                let sockets: Vec<_> = (0..3).map(|_| connection()).collect();
                let (left, right) = &sockets[lost];
                let handle = if on_source { left } else { right }.try_clone().unwrap();
                let ends = sockets
                    .into_iter()
                    .map(|(left, right)| (Channel::unix(left).unwrap(), Channel::unix(right).unwrap()))
                    .unzip();
                let mut cut = CutAt(phase, handle);
                let began = Instant::now();
                let (save, load) = (save_options(), load_options());
                let both = if on_source {
                    migrate_over(&source, &target, ends, &mut cut, &mut (), &save, &load)
                } else {
                    migrate_over(&source, &target, ends, &mut (), &mut cut, &save, &load)
                };
                let took = began.elapsed();
                let what = format!("channel {lost} at {phase}, on the source: {on_source}");
                assert!(took < Duration::from_secs(3), "{what}: it took {took:?}");
                match (&both.source, &both.target) {
                    // The Complete was lost: the target runs, the source knows that it may.
                    (Err(source), Ok(_)) => assert!(source.committed, "{what}: {source}"),
                    _ => both.assert_one_owner(),
                }
                // A target may hear of the later phases when the channel has said its last word already.
                if phase < if on_source { Phase::Load } else { Phase::Switchover } {
                    let error = both.source.unwrap_err();
                    assert!(!error.committed, "{what}: {error}");
                    assert_all(&both.source_states, State::Running, &what);
                    both.target.unwrap_err();
                }
            }
        }
    }
}

/// Cancels when a phase begins.
struct CancelAt(Phase, Cancel);

impl Hooks for CancelAt {
    fn phase(&mut self, phase: Phase) {
        if phase == self.0 {
            self.1.cancel();
        }
    }
}

fn cancellable() -> (SaveOptions, LoadOptions, Cancel, Cancel) {
    let (mut save, mut load) = (save_options(), load_options());
    let (ours, theirs) = (Cancel::new(), Cancel::new());
    (save.cancel, load.cancel) = (ours.clone(), theirs.clone());
    (save, load, ours, theirs)
}

#[test]
fn a_cancel_at_any_phase_over_two_channels() {
    for phase in Phase::ALL {
        for on_source in [true, false] {
            let set = set(3);
            let (source, target) = (devices(&borrowed(&set)), devices(&borrowed(&set)));
            let (save, load, ours, theirs) = cancellable();
            let mut cancelling = CancelAt(phase, if on_source { ours } else { theirs });
            let both = if on_source {
                migrate_over(&source, &target, channels(2), &mut cancelling, &mut (), &save, &load)
            } else {
                migrate_over(&source, &target, channels(2), &mut (), &mut cancelling, &save, &load)
            };
            both.assert_one_owner();
            // A target that has acknowledged everything leaves the decision to the source.
            let too_late = phase == Phase::Done || (phase == Phase::Commit && !on_source);
            assert_eq!(both.source.is_ok(), too_late, "{phase}, on the source: {on_source}");
        }
    }
}

#[test]
fn a_cancel_waits_for_the_device_call_under_way_and_not_much_longer() {
    for side in ["source", "target"] {
        let rule = if side == "source" { "read:delay=300ms@3" } else { "write:delay=300ms@3" };
        let config = ["model=plain caps=1 stop=1MiB seed=1", "model=plain caps=1 stop=1MiB seed=2"];
        let (source, target) = (devices(&config), devices(&config));
        let victim = if side == "source" { &source } else { &target };
        victim[0].set_faults([FaultRule::parse(rule).unwrap()].into_iter().collect());
        let (save, load, ours, theirs) = cancellable();
        let cancel = if side == "source" { ours } else { theirs };
        let began = Instant::now();
        let canceller = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            cancel.cancel();
        });
        let both = migrate_over(&source, &target, channels(2), &mut (), &mut (), &save, &load);
        let took = began.elapsed();
        canceller.join().unwrap();
        both.assert_one_owner();
        assert!(both.source.is_err(), "{side}: the call took longer than the cancel");
        // The call ends after 300 ms at the latest; the rest is for a machine with other things to do, and less than any patience here.
        assert!(took < Duration::from_millis(300 + 2700), "{side}: {took:?}");
    }
}

#[test]
fn a_peer_that_says_nothing_is_given_up() {
    let (left, _right) = channels(2);
    let source = devices(&["model=plain caps=7 initial=1KiB stop=1KiB seed=1"]);
    let mut ours = ports(&source);
    let mut options = save_options();
    options.limits.silence_max = Duration::from_millis(200);
    let began = Instant::now();
    let error = save::save(&mut ours, left, &mut (), &options).map(|_| ()).unwrap_err();
    assert!(matches!(error.cause, Cause::Link { .. }), "{error}");
    assert!(error.to_string().contains("silent"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(2));
}

/// A fault at every call of one of three devices, on either side.
#[test]
fn a_fault_at_every_call_over_two_channels() {
    let set = [
        "model=plain caps=7 initial=2KiB dirty=1KiB stop=5KiB seed=1",
        "model=plain caps=7 initial=1KiB dirty=1KiB stop=3KiB seed=2",
        "model=plain caps=1 stop=3KiB seed=3",
    ];
    for (rule, on_source) in [
        ("set_state:EIO", true),
        ("read:EIO", true),
        ("step:error-state=EIO", true),
        ("precopy_info:EIO", true),
        ("set_state:EIO", false),
        ("write:ENOMEM", false),
        ("step:error-state=EIO", false),
    ] {
        for nth in 1..100 {
            let (source, target) = (devices(&set), devices(&set));
            let side = if on_source { &source } else { &target };
            side[1].set_faults([FaultRule::parse(&format!("{rule}@{nth}")).unwrap()].into_iter().collect());
            let mut save = save_options();
            save.limits.chunk_bytes_max = 1 << 10;
            let both = migrate_over(&source, &target, channels(2), &mut (), &mut (), &save, &load_options());
            match (&both.source, &both.target) {
                (Err(source), Err(target)) if source.committed && target.committed => continue,
                _ => both.assert_one_owner(),
            }
            if both.source.is_ok() {
                assert!(nth > 2, "{rule} was never hit");
                break;
            }
        }
    }
}

/// Panics when a phase begins.
struct PanicAt(Phase);

impl Hooks for PanicAt {
    fn phase(&mut self, phase: Phase) {
        assert_ne!(phase, self.0, "a VMM's bug");
    }
}

#[test]
fn a_hook_that_panics_leaves_no_thread_behind_and_the_devices_put_back() {
    for phase in [Phase::Hello, Phase::PreCopy, Phase::StopCopy, Phase::Load] {
        let set = set(2);
        let (source, target) = (devices(&borrowed(&set)), devices(&borrowed(&set)));
        let (left, right) = channels(2);
        let (mut ours, mut theirs) = (ports(&source), ports(&target));
        let (panicked, loaded) = std::thread::scope(|scope| {
            let loading = scope.spawn(|| {
                let mut options = load_options();
                options.limits.silence_max = Duration::from_secs(2);
                savevm_core::load::load(&mut theirs, right, &mut (), &options).and_then(|loaded| loaded.run())
            });
            let saving = scope.spawn(|| save::save(&mut ours, left, &mut PanicAt(phase), &save_options()).map(|_| ()));
            (saving.join().is_err(), loading.join().unwrap())
        });
        assert!(panicked, "{phase}: the panic is the caller's to see");
        assert!(!loaded.unwrap_err().committed, "{phase}");
        for port in &mut ours {
            assert_eq!(savevm_core::Device::state(port), Ok(State::Running), "{phase}");
        }
    }
}
