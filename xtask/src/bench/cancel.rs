// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cancel`: how long both sides take to come back at a random moment, devices put back, all threads gone, all descriptors closed.

use core::time::Duration;
use std::thread;
use std::time::Instant;

use savevm_core::load::{self, LoadOptions};
use savevm_core::save::{self, SaveOptions};

use super::engine::failed;
use super::limit::{Bound, Value, against, quantile};
use super::rig::{simulated, unix};
use super::{Outcome, Setting, Unit};
use crate::sim::Rng;

/// `spec/perf/bench-plan.md`, R4, in milliseconds.
const ALLOWED_MS: f64 = 50.0;
const SEED: u64 = 1;
/// It moves for longer than the last of the moments: 16 MiB while the guest runs, then 256 MiB that the target writes at 2 ms by MiB. So
/// the longest call that a cancel waits for is one of 2 ms.
const DEVICE: &str = "model=plain caps=7 initial=16MiB stop=256MiB seed=1 write-ms-per-mib=2";
const LAST_MS: u64 = 400;

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>, String> {
    let count = if setting.quick { 10 } else { 200 };
    let mut outcomes = Vec::new();
    for channels in [1, 4] {
        eprintln!("cancel: {count} times, {channels} channels");
        let mut rng = Rng::new(SEED, u64::try_from(channels).unwrap_or(0));
        let one = |_| once(channels, Duration::from_micros(rng.within(0, LAST_MS.saturating_mul(1000))));
        let took: Vec<f64> = (0..count).map(one).collect::<Result<_, _>>()?;
        outcomes.push(row(channels, &took)?);
    }
    Ok(outcomes)
}

fn row(channels: usize, took: &[f64]) -> Result<Outcome, String> {
    let of = |percent| quantile(took, percent).into_iter().collect::<Vec<f64>>();
    let values = vec![
        Value::shown("half are below", of(50)),
        Value::judged("99 of 100 are below", of(99)),
        Value::shown("the longest", of(100)),
    ];
    let name = format!("cancel/{} at random moments, {channels} channels: until everything is closed", took.len());
    against(name, Unit::Milliseconds, Bound::AtMost(ALLOWED_MS), values)
}

/// Milliseconds from the word to the moment at which nothing is open that was not before.
fn once(channels: usize, after: Duration) -> Result<f64, String> {
    let before = descriptors()?;
    let took = cancelled(channels, after)?;
    let left = descriptors()?;
    if left.len() > before.len() {
        return Err(format!("{} descriptors before, {} after the cancel", before.len(), left.len()));
    }
    Ok(took)
}

/// What this process has open.
fn descriptors() -> Result<Vec<std::ffi::OsString>, String> {
    let names = std::fs::read_dir("/proc/self/fd").map_err(failed)?;
    names.map(|entry| entry.map(|entry| entry.file_name()).map_err(failed)).collect()
}

/// The sides own their devices and channels, and have dropped them when they look at the clock.
fn cancelled(channels: usize, after: Duration) -> Result<f64, String> {
    let (devices, [here, there]) = simulated(DEVICE)?;
    let (mut ours, mut theirs) = ([here], [there]);
    let (left, right) = unix(channels)?;
    let options = SaveOptions::default();
    let cancel = options.cancel.clone();
    let took = thread::scope(|scope| {
        let target = scope.spawn(move || {
            let has_failed = load::load(&mut theirs, right, &mut (), &LoadOptions::default()).is_err();
            drop(theirs);
            (has_failed, Instant::now())
        });
        let source = scope.spawn(move || {
            let has_failed = save::save(&mut ours, left, &mut (), &options).is_err();
            drop(ours);
            (has_failed, Instant::now())
        });
        thread::sleep(after);
        let asked = Instant::now();
        cancel.cancel();
        let (source_failed, source_at) = source.join().map_err(|_| failed("the source panicked"))?;
        let (target_failed, target_at) = target.join().map_err(|_| failed("the target panicked"))?;
        if !source_failed || !target_failed {
            return Err(format!("a side did not hear of the cancel after {after:?}"));
        }
        Ok(source_at.max(target_at).saturating_duration_since(asked).as_secs_f64() * 1e3)
    });
    drop(devices);
    took
}

#[cfg(test)]
mod test {
    use super::*;

    /// Descriptors of other tests come and go beside this one, so that only the sides' own word counts here.
    #[test]
    fn a_cancel_ends_both_sides_whenever_it_comes() {
        for after_ms in [0, 5, 60] {
            let took_ms = cancelled(2, Duration::from_millis(after_ms)).unwrap();
            assert!(took_ms > 0.0 && took_ms < 5000.0, "{took_ms} ms after {after_ms} ms");
        }
    }

    #[test]
    fn one_in_a_hundred_may_take_longer() {
        let mut took = vec![1.0; 99];
        took.push(80.0);
        assert_eq!(row(1, &took).unwrap().contenders[2].reached, Some(true));
        took.extend([80.0, 80.0]);
        assert_eq!(row(1, &took).unwrap().contenders[2].reached, Some(false));
    }
}
