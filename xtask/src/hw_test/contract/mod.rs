// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The contract: what a driver owes to whoever migrates its devices, one small function per fact.
//!
//! The facts are those of vfio.h and of the kernel's drivers; where they differ, the device's `profile` says what to
//! expect. Every test starts from a reset device and leaves no fd behind.
//!
//! **Invariant:** a test never asks a kernel for what is known to hang or corrupt it, whatever the device.

pub(crate) mod check;
pub(crate) mod context;
pub(crate) mod dut;
pub(crate) mod kernel;
pub(crate) mod opening;
pub(crate) mod profile;
pub(crate) mod qemu;

mod address_space;
mod arcs;
mod case;
mod check_stream;
mod damage;
mod data_fd;
mod digest;
mod dirty_tracking;
mod dma;
mod dma_logging;
mod exhaustion;
mod fd;
mod features;
mod full_disk;
mod illegal;
mod library;
mod memory;
mod memory_account;
mod migrate;
mod mtty;
mod precopy;
mod process;
mod raw;
mod recovery;
mod secure;
mod segments;
mod state_file;
mod strangers;
mod stream;
mod sweep;
mod transfer;

use vfio_mig_fsm::{Capabilities, State};

use case::Case;
pub(crate) use case::PHASES;
use check::{Checked, skipped};
use context::Ctx;
use opening::Access;
use profile::{Compared, Registers};
use sweep::Sweep;

use super::event::{Group, TestId};

/// One fact to check.
#[derive(Clone)]
pub(crate) struct Test {
    /// The area.
    pub group: Group,
    /// Unique within the group.
    pub name: String,
    needs: &'static [Need],
    body: Body,
    fixed_name: &'static str,
}

/// What a test does, and for which states or fault it was made.
#[derive(Clone, Copy)]
enum Body {
    Plain(fn(&mut Ctx) -> Checked),
    One(fn(&mut Ctx, State) -> Checked, State),
    Pair(fn(&mut Ctx, State, State) -> Checked, State, State),
    Fault(fn(&mut Ctx, Case) -> Checked, Case),
    Sweep(fn(&mut Ctx, Sweep) -> Checked, Sweep),
}

/// What a test needs beside a migratable device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Need {
    PreCopy,
    NoPreCopy,
    P2p,
    SecondDevice,
    SecondOpen,
    ByGroup,
    ByCdev,
    DmaLogging,
    Dma,
    Header,
    ComparedOnce,
    Sealed,
    Uart,
    Repeatable,
    StreamCheck,
    Simulated,
    KernelWithoutHang,
}

/// A test of a table.
const fn test(group: Group, name: &'static str, needs: &'static [Need], body: fn(&mut Ctx) -> Checked) -> Test {
    Test { group, name: String::new(), needs, body: Body::Plain(body), fixed_name: name }
}

impl Test {
    /// A test made for one state.
    fn of_state(
        group: Group,
        name: String,
        needs: &'static [Need],
        body: fn(&mut Ctx, State) -> Checked,
        state: State,
    ) -> Self {
        Self { group, name, needs, body: Body::One(body, state), fixed_name: "" }
    }

    /// A test made for two states.
    fn of_pair(group: Group, name: String, body: fn(&mut Ctx, State, State) -> Checked, pair: (State, State)) -> Self {
        Self { group, name, needs: &[], body: Body::Pair(body, pair.0, pair.1), fixed_name: "" }
    }

    /// For events.
    pub(crate) fn id(&self) -> TestId {
        TestId { group: self.group, name: self.name.clone() }
    }

    /// The phase in which it ends a migration, if it does.
    pub(crate) fn fault_phase(&self) -> Option<&'static str> {
        match self.body {
            Body::Fault(_, case) => PHASES.get(case.phase).copied(),
            _ => None,
        }
    }

    /// Over how many channels that migration goes.
    pub(crate) fn fault_channels(&self) -> Option<u16> {
        match self.body {
            Body::Fault(_, case) => Some(case.channels),
            _ => None,
        }
    }

    /// Runs it on a reset device.
    pub(crate) fn run(&self, ctx: &mut Ctx) -> Checked {
        for need in self.needs {
            if let Some(reason) = need.unmet(ctx)? {
                return Err(skipped(reason));
            }
        }
        ctx.first.reset()?;
        match self.body {
            Body::Plain(body) => body(ctx),
            Body::One(body, state) => body(ctx, state),
            Body::Pair(body, from, to) => body(ctx, from, to),
            Body::Fault(body, case) => body(ctx, case),
            Body::Sweep(body, sweep) => body(ctx, sweep),
        }
    }
}

impl Need {
    /// Why this is not given, if it is not.
    fn unmet(self, ctx: &Ctx) -> Checked<Option<String>> {
        let device = &ctx.first;
        let profile = &device.profile;
        let (given, reason) = match self {
            Self::PreCopy => (device.caps.has_pre_copy(), "the device has no PRE_COPY"),
            Self::NoPreCopy => (!device.caps.has_pre_copy(), "the device has PRE_COPY"),
            Self::P2p => (device.caps.has_p2p(), "the device has no P2P states"),
            Self::SecondDevice => (ctx.second.is_some(), "only one device was given"),
            Self::SecondOpen => {
                (device.opens_twice(), "a device opened by its character device cannot be opened twice")
            }
            Self::ByGroup => (device.access() == Access::Group, "the device was opened by its character device"),
            Self::ByCdev => (device.access() == Access::Cdev, "the device was opened by its group"),
            Self::DmaLogging => (dma_logging::is_offered(ctx)?, "the device does not offer DMA logging"),
            Self::Dma => (dma::is_known(device)?, "no test knows how to make this device write to memory"),
            Self::Header => (profile.header.is_some(), "no stream header is known that this driver checks"),
            Self::ComparedOnce => (
                profile.header.is_some_and(|header| header.compared == Compared::UntilItFits),
                "this driver compares the header in every session, or none is known",
            ),
            Self::Sealed => (profile.sealed, "this driver loads damaged contents without noticing, so none are sent"),
            Self::Uart => (profile.registers == Registers::Uart, "the device is no UART"),
            Self::Repeatable => (profile.repeatable, "the driver does not promise equal bytes for equal states"),
            Self::StreamCheck => (
                ["hisi", "mlx5"].iter().any(|known| profile.name.starts_with(known)),
                "no check of this driver's stream is known",
            ),
            Self::Simulated => (simulated_machine().is_some(), "a real device does not fail on demand"),
            Self::KernelWithoutHang => {
                let reason =
                    format!("kernel {} is not known to refuse this request: older ones hang for ever", ctx.kernel);
                return Ok((!ctx.kernel.survives_blocked_arcs()).then_some(reason));
            }
        };
        Ok((!given).then(|| reason.into()))
    }
}

/// Every test for a device with `caps`, in the order to run them; those that end migrations early only with `faults`.
pub(crate) fn tests(caps: Capabilities, faults: bool) -> Vec<Test> {
    let mut tests = Vec::new();
    tests.extend_from_slice(features::TESTS);
    tests.extend(arcs::tests(caps));
    tests.extend(illegal::tests(caps));
    tests.extend_from_slice(data_fd::TESTS);
    tests.extend_from_slice(precopy::TESTS);
    tests.extend_from_slice(segments::TESTS);
    tests.extend(recovery::tests(caps));
    tests.extend(damage::tests(caps));
    tests.extend_from_slice(exhaustion::TESTS);
    tests.extend_from_slice(transfer::TESTS);
    tests.extend_from_slice(dma_logging::TESTS);
    tests.extend_from_slice(address_space::TESTS);
    tests.extend_from_slice(dirty_tracking::TESTS);
    tests.extend_from_slice(memory_account::TESTS);
    tests.extend_from_slice(dma::TESTS);
    tests.extend_from_slice(library::TESTS);
    tests.extend_from_slice(migrate::TESTS);
    tests.extend_from_slice(strangers::TESTS);
    tests.extend_from_slice(full_disk::TESTS);
    tests.extend_from_slice(secure::TESTS);
    tests.extend_from_slice(check_stream::TESTS);
    if faults {
        tests.extend(case::fault_tests());
    }
    // What only a device without PRE_COPY can show is no gap of one that has it.
    tests.retain(|test| !(caps.has_pre_copy() && test.needs.contains(&Need::NoPreCopy)));
    named(tests)
}

/// The tests that let system calls of whole migrations fail.
pub(crate) fn sweep() -> Vec<Test> {
    sweep::tests()
}

/// The tests that load large devices under a limit of memory.
pub(crate) fn in_little_memory() -> Vec<Test> {
    named(memory::TESTS.to_vec())
}

/// The tests that need a stock QEMU besides.
pub(crate) fn with_qemu(faults: bool) -> Vec<Test> {
    let faults = if faults { qemu::FAULTS } else { &[] };
    named(qemu::TESTS.iter().chain(faults).cloned().collect())
}

fn named(mut tests: Vec<Test>) -> Vec<Test> {
    for test in &mut tests {
        if test.name.is_empty() {
            test.name = test.fixed_name.into();
        }
    }
    tests
}

/// The configuration of the simulated devices, where they are simulated and it is no file.
fn simulated_machine() -> Option<String> {
    std::env::var("SOFTVFIO").ok().filter(|text| text.contains('='))
}

/// Whether `filter` selects the test in the run of this label: whether its row in a report contains it, in any case.
pub(crate) fn selects(filter: Option<&str>, label: &str, id: &TestId) -> bool {
    filter.is_none_or(|filter| id.row(label).to_lowercase().contains(&filter.to_lowercase()))
}

/// Whether `filter` selects a test that needs a stock QEMU.
pub(crate) fn selects_qemu(filter: Option<&str>, label: &str) -> bool {
    with_qemu(true).iter().any(|test| selects(filter, label, &test.id()))
}

/// The tests of a device that has everything, as far as they are selected in a run of one of these labels, one per line.
pub(crate) fn list(filter: Option<&str>, labels: &[&str], has_qemu: bool) -> String {
    let more = if has_qemu { with_qemu(true) } else { Vec::new() };
    let ids = tests(Capabilities::P2pPreCopy, true).into_iter().chain(more).map(|test| test.id());
    let is_selected = |id: &TestId| labels.iter().any(|label| selects(filter, label, id));
    ids.filter(is_selected).map(|id| format!("{id}\n")).collect()
}

#[cfg(test)]
mod unit {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_tests_have_one_name() {
        for caps in Capabilities::ALL {
            let mut seen = HashSet::new();
            for test in tests(caps, true).into_iter().chain(with_qemu(true)) {
                assert!(!test.name.is_empty());
                assert!(seen.insert(test.id()), "{}", test.id());
            }
        }
    }

    #[test]
    fn the_arcs_are_complete() {
        let arcs = |caps| tests(caps, true).iter().filter(|test| test.group == Group::Arcs).count();
        // All pairs of supported states, but those from STOP_COPY to a PRE_COPY state.
        assert_eq!(arcs(Capabilities::StopCopy), 4 * 4);
        assert_eq!(arcs(Capabilities::P2p), 5 * 5);
        assert_eq!(arcs(Capabilities::PreCopy), 5 * 5 - 1);
        assert_eq!(arcs(Capabilities::P2pPreCopy), 7 * 7 - 2);
    }

    #[test]
    fn a_filter_selects_by_group_and_name() {
        let all = list(None, &["mtty"], false);
        assert!(all.lines().count() > 100);
        assert!(!all.contains("qemu: ") && list(Some("qemu: "), &["mtty"], true).lines().count() >= 4);
        let some = list(Some("arcs: running ->"), &["mtty"], true);
        assert_eq!(some.lines().count(), 7);
        assert!(some.lines().all(|line| line.starts_with("arcs: RUNNING -> ")));
        assert_eq!(list(Some("no such test"), &["mtty"], true), "");
    }

    #[test]
    fn a_filter_selects_by_the_label_of_the_run_too() {
        let id = TestId { group: Group::Migrate, name: "over TCP".into() };
        let check = |filter, expected| assert_eq!(selects(Some(filter), "4 devices in little memory", &id), expected);
        check("Little Memory", true);
        check("memory · migrate: over", true);
        check("8 devices", false);
        let labels = ["mtty", "mtty, two ports"];
        assert_eq!(list(Some("two ports ·"), &labels, false), list(None, &labels, false));
    }
}
