// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Dirty pages that the IOMMU keeps: of the page tables of iommufd, by the simulated IOMMU of kernels built for tests, whose
//! bits a test can set; and of the device's own address space, whichever way it was opened.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use vfio_uapi::open::{AfterRead, HwCapabilities, Hwpt, HwptFlags, Ioas, Iommufd, Roots, TrackedHwpt};
use vfio_uapi::{DirtyBitmap, DmaRange, Error, Refusal, contract};

use super::check::{Checked, ensure, expect, must, name, refuse, skipped};
use super::context::Ctx;
use super::{Test, test};
use crate::hw_test::event::Group;

const PAGE: u64 = 4096;
/// Where the simulated IOMMU's addresses begin and end, and its page size.
const APERTURE: (u64, u64) = (1 << 24, (1 << 31) - 1);
const MOCK_PAGE: u64 = 2048;
/// What the tests map: pages enough for two words and a piece of a third.
const START: u64 = APERTURE.0;
const PAGES: u64 = 150;
const LENGTH: u64 = PAGES * PAGE;
/// Bits over all three words, at their ends and in a row.
const PATTERN: [u64; 3] = [1 | 1 << 1 | 1 << 63, 0xff << 20, 1 | 1 << 21];

/// The tests of this group.
pub(super) const TESTS: &[Test] = &[
    test(Group::DirtyTracking, "an address space says what it can map", &[], ranges),
    test(Group::DirtyTracking, "an IOMMU says whether it tracks, and is held to it", &[], capability),
    test(Group::DirtyTracking, "the bits are those that were set, and reading clears them", &[], cleared),
    test(Group::DirtyTracking, "reading without clearing leaves the bits", &[], kept),
    test(Group::DirtyTracking, "larger pages are dirty if any of their parts is", &[], coarse),
    test(Group::DirtyTracking, "starting again begins with no bits", &[], restarted),
    test(Group::DirtyTracking, "requests that the kernel must refuse", &[], refused),
    test(Group::DirtyTracking, "what the kernel keeps silent about, the library refuses", &[], silent),
    test(Group::DirtyTracking, "read without clearing, then unmapped", &[], unmapped),
];

/// A page table behind the simulated IOMMU.
pub(super) struct Rig {
    pub(super) iommufd: Iommufd<OwnedFd>,
    pub(super) ioas: Ioas,
    pub(super) mock: contract::MockDevice,
}

impl Rig {
    pub(super) fn new() -> Checked<Self> {
        let node = Roots::default().iommufd();
        if !node.exists() {
            return Err(skipped("this kernel has no iommufd"));
        }
        let iommufd = must("open of /dev/iommu", Iommufd::open(&node))?;
        let ioas = must("IOAS_ALLOC", iommufd.alloc_ioas())?;
        // A dirty bit belongs to an entry of the page table, and the simulated IOMMU of 7.3 has entries of every power of
        // two: which bits a write sets would depend on where the memory happens to be.
        must("IOMMU_OPTION", contract::small_pages(&iommufd, &ioas).map_err(named))?;
        match contract::mock_device(&iommufd, ioas.id(), true) {
            Ok(mock) => Ok(Self { iommufd, ioas, mock }),
            Err(errno) if Errno::from_raw(errno) == Errno::ENOTTY => Err(skipped(
                "this kernel was built without CONFIG_IOMMUFD_TEST, so no IOMMU of it can be told what is dirty",
            )),
            Err(errno) => Err(super::check::failed(format!("a simulated device: {}", name(Errno::from_raw(errno))))),
        }
    }

    /// A page table that tracks, with the device attached and memory mapped.
    fn tracking(&self) -> Checked<TrackedHwpt> {
        let flags = HwptFlags::DIRTY_TRACKING;
        let hwpt = must("HWPT_ALLOC", self.iommufd.alloc_hwpt(self.mock.device, &self.ioas, flags))?;
        must("attaching", contract::mock_attach(&self.iommufd, self.mock, hwpt.id()).map_err(named))?;
        must("IOAS_MAP", contract::map(&self.iommufd, &self.ioas, START, LENGTH))?;
        self.start(hwpt)
    }

    fn start(&self, hwpt: Hwpt) -> Checked<TrackedHwpt> {
        must("SET_DIRTY_TRACKING", self.iommufd.start_dirty_tracking(hwpt))
    }

    /// Has the IOMMU set the bits of `words`, in pages of 4096 bytes.
    pub(super) fn dirty(&self, table: u32, words: [u64; 3]) -> Checked {
        let count = contract::mock_dirty(&self.iommufd, table, [START, LENGTH, PAGE], &words);
        let set = words.iter().map(|word| u64::from(word.count_ones())).sum();
        expect("pages that were made dirty", must("making pages dirty", count.map_err(named))?, set)
    }

    fn read(&self, tracked: &TrackedHwpt, after: AfterRead) -> Checked<DirtyBitmap> {
        let mut bitmap = bitmap(PAGE)?;
        must("GET_DIRTY_BITMAP", self.iommufd.dirty_bitmap(tracked, after, &mut bitmap))?;
        Ok(bitmap)
    }
}

fn named(errno: i32) -> String {
    name(Errno::from_raw(errno))
}

fn bitmap(page_size: u64) -> Checked<DirtyBitmap> {
    must("a bitmap", DirtyBitmap::new(DmaRange { iova: START, length: LENGTH }, page_size))
}

fn ranges(_: &mut Ctx) -> Checked {
    let rig = Rig::new()?;
    let found = must("IOVA_RANGES", rig.iommufd.iova_ranges(&rig.ioas))?;
    expect("the simulated IOMMU's addresses", found.ranges, vec![APERTURE])?;
    let alone = must("IOAS_ALLOC", rig.iommufd.alloc_ioas())?;
    let found = must("IOVA_RANGES", rig.iommufd.iova_ranges(&alone))?;
    expect("addresses without any IOMMU", found.ranges, vec![(0, u64::MAX)])?;
    let missing = rig.iommufd.iova_ranges(&Ioas::from_id(rig.mock.id));
    refuse("IOVA_RANGES of a device", missing.map_err(raw), &[Errno::ENOENT]).map(|_| ())
}

fn raw(error: Error) -> i32 {
    error.errno().unwrap_or_default()
}

fn capability(_: &mut Ctx) -> Checked {
    let rig = Rig::new()?;
    let info = must("GET_HW_INFO", rig.iommufd.hw_info(rig.mock.device))?;
    expect("dirty tracking", info.capabilities.contains(HwCapabilities::DIRTY_TRACKING), true)?;
    let blind = contract::mock_device(&rig.iommufd, rig.ioas.id(), false);
    let blind = must("a device whose IOMMU cannot track", blind.map_err(named))?;
    let info = must("GET_HW_INFO", rig.iommufd.hw_info(blind.device))?;
    expect("dirty tracking", info.capabilities.contains(HwCapabilities::DIRTY_TRACKING), false)?;
    let alloc = |device| rig.iommufd.alloc_hwpt(device, &rig.ioas, HwptFlags::DIRTY_TRACKING);
    let refused = alloc(blind.device).map(|hwpt| hwpt.id()).map_err(raw);
    refuse("HWPT_ALLOC with tracking on an IOMMU without", refused, &[Errno::EOPNOTSUPP])?;
    let tracking = must("HWPT_ALLOC", alloc(rig.mock.device))?;
    let attached = contract::mock_attach(&rig.iommufd, blind, tracking.id());
    refuse("attaching it to a page table that tracks", attached, &[Errno::EINVAL])?;
    // The page table that the kernel made for the device is not for tracking.
    let auto = contract::set_dirty_tracking(&rig.iommufd, rig.mock.hwpt, true);
    refuse("SET_DIRTY_TRACKING of the kernel's own page table", auto, &[Errno::EOPNOTSUPP])?;
    let space = contract::set_dirty_tracking(&rig.iommufd, rig.ioas.id(), true);
    refuse("SET_DIRTY_TRACKING of an address space", space, &[Errno::ENOENT]).map(|_| ())
}

fn cleared(ctx: &mut Ctx) -> Checked {
    let rig = Rig::new()?;
    let tracked = rig.tracking()?;
    ensure(rig.read(&tracked, AfterRead::Clear)?.is_clean(), || "pages are dirty before any was written".into())?;
    rig.dirty(tracked.id(), PATTERN)?;
    let first = rig.read(&tracked, AfterRead::Clear)?;
    expect("dirty pages", first.words(), &PATTERN[..])?;
    ensure(rig.read(&tracked, AfterRead::Clear)?.is_clean(), || "bits are left after reading".into())?;
    // What comes between two readings is in the second alone; together they have all.
    rig.dirty(tracked.id(), [1 << 5, 0, 0])?;
    let second = rig.read(&tracked, AfterRead::Clear)?;
    expect("pages dirty since", second.words(), &[1 << 5, 0, 0][..])?;
    let mut both = first;
    must("the union", both.union(&second))?;
    let [low, middle, high] = PATTERN;
    expect("both readings", both.words(), &[low | 1 << 5, middle, high][..])?;
    ctx.note(format!("{} pages in {} ranges", both.dirty_pages(), both.dirty_ranges().count()));
    Ok(())
}

fn kept(_: &mut Ctx) -> Checked {
    let rig = Rig::new()?;
    let tracked = rig.tracking()?;
    rig.dirty(tracked.id(), PATTERN)?;
    for reading in ["first", "second"] {
        let found = rig.read(&tracked, AfterRead::Keep)?;
        expect(&format!("the {reading} reading without clearing"), found.words(), &PATTERN[..])?;
    }
    expect("reading with clearing", rig.read(&tracked, AfterRead::Clear)?.words(), &PATTERN[..])?;
    ensure(rig.read(&tracked, AfterRead::Keep)?.is_clean(), || "bits are left after reading".into())
}

fn coarse(_: &mut Ctx) -> Checked {
    let rig = Rig::new()?;
    let tracked = rig.tracking()?;
    // One of the IOMMU's pages, the upper half of page 5.
    let half = contract::mock_dirty(&rig.iommufd, tracked.id(), [START, LENGTH, MOCK_PAGE], &[1 << 11, 0, 0, 0, 0]);
    expect("pages that were made dirty", must("making half a page dirty", half.map_err(named))?, 1)?;
    expect("pages of 4096", rig.read(&tracked, AfterRead::Keep)?.words(), &[1 << 5, 0, 0][..])?;
    let mut wide = bitmap(2 * PAGE)?;
    must("GET_DIRTY_BITMAP", rig.iommufd.dirty_bitmap(&tracked, AfterRead::Clear, &mut wide))?;
    expect("pages of 8192", wide.words(), &[1 << 2, 0][..])
}

fn restarted(_: &mut Ctx) -> Checked {
    let rig = Rig::new()?;
    let tracked = rig.tracking()?;
    rig.dirty(tracked.id(), PATTERN)?;
    let stopped = must("stopping", rig.iommufd.stop_dirty_tracking(tracked))?;
    let tracked = rig.start(stopped)?;
    ensure(rig.read(&tracked, AfterRead::Clear)?.is_clean(), || "old bits survive a new start".into())
}

fn refused(_: &mut Ctx) -> Checked {
    let rig = Rig::new()?;
    let tracked = rig.tracking()?;
    let (table, end) = (tracked.id(), u64::MAX - (PAGE - 1));
    // That of the first device went when the device was attached to another one.
    let other = must("a second device", contract::mock_device(&rig.iommufd, rig.ioas.id(), true).map_err(named))?;
    let cases = [
        ("an unknown flag", table, 2, [START, PAGE, PAGE], Errno::EOPNOTSUPP),
        ("an address space", rig.ioas.id(), 0, [START, PAGE, PAGE], Errno::ENOENT),
        ("an empty range", table, 0, [START, 0, PAGE], Errno::EINVAL),
        ("a range beyond 2^64", table, 0, [end, 2 * PAGE, PAGE], Errno::EOVERFLOW),
        ("a start that is not aligned", table, 0, [START + 512, PAGE, PAGE], Errno::EINVAL),
        ("a start that is not aligned to the page size", table, 0, [START + PAGE, 2 * PAGE, 2 * PAGE], Errno::EINVAL),
        ("the kernel's own page table", other.hwpt, 0, [START, PAGE, PAGE], Errno::EOPNOTSUPP),
    ];
    for (what, table, flags, range, errno) in cases {
        let answer = contract::dirty_bitmap(&rig.iommufd, table, flags, range, &mut [0; 64]);
        refuse(&format!("GET_DIRTY_BITMAP with {what}"), answer, &[errno])?;
    }
    Ok(())
}

fn silent(ctx: &mut Ctx) -> Checked {
    let rig = Rig::new()?;
    let tracked = rig.tracking()?;
    rig.dirty(tracked.id(), PATTERN)?;
    // A hole: success and clean.
    let hole = START + LENGTH;
    let mut words = [0; 64];
    let answer = contract::dirty_bitmap(&rig.iommufd, tracked.id(), 0, [hole, PAGE, PAGE], &mut words);
    must("GET_DIRTY_BITMAP of a hole", answer.map_err(named))?;
    expect("dirty pages of a hole", words, [0; 64])?;
    let range = DmaRange { iova: START, length: LENGTH + PAGE };
    let mut beyond = must("a bitmap", DirtyBitmap::new(range, PAGE))?;
    let error = rig.iommufd.dirty_bitmap(&tracked, AfterRead::Clear, &mut beyond);
    let refused = matches!(&error, Err(Error::Refused { reason: Refusal::NotMapped { iova }, .. }) if *iova == hole);
    ensure(refused, || format!("a range with a hole: {error:?}"))?;
    expect("pages that count as dirty then", beyond.dirty_pages(), PAGES + 1)?;
    expect("bits the refused call left alone", rig.read(&tracked, AfterRead::Keep)?.words(), &PATTERN[..])?;
    // Tracking is off: success all the same.
    let table = tracked.id();
    let stopped = must("stopping", rig.iommufd.stop_dirty_tracking(tracked))?;
    let answer = contract::dirty_bitmap(&rig.iommufd, table, 0, [START, LENGTH, PAGE], &mut words);
    must("GET_DIRTY_BITMAP without tracking", answer.map_err(named))?;
    // 7.3 reads the page table's bits as they were left; kernels before its common page tables give none.
    let [first, second, third, ..] = words;
    let (found, nothing) = ([first, second, third], [0; 3]);
    ensure(found == PATTERN || found == nothing, || format!("bits without tracking: {found:x?}"))?;
    ctx.note(if found == nothing { "no bits without tracking" } else { "bits stay readable without tracking" });
    // A page table that was never meant to track cannot be started; the one above can, and starts clean.
    ensure(rig.read(&rig.start(stopped)?, AfterRead::Keep)?.is_clean(), || "old bits survive a new start".into())
}

fn unmapped(_: &mut Ctx) -> Checked {
    let rig = Rig::new()?;
    let tracked = rig.tracking()?;
    rig.dirty(tracked.id(), PATTERN)?;
    expect("the last reading", rig.read(&tracked, AfterRead::Keep)?.words(), &PATTERN[..])?;
    expect("unmapped bytes", must("IOAS_UNMAP", rig.iommufd.unmap(&rig.ioas, START, LENGTH))?, LENGTH)?;
    let again = rig.iommufd.dirty_bitmap(&tracked, AfterRead::Clear, &mut bitmap(PAGE)?);
    ensure(matches!(again, Err(Error::Refused { .. })), || format!("reading what was unmapped: {again:?}"))
}
