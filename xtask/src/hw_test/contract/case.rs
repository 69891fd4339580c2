// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What can end a migration early, where, and on how many channels.

use super::migrate::faulty;
use super::{Body, Need, Test};
use crate::hw_test::event::Group;

/// The phases both sides walk; a fault is put at the beginning of each.
pub(crate) const PHASES: [&str; 8] = ["hello", "open", "pre-copy", "switchover", "stop-copy", "load", "commit", "done"];
/// At its beginning the source has connected and said nothing.
pub(super) const HELLO: usize = 0;
/// At its beginning the source's devices go quiet.
const SWITCHOVER: usize = 3;
/// At its beginning the source's guest is about to stop.
const STOP_COPY: usize = 4;
/// At its beginning everything is sent.
const LOAD: usize = 5;
/// At its beginning everything is acknowledged and nothing given up yet.
pub(super) const COMMIT: usize = 6;

/// What goes wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fault {
    /// SIGKILL to the source.
    SourceDies,
    /// SIGKILL to the target.
    TargetDies,
    /// The source's end of the connection is shut down.
    SourceCuts,
    /// The target's end.
    TargetCuts,
    /// SIGINT to the source.
    SourceCancels,
    /// SIGINT to the target.
    TargetCancels,
    /// SIGSTOP to the source, and SIGCONT once the target has given up.
    SourceHangs,
    /// SIGSTOP to the target, and SIGCONT once the source has given up.
    TargetHangs,
}

/// A fault, where it happens, and on how many channels.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Case {
    pub(super) fault: Fault,
    /// By its place in [`PHASES`].
    pub(super) phase: usize,
    pub(super) channels: u16,
    /// Which of them is cut; all of them without this.
    pub(super) cut: Option<u16>,
}

impl Fault {
    const ALL: [Self; 8] = [
        Self::SourceDies,
        Self::TargetDies,
        Self::SourceCuts,
        Self::TargetCuts,
        Self::SourceCancels,
        Self::TargetCancels,
        Self::SourceHangs,
        Self::TargetHangs,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::SourceDies => "the source is killed",
            Self::TargetDies => "the target is killed",
            Self::SourceCuts => "the source's connection is cut",
            Self::TargetCuts => "the target's connection is cut",
            Self::SourceCancels => "the source is cancelled",
            Self::TargetCancels => "the target is cancelled",
            Self::SourceHangs => "the source hangs",
            Self::TargetHangs => "the target hangs",
        }
    }

    pub(super) const fn cuts(self) -> bool {
        matches!(self, Self::SourceCuts | Self::TargetCuts)
    }

    pub(super) const fn hangs(self) -> bool {
        matches!(self, Self::SourceHangs | Self::TargetHangs)
    }

    pub(super) fn is_at_source(self) -> bool {
        matches!(self, Self::SourceDies | Self::SourceCuts | Self::SourceCancels | Self::SourceHangs)
    }
}

impl Case {
    /// A channel but the first ends before the migration does; a target hears of the phases later than its channels.
    pub(super) fn may_be_too_late(self) -> bool {
        let from = if self.fault.is_at_source() { LOAD } else { SWITCHOVER };
        self.cut.is_some_and(|cut| cut > 0) && self.phase >= from
    }
}

/// One per fault and phase, for one channel and for two; and one per channel that is cut.
pub(super) fn fault_tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for fault in Fault::ALL {
        for phase in 0..PHASES.len() {
            let case = |channels, cut| Case { fault, phase, channels, cut };
            tests.push(faulty_test(case(1, None)));
            if fault.cuts() {
                tests.extend([0, 1].map(|cut| faulty_test(case(2, Some(cut)))));
            } else {
                tests.push(faulty_test(case(2, None)));
            }
        }
        if fault.cuts() {
            // In the thick of it, each of four.
            tests.extend((0..4).map(|cut| faulty_test(Case { fault, phase: STOP_COPY, channels: 4, cut: Some(cut) })));
        }
    }
    tests
}

fn faulty_test(case: Case) -> Test {
    let Case { fault, phase, channels, cut } = case;
    let at = PHASES.get(phase).copied().unwrap_or_default();
    let over = match (channels, cut) {
        (1, _) => String::new(),
        (channels, None) => format!(", {channels} channels"),
        (channels, Some(cut)) => format!(", channel {cut} of {channels}"),
    };
    Test {
        group: Group::Migrate,
        name: format!("{} at {at}{over}", fault.name()),
        needs: &[Need::SecondDevice],
        body: Body::Fault(faulty, case),
        fixed_name: "",
    }
}
