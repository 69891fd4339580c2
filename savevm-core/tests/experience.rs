// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What one migration teaches the next.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod common;

use core::time::Duration;

use common::{devices, load_options, migrate_with, ports, save_options};
use savevm_core::{Device, Hooks, save};

/// Every step of the devices takes 10 ms, at least, and so does what is learned of it.
#[test]
fn what_one_migration_took_the_next_one_expects() {
    const STEP: Duration = Duration::from_millis(10);
    let config = "model=plain caps=7 initial=64KiB stop=64KiB transition-ms=10 seed=1";
    let once = |experience| {
        let (source, target) = (devices(&[config]), devices(&[config]));
        let identity = ports(&source)[0].identity().to_owned();
        let mut save = save_options();
        save.experience = experience;
        let both = migrate_with(&source, &target, &mut (), &mut (), &save, &load_options());
        both.assert_moved();
        (both.source.unwrap(), identity)
    };
    let (first, identity) = once(save::Experience::new());
    let learned = *first.experience.get(&identity).unwrap();
    for took in [learned.quiesce, learned.stop, learned.load, learned.run] {
        assert!(took.expected >= STEP && took.spread_per_mille < 500, "{learned:?}");
    }
    let (second, _) = once(first.experience);
    let predicted = second.predicted.unwrap();
    assert!(predicted.expected >= STEP * 3, "stop, load and run: {predicted:?}");

    let mut experience = save::Experience::new();
    let mut slow = learned;
    slow.run.expected = Duration::from_millis(700);
    experience.insert(identity, slow);
    let predicted = once(experience).0.predicted.unwrap();
    assert!(predicted.expected >= slow.run.expected, "{predicted:?}");
}

/// A VMM that takes 30 ms to pause its vCPUs, and is known for it.
#[test]
fn a_guest_that_is_slow_to_pause_is_expected_to_be() {
    const PAUSE: Duration = Duration::from_millis(30);
    struct Slow;
    impl Hooks for Slow {
        fn pause_guest(&mut self) -> Result<(), String> {
            std::thread::sleep(PAUSE);
            Ok(())
        }
    }
    let once = |experience| {
        let config = "model=plain caps=7 initial=64KiB stop=64KiB seed=1";
        let mut save = save_options();
        save.experience = experience;
        let both = migrate_with(&devices(&[config]), &devices(&[config]), &mut Slow, &mut (), &save, &load_options());
        both.assert_moved();
        both.source.unwrap()
    };
    let first = once(save::Experience::new());
    let learned = first.experience.pause().expect("it was asked to pause");
    assert!(learned.expected >= PAUSE, "{learned:?}");
    let predicted = once(first.experience).predicted.unwrap();
    assert!(predicted.expected >= PAUSE, "{predicted:?}");
}

/// Reading waits for credit most of the time. That is the target's doing, and known as such; nor is what the target still has to write
/// when all is sent a part of loading, which takes next to nothing.
#[test]
fn a_slow_target_is_no_slow_source_and_no_long_load() {
    let config = |write: &str| format!("model=plain caps=7 initial=12MiB dirty=0 stop=1536KiB {write} seed=1");
    let (source, target) = (devices(&[&config("")]), devices(&[&config("write-ms-per-mib=100")]));
    let identity = ports(&source)[0].identity().to_owned();
    let (mut save, mut load) = (save_options(), load_options());
    (save.limits.chunk_bytes_max, load.limits.chunk_bytes_max) = (256 << 10, 256 << 10);
    let both = migrate_with(&source, &target, &mut (), &mut (), &save, &load);
    both.assert_moved();
    let learned = *both.source.unwrap().experience.get(&identity).unwrap();
    let (read, write) = (learned.read_bytes_per_s.unwrap(), learned.write_bytes_per_s.expect("it was waited for"));
    // A MiB in 100 ms; a busy machine makes it less, and never more.
    assert!((2_000_000..10_600_000).contains(&write), "{learned:?}");
    assert!(read > 2 * write, "{learned:?}");
    assert!(learned.load.expected < Duration::from_millis(100), "they take 150 ms to write: {learned:?}");
}
