// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the caller decides about reading while the guest runs, in the scheduler's terms.

use core::time::Duration;
use std::vec::Vec;

use vfio_mig_fsm::{Capabilities, State};

use super::experience::Experience;
use super::set::Offer;
use crate::sched::{Config, Kind, Policy, Section, Timing, Verdict};

/// Chunks that a device's thread reads and sends before it asks what to do next. One question for each would cost a
/// wake-up in both directions (`spec/perf/limits.md` section 1).
const BATCH_CHUNKS: u64 = 8;
/// The same on a link that is known to be fast: between two turns, memory's threads wait for the slowest of them.
const TURN_CHUNKS: u64 = 64;

/// When to leave pre-copy, and how fast to read.
///
/// The decision is the scheduler's ([`crate::sched`]): it switches over when the predicted downtime is within
/// `downtime_max`, and these fields say what to do when it is not going to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Precopy {
    /// The downtime to keep.
    pub downtime_max: Duration,
    /// How often each device is asked for its sizes at most, and how often to decide. On mlx5 and virtio every question
    /// is a command to the firmware.
    pub window: Duration,
    /// How long pre-copy may take. Initial bytes still unread then move while the guest is stopped, and a missing acknowledgement
    /// of them is waited for no longer.
    pub duration_max: Duration,
    /// What to do after `duration_max`.
    pub late: Verdict,
    /// What to do if the costs that no reading reduces exceed `downtime_max` alone.
    pub infeasible: Verdict,
    /// What to do if what is left no longer falls, and does not fit.
    pub level: Verdict,
    /// What to do if what is left grows, and does not fit.
    pub rising: Verdict,
    /// Most bytes per second while the guest runs.
    pub rate_bytes_per_s: Option<u64>,
    /// The connection's bandwidth, where it is known: what is measured does not override it.
    pub bandwidth_bytes_per_s: Option<u64>,
}

impl Default for Precopy {
    /// 300 ms, decided every 100 ms, after 30 s at the latest, and rather a longer downtime than no migration.
    fn default() -> Self {
        Self {
            downtime_max: Duration::from_millis(300),
            window: Duration::from_millis(100),
            duration_max: Duration::from_secs(30),
            late: Verdict::Switch,
            infeasible: Verdict::Switch,
            level: Verdict::Switch,
            rising: Verdict::Switch,
            rate_bytes_per_s: None,
            bandwidth_bytes_per_s: None,
        }
    }
}

/// The scheduler's configuration: `homes` are the states the devices were found in, `chunk_bytes` the largest frame.
pub(super) fn config(
    offers: &[Offer],
    homes: &[State],
    rule: Option<&Precopy>,
    chunk_bytes: u64,
    experience: &Experience,
) -> Config {
    let section = |(offer, home): (&Offer, &State)| {
        let reads_running = rule.is_some();
        let capabilities = if reads_running { offer.capabilities } else { without_precopy(offer.capabilities) };
        let mut section = Section::new(offer.name.clone(), offer.kind, capabilities);
        section.home = *home;
        section.in_turn = true;
        if let (Kind::Device, Some(known)) = (offer.kind, experience.get(&offer.identity)) {
            section.profile = *known;
        }
        section
    };
    let sections: Vec<Section> = offers.iter().zip(homes).map(section).collect();
    let devices = u64::try_from(sections.len()).unwrap_or(u64::MAX);
    let mut config = Config::new(sections);
    config.bandwidth_guess_bytes_per_s = experience.bandwidth_bytes_per_s();
    config.overhead = overhead(&config, experience.pause());
    let rule = rule.copied().unwrap_or_default();
    // A cap is kept more evenly in small steps.
    let (batch, turn) = if rule.rate_bytes_per_s.is_some() { (1, 1) } else { (BATCH_CHUNKS, TURN_CHUNKS) };
    config.chunk_bytes_max = chunk_bytes.saturating_mul(batch);
    config.turn_bytes_max = chunk_bytes.saturating_mul(turn);
    config.piece_bytes_max = Some(chunk_bytes);
    // No device waits because another one's target is slow: what is really under way is bounded by credit.
    config.inflight_bytes_max = config.turn_bytes_max.saturating_mul(devices.saturating_add(1));
    config.window = rule.window.max(Duration::from_millis(1));
    config.rate_bytes_per_s = rule.rate_bytes_per_s;
    config.bandwidth_bytes_per_s = rule.bandwidth_bytes_per_s;
    config.downtime_max = rule.downtime_max;
    let (infeasible, level, rising, late) = (rule.infeasible, rule.level, rule.rising, rule.late);
    config.policy = Policy { infeasible, level, rising, late, precopy_max: rule.duration_max, ..Policy::default() };
    config
}

/// Pausing, and the messages of the commit, which are in what was learned of running where that is known.
fn overhead(config: &Config, pause: Option<Timing>) -> Timing {
    let run_is_known = config.sections.iter().any(|section| !section.profile.run.expected.is_zero());
    match pause {
        Some(pause) if run_is_known => pause,
        Some(pause) => pause.then(config.overhead),
        None => config.overhead,
    }
}

const fn without_precopy(capabilities: Capabilities) -> Capabilities {
    if capabilities.has_p2p() { Capabilities::P2p } else { Capabilities::StopCopy }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::sched::Profile;

    /// Each device's thread sends what it reads, and so does each of memory's.
    #[test]
    fn what_is_read_is_sent_by_the_same_thread() {
        let offer = |kind| Offer { name: "a".into(), identity: "a".into(), capabilities: Capabilities::PreCopy, kind };
        let offers = [offer(Kind::Device), offer(Kind::Memory)];
        let config = config(&offers, &[State::Running; 2], None, 1 << 20, &Experience::new());
        assert_eq!(config.sections.iter().map(|section| section.in_turn).collect::<Vec<_>>(), [true; 2]);
    }

    #[test]
    fn how_long_the_guest_took_to_pause_is_what_it_will_take() {
        let mut experience = Experience::new();
        let offer =
            Offer { name: "a".into(), identity: "a".into(), capabilities: Capabilities::PreCopy, kind: Kind::Device };
        let overhead = |experience: &Experience| {
            config(core::slice::from_ref(&offer), &[State::Running], None, 1 << 20, experience).overhead
        };
        let ms = Duration::from_millis;
        assert_eq!(overhead(&experience), Timing::new(ms(2), 300));
        experience.learn_pause(ms(40));
        // The messages of the commit are still a guess.
        assert_eq!(overhead(&experience), Timing::new(ms(42), 238));
        experience.learn(core::iter::once(("a", Profile::device())), None);
        assert_eq!(overhead(&experience).expected, ms(42));
        experience.learn_run(core::iter::once("a"), ms(5));
        assert_eq!(overhead(&experience), Timing::new(ms(40), 250));
    }

    #[test]
    fn what_the_last_link_carried_is_the_guess_of_the_next() {
        let mut experience = Experience::new();
        let config = |experience: &Experience, rule| config(&[], &[], rule, 1 << 20, experience);
        assert_eq!(config(&experience, None).bandwidth_guess_bytes_per_s, None);
        experience.set_bandwidth(Some(5));
        assert_eq!(config(&experience, None).bandwidth_guess_bytes_per_s, Some(5));
        let given = Precopy { bandwidth_bytes_per_s: Some(7), ..Precopy::default() };
        assert_eq!(config(&experience, Some(&given)).bandwidth_bytes_per_s, Some(7), "that is no guess");
        assert_eq!(config(&experience, None).bandwidth_bytes_per_s, None, "and this is one");
    }
}
