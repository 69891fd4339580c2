// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `allocations`: how often memory is allocated for a chunk, once a migration is under way.
//!
//! A program of its own counts them (`xtask/examples/allocations.rs`): counting is the work of the whole process's allocator, and this
//! process, which measures speed, keeps the usual one. It moves a state, and then one twice as large: the difference is what the chunks
//! cost, and what preparing costs is in both. Buffers are bounded and used again, and made when they are first needed: how many that are is
//! a matter of which thread was quicker, so they have a row of their own.

use std::process::{Command, Stdio};

use serde::Deserialize;

use super::measure::measured;
use super::{Goal, Outcome, Setting, Unit};
use crate::soft::workspace;

/// `spec/perf/bench-plan.md`, M3.
const GOAL: Goal = Goal::AtMost(0.0);

/// What the program says.
#[derive(Debug, Deserialize)]
struct Counted {
    chunks: f64,
    /// But for buffers.
    allocations: f64,
    buffers: f64,
}

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>, String> {
    let (chunks, rounds) = if setting.quick { (64, 1) } else { (256, 5) };
    eprintln!("allocations: {rounds} rounds of {chunks} chunks and twice as many");
    let of = |channels: u32| {
        let ran: Vec<[Counted; 2]> = (0..rounds).map(|_| count(channels, chunks)).collect::<Result<_, _>>()?;
        row(channels, &ran)
    };
    [1, 4].into_iter().map(of).collect()
}

fn row(channels: u32, ran: &[[Counted; 2]]) -> Result<Outcome, String> {
    let more = |of: fn(&Counted) -> f64| ran.iter().map(|[less, more]| of(more) - of(less)).collect::<Vec<f64>>();
    let chunks = more(|counted| counted.chunks);
    let made = more(|counted| counted.allocations).into_iter().map(|made| made.max(0.0)).collect();
    let of_smaller = |of: fn(&Counted) -> f64| ran.iter().map(|[less, _]| of(less)).collect::<Vec<f64>>();
    let contenders = [
        measured("chunks more", None, chunks.clone(), &chunks),
        measured("allocations for them", Some(GOAL), made, &chunks),
        measured("of the smaller run in all", None, of_smaller(|counted| counted.allocations), &chunks),
        measured("and buffers", None, of_smaller(|counted| counted.buffers), &chunks),
    ];
    let contenders: Option<Vec<_>> = contenders.into_iter().collect();
    Ok(Outcome {
        name: format!("allocations/a device of 1 MiB chunks, {channels} channels, both sides"),
        unit: Unit::Count,
        rounds: ran.len(),
        contenders: contenders.ok_or("nothing was counted")?,
    })
}

/// A run, and one of twice as many chunks.
fn count(channels: u32, chunks: u32) -> Result<[Counted; 2], String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(workspace())
        .args(["run", "--quiet", "--release", "--package", "xtask", "--example", "allocations", "--"])
        .args([channels, chunks].map(|number| number.to_string()))
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot run cargo to build a program that counts: {error}; is Rust installed?"))?;
    if !output.status.success() {
        return Err("the program that counts failed; its messages are above".into());
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("the program that counts said something else: {error}"))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn what_preparing_costs_is_in_both() {
        let counted = |chunks, allocations| Counted { chunks, allocations, buffers: 9.0 };
        let reached = |more| row(1, &[[counted(64.0, 500.0), counted(128.0, more)]]).unwrap().contenders[1].reached;
        assert_eq!(reached(500.0), Some(true));
        assert_eq!(reached(499.0), Some(true), "chance is not less than nothing");
        assert_eq!(reached(501.0), Some(false));
        let twice = row(1, &[[counted(64.0, 500.0), counted(128.0, 628.0)]]).unwrap();
        assert_eq!(twice.contenders[1].ratio.median, 2.0, "two for each of 64 chunks");
        assert!(row(1, &[]).is_err());
    }
}
