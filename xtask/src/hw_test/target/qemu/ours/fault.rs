// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Migrations between a QEMU and us that go wrong: our side says why, the guest stays where the protocol says it is, and the
//! next attempt of the same processes goes well.

mod into_us;
mod out_of_us;
mod table;

use core::time::Duration;

use super::super::super::super::contract::check::{Checked, ensure, failed};
use super::super::rig::{Notes, Peers, Switchover};
use super::super::scenario::{Kind, Moment, Scenario};
use super::Way;
use super::bench::Bench;
use crate::qemu::machine::Extras;
use crate::qemu::peer::outcome::Outcome;
use crate::qemu::proxy::{Change, Orders, Point};

pub(super) use self::table::all;

/// A migration that goes wrong.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    /// In words.
    pub(super) what: &'static str,
    pub(super) channels: u8,
    pub(super) devices: (Kind, usize),
    deed: Deed,
    when: When,
    /// What our side is told otherwise than QEMU.
    ours: &'static [&'static str],
    /// What our side's reason speaks of.
    reason: &'static str,
    ending: Ending,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Deed {
    /// All connections break.
    Cut,
    /// The QEMU is told to cancel, or as a target to end.
    TheyCancel,
    /// Our side is told to cancel.
    WeCancel,
    /// The two are configured differently.
    Disagree,
    /// The relay changes what is said.
    Change(Change),
    /// The same to a QEMU that holds no more than so many bytes of packets that are early.
    ChangeBounded(Change, u32),
}

/// When it does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum When {
    /// From the beginning.
    Always,
    /// While state flows.
    Flowing(Moment),
    /// While the relay stands at a point.
    At(Point),
}

/// How it ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Ending {
    /// Our side gives up, and the guest is still the source's.
    Refused,
    /// Our source has sent the end and has no answer: it stays stopped, and says whom to ask.
    InDoubt,
    /// Our target has said that it has all and runs, and QEMU as a source takes the guest back all the same. It has no
    /// commit: a fault of its protocol.
    TwoGuests,
    /// It is too late: the guest moves.
    Moved,
    /// Any of the above: it depends on when, and whether, QEMU lets our side know what it makes of it.
    QemuDecides,
}

/// More than a side needs that does nothing: the program, its libraries, buffers, what the decoders may hold.
const MEMORY_BYTES_MAX: u64 = 96 << 20;
/// What a QEMU may have that is about to ask for 128 GiB. It needs one.
const ADDRESS_BYTES_MAX: u64 = 8 << 30;

impl Fault {
    fn orders(&self) -> Orders {
        let hold = if let When::At(point) = self.when { Some(point) } else { None };
        let change = match self.deed {
            Deed::Change(change) | Deed::ChangeBounded(change, _) => Some(change),
            _ => None,
        };
        Orders { hold, change }
    }

    /// What a QEMU that is a target is started with.
    fn extras<'a>(&self, properties: &'a mut String) -> Extras<'a> {
        if let Deed::ChangeBounded(_, bytes) = self.deed {
            *properties = format!(",x-migration-max-queued-buffers-size={bytes}");
        }
        let address_bytes_max = (self.deed == Deed::Change(Change::FarPacket)).then_some(ADDRESS_BYTES_MAX);
        Extras { properties, address_bytes_max, memory: None }
    }

    /// A source that is to be met before it stops its guest must not stop it by itself.
    fn switchover(&self) -> Switchover {
        match self.when {
            When::Flowing(Moment::PreCopy) | When::At(Point::Opening | Point::Setup | Point::PreCopy) => {
                Switchover::Never
            }
            _ => Switchover::Soon,
        }
    }
}

/// Runs it.
pub(super) fn run(
    way: Way,
    scenario: &Scenario,
    fault: &Fault,
    peers: &Peers,
    limit: Duration,
    notes: &mut Notes,
) -> Checked {
    let bench = Bench::new(scenario, peers, limit)?;
    let result = match way {
        Way::In => into_us::run(&bench, fault, notes),
        _ => out_of_us::run(&bench, fault, notes),
    };
    bench.conclude(result)
}

/// Our side gives a reason, the right one.
fn check_reason(fault: &Fault, outcome: &Outcome, notes: &mut Notes) -> Checked {
    let error = outcome.error.clone().ok_or_else(|| failed("our side gives no reason"))?;
    let reason = if fault.deed == Deed::WeCancel { "cancelled" } else { fault.reason };
    let advice = if outcome.committed { "ask the target" } else { "" };
    for expected in [reason, advice] {
        ensure(error.contains(expected), || format!("our side's reason has no word of '{expected}': {error}"))?;
    }
    notes.details.push(format!("our side says: {error}"));
    Ok(())
}

/// Our side stayed within its bounds.
fn check_bounds(outcome: &Outcome, notes: &mut Notes) -> Checked {
    ensure(outcome.memory_peak_bytes <= MEMORY_BYTES_MAX, || {
        format!("our process had {} bytes of memory, at most {MEMORY_BYTES_MAX} are right", outcome.memory_peak_bytes)
    })?;
    notes.details.push(format!("at most {} MiB in our process", outcome.memory_peak_bytes >> 20));
    Ok(())
}
