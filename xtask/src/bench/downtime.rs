// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `downtime`: what was predicted when the guest was about to be paused, and what it took, of the same migration.
//!
//! Of a device that nobody knows the times are guesses, tens of milliseconds too long. So each device is migrated once before, and
//! what that taught is handed on, as a VMM does.

use core::cell::RefCell;
use std::collections::VecDeque;

use savevm_core::load::LoadOptions;
use savevm_core::save::{Experience, SaveOptions};

use super::rig::{migrate, simulated, unix};
use super::{Comparison, Contender, Goal, Outcome, Setting, Unit};

/// `spec/perf/bench-plan.md`, section 4: the prediction's error.
const GOAL: Option<Goal> = Some(Goal::AtMost(1.25));

/// Where the time goes, and a device of which that is true.
const CASES: [(&str, &str); 4] = [
    ("an idle guest, 64 MiB when it stops", "caps=7 initial=16MiB stop=64MiB seed=1"),
    ("5 ms by transition", "caps=7 initial=16MiB stop=4MiB transition-ms=5 seed=2"),
    ("reading 2 ms by MiB", "caps=7 initial=16MiB stop=16MiB read-ms-per-mib=2 seed=3"),
    ("a guest that dirties 64 MiB/s", "caps=7 initial=16MiB dirty=4MiB dirty-rate=64MiB/s stop=8MiB seed=4"),
];

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>, String> {
    let case = |(what, config): (&str, &'static str)| {
        let learned = RefCell::new(Experience::new());
        once(config, &mut learned.borrow_mut())?;
        // Both values come from one migration: whoever is first in turn runs it.
        let pairs: [RefCell<VecDeque<f64>>; 2] = Default::default();
        let value = |which: usize| {
            let [predicted, measured] = &pairs;
            let mine = if which == 0 { predicted } else { measured };
            if mine.borrow().is_empty() {
                let [first, second] = once(config, &mut learned.borrow_mut())?;
                predicted.borrow_mut().push_back(first);
                measured.borrow_mut().push_back(second);
            }
            mine.borrow_mut().pop_front().ok_or_else(|| "nothing was measured".to_owned())
        };
        setting.compare(Comparison {
            name: format!("downtime/{what}, of a device that was migrated before"),
            unit: Unit::Milliseconds,
            baseline: Contender::new("predicted", None, || value(0)),
            contenders: vec![Contender::new("measured", GOAL, || value(1))],
        })
    };
    CASES.into_iter().map(case).collect()
}

/// Takes what is known, and gives back what is known then.
fn once(config: &str, learned: &mut Experience) -> Result<[f64; 2], String> {
    let (_devices, [here, there]) = simulated(&format!("model=plain {config}"))?;
    let mut save = SaveOptions::default();
    save.experience = core::mem::take(learned);
    let ran = migrate(&mut [here], &mut [there], unix(1)?, &mut (), &save, &LoadOptions::default())?;
    let predicted = ran.source.predicted.ok_or("nothing was predicted")?;
    *learned = ran.source.experience;
    Ok([predicted.expected.as_secs_f64() * 1e3, ran.source.downtime.as_secs_f64() * 1e3])
}

#[cfg(test)]
mod test {
    use savevm_core::save::Experience;

    use super::once;

    /// Five transitions of the device's path take 10 ms each, which neither account can leave out. Nobody guesses at them twice: the
    /// guess at a device's load alone is 40 ms.
    #[test]
    fn both_accounts_know_of_the_injected_delay() {
        let mut learned = Experience::new();
        let mut ran = || once("caps=7 initial=1MiB stop=1MiB transition-ms=10 seed=2", &mut learned).unwrap();
        let ([guessed, _], [predicted, measured]) = (ran(), ran());
        assert!(predicted >= 10.0, "{predicted} ms predicted");
        assert!(measured >= 10.0, "{measured} ms measured");
        assert!(guessed != predicted, "{guessed} ms guessed, and nothing was learned");
    }
}
