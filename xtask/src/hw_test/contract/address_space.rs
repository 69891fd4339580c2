// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The device's own address space, in a container or in an iommufd, and the dirty pages either knows of.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use vfio_uapi::open::{self, AfterRead, Bus, Container, HwCapabilities, HwptFlags, OpenedByCdev, OpenedByGroup, Roots};
use vfio_uapi::{DirtyBitmap, DmaRange, contract};

use super::check::{Checked, ensure, expect, must, name, refuse};
use super::context::Ctx;
use super::{Need, Test, test};
use crate::hw_test::event::Group;

const PAGE: u64 = 4096;
/// Above what any IOMMU reserves at the bottom, and on a word's boundary.
const START: u64 = 1 << 24;
/// Two mappings of this many pages with as many between them.
const PAGES: u64 = 70;
const LENGTH: u64 = PAGES * PAGE;

/// The tests, of the group of dirty tracking.
pub(super) const TESTS: &[Test] = &[
    test(Group::DirtyTracking, "a container announces what it tracks", &[Need::ByGroup], announced),
    test(Group::DirtyTracking, "dirty pages of a container", &[Need::ByGroup], container_pages),
    test(Group::DirtyTracking, "dirty pages of what a container unmaps", &[Need::ByGroup], container_unmap),
    test(Group::DirtyTracking, "a page table of the device's own", &[Need::ByCdev], page_table),
    test(Group::DirtyTracking, "attaching and detaching", &[Need::ByCdev], attaching),
];

/// Whether devices of this kind are tests' only ones in their container or iommufd, with no IOMMU behind them.
pub(super) fn is_emulated(ctx: &Ctx) -> bool {
    ctx.first.bus() == Bus::Mdev
}

/// Does `work` with the device opened anew, in an address space that is not the other tests'.
pub(super) fn by_group(ctx: &mut Ctx, work: impl FnOnce(&Ctx, &OpenedByGroup) -> Checked) -> Checked {
    ctx.first.leave();
    let opened = must("open by group", open::open_by_group(&Roots::default(), ctx.first.found()));
    let done = opened.and_then(|opened| work(ctx, &opened));
    done.and(ctx.first.open())
}

pub(super) fn by_cdev(ctx: &mut Ctx, work: impl FnOnce(&Ctx, &OpenedByCdev) -> Checked) -> Checked {
    ctx.first.leave();
    let opened = must("open by character device", open::open_by_cdev(&Roots::default(), ctx.first.found()));
    let done = opened.and_then(|opened| work(ctx, &opened));
    done.and(ctx.first.open())
}

fn bitmap(start: u64, pages: u64) -> Checked<DirtyBitmap> {
    must("a bitmap", DirtyBitmap::new(DmaRange { iova: start, length: pages.saturating_mul(PAGE) }, PAGE))
}

fn announced(ctx: &mut Ctx) -> Checked {
    by_group(ctx, |ctx, opened| {
        let info = must("IOMMU_GET_INFO", opened.container.iommu_info())?;
        ensure(info.page_sizes & PAGE != 0, || format!("no pages of 4096 bytes in {:#x}", info.page_sizes))?;
        let dirty = info.dirty_pages.ok_or_else(|| super::check::failed("the container tracks no dirty pages"))?;
        expect("the page size of its bitmaps", dirty.page_size(), Some(PAGE))?;
        ctx.note(format!("bitmaps of up to {} MiB", dirty.bitmap_bytes_max >> 20));
        Ok(())
    })
}

/// Two mappings with a hole, as wide as they are, between them.
fn map_two(container: &Container<OwnedFd>) -> Checked {
    for start in [START, START + 2 * LENGTH] {
        must("MAP_DMA", contract::map_dma(container, start, LENGTH))?;
    }
    Ok(())
}

fn container_pages(ctx: &mut Ctx) -> Checked {
    by_group(ctx, |ctx, opened| {
        let container = &opened.container;
        map_two(container)?;
        let get = |range| contract::dirty_pages(container, range, &mut [0; 64]);
        refuse("GET_BITMAP before START", get([START, LENGTH, PAGE]), &[Errno::EINVAL])?;
        for _ in 0..2 {
            must("START", container.start_dirty_pages())?;
        }
        let mut all = bitmap(START, 3 * PAGES)?;
        must("GET_BITMAP", container.dirty_pages(&mut all))?;
        let found: Vec<_> = all.dirty_ranges().map(|range| (range.iova, range.length)).collect();
        // What no device has pinned or written is clean. Beside a device that cannot say what it wrote, all that is mapped
        // is dirty, and never the hole.
        let everything = vec![(START, LENGTH), (START + 2 * LENGTH, LENGTH)];
        let cannot_say = !is_emulated(ctx) && found == everything;
        ensure(found.is_empty() || cannot_say, || {
            format!("dirty ranges, of the mappings {everything:x?}: {found:x?}")
        })?;
        ctx.note(if cannot_say { "everything mapped is dirty" } else { "nothing is dirty" });
        let cases = [
            ("half a mapping", [START, PAGE, PAGE], &[Errno::EINVAL][..]),
            ("another page size", [START, LENGTH, 2 * PAGE], &[Errno::EINVAL]),
            ("an empty range", [START, 0, PAGE], &[Errno::EINVAL]),
            // 6.12 answers the first, 7.3 the second.
            ("a range beyond 2^64", [u64::MAX - (PAGE - 1), 2 * PAGE, PAGE], &[Errno::EINVAL, Errno::EOVERFLOW]),
        ];
        for (what, range, errnos) in cases {
            refuse(&format!("GET_BITMAP of {what}"), get(range), errnos)?;
        }
        for _ in 0..2 {
            must("STOP", container.stop_dirty_pages())?;
        }
        let error = container.dirty_pages(&mut all);
        ensure(error.is_err(), || "GET_BITMAP after STOP succeeded".into())?;
        expect("pages that count as dirty after a failure", all.dirty_pages(), 3 * PAGES)
    })
}

fn container_unmap(ctx: &mut Ctx) -> Checked {
    by_group(ctx, |ctx, opened| {
        let container = &opened.container;
        map_two(container)?;
        let mut first = bitmap(START, PAGES)?;
        let error = container.unmap_dma_dirty(&mut first);
        ensure(error.is_err(), || "UNMAP_DMA with a bitmap succeeded before START".into())?;
        must("START", container.start_dirty_pages())?;
        expect("unmapped bytes", must("UNMAP_DMA", container.unmap_dma_dirty(&mut first))?, LENGTH)?;
        let dirty = first.dirty_pages();
        let cannot_say = !is_emulated(ctx) && dirty == PAGES;
        ensure(dirty == 0 || cannot_say, || format!("{dirty} dirty pages of what was unmapped"))?;
        expect("bytes left there", must("UNMAP_DMA", container.unmap_dma(START, LENGTH))?, 0)?;
        must("STOP", container.stop_dirty_pages())
    })
}

fn page_table(ctx: &mut Ctx) -> Checked {
    by_cdev(ctx, |ctx, opened| {
        let OpenedByCdev { iommufd, ioas, id, device, .. } = opened;
        let alloc = || iommufd.alloc_hwpt(*id, ioas, HwptFlags::DIRTY_TRACKING);
        let info = iommufd.hw_info(*id);
        if is_emulated(ctx) {
            refuse("GET_HW_INFO", info.map_err(|error| error.errno().unwrap_or_default()), &[Errno::ENOENT])?;
            let refused = alloc().map(|hwpt| hwpt.id()).map_err(|error| error.errno().unwrap_or_default());
            refuse("HWPT_ALLOC", refused, &[Errno::ENOENT])?;
            ctx.note("no IOMMU behind this device");
            return Ok(());
        }
        let info = must("GET_HW_INFO", info)?;
        if !info.capabilities.contains(HwCapabilities::DIRTY_TRACKING) {
            let refused = alloc().map(|hwpt| hwpt.id()).map_err(|error| error.errno().unwrap_or_default());
            refuse("HWPT_ALLOC with tracking on an IOMMU without", refused, &[Errno::EOPNOTSUPP])?;
            ctx.note("this IOMMU does not track dirty pages");
            return Ok(());
        }
        let hwpt = must("HWPT_ALLOC", alloc())?;
        expect("what the device is attached to", must("ATTACH", device.attach(hwpt.id()))?, hwpt.id())?;
        must("IOAS_MAP", contract::map(iommufd, ioas, START, LENGTH))?;
        let tracked = must("SET_DIRTY_TRACKING", iommufd.start_dirty_tracking(hwpt))?;
        let mut found = bitmap(START, PAGES)?;
        for after in [AfterRead::Keep, AfterRead::Clear] {
            must("GET_DIRTY_BITMAP", iommufd.dirty_bitmap(&tracked, after, &mut found))?;
            ensure(found.is_clean(), || "an idle device has written memory that only it knows of".into())?;
        }
        let busy = contract::destroy(iommufd, tracked.id());
        refuse("DESTROY of a page table in use", busy, &[Errno::EBUSY])?;
        let hwpt = must("stopping", iommufd.stop_dirty_tracking(tracked))?;
        must("DETACH", device.detach())?;
        must("DESTROY", iommufd.destroy_hwpt(hwpt))
    })
}

fn attaching(ctx: &mut Ctx) -> Checked {
    by_cdev(ctx, |ctx, opened| {
        let OpenedByCdev { iommufd, ioas, device, .. } = opened;
        let attached = must("ATTACH", device.attach(ioas.id()))?;
        if is_emulated(ctx) {
            expect("what the device is attached to", attached, ioas.id())?;
        } else {
            ensure(attached != ioas.id(), || "the kernel made no page table for the device".into())?;
            let tracks = contract::set_dirty_tracking(iommufd, attached, true);
            refuse("SET_DIRTY_TRACKING of the kernel's own page table", tracks, &[Errno::EOPNOTSUPP])?;
        }
        let errno = |error: vfio_uapi::Error| error.errno().unwrap_or_default();
        refuse("ATTACH to nothing", device.attach(0xffff).map_err(errno), &[Errno::ENOENT])?;
        // Kernels before 6.15 know no flags here, and no driver that can migrate has PASIDs.
        let pasids = [Errno::EINVAL, Errno::EOPNOTSUPP];
        let found = refuse("ATTACH of a PASID", device.attach_pasid(ioas.id(), 1).map_err(errno), &pasids)?;
        refuse("DETACH of a PASID", device.detach_pasid(1).map_err(errno), &[found])?;
        ctx.note(format!("PASIDs: {}", name(found)));
        for _ in 0..2 {
            must("DETACH", device.detach())?;
        }
        must("ATTACH again", device.attach(ioas.id())).map(|_| ())
    })
}
