// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a process has used, from `/proc`.

use core::time::Duration;
use std::fs;
use std::process::{Child, Command};
use std::thread;
use std::time::Instant;

use super::cost::Usage;
use crate::vm::Guarded;

/// The peak only grows, so that the last look before the end is at most this old.
const POLL: Duration = Duration::from_millis(5);
/// Longer than any of this takes.
const LIMIT: Duration = Duration::from_secs(120);

/// Time in user and kernel mode of all threads, which the kernel counts in ticks of 10 ms.
pub(in crate::bench) fn processor(process: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name in parentheses may hold anything; utime and stime are the 12th and 13th word after it (proc(5)).
    let after_name = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = after_name.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<u64>().ok());
    Duration::from_millis(ticks.fold(0, u64::saturating_add).saturating_mul(10))
}

/// `VmHWM`; a process that has ended has none.
pub(in crate::bench) fn peak_bytes(process: u32) -> Option<u64> {
    status_bytes(process, "VmHWM:")
}

/// What it has now beside memory that it shares with others, which is what its guest's memory is.
pub(in crate::bench) fn own_bytes(process: u32) -> Option<u64> {
    Some(status_bytes(process, "RssAnon:")?.saturating_add(status_bytes(process, "RssFile:")?))
}

fn status_bytes(process: u32, key: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes << 10)
}

/// Runs a target and a source to their ends, and gives what both used.
pub(in crate::bench) fn run_both(target: &mut Command, source: &mut Command) -> Result<Usage, String> {
    let spawn = |command: &mut Command| {
        Guarded::spawn(command)
            .map_err(|error| format!("cannot run {}: {error}", command.get_program().to_string_lossy()))
    };
    let mut target = spawn(target)?;
    let mut source = spawn(source)?;
    let begin = Instant::now();
    let mut peak = 0;
    loop {
        peak = peak.max(peak_bytes(target.child().id()).unwrap_or(0));
        if ended(source.child()) && ended(target.child()) {
            break;
        }
        if begin.elapsed() > LIMIT {
            return Err(format!("not over after {} s", LIMIT.as_secs()));
        }
        thread::sleep(POLL);
    }
    let used = [&mut source, &mut target].map(|side| processor(side.child().id()));
    for (name, side) in [("source", &mut source), ("target", &mut target)] {
        let status = side.child().wait().map_err(|error| format!("cannot wait for the {name}: {error}"))?;
        if !status.success() {
            return Err(format!("the {name} ended with {status}"));
        }
    }
    Ok(Usage { processor: used.into_iter().fold(Duration::ZERO, Duration::saturating_add), target_peak_bytes: peak })
}

/// A process that has ended and was not waited for still has its times: `Z` is its state.
fn ended(child: &Child) -> bool {
    let text = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
    text.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
}
