// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `ram`: two processes move the same guest memory over two channels: a bare pump, this workspace, stock QEMU.
//!
//! Memory is a file in memory at either side, as a VMM has it that shares its guest's with devices of user space. All get the same
//! contents, in one run and in turn, and after each run the target's file is compared with the source's. The clock runs at the
//! source, from the moment it begins, with its connections made, until the target has said that it has everything; a QEMU's is its own
//! `total-time`. Its guest stands, so that everybody moves every page once. Processor time is that of both processes, and memory what
//! the target has beside its guest's.
//!
//! Neither the pump nor QEMU makes a checksum of memory, so the one of ours that is held against QEMU makes none either; what those
//! that are optional cost is in the rows beside it.

pub(super) mod engine;
mod pump;
pub(crate) mod side;
mod stock;
mod work;

use super::measure::{Costly, Costs, Rival};
use super::peers::{METRICS, stock::emulators};
use super::{Goal, Outcome, Setting, order};
use work::{Contents, Over, Work};

/// As all the others: without a checksum of anything.
const OURS: &str = "this workspace, bare";
/// With the digest over everything, as it comes,
const DIGESTED: &str = "this workspace, with digest";
/// and with the checksum of each frame, as it comes too.
const CHECKED: &str = "this workspace, with both";
const CHANNELS: usize = 2;

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>, String> {
    let bytes = if setting.quick { 128 << 20 } else { 1 << 30 };
    let emulators = emulators(setting);
    let mut outcomes = Vec::new();
    for (over, contents, is_touched) in [
        (Over::Tcp, Contents::Random, false),
        (Over::Tcp, Contents::Random, true),
        (Over::Tcp, Contents::MostlyZero, false),
        (Over::Unix, Contents::Random, false),
    ] {
        let work = Work::new(over, contents, is_touched, bytes)?;
        let baseline = Costly::new("bare pump", [None; 3], || side::measure(&work, side::How::Pump));
        let goals = [Some(Goal::AtLeast(0.8)), None, None];
        let mut contenders = vec![
            Costly::new(OURS, goals, || side::measure(&work, side::How::Bare)),
            Costly::new(DIGESTED, goals, || side::measure(&work, side::How::Digested)),
            Costly::new(CHECKED, [None; 3], || side::measure(&work, side::How::Checked)),
        ];
        let mut rivals = Vec::new();
        for emulator in &emulators {
            let name = super::peers::stock::name(emulator.series, super::peers::stock::Wiring::Multifd);
            let (work, qemu) = (&work, &emulator.found.qemu);
            contenders.push(Costly::new(name, [None; 3], move || stock::measure(work, qemu)));
            rivals.push(Rival { rival: name, contender: OURS, goals: [Some(Goal::AtLeast(1.0)), None, None] });
        }
        let rounds = if setting.quick { 1 } else { order::rounds(7, contenders.len().saturating_add(1)) };
        let costs = Costs { name: format!("ram/{}", work.title()), metrics: METRICS, baseline, contenders };
        outcomes.extend(setting.compare_rivals(costs, &rivals, rounds)?);
    }
    Ok(outcomes)
}
