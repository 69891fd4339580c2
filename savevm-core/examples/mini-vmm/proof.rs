// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Many migrations whose first attempts are cut at random, and after each the question whether anything was lost.

mod cut;
mod forget;
mod run;
mod side;
mod tally;

use std::time::Instant;

use crate::demo::{MACHINES, Stage};
use crate::{Arguments as All, Outcome};

pub(crate) use cut::When;
pub(crate) use side::{source, vanishing};

/// What the command line says about it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Arguments {
    pub(crate) runs: u64,
    pub(crate) seed: u64,
    /// The vCPU's log loses a word of its bits in each attempt. A run that succeeds then is a proof of nothing.
    pub(crate) forgets: bool,
    /// A target kills itself at this point.
    pub(crate) vanish: Option<When>,
}

/// Says for each run what happened, and in the end how many failed: none, or this fails too.
pub(crate) fn run(arguments: &All) -> Outcome<()> {
    let stage = Stage::new()?;
    let All { memory_mib, proof: Arguments { runs, seed, .. }, .. } = *arguments;
    println!("{runs} runs with {memory_mib} MiB of memory, seed {seed}");
    let began = Instant::now();
    let mut tally = tally::Tally::default();
    for number in 1..=runs {
        let mut random = Random::new(seed, number);
        let machine = &MACHINES[random.below(MACHINES.len() as u64) as usize];
        let cuts = cut::draw(&mut random, memory_mib);
        let outcome = run::run(&stage, arguments, machine, &cuts);
        println!("run {number}: {}: {}", machine.tracked_by, tally.add(outcome));
    }
    println!("{} in {:.0} s", tally, began.elapsed().as_secs_f64());
    if tally.failed == 0 { Ok(()) } else { Err(format!("{} of {runs} runs failed", tally.failed).into()) }
}

/// SplitMix64.
pub(crate) struct Random(u64);

impl Random {
    fn new(seed: u64, stream: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ stream);
        let _ = random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}
