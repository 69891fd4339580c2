// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Migrations between a stock QEMU and `savevm_core::qemu`, in a process of its own on simulated devices.

mod bench;
mod fault;
mod file;
mod from_us;
mod to_us;

use core::time::Duration;

use self::fault::{DAMAGE, Trouble};
use super::super::super::contract::check::Checked;
use super::rig::{Notes, Peers};
use super::scenario::{self, Kind, Moment, Scenario, WayBack};
use crate::vm::Series;

/// Which way a state goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    /// Out of QEMU into us.
    In,
    /// Out of us into QEMU.
    Out,
    /// Out of QEMU into us, through a file.
    FileIn,
    /// Out of us into QEMU, through a file.
    FileOut,
}

/// One migration.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Unique.
    pub(super) name: String,
    way: Way,
    scenario: Scenario,
    trouble: Option<Trouble>,
}

/// Every row, in the order they run.
pub(super) fn all() -> Vec<Row> {
    let mut all = Vec::new();
    for way in [Way::In, Way::Out] {
        for scenario in scenario::all().into_iter().filter(|scenario| scenario.blow.is_none()) {
            all.push(Row { name: format!("{}: {}", way.name(), scenario.name), way, scenario, trouble: None });
        }
    }
    for channels in [0, 4] {
        let (way, scenario) = (Way::In, scenario::whole((Kind::Large, 2), channels, WayBack::ReturnPath));
        all.push(Row { name: format!("{}: {}", way.name(), scenario.name), way, scenario, trouble: None });
    }
    for way in [Way::FileIn, Way::FileOut] {
        for kind in [(Kind::PreCopy, 1), (Kind::PreCopy, 4), (Kind::StopCopy, 1), (Kind::Mtty, 1)] {
            let scenario = scenario::whole(kind, 0, WayBack::None);
            all.push(Row { name: format!("{}: {}", way.name(), kind.0.name(kind.1)), way, scenario, trouble: None });
        }
    }
    for way in [Way::In, Way::Out] {
        for (what, channels, trouble) in troubles(way) {
            let scenario = scenario::whole((Kind::Slow, 2), channels, WayBack::ReturnPath);
            let connections = scenario::connections(channels, WayBack::ReturnPath);
            let name = format!("{}: {what}, {connections}", way.name());
            all.push(Row { name, way, scenario, trouble: Some(trouble) });
        }
    }
    all
}

/// What can go wrong, and over how many channels.
fn troubles(way: Way) -> Vec<(&'static str, u8, Trouble)> {
    use Moment::{PreCopy, StopCopy};
    use Trouble::{Cut, Disagree, TheyCancel, WeCancel};
    let mut all = Vec::new();
    for channels in [0, 2] {
        all.push(("connections cut in PRE_COPY", channels, Cut(PreCopy)));
        all.push(("connections cut in STOP_COPY", channels, Cut(StopCopy)));
        all.push(("QEMU gives up in PRE_COPY", channels, TheyCancel));
        all.push(("we give up in PRE_COPY", channels, WeCancel(PreCopy)));
        all.push(("we give up in STOP_COPY", channels, WeCancel(StopCopy)));
    }
    let disagree = |ours, reason| Disagree { ours, reason };
    all.extend(match way {
        Way::In => [
            (
                "another machine type here",
                0,
                disagree(&["--machine-type", "pc-i440fx-10.0"], "this is a 'pc-i440fx-10.0'"),
            ),
            ("fewer devices here", 0, disagree(&["--leave-out", "1"], "the source has a device '0000:00:11.0/vfio'")),
            ("multifd at QEMU only", 2, disagree(&["--only-main"], "switch the capability multifd off")),
            ("multifd here only", 0, disagree(&["--channels", "2", "--silence", "2"], "is multifd on at the source")),
            (
                "device state over multifd at QEMU only",
                2,
                disagree(&["--state-on-main"], "x-migration-multifd-transfer"),
            ),
        ],
        _ => [
            ("config bytes that differ", 0, disagree(&[DAMAGE, "12"], "")),
            ("config bytes that differ", 2, disagree(&[DAMAGE, "12"], "")),
            ("a section version that QEMU has not", 0, disagree(&["--section-version", "2"], "")),
            ("multifd at QEMU only", 2, disagree(&["--only-main", "--silence", "2"], "nothing came for 2 s")),
            ("device state over multifd at QEMU only", 2, disagree(&["--state-on-main"], "")),
        ],
    });
    all
}

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::In => "QEMU to us",
            Self::Out => "us to QEMU",
            Self::FileIn => "QEMU's file to us",
            Self::FileOut => "our file to QEMU",
        }
    }
}

/// Runs it.
pub(super) fn run(row: &Row, peers: &Peers, limit: Duration, notes: &mut Notes) -> Checked {
    let scenario = &row.scenario;
    match (row.way, row.trouble) {
        (Way::In, Some(trouble)) => fault::to_us(scenario, trouble, peers, limit, notes),
        (Way::Out, Some(trouble)) => fault::from_us(scenario, trouble, peers, limit, notes),
        (Way::In, None) => to_us::run(scenario, peers, limit, notes),
        (Way::Out, None) => from_us::run(scenario, peers, limit, notes),
        (Way::FileIn, _) => file::to_us(scenario, peers, limit, notes),
        (Way::FileOut, _) => file::from_us(scenario, peers, limit, notes),
    }
}

/// How our side is told what the other one is configured with.
fn arguments(scenario: &Scenario, series: Series) -> Vec<String> {
    let mut words = vec!["--channels".to_owned(), scenario.channels.to_string()];
    if scenario.channels > 0 {
        words.push("--multifd-state".into());
    }
    if scenario.way_back != WayBack::None {
        words.push("--return-path".into());
    }
    let acks = match (scenario.way_back, series) {
        (WayBack::SwitchoverAck, Series::V10_0) => "once",
        (WayBack::SwitchoverAck, Series::V11_1) => "per-request",
        _ => "off",
    };
    words.extend(["--acks".into(), acks.into()]);
    words
}
