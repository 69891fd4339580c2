// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Migrations between a stock QEMU and `savevm_core::qemu`, in a process of its own on simulated devices.

mod bench;
mod fault;
mod file;
mod from_us;
mod ram;
mod to_us;

use core::time::Duration;

use self::fault::Fault;
use super::super::super::contract::check::Checked;
use super::rig::{Notes, Peers};
use super::scenario::{self, Kind, Scenario, WayBack};

/// Which way a state goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    /// Out of QEMU into us.
    In,
    /// Out of us into QEMU.
    Out,
    /// Out of QEMU into us, through a file.
    FileIn,
    /// Out of us into QEMU, through a file.
    FileOut,
    /// Guest memory, out of QEMU into us.
    RamIn(ram::Case),
    /// Guest memory, out of us into QEMU.
    RamOut(ram::Case),
}

/// One migration.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Unique.
    pub(super) name: String,
    way: Way,
    scenario: Scenario,
    fault: Option<Fault>,
}

/// Every row, in the order they run.
pub(super) fn all() -> Vec<Row> {
    let mut all = Vec::new();
    for way in [Way::In, Way::Out] {
        for scenario in scenario::all().into_iter().filter(|scenario| scenario.blow.is_none()) {
            all.push(Row { name: format!("{}: {}", way.name(), scenario.name), way, scenario, fault: None });
        }
    }
    for channels in [0, 4] {
        let (way, scenario) = (Way::In, scenario::whole((Kind::Large, 2), channels, WayBack::ReturnPath));
        all.push(Row { name: format!("{}: {}", way.name(), scenario.name), way, scenario, fault: None });
    }
    for way in [Way::FileIn, Way::FileOut] {
        for kind in [(Kind::PreCopy, 1), (Kind::PreCopy, 4), (Kind::StopCopy, 1), (Kind::Mtty, 1)] {
            let scenario = scenario::whole(kind, 0, WayBack::None);
            all.push(Row { name: format!("{}: {}", way.name(), kind.0.name(kind.1)), way, scenario, fault: None });
        }
    }
    for (channels, case) in ram::CASES {
        for way in [Way::RamIn(case), Way::RamOut(case)] {
            let scenario = scenario::whole((Kind::PreCopy, 1), channels, WayBack::ReturnPath);
            let connections = scenario::connections(channels, WayBack::ReturnPath);
            let name = format!("{}: {}, {connections}", way.name(), case.name());
            all.push(Row { name, way, scenario, fault: None });
        }
    }
    for way in [Way::In, Way::Out] {
        for fault in fault::all(way) {
            let scenario = scenario::whole(fault.devices, fault.channels, WayBack::ReturnPath);
            let connections = scenario::connections(fault.channels, WayBack::ReturnPath);
            let name = format!("{}: {}, {connections}", way.name(), fault.what);
            all.push(Row { name, way, scenario, fault: Some(fault) });
        }
    }
    all
}

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::In | Self::RamIn(_) => "QEMU to us",
            Self::Out | Self::RamOut(_) => "us to QEMU",
            Self::FileIn => "QEMU's file to us",
            Self::FileOut => "our file to QEMU",
        }
    }
}

/// Runs it.
pub(super) fn run(row: &Row, peers: &Peers, limit: Duration, notes: &mut Notes) -> Checked {
    let scenario = &row.scenario;
    match (row.way, &row.fault) {
        (way, Some(fault)) => fault::run(way, scenario, fault, peers, limit, notes),
        (Way::In, None) => to_us::run(scenario, peers, limit, notes),
        (Way::Out, None) => from_us::run(scenario, peers, limit, notes),
        (Way::FileIn, _) => file::to_us(scenario, peers, limit, notes),
        (Way::FileOut, _) => file::from_us(scenario, peers, limit, notes),
        (Way::RamIn(case), _) => ram::to_us(scenario, case, peers, limit, notes),
        (Way::RamOut(case), _) => ram::from_us(scenario, case, peers, limit, notes),
    }
}
