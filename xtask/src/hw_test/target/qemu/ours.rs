// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Migrations between a stock QEMU and `savevm_core::qemu`, in a process of its own on simulated devices.

mod bench;
mod from_us;
mod to_us;

use core::time::Duration;

use super::super::super::contract::check::Checked;
use super::rig::{Notes, Peers};
use super::scenario::{self, Scenario, WayBack};
use crate::vm::Series;

/// Which way a state goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    /// Out of QEMU into us.
    ToUs,
    /// Out of us into QEMU.
    FromUs,
}

/// One migration.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Unique.
    pub(super) name: String,
    way: Way,
    scenario: Scenario,
}

/// Every row, in the order they run.
pub(super) fn all() -> Vec<Row> {
    let mut all = Vec::new();
    for (way, what) in [(Way::ToUs, "QEMU to us"), (Way::FromUs, "us to QEMU")] {
        for scenario in scenario::all().into_iter().filter(|scenario| scenario.blow.is_none()) {
            all.push(Row { name: format!("{what}: {}", scenario.name), way, scenario });
        }
    }
    all
}

/// Runs it.
pub(super) fn run(row: &Row, peers: &Peers, limit: Duration, notes: &mut Notes) -> Checked {
    match row.way {
        Way::ToUs => to_us::run(&row.scenario, peers, limit, notes),
        Way::FromUs => from_us::run(&row.scenario, peers, limit, notes),
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
