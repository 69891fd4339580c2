// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `drawn`: is the promised downtime kept, and how far off is the prediction? Over real migrations of devices whose delays are drawn.
//!
//! Each device is migrated three times. What the first run taught is known to the others, as it is where a fleet's devices are alike; it
//! has more to move before its guest stops, so that it sees of the link what any migration with a guest's memory does, and does not
//! count. The second knows of the link what the first and its own pre-copy saw; the third is told its bandwidth, as whoever runs a fleet
//! knows it. A migration of which the forecast says that it cannot keep the limit gives up, which breaks no promise.
//!
//! A machine that lets a thread sleep too long is late for reasons of its own: a watch beside each migration sleeps for a millisecond at
//! a time, and where that is often late nobody is judged.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Instant;

use savevm_core::load::LoadOptions;
use savevm_core::save::{Committed, Experience, SaveOptions};
use savevm_core::sched::Verdict;

use super::engine::failed;
use super::limit::{Bound, Value, against, quantile};
use super::peers::cost::float;
use super::rig::{attempt, simulated, unix};
use super::{Outcome, Setting, Unit};
use crate::sim::Rng;

/// `spec/perf/bench-plan.md`, section 4, in per cent.
const BROKEN: f64 = 2.0;
const ERROR_P50: f64 = 10.0;
const ERROR_P95: f64 = 25.0;
const SEED: u64 = 1;
const LIMIT: Duration = Duration::from_millis(300);
/// How long pre-copy may take until a migration gives up.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same for the migration that only teaches. It switches over then.
const LESSON: Duration = Duration::from_secs(2);
const LESSON_WINDOW: Duration = Duration::from_millis(10);
/// What that has to read first. A link that takes 1 MiB in 80 µs is busy with it for twice as long as the scheduler has to see it.
const LESSON_KIB: u64 = 256 << 10;
const PIECE_BYTES: usize = 1 << 20;
const NAP: Duration = Duration::from_millis(1);
/// Sleeps of the watch may be late by so many milliseconds, in 95 of 100 migrations.
const STALL_MS: f64 = 10.0;

/// What became of a promise, in milliseconds.
struct Kept {
    predicted: f64,
    took: f64,
    /// The longest that the watch beside it slept too long.
    stalled: f64,
}

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>, String> {
    let count: u32 = if setting.quick { 10 } else { 200 };
    eprintln!("drawn: {count} devices, three times each");
    let link = link_bytes_per_s()?;
    let mut rng = Rng::new(SEED, 0);
    let (mut unknown, mut given) = (Vec::new(), Vec::new());
    for index in 0..count {
        let (initial_kib, delays) = draw(&mut rng);
        let config_of = |initial_kib| format!("{delays} initial={initial_kib}KiB");
        let config = config_of(initial_kib);
        if index > 0 && index.checked_rem(20) == Some(0) {
            eprintln!("drawn: {index} of {count} devices");
        }
        let failed = |error| format!("device {index} ({config}): {error}");
        let learned = lesson(&config_of(LESSON_KIB)).map_err(failed)?;
        unknown.extend(promised(&config, &learned, None).map_err(failed)?);
        given.extend(promised(&config, &learned, Some(link)).map_err(failed)?);
    }
    let mut outcomes = rows("the link as the lesson saw it", count, &unknown)?;
    outcomes.extend(rows("the link's bandwidth given", count, &given)?);
    Ok(outcomes)
}

/// What a socket carries, with nothing on either side of it.
fn link_bytes_per_s() -> Result<u64, String> {
    const PIECES: u32 = 512;
    let (mut left, mut right) = UnixStream::pair().map_err(failed)?;
    let began = Instant::now();
    thread::scope(|scope| {
        scope.spawn(move || {
            let piece = vec![0; PIECE_BYTES];
            (0..PIECES).try_for_each(|_| left.write_all(&piece))
        });
        let mut piece = vec![0; PIECE_BYTES];
        (0..PIECES).try_for_each(|_| right.read_exact(&mut piece)).map_err(failed)
    })?;
    let nanos = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1);
    let bytes = u64::from(PIECES) << 20;
    Ok(bytes.saturating_mul(1000).checked_div(nanos / 1_000_000).unwrap_or(u64::MAX).max(1))
}

/// Promises that were given, of so many that could have been.
fn rows(what: &str, count: u32, kept: &[Kept]) -> Result<Vec<Outcome>, String> {
    let limit_ms = LIMIT.as_secs_f64() * 1e3;
    let length = |number: usize| float(u64::try_from(number).unwrap_or(u64::MAX));
    let given = kept.len();
    let broken = kept.iter().filter(|kept| kept.took > limit_ms).count();
    let errors: Vec<f64> = kept.iter().map(|kept| (kept.predicted - kept.took).abs() / kept.took * 100.0).collect();
    let error = |percent| quantile(&errors, percent).into_iter().collect::<Vec<f64>>();
    let of = |value: fn(&Kept) -> f64, percent| {
        let values: Vec<f64> = kept.iter().map(value).collect();
        quantile(&values, percent).into_iter().collect::<Vec<f64>>()
    };
    let took = |percent| of(|kept| kept.took, percent);
    let promises = format!("drawn/{given} promises of {limit_ms} ms to {count} devices with drawn delays, {what}");
    let name = |what: &str| format!("{promises}: {what}");
    let broken_percent = vec![length(broken) / length(given.max(1)) * 100.0];
    let mut rows = vec![
        against(
            name(&format!("{broken} broken")),
            Unit::Percent,
            Bound::AtMost(BROKEN),
            vec![Value::judged("broken", broken_percent)],
        )?,
        against(
            name("the prediction's error, half are below"),
            Unit::Percent,
            Bound::AtMost(ERROR_P50),
            vec![Value::judged("p50", error(50))],
        )?,
        against(
            name("the prediction's error, 95 of 100 are below"),
            Unit::Percent,
            Bound::AtMost(ERROR_P95),
            vec![Value::judged("p95", error(95)), Value::shown("the worst", error(100))],
        )?,
    ];
    let stalled = of(|kept| kept.stalled, 95);
    if stalled.iter().any(|ms| *ms > STALL_MS) {
        rows.iter_mut().for_each(Outcome::withhold_judgement);
    }
    rows.push(against(
        name("downtime"),
        Unit::Milliseconds,
        Bound::AtMost(limit_ms),
        vec![
            Value::shown("half are below", took(50)),
            Value::shown("95 of 100 are below", took(95)),
            Value::shown("the longest", took(100)),
        ],
    )?);
    // That is the machine's doing, and no goal of anybody.
    let late =
        vec![Value::shown("95 of 100 are below", stalled), Value::shown("the worst", of(|kept| kept.stalled, 100))];
    rows.push(against(name("the watch was late by"), Unit::Milliseconds, Bound::AtMost(STALL_MS), late)?);
    Ok(rows)
}

/// What a device has to be read before its guest stops, in KiB, and everything else about it.
fn draw(rng: &mut Rng) -> (u64, String) {
    let initial_kib = rng.within(64, 8 << 10);
    let delays = format!(
        "model=plain caps=7 dirty={}KiB dirty-rate={}KiB/s stop={}KiB transition-ms={} read-ms-per-mib={} \
         write-ms-per-mib={} seed={}",
        rng.within(0, 2 << 10),
        rng.within(0, 16 << 10),
        rng.within(64, 24 << 10),
        rng.within(0, 20),
        rng.within(0, 4),
        rng.within(0, 4),
        rng.within(1, 1 << 20),
    );
    (initial_kib, delays)
}

/// What is known of a device that was migrated once.
fn lesson(config: &str) -> Result<Experience, String> {
    let mut save = SaveOptions::default();
    if let Some(rule) = &mut save.precopy {
        (rule.duration_max, rule.window) = (LESSON, LESSON_WINDOW);
    }
    let (committed, _) = once(config, &save)?;
    let learned = committed.map(|committed| committed.experience).ok_or("the lesson gave up")?;
    learned.bandwidth_bytes_per_s().ok_or("the lesson taught nothing of the link")?;
    Ok(learned)
}

/// What became of the promise; nothing if it was not given.
fn promised(config: &str, learned: &Experience, link: Option<u64>) -> Result<Option<Kept>, String> {
    let mut save = SaveOptions::default();
    save.experience = learned.clone();
    if let Some(rule) = &mut save.precopy {
        (rule.downtime_max, rule.duration_max, rule.bandwidth_bytes_per_s) = (LIMIT, PATIENCE, link);
        (rule.infeasible, rule.level, rule.rising, rule.late) =
            (Verdict::Abort, Verdict::Wait, Verdict::Wait, Verdict::Abort);
    }
    let (Some(committed), stalled) = once(config, &save)? else { return Ok(None) };
    let predicted = committed.predicted.ok_or("nothing was predicted")?;
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let (predicted, took) = (milliseconds(predicted.expected), milliseconds(committed.downtime));
    Ok(Some(Kept { predicted, took, stalled: milliseconds(stalled) }))
}

fn once(config: &str, save: &SaveOptions) -> Result<(Option<Committed>, Duration), String> {
    let (_devices, [here, there]) = simulated(config)?;
    let (ends, load) = (unix(1)?, LoadOptions::default());
    let (attempted, stalled) = watched(|| attempt(&mut [here], &mut [there], ends, save, &load));
    Ok((attempted?, stalled))
}

/// Does the work, and says by how much a thread beside it overslept at most.
fn watched<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut worst = Duration::ZERO;
            while !is_over.load(Ordering::Relaxed) {
                let began = Instant::now();
                thread::sleep(NAP);
                worst = worst.max(began.elapsed().saturating_sub(NAP));
            }
            worst
        });
        let done = work();
        is_over.store(true, Ordering::Relaxed);
        (done, watch.join().unwrap_or(Duration::MAX))
    })
}

#[cfg(test)]
mod test {
    use super::*;

    /// Of a hundred promises the first three are broken, and the error of the n-th is n per cent.
    #[test]
    fn the_rows_say_what_was_kept() {
        let kept = |n: u32| {
            let took = if n <= 3 { 400.0 } else { 100.0 };
            // Five in a hundred may be disturbed.
            Kept { predicted: took * (1.0 + f64::from(n) / 100.0), took, stalled: if n > 95 { 50.0 } else { 1.0 } }
        };
        let mut all: Vec<Kept> = (1..=100).map(kept).collect();
        let found = rows("", 120, &all).unwrap();
        let of = |row: usize, index: usize| {
            let measured = &found[row].contenders[index];
            ((measured.value.median * 1e6).round() / 1e6, measured.reached)
        };
        assert_eq!(of(0, 1), (3.0, Some(false)), "three per cent are broken");
        let name = &found[0].name;
        assert!(name.contains("100 promises of 300 ms to 120 devices") && name.ends_with("3 broken"), "{name}");
        assert_eq!(of(1, 1), (50.0, Some(false)));
        assert_eq!(of(2, 1), (95.0, Some(false)));
        assert_eq!((of(2, 2), of(3, 3)), ((100.0, None), (400.0, None)), "there to be looked at");
        all[0].stalled = 50.0;
        let disturbed = rows("", 120, &all).unwrap();
        assert!(disturbed.iter().flat_map(|row| &row.contenders).all(|measured| measured.reached.is_none()));
        let good = rows("", 1, &[Kept { predicted: 102.0, took: 100.0, stalled: 0.0 }]).unwrap();
        assert!(good.iter().take(3).all(|row| row.contenders[1].reached == Some(true)));
        assert!(rows("", 1, &[]).is_err(), "nothing was promised");
    }

    #[test]
    fn a_watch_sees_how_long_the_work_takes_from_it() {
        let (done, late) = watched(|| 7);
        assert!(done == 7 && late < Duration::from_secs(5), "{late:?}");
    }
}
