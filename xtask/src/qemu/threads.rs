// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the threads of a QEMU source are at, by the system's account: they bear names.

use core::time::Duration;
use std::fs;
use std::path::Path;
use std::thread;

/// The thread that migrates.
const MIGRATION: &str = "mig/src/main";
/// What the names of all that work for it begin with: senders, the one that hears the target, those that save devices.
const OTHERS: &str = "mig/";
/// What the kernel calls it to wait for another thread, and not for a socket or a device.
const WAIT: &str = "futex";
/// Where they sleep so long without waking once, nothing wakes them: a migration that goes on looks around ten times a second.
const LOOKS: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// Whether the migration thread sleeps for good: it waits for another, and all have ended that it has.
///
/// A thread in one of our devices would look the same if that waited for a lock of its own.
///
/// QEMU 10.0's migration thread syncs its channels by telling every sender, and then waits for each to say that it has. A
/// sender that is told, and wakes when another has met an error already, ends and says nothing.
pub(crate) fn sleeps_for_good(process: u32) -> bool {
    let first = lonely(process);
    first.is_some()
        && (0..LOOKS).all(|_| {
            thread::sleep(BETWEEN_LOOKS);
            lonely(process) == first
        })
}

/// A migration thread that waits for another and has none: its number, and how often it has been woken.
fn lonely(process: u32) -> Option<(u32, u64)> {
    let mut migration = None;
    for entry in fs::read_dir(format!("/proc/{process}/task")).ok()? {
        let path = entry.ok()?.path();
        // One that ends meanwhile has no name any more.
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        if name.trim_end() == MIGRATION {
            migration = Some(path);
        } else if name.starts_with(OTHERS) {
            return None;
        }
    }
    let path = migration?;
    let number = path.file_name()?.to_str()?.parse().ok()?;
    Some((number, wakes_of_a_sleeper(&path)?))
}

fn wakes_of_a_sleeper(task: &Path) -> Option<u64> {
    let status = fs::read_to_string(task.join("status")).ok()?;
    let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    value("State:")?.starts_with('S').then_some(())?;
    fs::read_to_string(task.join("wchan")).ok()?.starts_with(WAIT).then_some(())?;
    value("voluntary_ctxt_switches:")?.parse().ok()
}

#[cfg(test)]
#[path = "threads_test.rs"]
mod test;
