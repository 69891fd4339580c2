// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Migrations between a stock QEMU that has one device and our side that has the other.
//!
//! What must arrive is known beforehand: the state is read out of the source's device before anybody else has it. It is held
//! against what was said on the connections, what our side says that it moved, and what the target's device gives when all
//! are gone; and its registers must be the source's.

mod bench;
mod fault;
mod whole;

use core::cell::OnceCell;
use std::path::PathBuf;

use crc_fast::{CrcAlgorithm, checksum};
use tempfile::TempDir;
use vfio_mig_fsm::State;

use super::check::{Checked, Failure, difference, ensure, expect, must, skipped};
use super::context::Ctx;
use super::dut::Dut;
use super::migrate::{leave_all, open_all};
use super::transfer::{Observed, observe_after, observe_before, spoil};
use super::{Need, Test, stream, test};
use crate::hw_test::event::Group;
use crate::qemu::capture::Capture;
use crate::qemu::devices::idstr;
use crate::qemu::peer::outcome::Outcome;
use crate::qemu::terms::{Terms, WayBack};
use crate::vm::{Qemu, Series};

/// The version that guests are given.
pub(crate) const SERIES: Series = Series::V10_0;

/// Groups are what all kernels have; our side may use what it likes.
const NEEDS: &[Need] = &[Need::SecondDevice, Need::ByGroup];

/// Migrations in which nothing goes wrong.
pub(super) const TESTS: &[Test] = &[
    test(Group::Qemu, "QEMU's file to us", NEEDS, whole::file_to_us),
    test(Group::Qemu, "our file to QEMU", NEEDS, whole::file_from_us),
    test(Group::Qemu, "QEMU to us: main connection", NEEDS, |ctx| whole::to_us(ctx, MAIN)),
    test(Group::Qemu, "QEMU to us: main connection, switchover-ack", NEEDS, |ctx| whole::to_us(ctx, ACKNOWLEDGED)),
    test(Group::Qemu, "QEMU to us: 2 multifd channels", NEEDS, |ctx| whole::to_us(ctx, MULTIFD)),
    test(Group::Qemu, "us to QEMU: main connection", NEEDS, |ctx| whole::from_us(ctx, MAIN)),
    test(Group::Qemu, "us to QEMU: main connection, switchover-ack", NEEDS, |ctx| whole::from_us(ctx, ACKNOWLEDGED)),
    test(Group::Qemu, "us to QEMU: 2 multifd channels", NEEDS, |ctx| whole::from_us(ctx, MULTIFD)),
];

/// Migrations that must not happen.
pub(super) const FAULTS: &[Test] = &[
    test(Group::Qemu, "QEMU to us: another machine type here", NEEDS, fault::another_machine),
    test(Group::Qemu, "us to QEMU: config bytes that differ", NEEDS, fault::config_bytes),
];

const MAIN: Terms = terms(0, WayBack::ReturnPath);
const ACKNOWLEDGED: Terms = terms(0, WayBack::SwitchoverAck);
const MULTIFD: Terms = terms(2, WayBack::ReturnPath);

const fn terms(channels: u8, way_back: WayBack) -> Terms {
    Terms { channels, way_back, series: SERIES }
}

/// A stock QEMU, and what one wrote: all of a machine but its device that our side as a source has to send.
pub(crate) struct Stock {
    qemu: Qemu,
    folder: TempDir,
    recording: OnceCell<PathBuf>,
}

impl Stock {
    /// Nothing is started yet.
    pub(crate) fn new(qemu: Qemu) -> Checked<Self> {
        let folder = must("a temporary folder", tempfile::Builder::new().prefix("savevm-qemu-").tempdir())?;
        Ok(Self { qemu, folder, recording: OnceCell::new() })
    }
}

/// What the target must end up with.
struct Before {
    state: Vec<u8>,
    observed: Observed,
}

/// Prepares both devices and leaves them to others.
fn prepare(ctx: &mut Ctx) -> Checked<Before> {
    ctx.stock()?;
    open_all(ctx)?;
    let (source, target) = (&ctx.first, ctx.target());
    source.reset()?;
    target.reset()?;
    let observed = observe_before(source)?;
    let state = stream::save(source)?;
    source.reset()?;
    spoil(target)?;
    let spoilt = stream::save(target)?;
    target.reset()?;
    ensure(spoilt != state, || "the devices cannot be told apart, so that nothing could be shown".into())?;
    leave_all(ctx);
    Ok(Before { state, observed })
}

/// Runs `body` while others may have the devices, and takes them back.
fn among_others(ctx: &mut Ctx, body: impl FnOnce(&Ctx, &Before) -> Checked) -> Checked<Before> {
    let before = prepare(ctx)?;
    let result = body(ctx, &before);
    let opened = open_all(ctx);
    result.and(opened).map(|()| before)
}

/// The source's device is at rest, the target's runs, and has all that the source's had.
fn check_moved(ctx: &Ctx, before: &Before) -> Checked {
    // The states are read first: nothing has been asked of the devices since the others left them.
    ctx.first.expect_state("of the source's device when all was over", State::Stop)?;
    check_has(ctx.target(), before)
}

/// The device runs, and has what was prepared.
fn check_has(device: &Dut, before: &Before) -> Checked {
    device.expect_state(&format!("of {} when all was over", device.name), State::Running)?;
    let found = stream::save(device)?;
    device.reset()?;
    let parted = difference(&before.state, &found);
    ensure(parted.is_none(), || format!("the state of {}: {}", device.name, parted.unwrap_or_default()))?;
    observe_after(device, &before.observed)
}

/// What our side says that it moved.
fn check_outcome(outcome: &Outcome, before: &Before, ends_in: State) -> Checked {
    let found: Vec<_> = outcome.devices.iter().map(|it| (it.bytes, it.crc64_nvme, it.state.as_str())).collect();
    expect("what our side says of its device", found, vec![(before.bytes(), before.crc64_nvme(), ends_in.name())])
}

/// What was said on the connections.
fn check_capture(captured: &Capture, terms: Terms, before: &Before) -> Checked {
    let device = captured.devices.get(&idstr(0)).copied().unwrap_or_default();
    expect("devices in the stream", captured.devices.len(), 1)?;
    expect("device state in the stream", (device.bytes(), device.digest), (before.bytes(), before.crc64_nvme()))?;
    expect("config states", device.configs, 1)?;
    ensure((device.multifd_bytes > 0) == (terms.channels > 0), || {
        format!("{} of {} bytes came on multifd channels", device.multifd_bytes, device.bytes())
    })?;
    must("the connections", terms.check(captured))
}

impl Before {
    fn bytes(&self) -> u64 {
        u64::try_from(self.state.len()).unwrap_or(u64::MAX)
    }

    fn crc64_nvme(&self) -> u64 {
        checksum(CrcAlgorithm::Crc64Nvme, &self.state)
    }
}

impl Ctx {
    /// The QEMU to migrate to and from.
    fn stock(&self) -> Checked<&Stock> {
        let Some(stock) = &self.stock else { return Err(skipped("no stock QEMU was given")) };
        stock.as_ref().map_err(|reason| Failure::Skipped(reason.clone()))
    }
}
