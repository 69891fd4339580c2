// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A link nobody has seen: guessed at where nothing can be learned, measured where something can.

use core::time::Duration;
use std::vec;

use super::rig::{MS, Rig, device, fake, memory};
use crate::sched::bandwidth::Meter;
use crate::sched::{Config, Decision, Hold, Step, Why};

/// Nothing has moved, so neither the link nor the device is known, and no reading will teach more.
#[test]
fn what_nobody_knows_does_not_hold_an_idle_guest() {
    let mut rig = Rig::new(Config::new(vec![device("a")]), vec![fake(0, 0, 16 << 20)], 1_250_000_000);
    assert_eq!(rig.run(Duration::from_secs(20)), Step::Ready);
    let switched = rig.decided(|decision| matches!(decision, Decision::Switch(Why::Fits, _))).expect("a switchover");
    assert!(switched <= 300 * MS, "after {switched:?}");
}

/// 20 MB would fit a fast link. This one takes two seconds for them, and the first of them show it.
#[test]
fn a_link_nobody_knows_is_measured_where_there_is_something_to_read() {
    let mut rig = Rig::new(Config::new(vec![memory()]), vec![fake(20_000_000, 0, 0)], 10_000_000);
    assert_eq!(rig.run(Duration::from_secs(20)), Step::Ready);
    let held = rig.decided(|decision| matches!(decision, Decision::Iterate(Hold::Bandwidth, _))).expect("it is held");
    let switched = rig.decided(|decision| matches!(decision, Decision::Switch(Why::Fits, _))).expect("a switchover");
    assert!(held <= 2 * MS && switched >= Duration::from_secs(1), "held at {held:?}, switched at {switched:?}");
}

#[test]
fn the_longer_it_was_seen_the_more_it_is_believed() {
    let spread = |guess: Option<u64>, busy: Duration| {
        let mut meter = Meter::new(None, guess);
        meter.offered(Duration::ZERO, 2_000_000);
        meter.sent(busy, 1_000_000);
        meter.bandwidth().spread_per_mille
    };
    let nothing = Duration::ZERO;
    assert!(spread(None, nothing) > spread(Some(1), nothing), "somebody who knows it roughly");
    let seen = [1, 5, 10, 60].map(|busy_ms| spread(None, busy_ms * MS));
    assert!(seen.is_sorted_by(|before, after| before >= after) && seen[0] > seen[1] && seen[2] > seen[3], "{seen:?}");
    assert_eq!(seen[2], spread(Some(1), nothing), "ten milliseconds are as good as what another migration saw");
}
