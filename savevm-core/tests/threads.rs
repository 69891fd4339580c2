// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! No thread outlives the call that started it, however the call ends. Alone in its process, so that threads can be
//! counted.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod common;

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::fs;
use std::sync::Arc;
use std::thread;

use common::{channels, devices, load_options, migrate_over, save_options};
use savevm_core::sim::FaultRule;
use savevm_core::{Hooks, Phase};

/// Threads of this process that the engine named.
fn engine_threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks.filter(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with("mig "))).count()
}

struct Counting(Arc<AtomicUsize>);

impl Hooks for Counting {
    fn phase(&mut self, phase: Phase) {
        if phase == Phase::PreCopy {
            self.0.store(engine_threads(), Ordering::Relaxed);
        }
    }
}

#[test]
fn none_is_left() {
    let set = ["model=plain caps=7 initial=64KiB stop=256KiB seed=1"; 3];
    for fault in ["", "read:EIO@2", "write:EIO@1", "set_state:RESUMING:EIO"] {
        let (source, target) = (devices(&set), devices(&set));
        let seen = Arc::new(AtomicUsize::new(0));
        if !fault.is_empty() {
            let plan = [FaultRule::parse(fault).unwrap()].into_iter().collect();
            let side = if fault.starts_with("read") { &source } else { &target };
            side[1].set_faults(plan);
        }
        let mut hooks = Counting(Arc::clone(&seen));
        let both = migrate_over(&source, &target, channels(2), &mut hooks, &mut (), &save_options(), &load_options());
        both.assert_one_owner();
        assert_eq!(both.source.is_ok(), fault.is_empty(), "{fault}");
        if fault.is_empty() {
            // The source's own: three devices, two senders, two receivers.
            assert!(seen.load(Ordering::Relaxed) >= 7, "the counting sees them: {seen:?}");
        }
        // Their work is done when the call returns; the system takes a moment to clear the last one away.
        let left = (0..100).map(|_| engine_threads()).find(|left| {
            thread::sleep(Duration::from_millis(2));
            *left == 0
        });
        assert_eq!(left, Some(0), "after '{fault}'");
    }
}
