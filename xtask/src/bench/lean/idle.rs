// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An idle guest whose device has 16 MiB when it stops: how soon it is switched over, and what that costs beside the same calls without
//! an engine.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Instant;

use savevm_core::device::Read;
use savevm_core::load::LoadOptions;
use savevm_core::save::{Experience, SaveOptions};
use savevm_core::sched::Decision;
use savevm_core::sim::SimPort;
use savevm_core::{Device, save};
use vfio_mig_fsm::State;

use super::Log;
use crate::bench::engine::failed;
use crate::bench::limit::{Bound, Value, against};
use crate::bench::measure::compare;
use crate::bench::rig::{migrate, simulated, unix};
use crate::bench::{Comparison, Contender, Goal, Outcome, Setting, Unit};

const DEVICE: &str = "model=plain caps=7 initial=64KiB dirty=0 stop=16MiB transition-ms=5 seed=1";
/// Three windows of 100 ms.
const WINDOWS_MS: f64 = 300.0;
/// Of transitions and the bare pump.
const BESIDE: Option<Goal> = Some(Goal::AtMost(1.2));
const PIECE_BYTES: usize = 1 << 20;

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>, String> {
    let rounds = if setting.quick { 1 } else { 9 };
    eprintln!("lean: an idle guest, {rounds} rounds");
    // What is known of the device beforehand: nothing, and what one migration taught.
    let mut first = Vec::new();
    let mut next = Vec::new();
    for _ in 0..rounds {
        let (after_ms, _, learned) = once(Experience::new())?;
        first.push(after_ms);
        next.push(once(learned)?.0);
    }
    let values = vec![Value::judged("a device nobody knows", first), Value::judged("one that moved before", next)];
    let name = "lean/an idle guest, 16 MiB when it stops, limit 300 ms: from the first sizes to the pause, 3 windows";
    let soon = against(name.into(), Unit::Milliseconds, Bound::AtMost(WINDOWS_MS), values)?;
    let comparison = Comparison {
        name: "lean/an idle guest, 16 MiB when it stops, 5 ms by transition: downtime".into(),
        unit: Unit::Milliseconds,
        baseline: Contender::new("transitions and pump", None, bare),
        contenders: vec![Contender::new("engine", BESIDE, || once(Experience::new()).map(|(_, took_ms, _)| took_ms))],
    };
    Ok(vec![soon, compare(comparison, rounds)?])
}

/// Milliseconds from the first sizes to the pause, and of downtime; and what it taught.
fn once(known: Experience) -> Result<(f64, f64, Experience), String> {
    let (_devices, [here, there]) = simulated(DEVICE)?;
    let mut options = SaveOptions::default();
    options.experience = known;
    let mut log = Log::default();
    let ran = migrate(&mut [here], &mut [there], unix(1)?, &mut log, &options, &LoadOptions::default())?;
    let save::Committed { downtime, experience, .. } = ran.source;
    let began = log.began().ok_or("pre-copy never began")?;
    let paused = log.decided(|decision| matches!(decision, Decision::Pause(_))).ok_or("the guest was never paused")?;
    let milliseconds = |time: core::time::Duration| time.as_secs_f64() * 1e3;
    Ok((milliseconds(paused.saturating_sub(began)), milliseconds(downtime), experience))
}

/// Milliseconds from the request to stop until the target's device runs: each call, and a socket between.
fn bare() -> Result<f64, String> {
    let (_devices, [mut here, mut there]) = simulated(DEVICE)?;
    let (mut left, right) = UnixStream::pair().map_err(failed)?;
    let mut piece = vec![0; PIECE_BYTES];
    here.transition(State::PreCopy).map_err(failed)?;
    drain(&mut here, &mut piece, &mut left)?;
    here.transition(State::PreCopyP2p).map_err(failed)?;
    there.transition(State::Resuming).map_err(failed)?;
    thread::scope(|scope| {
        let target = scope.spawn(move || take(&mut there, right));
        let began = Instant::now();
        here.transition(State::StopCopy).map_err(failed)?;
        drain(&mut here, &mut piece, &mut left)?;
        drop(left);
        target.join().map_err(|_| "the target panicked")??;
        Ok(began.elapsed().as_secs_f64() * 1e3)
    })
}

fn drain(device: &mut SimPort, piece: &mut [u8], out: &mut UnixStream) -> Result<(), String> {
    loop {
        match device.read(piece).map_err(failed)? {
            Read::Bytes(length) => out.write_all(piece.get(..length).unwrap_or_default()).map_err(failed)?,
            Read::Drained | Read::End => return Ok(()),
        }
    }
}

fn take(device: &mut SimPort, mut stream: UnixStream) -> Result<(), String> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let mut filled = 0;
        while let Some(rest) = piece.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match stream.read(rest).map_err(failed)? {
                0 => break,
                length => filled = length.saturating_add(filled),
            }
        }
        if filled == 0 {
            break;
        }
        device.write(piece.get(..filled).unwrap_or_default()).map_err(failed)?;
    }
    for state in [State::Stop, State::RunningP2p, State::Running] {
        device.transition(state).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod test {
    use super::*;

    /// One transition of the source and three of the target, 5 ms each, are in both.
    #[test]
    fn both_have_the_transitions() {
        let bare_ms = bare().unwrap();
        let (after_ms, took_ms, learned) = once(Experience::new()).unwrap();
        assert!(bare_ms >= 20.0, "{bare_ms} ms");
        assert!(took_ms >= 20.0 && after_ms > 0.0, "{took_ms} ms, paused after {after_ms} ms");
        assert_eq!(learned.iter().count(), 1);
    }
}
