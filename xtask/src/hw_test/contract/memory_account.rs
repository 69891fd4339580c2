// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The account of dirty memory that `savevm-core` keeps, over the kernel's three interfaces: nothing a device wrote is lost, and what
//! cannot be known counts as dirty.

use core::num::NonZeroU64;
use std::os::fd::AsFd;

use nix::errno::Errno;
use savevm_core::dirty::kernel::{
    ContainerLog, DeviceLog, PageTable, container_offer, device_log_offer, page_table_offer, unmap_dirty,
};
use savevm_core::dirty::{
    Collected, DirtyTracker, Guest, Ledger, Offer, Offers, Owed, Portion, Range, Region, RegionId, Slot, Source,
    Target, Tracking, Untracked, choose,
};
use vfio_uapi::open::{HwptFlags, Iommufd};
use vfio_uapi::{Device, contract};

use super::address_space::by_group;
use super::check::{Checked, ensure, expect, failed, must, name};
use super::context::Ctx;
use super::dirty_tracking::Rig;
use super::{Need, Test, test};
use crate::hw_test::event::Group;

const PAGE: u64 = 4096;
const START: u64 = 1 << 24;
/// Pages enough for two words and a piece of a third.
const PAGES: u64 = 150;
const LENGTH: u64 = PAGES * PAGE;
const PATTERN: [u64; 3] = [1 | 1 << 1 | 1 << 63, 0xff << 20, 1 | 1 << 21];

/// The tests, of the group of dirty tracking.
pub(super) const TESTS: &[Test] = &[
    test(Group::DirtyTracking, "what an IOMMU reported survives a failed attempt", &[], page_table),
    test(Group::DirtyTracking, "a reading that fails makes all memory dirty", &[], failed_reading),
    test(Group::DirtyTracking, "what is unmapped is read a last time", &[], unmapped),
    test(Group::DirtyTracking, "the account of what a device logs", &[Need::DmaLogging], device_log),
    test(Group::DirtyTracking, "the account of what a container knows", &[Need::ByGroup], container),
];

/// Guest memory at the addresses of the tests, with one tracker that runs, and everything sent.
fn tracking<'t>(tracker: impl DirtyTracker + 't, pieces: &[Range]) -> Checked<(Tracking<'t>, RegionId)> {
    let mut ledger = Ledger::new(1 << 16);
    let bytes = pieces.iter().map(|piece| piece.length()).sum();
    let region = must("a region", ledger.add(Region { name: "memory".into(), bytes, page_bytes: PAGE }))?;
    let mut tracking = Tracking::new(ledger, 8, 1);
    let mut offset = 0_u64;
    for piece in pieces {
        let mapped = must("a slot", tracking.map(Slot { range: *piece, region, offset }))?;
        expect("what a slot without trackers came to", mapped, Collected::default())?;
        offset = offset.saturating_add(piece.length());
    }
    tracking.add_tracker(Box::new(tracker)).map_err(|_| failed("there is room for one tracker"))?;
    must("starting", tracking.start())?;
    expect("dirty pages after the start", tracking.ledger().dirty_bytes(), bytes)?;
    send(&mut tracking)?;
    Ok((tracking, region))
}

fn take(tracking: &mut Tracking<'_>) -> Checked<Option<Owed>> {
    let many = NonZeroU64::MAX;
    must("taking pages", tracking.take(Portion::new(many, many)))
}

fn send(tracking: &mut Tracking<'_>) -> Checked {
    while let Some(owed) = take(tracking)? {
        must("acknowledging pages", tracking.acknowledge(owed))?;
    }
    Ok(())
}

fn collect(tracking: &mut Tracking<'_>) -> Checked {
    expect("what a reading came to", tracking.collect(Guest::Running), Collected::default())
}

fn dirty(tracking: &Tracking<'_>, region: RegionId) -> Vec<u64> {
    tracking.ledger().dirty(region).map(|bitmap| bitmap.words().to_vec()).unwrap_or_default()
}

fn range(start: u64, length: u64) -> Checked<Range> {
    must("a range", Range::new(start, length))
}

/// The page table of the simulated IOMMU with its tracker; the number to set bits by.
fn tracker(rig: &Rig) -> Checked<(PageTable<impl AsFd + '_>, u32)> {
    let offered = page_table_offer(&rig.iommufd, rig.mock.device);
    expect("what the IOMMU offers", offered, Offer::Works)?;
    let flags = HwptFlags::DIRTY_TRACKING;
    let table = must("HWPT_ALLOC", rig.iommufd.alloc_hwpt(rig.mock.device, &rig.ioas, flags))?;
    let id = table.id();
    let named = |errno| name(Errno::from_raw(errno));
    must("attaching", contract::mock_attach(&rig.iommufd, rig.mock, id).map_err(named))?;
    must("IOAS_MAP", contract::map(&rig.iommufd, &rig.ioas, START, LENGTH))?;
    Ok((PageTable::new(Iommufd::new(rig.iommufd.as_fd()), table, "mock", PAGE), id))
}

fn page_table(ctx: &mut Ctx) -> Checked {
    let rig = Rig::new()?;
    let (tracker, id) = tracker(&rig)?;
    let (mut tracking, region) = tracking(tracker, &[range(START, LENGTH)?])?;
    rig.dirty(id, PATTERN)?;
    collect(&mut tracking)?;
    expect("dirty pages", dirty(&tracking, region), PATTERN.to_vec())?;
    let owed = take(&mut tracking)?.ok_or_else(|| failed("nothing to send"))?;
    ctx.note(format!("{} pages were on their way when the attempt failed", owed.pages()));
    collect(&mut tracking)?;
    expect("dirty pages while they are on their way", dirty(&tracking, region), vec![0; 3])?;
    tracking.give_up(Target::Kept);
    expect("dirty pages after the failure", dirty(&tracking, region), PATTERN.to_vec())?;
    let late = tracking.acknowledge(owed);
    ensure(late.is_err(), || "a late acknowledgement counts".into())?;
    send(&mut tracking)?;
    expect("the last reading", tracking.collect(Guest::Stopped), Collected::default())?;
    must("completing", tracking.check_complete())?;
    expect("errors of stopping", tracking.stop(), Vec::new())
}

fn failed_reading(_: &mut Ctx) -> Checked {
    let rig = Rig::new()?;
    let (tracker, _) = tracker(&rig)?;
    let (mut tracking, _) = tracking(tracker, &[range(START, LENGTH)?])?;
    must("IOAS_UNMAP behind its back", rig.iommufd.unmap(&rig.ioas, START, LENGTH))?;
    let collected = tracking.collect(Guest::Running);
    let text = collected.errors.first().map(ToString::to_string).unwrap_or_default();
    ensure(text.contains("mock (page table") && text.contains("0x1000000"), || format!("the error: {text:?}"))?;
    expect("dirty pages", tracking.ledger().dirty_pages(), PAGES)?;
    must("IOAS_MAP", contract::map(&rig.iommufd, &rig.ioas, START, LENGTH))?;
    expect("errors of the restart", tracking.restart_failed(), Vec::new())?;
    send(&mut tracking)?;
    collect(&mut tracking)?;
    expect("dirty pages after the restart", tracking.ledger().dirty_pages(), 0)
}

fn unmapped(_: &mut Ctx) -> Checked {
    let rig = Rig::new()?;
    let (tracker, id) = tracker(&rig)?;
    let (mut tracking, region) = tracking(tracker, &[range(START, LENGTH)?])?;
    rig.dirty(id, PATTERN)?;
    let whole = range(START, LENGTH)?;
    let unmapped = tracking.unmap(whole, |_| rig.iommufd.unmap(&rig.ioas, START, LENGTH).map(drop));
    expect("what the last reading came to", must("unmapping", unmapped)?, Collected::default())?;
    expect("dirty pages of memory that is gone", dirty(&tracking, region), PATTERN.to_vec())?;
    collect(&mut tracking)
}

/// By a device that logs nothing of its own accord: a clean log, or a kernel that refuses all reports.
fn device_log(ctx: &mut Ctx) -> Checked {
    let device = ctx.first.device()?;
    let log = || Device::with_label(device.as_fd(), device.label());
    let whole = range(START, LENGTH)?;
    let mut offers = Offers::none(device.label());
    offers.device_log = device_log_offer(device, whole);
    let choice = choose(&offers, Untracked::CopyWhileStopped);
    let choice = must("a choice that was allowed to be none", choice)?;
    let (mut tracking, _) = tracking(DeviceLog::new(log(), PAGE, 256), &[whole, range(START + 2 * LENGTH, LENGTH)?])?;
    let collected = tracking.collect(Guest::Running);
    let works = offers.device_log == Offer::Works;
    expect("trackers that failed", collected.errors.len(), usize::from(!works))?;
    expect("dirty pages", tracking.ledger().dirty_pages(), if works { 0 } else { 2 * PAGES })?;
    expect("whether it was chosen", choice.source == Source::DeviceLog, works)?;
    expect("errors of stopping", tracking.stop(), Vec::new())?;
    ctx.note(choice.reason);
    Ok(())
}

fn container(ctx: &mut Ctx) -> Checked {
    by_group(ctx, |ctx, opened| {
        let pieces = [range(START, LENGTH)?, range(START + 2 * LENGTH, LENGTH)?];
        for piece in pieces {
            must("MAP_DMA", contract::map_dma(&opened.container, piece.start(), piece.length()))?;
        }
        let refused = container_offer(&opened.container, false);
        ensure(refused != Offer::Works, || "a container whose devices do not pin is offered".into())?;
        expect("what the container offers", container_offer(&opened.container, true), Offer::Works)?;
        let info = must("IOMMU_GET_INFO", opened.container.iommu_info())?;
        let info = info.dirty_pages.ok_or_else(|| failed("the container tracks no dirty pages"))?;
        let container = vfio_uapi::open::Container::new(opened.container.as_fd());
        let log = ContainerLog::new(container, info, "ours").map_err(|_| failed("the container has no page size"))?;
        let (mut tracking, _) = tracking(log, &pieces)?;
        collect(&mut tracking)?;
        // Either nothing was pinned, or a device cannot say and all is dirty: never less than a whole piece.
        let first = tracking.ledger().dirty_pages();
        ensure(first == 0 || first == 2 * PAGES, || format!("{first} dirty pages of {}", 2 * PAGES))?;
        let [piece, _] = pieces;
        let unmap = tracking.unmap(piece, |marks| unmap_dirty(&opened.container, PAGE, piece, marks).map(drop));
        expect("what the last reading came to", must("unmapping", unmap)?, Collected::default())?;
        expect("dirty pages after unmapping", tracking.ledger().dirty_pages(), first)?;
        collect(&mut tracking)?;
        ctx.note(format!("{first} pages dirty"));
        expect("errors of stopping", tracking.stop(), Vec::new())
    })
}
