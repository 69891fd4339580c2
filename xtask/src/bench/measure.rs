// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Contenders in turn, and what their values have in common: ratios within a round.

use core::fmt;
use std::time::Instant;

use serde::Serialize;

use super::network;
use super::order::order;
use super::spread::{Spread, spread};

/// What the values of a comparison are.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    BytesPerSecond,
    RecordsPerSecond,
    /// Of processor time, by 10⁹ bytes.
    SecondsPerGigabyte,
    Bytes,
    Milliseconds,
    Microseconds,
    Percent,
    /// How many.
    Count,
}

/// What the ratio of a contender to the baseline must be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    /// The ratio at which it is just reached.
    pub(super) fn ratio(self) -> f64 {
        match self {
            Self::AtLeast(ratio) | Self::AtMost(ratio) => ratio,
        }
    }

    fn is_reached(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(least) => ratio >= least,
            Self::AtMost(most) => ratio <= most,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "≥ {least:.2}"),
            Self::AtMost(most) => write!(f, "≤ {most:.2}"),
        }
    }
}

/// One way to do the work. A run returns a value in the comparison's unit, or says why there is none.
pub(crate) struct Contender<'a> {
    pub(crate) name: &'static str,
    /// Of its ratio to the baseline. Without one it is there to be looked at.
    pub(crate) goal: Option<Goal>,
    pub(crate) run: Box<dyn FnMut() -> Result<f64, String> + 'a>,
}

impl<'a> Contender<'a> {
    pub(crate) fn new(name: &'static str, goal: Option<Goal>, run: impl FnMut() -> Result<f64, String> + 'a) -> Self {
        Self { name, goal, run: Box::new(run) }
    }
}

/// Several ways to do the same work, the first of which the others are compared with.
pub(crate) struct Comparison<'a> {
    /// `benchmark/what`.
    pub(crate) name: String,
    pub(crate) unit: Unit,
    pub(crate) baseline: Contender<'a>,
    pub(crate) contenders: Vec<Contender<'a>>,
}

/// What was measured of a contender.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) name: &'static str,
    /// In the comparison's unit.
    pub(crate) value: Spread,
    /// To the baseline, round by round.
    pub(crate) ratio: Spread,
    pub(crate) goal: Option<Goal>,
    /// Nothing where there is no goal, or where the machine was too restless to judge by.
    pub(crate) reached: Option<bool>,
}

impl Measured {
    /// Not judged by ratios that are far apart, and on both sides of the goal.
    fn unless_restless(self) -> Self {
        let reaches = |ratio| self.goal.is_some_and(|goal| goal.is_reached(ratio));
        let is_clear = reaches(self.ratio.quartile_low) == reaches(self.ratio.quartile_high);
        Self { reached: self.reached.filter(|_| is_clear || !self.ratio.is_noisy()), ..self }
    }
}

/// What came of a comparison. The baseline is the first.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) unit: Unit,
    pub(crate) rounds: usize,
    pub(crate) contenders: Vec<Measured>,
}

impl Outcome {
    /// Whether no goal was missed.
    pub(crate) fn is_reached(&self) -> bool {
        self.contenders.iter().all(|measured| measured.reached != Some(false))
    }

    /// Whether there is somebody with a goal whom the machine was too restless to judge, and nobody who has missed one: that stays.
    fn is_open(&self) -> bool {
        self.is_reached()
            && self.contenders.iter().any(|measured| measured.goal.is_some() && measured.reached.is_none())
    }

    /// What was measured is shown, and nobody judged by it.
    pub(super) fn withhold_judgement(&mut self) {
        self.contenders.iter_mut().for_each(|measured| measured.reached = None);
    }
}

/// Does `work` and gives the speed at which it went through `bytes`.
pub(crate) fn per_second(bytes: u64, work: impl FnOnce() -> Result<(), String>) -> Result<f64, String> {
    let begin = Instant::now();
    work()?;
    let seconds = begin.elapsed().as_secs_f64();
    let mebibytes = u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
    Ok(f64::from(mebibytes) * f64::from(1u32 << 20) / seconds.max(f64::MIN_POSITIVE))
}

/// One way to do work that costs several things at once.
pub(crate) struct Costly<'a, const N: usize> {
    name: &'static str,
    goals: [Option<Goal>; N],
    run: Box<dyn FnMut() -> Result<[f64; N], String> + 'a>,
}

impl<'a, const N: usize> Costly<'a, N> {
    pub(crate) fn new(
        name: &'static str,
        goals: [Option<Goal>; N],
        run: impl FnMut() -> Result<[f64; N], String> + 'a,
    ) -> Self {
        Self { name, goals, run: Box::new(run) }
    }
}

/// A [`Comparison`] whose every run gives one value of each metric.
pub(crate) struct Costs<'a, const N: usize> {
    /// `benchmark/what`, to which a metric's name is added.
    pub(crate) name: String,
    pub(crate) metrics: [(&'static str, Unit); N],
    pub(crate) baseline: Costly<'a, N>,
    pub(crate) contenders: Vec<Costly<'a, N>>,
}

/// Of the contenders, one that another is held against too, in the metrics in which there is a goal.
pub(crate) struct Rival<const N: usize> {
    /// The baseline.
    pub(crate) rival: &'static str,
    /// Who is judged.
    pub(crate) contender: &'static str,
    pub(crate) goals: [Option<Goal>; N],
}

/// Runs all contenders in each of `rounds`, after one run each that does not count.
pub(crate) fn compare(comparison: Comparison<'_>, rounds: usize) -> Result<Outcome, String> {
    let Comparison { name, unit, baseline, contenders } = comparison;
    let costly = |Contender { name, goal, mut run }| Costly::new(name, [goal], move || run().map(|value| [value]));
    let contenders = contenders.into_iter().map(costly).collect();
    let costs = Costs { name: name.clone(), metrics: [("", unit)], baseline: costly(baseline), contenders };
    let outcome = compare_costs(costs, &[], rounds)?.pop();
    outcome.ok_or_else(|| format!("{name}: nothing was measured"))
}

/// Runs all contenders in each of `rounds`, after one run each that does not count. One outcome per metric, and behind them one for each
/// goal against a rival.
pub(crate) fn compare_costs<const N: usize>(
    costs: Costs<'_, N>,
    rivals: &[Rival<N>],
    rounds: usize,
) -> Result<Vec<Outcome>, String> {
    let Costs { name, metrics, baseline, contenders } = costs;
    let mut all: Vec<Costly<'_, N>> = core::iter::once(baseline).chain(contenders).collect();
    let mut measure = || judged(&name, metrics, &in_turn(&name, &mut all, rounds, |_| ())?, rivals);
    let mut outcomes = measure()?;
    for _ in 1..if rounds < ROUNDS_TO_REPEAT { 1 } else { ATTEMPTS } {
        if !outcomes.iter().any(Outcome::is_open) {
            break;
        }
        eprintln!("{name}: the machine was too restless to judge by; measured once more");
        let again = measure()?;
        outcomes =
            outcomes.into_iter().zip(again).map(|(first, then)| if first.is_open() { then } else { first }).collect();
    }
    Ok(outcomes)
}

/// What one measurement came to.
fn judged<const N: usize>(
    name: &str,
    metrics: [(&'static str, Unit); N],
    runs: &[Runs<N>],
    rivals: &[Rival<N>],
) -> Result<Vec<Outcome>, String> {
    let rounds = runs.first().map_or(0, |(_, _, values)| values.len());
    let judge = |metric: usize, label: String, runs: &[Runs<N>]| {
        let of = |values: &[[f64; N]]| values.iter().filter_map(|run| run.get(metric).copied()).collect::<Vec<_>>();
        let baseline = runs.first().map(|(_, _, values)| of(values)).unwrap_or_default();
        let measured = runs.iter().map(|(name, goals, values)| {
            let goal = goals.get(metric).copied().flatten();
            measured(name, goal, of(values), &baseline).map(Measured::unless_restless)
        });
        let contenders = measured.collect::<Option<Vec<_>>>();
        let contenders = contenders.ok_or_else(|| format!("{name}: nothing was measured"))?;
        let unit = metrics.get(metric).map_or(Unit::Count, |(_, unit)| *unit);
        Ok::<_, String>(Outcome { name: label, unit, rounds, contenders })
    };
    let label = |what: &str| if what.is_empty() { name.to_owned() } else { format!("{name}: {what}") };
    let mut outcomes = Vec::new();
    for (metric, (what, _)) in metrics.iter().enumerate() {
        outcomes.push(judge(metric, label(what), runs)?);
    }
    for Rival { rival, contender, goals } in rivals {
        let find = |sought: &str| runs.iter().find(|(name, _, _)| *name == sought).cloned();
        let (Some((_, _, theirs)), Some((_, _, ours))) = (find(rival), find(contender)) else { continue };
        let pair = [(*rival, [None; N], theirs), (*contender, *goals, ours)];
        for (metric, (what, _)) in
            metrics.iter().enumerate().filter(|(metric, _)| goals.get(*metric).is_some_and(Option::is_some))
        {
            outcomes.push(judge(metric, format!("{}, against {rival}", label(what)), &pair)?);
        }
    }
    Ok(outcomes)
}

/// A contender, its goals, and what its runs cost.
pub(super) type Runs<const N: usize> = (&'static str, [Option<Goal>; N], Vec<[f64; N]>);

/// Runs all in each of `rounds`, after one run each that does not count, in the network that was chosen. `begins` hears of each round, the first of which is 0.
pub(super) fn in_turn<const N: usize>(
    name: &str,
    all: &mut [Costly<'_, N>],
    rounds: usize,
    mut begins: impl FnMut(usize),
) -> Result<Vec<Runs<N>>, String> {
    let _inside = network::enter()?;
    let mut values: Vec<Vec<[f64; N]>> = vec![Vec::new(); all.len()];
    for round in 0..=rounds {
        begins(round);
        for index in order(round, all.len()) {
            let Some(contender) = all.get_mut(index) else { continue };
            let value = (contender.run)().map_err(|error| format!("{name}, {}: {error}", contender.name))?;
            if round > 0 {
                values.get_mut(index).into_iter().for_each(|values| values.push(value));
            }
        }
    }
    Ok(all.iter().zip(values).map(|(it, values)| (it.name, it.goals, values)).collect())
}

/// How often it is measured, at most, until everybody can be judged. A judgement stays.
const ATTEMPTS: usize = 3;

/// Fewer rounds are there to see that it works.
const ROUNDS_TO_REPEAT: usize = 4;

/// Some values of a contender, and their ratios to the baseline's. Nothing where there are none.
pub(crate) fn measured(name: &'static str, goal: Option<Goal>, values: Vec<f64>, baseline: &[f64]) -> Option<Measured> {
    let ratio = spread(values.iter().zip(baseline).map(|(value, baseline)| value / baseline).collect())?;
    let reference = spread(baseline.to_vec())?;
    let reached = goal.filter(|_| !reference.is_noisy()).map(|goal| goal.is_reached(ratio.median));
    Some(Measured { name, value: spread(values)?, ratio, goal, reached })
}

#[cfg(test)]
mod test {
    use super::*;

    fn fixed(name: &'static str, goal: Option<Goal>, values: &'static [f64]) -> Contender<'static> {
        let mut values = values.iter();
        Contender::new(name, goal, move || values.next().copied().ok_or_else(|| "worn out".into()))
    }

    /// One round in five is disturbed, for both alike: the ratio does not notice.
    #[test]
    fn ratios_are_made_within_a_round() {
        let comparison = Comparison {
            name: "test".into(),
            unit: Unit::BytesPerSecond,
            baseline: fixed("whole", None, &[99.0, 8.0, 8.0, 2.0, 8.0, 8.0]),
            contenders: vec![
                fixed("half", Some(Goal::AtLeast(0.5)), &[99.0, 4.0, 4.0, 1.0, 4.0, 4.0]),
                fixed("less", Some(Goal::AtLeast(0.5)), &[1.0, 2.0, 2.0, 0.5, 2.0, 2.0]),
            ],
        };
        let outcome = compare(comparison, 5).unwrap();
        let half = &outcome.contenders[1];
        assert_eq!((half.ratio.min, half.ratio.median, half.ratio.max), (0.5, 0.5, 0.5));
        assert_eq!((half.value.max, half.reached), (4.0, Some(true)), "the first run does not count");
        assert_eq!((outcome.contenders[2].ratio.median, outcome.contenders[2].reached), (0.25, Some(false)));
        assert_eq!(outcome.contenders[0].reached, None);
        assert!(!outcome.is_reached());
    }

    #[test]
    fn every_metric_has_its_ratio_and_its_goal() {
        let steady = Costly::new("steady", [None; 2], || Ok([10.0, 4.0]));
        let goals = [Some(Goal::AtLeast(1.0)), Some(Goal::AtMost(1.1))];
        let other = Costly::new("other", goals, || Ok([20.0, 5.0]));
        let costs = Costs {
            name: "test".into(),
            metrics: [("speed", Unit::BytesPerSecond), ("memory", Unit::Bytes)],
            baseline: steady,
            contenders: vec![other],
        };
        let outcomes = compare_costs(costs, &[], 3).unwrap();
        let judged: Vec<_> = outcomes
            .iter()
            .map(|it| (it.name.as_str(), it.contenders[1].ratio.median, it.contenders[1].reached))
            .collect();
        assert_eq!(judged, [("test: speed", 2.0, Some(true)), ("test: memory", 1.25, Some(false))]);
    }

    /// The baseline judges nobody here; of the rivals, only the one that ran does, and only where there is a goal.
    #[test]
    fn a_contender_can_be_held_against_another() {
        let costly = |name, values: [f64; 2]| Costly::new(name, [None; 2], move || Ok(values));
        let costs = Costs {
            name: "test".into(),
            metrics: [("speed", Unit::BytesPerSecond), ("memory", Unit::Bytes)],
            baseline: costly("bare", [10.0, 1.0]),
            contenders: vec![costly("ours", [6.0, 3.0]), costly("theirs", [4.0, 2.0])],
        };
        let rival = |rival| Rival { rival, contender: "ours", goals: [Some(Goal::AtLeast(1.6)), None] };
        let outcomes = compare_costs(costs, &[rival("theirs"), rival("absent")], 3).unwrap();
        let names: Vec<_> = outcomes.iter().map(|outcome| outcome.name.as_str()).collect();
        assert_eq!(names, ["test: speed", "test: memory", "test: speed, against theirs"]);
        let [theirs, ours] = &outcomes[2].contenders[..] else { panic!("{:?}", outcomes[2]) };
        assert_eq!((theirs.name, theirs.reached), ("theirs", None));
        assert_eq!((ours.name, ours.ratio.median, ours.reached), ("ours", 1.5, Some(false)));
    }

    /// A baseline that swings between 6 and 12 says nothing about who is as fast as it, and nor do ratios that do.
    #[test]
    fn by_a_noisy_baseline_nothing_is_judged() {
        let of = |baseline: &'static [f64]| {
            let comparison = Comparison {
                name: "test".into(),
                unit: Unit::BytesPerSecond,
                baseline: fixed("swings", None, baseline),
                contenders: vec![fixed("same", Some(Goal::AtLeast(0.1)), &[9.0; 18])],
            };
            compare(comparison, 5).unwrap().contenders[1].reached
        };
        let forever = |values: &[f64]| -> &'static [f64] { values.repeat(ATTEMPTS).leak() };
        assert_eq!(of(forever(&[9.0, 6.0, 12.0, 6.0, 12.0, 9.0])), None);
        assert_eq!(of(&[9.0, 8.0, 10.0, 9.0, 9.0, 9.0]), Some(true));
        let ratios = |goal, values| {
            let measured = measured("swings", Some(goal), values, &[1.0; 5]).unwrap();
            measured.unless_restless().reached
        };
        let swinging = vec![1.0, 0.5, 1.0, 0.5, 1.0];
        assert_eq!(ratios(Goal::AtLeast(0.8), swinging.clone()), None);
        assert_eq!(ratios(Goal::AtLeast(0.4), swinging.clone()), Some(true), "it is clear whatever they are");
        assert_eq!(ratios(Goal::AtLeast(1.1), swinging.clone()), Some(false));
        assert_eq!(ratios(Goal::AtMost(0.4), swinging), Some(false));
        assert_eq!(ratios(Goal::AtLeast(0.95), vec![1.0, 0.9, 1.0, 0.9, 0.2]), Some(false));
    }

    #[test]
    fn a_restless_machine_is_measured_again_until_it_is_quiet() {
        let of = |baseline: &'static [f64], rounds: usize| {
            let mut runs = 0;
            let comparison = Comparison {
                name: "test".into(),
                unit: Unit::BytesPerSecond,
                baseline: fixed("swings", None, baseline),
                contenders: vec![Contender::new("counts", Some(Goal::AtLeast(0.1)), || {
                    runs += 1;
                    Ok(9.0)
                })],
            };
            let reached = compare(comparison, rounds).unwrap().contenders[1].reached;
            (reached, runs)
        };
        let (restless, quiet) = ([9.0, 6.0, 12.0, 6.0, 12.0, 9.0], [9.0; 6]);
        let then = |parts: &[[f64; 6]]| -> &'static [f64] { parts.concat().leak() };
        assert_eq!(of(then(&[quiet]), 5), (Some(true), 6));
        assert_eq!(of(then(&[restless, quiet]), 5), (Some(true), 12));
        assert_eq!(of(then(&[restless, restless, restless]), 5), (None, 18));
        assert_eq!(of(&[9.0, 6.0, 12.0, 9.0], 3), (None, 4), "three rounds show that it works, and no more");
    }

    #[test]
    fn a_goal_that_was_missed_once_stays_missed() {
        let runs = core::cell::Cell::new(0);
        let wild = Contender::new("wild", Some(Goal::AtLeast(0.8)), || {
            runs.set(runs.get() + 1);
            Ok([1.0, 1.0, 0.5, 1.0, 0.5, 1.0][runs.get() % 6])
        });
        let late = Contender::new("late", Some(Goal::AtLeast(0.8)), || Ok(if runs.get() > 6 { 1.0 } else { 0.5 }));
        let baseline = Contender::new("steady", None, || Ok(1.0));
        let contenders = vec![wild, late];
        let comparison = Comparison { name: "test".into(), unit: Unit::Count, baseline, contenders };
        let outcome = compare(comparison, 5).unwrap();
        assert_eq!(outcome.contenders[1..].iter().map(|it| it.reached).collect::<Vec<_>>(), [None, Some(false)]);
        assert_eq!(runs.get(), 6);
    }

    #[test]
    fn a_contender_that_fails_is_named() {
        let comparison = Comparison {
            name: "test".into(),
            unit: Unit::BytesPerSecond,
            baseline: fixed("whole", None, &[1.0, 1.0]),
            contenders: vec![fixed("tired", None, &[1.0])],
        };
        assert_eq!(compare(comparison, 1).unwrap_err(), "test, tired: worn out");
    }

    #[test]
    fn rounds_are_in_order_and_the_first_does_not_count() {
        let order = core::cell::RefCell::new(String::new());
        let noted = |name: &'static str| {
            let order = &order;
            Contender::new(name, None, move || {
                order.borrow_mut().push_str(name);
                Ok(1.0)
            })
        };
        let contenders = vec![noted("b"), noted("c")];
        let comparison =
            Comparison { name: String::new(), unit: Unit::BytesPerSecond, baseline: noted("a"), contenders };
        assert_eq!(compare(comparison, 2).unwrap().rounds, 2);
        let expected = (0..3).flat_map(|round| super::order(round, 3)).map(|index| ["a", "b", "c"][index]);
        assert_eq!(*order.borrow(), expected.collect::<String>());
    }
}
