// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cancel`: how long both sides take to come back, devices put back and all threads gone.

use core::time::Duration;
use std::thread;
use std::time::Instant;

use savevm_core::load::{self, LoadOptions};
use savevm_core::save::{self, SaveOptions};

use super::engine::failed;
use super::rig::{simulated, unix};
use super::{Comparison, Contender, Goal, Outcome, Setting, Unit};

/// What README promises, in milliseconds.
const PROMISE_MS: f64 = 100.0;
/// The slowest of so many is what 99 of 100 stay below, over all rounds.
const TRIES: u32 = 10;

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>, String> {
    let comparison = |channels: usize| Comparison {
        name: format!("cancel/{channels} channels, in the middle of stop-copy, the slowest of {TRIES}"),
        unit: Unit::Milliseconds,
        baseline: Contender::new("promised", None, || Ok(PROMISE_MS)),
        contenders: vec![Contender::new("both sides are back", Some(Goal::AtMost(1.0)), move || {
            (0..TRIES).map(|attempt| once(channels, attempt)).try_fold(0.0, |worst: f64, took| Ok(worst.max(took?)))
        })],
    };
    [1, 4].into_iter().map(|channels| setting.compare(comparison(channels))).collect()
}

fn once(channels: usize, attempt: u32) -> Result<f64, String> {
    let (_devices, [here, there]) = simulated("model=plain caps=1 stop=256MiB seed=1 write-ms-per-mib=2")?;
    let (mut ours, mut theirs) = ([here], [there]);
    let (left, right) = unix(channels)?;
    let options = SaveOptions::default();
    let cancel = options.cancel.clone();
    thread::scope(|scope| {
        let target = scope.spawn(move || {
            let loaded = load::load(&mut theirs, right, &mut (), &LoadOptions::default()).err();
            (loaded.is_some(), Instant::now())
        });
        let source = scope.spawn(move || {
            let saved = save::save(&mut ours, left, &mut (), &options).err();
            (saved.is_some(), Instant::now())
        });
        thread::sleep(Duration::from_millis(20_u64.saturating_add(u64::from(attempt))));
        let asked = Instant::now();
        cancel.cancel();
        let (source_failed, source_at) = source.join().map_err(|_| failed("the source panicked"))?;
        let (target_failed, target_at) = target.join().map_err(|_| failed("the target panicked"))?;
        if !source_failed || !target_failed {
            return Err("a side did not hear of the cancel".into());
        }
        Ok(source_at.max(target_at).saturating_duration_since(asked).as_secs_f64() * 1e3)
    })
}

#[cfg(test)]
mod test {
    #[test]
    fn a_cancel_ends_both_sides() {
        let took_ms = super::once(2, 0).unwrap();
        assert!(took_ms > 0.0 && took_ms < 5000.0, "{took_ms} ms");
    }
}
