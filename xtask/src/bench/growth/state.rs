// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One device whose state grows from 1 MiB to 16 GiB.
//!
//! All states are stretches of the same two files, which each run goes through at least once, the small ones in many migrations: bytes
//! are as far from the processor for a small state as for a large one, and what differs is how many of them share a migration. Most of
//! the price of a byte of 1 MiB is what any migration costs, for its threads and its words. So that is measured too, by migrations of
//! one page, and what bytes cost beside it: to explain what the first table says, not to excuse it.

use super::super::engine::{Files, failed};
use super::super::file_device::FileDevice;
use super::super::limit::{Bound, Value, against};
use super::super::measure::{Costly, Runs, in_turn, measured};
use super::super::peers::cost::float;
use super::super::rig::{migrate, speed_and_price, unix};
use super::super::spread::median;
use super::super::{Goal, Outcome, Setting, Unit};
use super::options;

const NAME: &str = "growth/state, 1 device";
/// What is measured, and its size in MiB.
pub(super) const SIZES: [(&str, u64); 8] = [
    ("1 MiB", 1),
    ("4 MiB", 4),
    ("16 MiB", 16),
    ("64 MiB", 64),
    ("256 MiB", 256),
    ("1 GiB", 1 << 10),
    ("4 GiB", 4 << 10),
    ("16 GiB", 16 << 10),
];
/// The largest where it is quick, in MiB.
const QUICK_MAX: u64 = 1 << 10;
pub(super) const BUFFER_BYTES: u64 = 16 << 20;
/// A state that is several times the buffers: what larger ones are held against.
pub(super) const FILLS: &str = "64 MiB";
/// Of the cheapest: no size, small or large, may cost more by the byte.
const ANY_PRICE: Goal = Goal::AtMost(1.10);
/// What hardly has a byte.
const PAGE_BYTES: u64 = 4096;
/// `spec/perf/bench-plan.md`, C2 and C3: of 64 MiB; and what each of 64 devices may cost beside its bytes.
const LARGE_PRICE: Goal = Goal::AtMost(1.03);
const DEVICE_MICROSECONDS: f64 = 250.0;
const SPEED: usize = 0;
const PRICE: usize = 1;
const BUFFERS: usize = 2;

/// Sizes that are measured.
pub(super) fn sizes(setting: &Setting) -> impl Iterator<Item = (&'static str, u64)> {
    let most = if setting.quick { QUICK_MAX } else { u64::MAX };
    SIZES.into_iter().filter(move |(_, mebibytes)| *mebibytes <= most)
}

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>, String> {
    let (file_bytes, rounds) = if setting.quick { (64 << 20, 3) } else { (256 << 20, 5) };
    let files = &Files::new(&setting.folder, 1, file_bytes)?;
    let many = &Files::new(&setting.folder, 64, 64 << 20)?;
    let mut all: Vec<Costly<'_, 3>> = Vec::new();
    for (name, mebibytes) in sizes(setting) {
        all.push(Costly::new(name, [None; 3], move || stretches(files, mebibytes << 20)));
    }
    all.push(Costly::new("a page", [None; 3], move || stretches(files, PAGE_BYTES)));
    let times = file_bytes.checked_div(many.total_bytes).unwrap_or(1);
    all.push(Costly::new("64 devices", [None; 3], move || repeated(many, times)));
    let begins = |round| eprintln!("{NAME}: round {round} of {rounds}, behind one that does not count");
    let mut runs = in_turn(NAME, &mut all, rounds, begins)?;
    if !files.are_equal()? || !many.are_equal()? {
        return Err(failed("the targets' files are not the sources'"));
    }
    let (Some(many), Some(page)) = (runs.pop(), runs.pop()) else { return Err(failed("there is nothing")) };
    let size = |((name, _, costs), (_, mebibytes)): (Runs<3>, (_, u64))| Size { name, bytes: mebibytes << 20, costs };
    let runs: Vec<Size> = runs.into_iter().zip(SIZES).map(size).collect();
    judged(&runs, &page, &many)
}

/// What a size cost, by rounds.
struct Size {
    name: &'static str,
    bytes: u64,
    costs: Vec<[f64; 3]>,
}

impl Size {
    fn metric(&self, metric: usize) -> Vec<f64> {
        self.costs.iter().filter_map(|run| run.get(metric).copied()).collect()
    }
}

/// Migrates stretch after stretch of a file, until all of it went over, or often enough.
fn stretches(files: &Files, state_bytes: u64) -> Result<[f64; 3], String> {
    let (Some(source), Some(target)) = (files.source.first(), files.target.first()) else {
        return Err("there is no device".into());
    };
    let times = files.total_bytes.checked_div(state_bytes.max(1 << 20)).unwrap_or(1).max(1);
    several(times, state_bytes, 1, BUFFER_BYTES, |time| {
        let first = state_bytes.saturating_mul(time);
        let device = |file| Ok::<_, String>(vec![FileDevice::new(0, file)?.with_state(first, state_bytes)]);
        Ok((device(source)?, device(target)?))
    })
}

/// Migrates all of them, so many times.
fn repeated(files: &Files, times: u64) -> Result<[f64; 3], String> {
    several(times, files.total_bytes, 4, 64 << 20, |_| {
        Ok((super::devices(&files.source)?, super::devices(&files.target)?))
    })
}

/// Migrates several times, from the connections to the end.
fn several(
    times: u64,
    state_bytes: u64,
    channels: usize,
    buffer_bytes: u64,
    devices: impl Fn(u64) -> Result<(Vec<FileDevice>, Vec<FileDevice>), String>,
) -> Result<[f64; 3], String> {
    let (save, load) = options(buffer_bytes);
    let mut made = 0;
    let [speed, price] = speed_and_price(state_bytes.saturating_mul(times), || {
        for time in 0..times {
            let (mut ours, mut theirs) = devices(time)?;
            let ran = migrate(&mut ours, &mut theirs, unix(channels)?, &mut (), &save, &load)?;
            made = made.max(ran.target.counters.buffers_made);
        }
        Ok(())
    })?;
    Ok([speed, price, float(made)])
}

/// The rows.
fn judged(runs: &[Size], page: &Runs<3>, many: &Runs<3>) -> Result<Vec<Outcome>, String> {
    let prices: Vec<Vec<f64>> = runs.iter().map(|run| run.metric(PRICE)).collect();
    let prices_of =
        |(_, _, costs): &Runs<3>| costs.iter().filter_map(|run| run.get(PRICE).copied()).collect::<Vec<_>>();
    let largest = prices.last().ok_or("nothing was measured")?;
    // What a migration costs that moves a page is not the page's copy.
    let fixed_s: Vec<f64> = prices_of(page).into_iter().map(|price| price * float(PAGE_BYTES) / 1e9).collect();
    let beside = |(run, prices): (&Size, &Vec<f64>)| {
        prices.iter().zip(&fixed_s).map(|(price, fixed)| price - fixed / (float(run.bytes) / 1e9)).collect::<Vec<_>>()
    };
    let beside: Vec<Vec<f64>> = runs.iter().zip(&prices).map(beside).collect();
    let each =
        prices_of(many).into_iter().zip(largest).map(|(price, byte)| (price - byte) * float(1 << 20) / 1e9 * 1e6);
    let values = vec![
        Value::judged("each of 64, of 1 MiB", each.collect()),
        Value::shown("1 device, of a page", fixed_s.iter().map(|fixed| fixed * 1e6).collect()),
    ];
    let fixed = "growth/processor time of a migration, by device, beside what its bytes cost in the largest state";
    let fills = runs.iter().position(|run| run.name == FILLS).ok_or("nothing was measured")?;
    let larger = |goal| move |index: usize| (index > fills).then_some(goal);
    let [speeds, buffers] =
        [SPEED, BUFFERS].map(|metric| runs.iter().map(|run| run.metric(metric)).collect::<Vec<_>>());
    let (price, unit) = ("processor time", Unit::SecondsPerGigabyte);
    Ok(vec![
        table(runs, ("speed", Unit::BytesPerSecond), &speeds, fills, |_| None)?,
        table(runs, (&format!("{price}, against the cheapest"), unit), &prices, cheapest(&prices), |_| {
            Some(ANY_PRICE)
        })?,
        table(
            runs,
            (&format!("{price} beside that of a migration of one page, against the cheapest"), unit),
            &beside,
            cheapest(&beside),
            |_| Some(ANY_PRICE),
        )?,
        table(runs, (&format!("{price}, against {FILLS}"), unit), &prices, fills, larger(LARGE_PRICE))?,
        against(fixed.into(), Unit::Microseconds, Bound::AtMost(DEVICE_MICROSECONDS), values)?,
        table(runs, ("buffers made", Unit::Count), &buffers, fills, larger(Goal::AtMost(1.0)))?,
    ])
}

fn cheapest(prices: &[Vec<f64>]) -> usize {
    let median = |index: &usize| prices.get(*index).cloned().and_then(median).unwrap_or(f64::MAX);
    (0..prices.len()).min_by(|one, other| median(one).total_cmp(&median(other))).unwrap_or(0)
}

/// Values of all sizes, beginning with the one that the others are held against.
fn table(
    runs: &[Size],
    (what, unit): (&str, Unit),
    values: &[Vec<f64>],
    baseline: usize,
    goal: impl Fn(usize) -> Option<Goal>,
) -> Result<Outcome, String> {
    let missing = || format!("{NAME}: nothing was measured");
    let base = values.get(baseline).ok_or_else(missing)?;
    let row = |index: usize, goal| measured(runs.get(index)?.name, goal, values.get(index)?.clone(), base);
    let others = (0..runs.len()).filter(|index| *index != baseline).map(|index| row(index, goal(index)));
    let contenders: Option<Vec<_>> = core::iter::once(row(baseline, None)).chain(others).collect();
    let contenders = contenders.ok_or_else(missing)?;
    Ok(Outcome { name: format!("{NAME}: {what}"), unit, rounds: base.len(), contenders })
}

#[cfg(test)]
mod test {
    use super::*;

    /// Each byte costs 0.5 s/GB, and a migration as much as 512 KiB of them.
    fn runs() -> Vec<Size> {
        let price = |mebibytes: u64| 0.5 + 0.25 / float(mebibytes);
        let costs = |mebibytes| vec![[1e9, price(mebibytes), 2.0]; 5];
        SIZES.map(|(name, mebibytes)| Size { name, bytes: mebibytes << 20, costs: costs(mebibytes) }).into()
    }

    /// With so much for the bytes of each of 64 devices.
    fn rows(runs: &[Size], price: f64) -> Vec<Outcome> {
        let page = ("a page", [None; 3], vec![[1e9, 0.25 * 256.0, 2.0]; 5]);
        judged(runs, &page, &("64 devices", [None; 3], vec![[1e9, price, 2.0]; 5])).unwrap()
    }

    fn verdicts(outcome: &Outcome) -> Vec<(&'static str, Option<bool>)> {
        outcome.contenders.iter().map(|measured| (measured.name, measured.reached)).collect()
    }

    #[test]
    fn every_size_is_held_against_the_cheapest() {
        let mut all = runs();
        let outcomes = rows(&all, 0.6);
        let [first, rest @ ..] = &verdicts(&outcomes[1])[..] else { panic!("no rows") };
        assert_eq!((*first, rest.len()), (("16 GiB", None), 7));
        let missed: Vec<_> = rest.iter().filter(|(_, reached)| *reached == Some(false)).collect();
        assert_eq!(missed, [&("1 MiB", Some(false)), &("4 MiB", Some(false))], "1.5 and 1.125 times as much");
        let beside = &outcomes[2].contenders;
        assert!(beside.iter().all(|measured| (measured.value.median - 0.5).abs() < 1e-9), "{beside:?}");

        // A large state that is dearer is not hidden by a small one that is dearer still.
        all[7].costs = vec![[1e9, 0.56, 2.0]; 5];
        let outcomes = rows(&all, 0.6);
        let rows = verdicts(&outcomes[1]);
        assert_eq!((rows[0], rows[7]), (("4 GiB", None), ("16 GiB", Some(false))));
        for outcome in &outcomes[2..4] {
            assert_eq!(verdicts(outcome).last(), Some(&("16 GiB", Some(false))), "{}", outcome.name);
        }
    }

    #[test]
    fn states_beyond_the_buffers_are_held_against_each_other() {
        let mut all = runs();
        all[5].costs = vec![[1e9, 0.6, 3.0]; 5];
        let outcomes = rows(&all, 0.6);
        for outcome in [&outcomes[3], &outcomes[5]] {
            let rows = verdicts(outcome);
            assert_eq!(rows[..2], [("64 MiB", None), ("1 MiB", None)], "{}", outcome.name);
            let judged =
                [("256 MiB", Some(true)), ("1 GiB", Some(false)), ("4 GiB", Some(true)), ("16 GiB", Some(true))];
            assert_eq!(rows[4..], judged, "{}", outcome.name);
        }
    }

    #[test]
    fn what_a_device_costs_is_what_its_bytes_do_not() {
        let fixed = |price| {
            let outcomes = rows(&runs(), price);
            let [_, many, one] = &outcomes[4].contenders[..] else { panic!("{:?}", outcomes[4]) };
            (many.value.median.round(), many.reached, one.value.median.round())
        };
        assert_eq!(fixed(0.7), (210.0, Some(true), 262.0), "0.2 s/GB of a MiB; 0.25 for one alone");
        assert_eq!(fixed(0.75).1, Some(false));
    }

    #[test]
    fn small_states_and_large_ones_go_over_the_whole_file() {
        for state_bytes in [1 << 20, 16 << 20] {
            let files = Files::new(&std::env::temp_dir(), 1, 4 << 20).unwrap();
            assert!(!files.are_equal().unwrap());
            let [speed, price, made] = stretches(&files, state_bytes).unwrap();
            assert!(speed > 0.0 && price > 0.0 && made >= 1.0, "{speed}, {price}, {made}");
            assert!(files.are_equal().unwrap(), "{state_bytes}");
        }
        let many = Files::new(&std::env::temp_dir(), 3, 3 << 20).unwrap();
        repeated(&many, 2).unwrap();
        assert!(many.are_equal().unwrap());
    }
}
