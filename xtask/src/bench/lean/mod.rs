// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `lean`: conduct where speed is not the question: a link of 100 KB/s, a guest that stands idle, devices that are slow to answer, and
//! several that stop at once. All are real migrations of simulated devices over sockets; what the source's scheduler was told and asked
//! is its own log.

mod idle;
mod share;

use core::time::Duration;

use savevm_core::load::LoadOptions;
use savevm_core::save::{Precopy, SaveOptions};
use savevm_core::sched::{Config, Decision, Event, Logged, Record, SectionId, Step, Verdict};
use savevm_core::sim::{SimDevice, SimPort};
use savevm_core::{Cause, Hooks, MigrationError, load, save};

use super::engine::failed;
use super::limit::{Bound, Value, against};
use super::peers::cost::float;
use super::rig::{migrate, simulated_as, unix};
use super::{Comparison, Contender, Goal, Outcome, Setting, Unit};

/// Queries that a device answers in any second.
const QUERIES: f64 = 10.0;
const SECOND: Duration = Duration::from_secs(1);
/// What stopping eight devices may take, of what one takes.
const TOGETHER: Option<Goal> = Some(Goal::AtMost(1.25));
const SLOW_DEVICE: &str =
    "model=plain caps=7 initial=64KiB dirty=0 stop=1MiB step-ms=PRE_COPY_P2P>STOP_COPY:100 step-ms=RESUMING>STOP:70";

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>, String> {
    let mut outcomes = share::run(setting)?;
    outcomes.extend(idle::run(setting)?);
    outcomes.push(queries(setting)?);
    let rounds = if setting.quick { 1 } else { 5 };
    let comparison = Comparison {
        name: "lean/8 devices, each 100 ms to stop and 70 ms to load: downtime".into(),
        unit: Unit::Milliseconds,
        baseline: Contender::new("1 device", None, || stopping(1)),
        contenders: vec![Contender::new("8 devices", TOGETHER, || stopping(8))],
    };
    outcomes.push(super::measure::compare(comparison, rounds)?);
    Ok(outcomes)
}

/// What a source's scheduler was made with, told, asked and decided.
#[derive(Default)]
struct Log {
    config: Option<Config>,
    records: Vec<Record>,
}

impl Hooks for Log {
    fn scheduled(&mut self, entry: Logged<'_>) {
        match entry {
            Logged::Config(config) => self.config = Some(config.clone()),
            Logged::Record(record) => self.records.push(*record),
        }
    }
}

impl Log {
    /// When it first knew all sizes, which is when pre-copy begins.
    fn began(&self) -> Option<Duration> {
        self.decided(|decision| matches!(decision, Decision::Feasible(_) | Decision::Infeasible(_)))
    }

    /// When it first decided this.
    fn decided(&self, wanted: fn(&Decision) -> bool) -> Option<Duration> {
        self.records.iter().find_map(|record| match record {
            Record::Decision { at, decision } if wanted(decision) => Some(*at),
            _ => None,
        })
    }

    fn events(&self) -> impl Iterator<Item = (Duration, Event)> {
        self.records.iter().filter_map(|record| match record {
            Record::Event { at, event } => Some((*at, *event)),
            _ => None,
        })
    }

    /// When a section was asked for its sizes.
    fn queries(&self, section: SectionId) -> Vec<Duration> {
        let asked = |record: &Record| match record {
            Record::Poll { at, step: Step::Query { section: asked } } if *asked == section => Some(*at),
            _ => None,
        };
        self.records.iter().filter_map(asked).collect()
    }
}

/// Reads for so long, whatever is left, and gives up then.
fn for_ever(duration: Duration) -> Precopy {
    let mut rule = Precopy::default();
    (rule.downtime_max, rule.duration_max) = (Duration::ZERO, duration);
    (rule.infeasible, rule.level, rule.rising, rule.late) =
        (Verdict::Wait, Verdict::Wait, Verdict::Wait, Verdict::Abort);
    rule
}

/// Whether it ended as it was to.
fn gave_up(ended: Result<(), MigrationError>) -> Result<(), String> {
    match ended {
        Err(error) if matches!(error.cause, Cause::GivenUp { .. }) => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(()) => Err("it was to give up, and switched over".into()),
    }
}

/// Devices of both sides, which are to be kept, and their ports.
struct Devices {
    _kept: Vec<[SimDevice; 2]>,
    ours: Vec<SimPort>,
    theirs: Vec<SimPort>,
}

fn several<'c>(configs: impl Iterator<Item = &'c str>) -> Result<Devices, String> {
    let (mut kept, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for (index, config) in configs.enumerate() {
        let (devices, [here, there]) = simulated_as(&format!("device{index}"), config)?;
        kept.push(devices);
        ours.push(here);
        theirs.push(there);
    }
    Ok(Devices { _kept: kept, ours, theirs })
}

/// Of an idle device and of one that is never done.
fn queries(setting: &Setting) -> Result<Outcome, String> {
    let duration = Duration::from_millis(if setting.quick { 1200 } else { 5000 });
    let configs = [
        "model=plain caps=7 initial=64KiB dirty=0 stop=1MiB seed=1",
        "model=plain caps=7 initial=1MiB dirty=1MiB dirty-rate=8MiB/s stop=1MiB seed=2",
    ];
    let Devices { mut ours, mut theirs, _kept } = several(configs.into_iter())?;
    let mut save_options = SaveOptions::default();
    save_options.precopy = Some(for_ever(duration));
    let (mut log, (left, right)) = (Log::default(), unix(1)?);
    gave_up(std::thread::scope(|scope| {
        scope.spawn(|| load::load(&mut theirs, right, &mut (), &LoadOptions::default()).map(drop));
        save::save(&mut ours, left, &mut log, &save_options).map(drop)
    }))?;
    let busiest = |index: usize| vec![busiest(&log.queries(SectionId::new(index)), SECOND)];
    let name = format!("lean/queries in the busiest second of {} s, by device", duration.as_secs_f64());
    let values = vec![Value::judged("an idle device", busiest(0)), Value::judged("a busy device", busiest(1))];
    against(name, Unit::Count, Bound::AtMost(QUERIES), values)
}

/// The most of these moments, in order, that are less than `window` apart.
fn busiest(moments: &[Duration], window: Duration) -> f64 {
    let within = |(index, begin): (usize, &Duration)| {
        moments.iter().skip(index).take_while(|at| at.saturating_sub(*begin) < window).count()
    };
    let most = moments.iter().enumerate().map(within).max().unwrap_or(0);
    float(u64::try_from(most).unwrap_or(u64::MAX))
}

/// The downtime of so many devices. The limit is wide: when to switch over is not the question here.
fn stopping(count: usize) -> Result<f64, String> {
    let Devices { mut ours, mut theirs, _kept } = several(core::iter::repeat_n(SLOW_DEVICE, count))?;
    let mut options = SaveOptions::default();
    if let Some(rule) = &mut options.precopy {
        rule.downtime_max = Duration::from_secs(10);
    }
    let ran = migrate(&mut ours, &mut theirs, unix(2)?, &mut (), &options, &LoadOptions::default())?;
    Ok(ran.source.downtime.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_busiest_second_is_found_wherever_it_begins() {
        let at = |ms: &[u64]| ms.iter().map(|ms| Duration::from_millis(*ms)).collect::<Vec<_>>();
        assert_eq!(busiest(&at(&[0, 900, 1000, 1100, 1899, 1900]), SECOND), 4.0);
        assert_eq!(busiest(&at(&[0, 1000, 2000]), SECOND), 1.0);
        assert_eq!(busiest(&[], SECOND), 0.0);
    }

    /// What it stops for is 100 and 70 ms, and both count.
    #[test]
    fn the_delays_are_in_the_downtime() {
        let took_ms = stopping(2).unwrap();
        assert!((170.0..2000.0).contains(&took_ms), "{took_ms} ms");
    }
}
