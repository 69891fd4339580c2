// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#![allow(clippy::arithmetic_side_effects, clippy::as_conversions)]

use savevm_core::sim::Errno;

use super::mapping::EMSGSIZE;
use super::tracking::HWPT_DIRTY_TRACKING;
use super::*;
use crate::abi::UserMemory;
use crate::fake::{BASE, FakeProcess, halves};

struct Setup {
    process: FakeProcess,
    iommufd: Iommufd,
    ioas: u32,
    device: u32,
    tracking: u32,
    plain: u32,
}

/// An address space, a physical device, and a page table of each kind.
fn setup() -> Setup {
    setup_with(KernelBugs::default())
}

fn setup_with(bugs: KernelBugs) -> Setup {
    let (process, iommufd) = (FakeProcess::new(), Iommufd::new(bugs));
    iommufd.ioctl(&process, IOAS_ALLOC, process.words(&[12, 0, 0])).unwrap();
    let ioas = process.u32_at(8);
    let device = iommufd.add_device(false);
    let hwpt = |flags| {
        iommufd.ioctl(&process, HWPT_ALLOC, process.words(&[48, flags, device, ioas, 0, 0, 0, 0, 0, 0, 0, 0])).unwrap();
        process.u32_at(16)
    };
    let (tracking, plain) = (hwpt(HWPT_DIRTY_TRACKING), hwpt(0));
    Setup { process, iommufd, ioas, device, tracking, plain }
}

impl Setup {
    fn run(&self, number: u32, words: &[u32]) -> Result<i64, Errno> {
        self.iommufd.ioctl(&self.process, number, self.process.words(words))
    }

    fn map(&self, iova: u64, length: u64) -> Result<i64, Errno> {
        let words = [&[40, 0b111, self.ioas, 0][..], &halves(0x10000), &halves(length), &halves(iova)].concat();
        self.run(IOAS_MAP, &words)
    }

    fn bitmap(&self, hwpt: u32, flags: u32, iova: u64, length: u64, page: u64) -> Result<i64, Errno> {
        let words = [&[48, hwpt, flags, 0][..], &halves(iova), &halves(length), &halves(page), &halves(BASE + 512)];
        self.run(HWPT_GET_DIRTY_BITMAP, &words.concat())
    }
}

#[test]
fn sizes_and_tails() {
    let s = setup();
    assert_eq!(s.run(IOAS_ALLOC, &[8, 0, 0]), Err(Errno::EINVAL));
    assert_eq!(s.run(IOAS_ALLOC, &[16, 0, 0, 0]), Ok(0), "a tail of zeros");
    assert_eq!(s.run(IOAS_ALLOC, &[16, 0, 0, 1]), Err(Errno::E2BIG));
    assert_eq!(s.run(IOAS_ALLOC, &[12, 1, 0]), Err(Errno::EOPNOTSUPP));
    assert_eq!(s.iommufd.ioctl(&s.process, IOAS_ALLOC, 0), Err(Errno::EFAULT));
    assert_eq!(s.run(0x3b92, &[16]), Err(Errno::ENOTTY));
    // The oldest GET_HW_INFO has 32 bytes: nothing is written beyond them.
    s.process.words(&[0xaaaa_aaaa; 12]);
    assert_eq!(s.run(GET_HW_INFO, &[32, 0, s.device, 0, 0, 0, 0, 0]), Ok(0));
    assert_eq!(s.process.u32_at(32), 0xaaaa_aaaa);
    assert_eq!(s.run(GET_HW_INFO, &[40, 0, s.device, 0, 0, 0, 0, 0, 0, 0]), Ok(0));
    assert_eq!(s.process.u32_at(32), 1, "dirty tracking");
    assert_eq!(s.run(GET_HW_INFO, &[40, 0, s.ioas, 0, 0, 0, 0, 0, 0, 0]), Err(Errno::ENOENT));
}

#[test]
fn mappings_collide_and_go() {
    let s = setup();
    assert_eq!(s.map(0x10_0000, 0x2000), Ok(0));
    assert_eq!(s.map(0x10_1000, 0x1000), Err(Errno::EEXIST));
    assert_eq!(s.map(0x10_0800, 0x1000), Err(Errno::EINVAL));
    assert_eq!(s.map(0x10_0000, 0), Err(Errno::EINVAL));
    assert_eq!(s.map(u64::MAX - 0xfff, 0x2000), Err(Errno::EOVERFLOW));
    assert_eq!(s.map(APERTURE.1 + 1, 0x1000), Err(Errno::EINVAL), "the page tables are there, attached or not");
    assert_eq!([s.run(DESTROY, &[8, s.tracking]), s.run(DESTROY, &[8, s.plain])], [Ok(0); 2]);
    assert_eq!(s.map(APERTURE.1 + 1, 0x1000), Ok(0));
    assert_eq!(s.map(APERTURE.1 + 0x2801, 1), Ok(0), "without page tables any byte can be mapped");
    let unmap = |iova, length: u64| s.run(IOAS_UNMAP, &[&[24, s.ioas][..], &halves(iova), &halves(length)].concat());
    assert_eq!(unmap(0x10_0000, 0x1000), Err(Errno::ENOENT), "half a mapping");
    assert_eq!(unmap(0x20_0000, 0x1000), Err(Errno::ENOENT), "nothing there");
    assert_eq!(unmap(0, u64::MAX), Ok(0));
    assert_eq!(s.process.u32_at(16), 0x3001, "how much it was");
}

#[test]
fn attaching_an_address_space_makes_a_table_that_cannot_track() {
    let s = setup();
    let auto = s.iommufd.attach(s.device, s.ioas).unwrap();
    assert!(![s.ioas, s.tracking, s.plain].contains(&auto));
    assert_eq!(s.run(HWPT_SET_DIRTY_TRACKING, &[16, 1, auto, 0]), Err(Errno::EOPNOTSUPP));
    assert_eq!(s.iommufd.attach(s.device, s.device), Err(Errno::EINVAL));
    assert_eq!(s.iommufd.attach(s.device, 999), Err(Errno::ENOENT));
    assert_eq!(s.iommufd.attach(s.device, s.tracking), Ok(s.tracking));
    assert_eq!(s.run(DESTROY, &[8, s.tracking]), Err(Errno::EBUSY));
    s.iommufd.detach(s.device);
    assert_eq!(s.run(DESTROY, &[8, s.tracking]), Ok(0));
    assert_eq!(s.run(DESTROY, &[8, s.tracking]), Err(Errno::ENOENT));
    assert_eq!(s.run(DESTROY, &[8, s.ioas]), Err(Errno::EBUSY), "a table is on it");
    let mdev = s.iommufd.add_device(true);
    assert_eq!(s.iommufd.attach(mdev, s.ioas), Ok(s.ioas));
    assert_eq!(s.iommufd.attach(mdev, s.plain), Err(Errno::EINVAL));
    let hwpt = s.run(HWPT_ALLOC, &[48, 0, mdev, s.ioas, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(hwpt, Err(Errno::ENOENT), "no page table for an emulated device");
}

#[test]
fn dirty_tracking_checks_in_the_kernels_order() {
    let s = setup();
    let set = |flags, hwpt| s.run(HWPT_SET_DIRTY_TRACKING, &[16, flags, hwpt, 7]);
    assert_eq!(set(1, s.tracking), Ok(0), "reserved is not looked at");
    assert_eq!(set(1, s.tracking), Ok(0));
    assert_eq!(set(0, s.tracking), Ok(0));
    assert_eq!(set(2, s.tracking), Err(Errno::EOPNOTSUPP));
    assert_eq!(set(1, s.plain), Err(Errno::EOPNOTSUPP));
    assert_eq!(set(1, s.ioas), Err(Errno::ENOENT));
    for (hwpt, flags, iova, length, page, expected) in [
        (s.tracking, 0, 0, 0x1000, 0x1000, Ok(0)),
        (s.tracking, 1, 0, 0x1000, 0x1000, Ok(0)),
        (s.tracking, 2, 0, 0x1000, 0x1000, Err(Errno::EOPNOTSUPP)),
        (s.ioas, 0, 0, 0x1000, 0x1000, Err(Errno::ENOENT)),
        (s.tracking, 0, 0, 0, 0x1000, Err(Errno::EINVAL)),
        (s.tracking, 0, u64::MAX - 0xfff, 0x2000, 0x1000, Err(Errno::EOVERFLOW)),
        (s.tracking, 0, u64::MAX - 0xfff, 0x1000, 0x1000, Ok(0)),
        (s.tracking, 0, 0x800, 0x1000, 0x800, Err(Errno::EINVAL)),
        (s.tracking, 0, 0x1000, 0x1000, 0, Err(Errno::EINVAL)),
        // Of the addresses that 12288 - 1 has no bit in common with, 0x4000 is one and 12288 itself is none.
        (s.tracking, 0, 0x3000, 0x3000, 0x3000, Err(Errno::EINVAL)),
        (s.tracking, 0, 0x4000, 0x4000, 0x3000, Ok(0)),
        (s.tracking, 0, 0x1000, 0x1000, 0x2000, Err(Errno::EINVAL)),
        (s.plain, 0, 0, 0x1000, 0x1000, Err(Errno::EOPNOTSUPP)),
    ] {
        let found = s.bitmap(hwpt, flags, iova, length, page);
        assert_eq!(found, expected, "hwpt {hwpt} flags {flags} {iova:#x}+{length:#x} page {page:#x}");
    }
}

const IOVA: u64 = 1 << 24;

impl Setup {
    /// Has the simulated IOMMU mark pages of `page` bytes from `IOVA` on, by the bits of `bits`. The bitmap follows the
    /// command in memory.
    fn write_pages(&self, hwpt: u32, page: u64, bits: u32) -> Result<i64, Errno> {
        let numbers = [IOVA, 32 * page, page, BASE + 128, 0].map(halves).concat();
        let mut words = [&[72, 13, hwpt, 0, 0, 0][..], &numbers, &[0, 0]].concat();
        words.resize(32, 0);
        words.push(bits);
        self.run(TEST_CMD, &words)
    }

    /// The first 32 pages of `page` bytes.
    fn dirty(&self, flags: u32, page: u64) -> u32 {
        self.process.copy_out(BASE + 512, &[0; 8]).unwrap();
        self.bitmap(self.tracking, flags, IOVA, 32 * page, page).unwrap();
        self.process.u32_at(512)
    }

    fn unmap(&self, iova: u64, length: u64) -> Result<i64, Errno> {
        self.run(IOAS_UNMAP, &[&[24, self.ioas][..], &halves(iova), &halves(length)].concat())
    }

    /// Maps everything that the tests look at, in pieces that can be unmapped.
    fn map_all(&self) {
        for piece in 0..8 {
            self.map(IOVA + piece * 0x8000, 0x8000).unwrap();
        }
    }

    fn track(&self, on: u32) {
        self.run(HWPT_SET_DIRTY_TRACKING, &[16, on, self.tracking, 0]).unwrap();
    }
}

#[test]
fn dirty_bits_are_reported_until_they_are_cleared() {
    let s = setup();
    s.map_all();
    assert_eq!(s.write_pages(s.tracking, 0x1000, 1), Err(Errno::EINVAL), "tracking is off");
    s.track(1);
    assert_eq!(s.write_pages(s.tracking, 0x1000, 0x8000_0005), Ok(0));
    assert_eq!(s.process.u32_at(56), 3, "how many");
    assert_eq!([s.dirty(1, 0x1000), s.dirty(1, 0x1000)], [0x8000_0005; 2]);
    assert_eq!(s.dirty(1, 0x2000), 0x0000_8003, "merged");
    assert_eq!([s.dirty(0, 0x1000), s.dirty(0, 0x1000)], [0x8000_0005, 0]);
    // Pages smaller than the IOMMU's share its bit.
    s.write_pages(s.tracking, 0x800, 2).unwrap();
    assert_eq!(s.dirty(1, 0x400), 0b1100);
    s.track(1);
    assert_eq!(s.dirty(1, 0x1000), 0, "starting clears, also what runs already");
}

#[test]
fn the_kernel_s_silent_losses_are_silent_here() {
    let s = setup();
    s.map_all();
    s.track(1);
    s.write_pages(s.tracking, 0x1000, 7).unwrap();
    let words = [&[48, s.tracking, 0, 0][..], &halves(IOVA), &halves(0x3000), &halves(0x1000), &halves(8)].concat();
    assert_eq!(s.run(HWPT_GET_DIRTY_BITMAP, &words), Ok(0), "no memory for the bits");
    assert_eq!(s.dirty(0, 0x1000), 0, "and they are gone");
    s.write_pages(s.tracking, 0x1000, 7).unwrap();
    s.track(0);
    assert_eq!(s.dirty(0, 0x1000), 7, "what was set before tracking stopped");
    s.track(1);
    s.write_pages(s.tracking, 0x1000, 0x8000_0101).unwrap();
    s.unmap(IOVA + 0x8000, 0x8000).unwrap();
    assert_eq!(s.dirty(0, 0x1000), 1, "the walk ended at the hole");
    assert_eq!(s.dirty(0, 0x1000), 0);
    s.map(IOVA + 0x8000, 0x8000).unwrap();
    assert_eq!(s.dirty(0, 0x1000), 0x8000_0000, "which kept what was behind it, and forgot what was in it");
}

#[test]
fn bugs_of_kernels_lose_bits_by_name() {
    let s = setup_with(KernelBugs::parse("zero-length,untracked-is-clean").unwrap());
    s.map(0, 0x1_0000).unwrap();
    s.track(1);
    let mark =
        || lock(&s.iommufd.objects).hwpt(s.tracking).unwrap().dirty.as_mut().unwrap().pages().mark(0x3000, 1, 4096);
    let found = || {
        s.process.copy_out(BASE + 512, &[0; 8]).unwrap();
        s.bitmap(s.tracking, 1, 0, 0x1_0000, 0x1000).unwrap();
        s.process.u32_at(512)
    };
    mark();
    assert_eq!(s.bitmap(s.tracking, 0, 0x1000, 0, 0x1000), Err(Errno::EOVERFLOW), "not at 0");
    assert_eq!((s.bitmap(s.tracking, 1, 0, 0, 0x1000), found()), (Ok(0), 8), "not cleared");
    assert_eq!((s.bitmap(s.tracking, 0, 0, 0, 0x1000), found()), (Ok(0), 0));
    mark();
    assert_eq!(found(), 8);
    s.track(0);
    assert_eq!(found(), 0, "nothing is said of a table that does not track");
}

#[test]
fn the_size_of_page_table_entries_is_an_option_of_an_address_space() {
    let s = setup();
    let set = |option, op, object, value| s.run(OPTION, &[24, option, op, object, value, 0]);
    assert_eq!([set(1, 0, s.ioas, 0), set(1, 0, s.ioas, 1)], [Ok(0); 2]);
    assert_eq!(set(1, 0, s.ioas, 2), Err(Errno::EINVAL));
    assert_eq!(set(1, 0, s.device, 0), Err(Errno::ENOENT));
    assert_eq!(set(2, 0, s.ioas, 0), Err(Errno::EOPNOTSUPP), "no such option");
    assert_eq!(set(1, 1 << 16, s.ioas, 0), Err(Errno::EOPNOTSUPP), "reserved");
}

#[test]
fn devices_of_the_test_interface_come_and_go() {
    let s = setup();
    let device = |flags| s.run(TEST_CMD, &[&[72, 12, s.ioas, 0, 0, 0, 0, flags][..], &[0; 10]].concat());
    assert_eq!(device(2), Err(Errno::EINVAL));
    device(1).unwrap();
    let [mock, table, id] = [16, 20, 24].map(|at| s.process.u32_at(at));
    let hw_info = |id| s.run(GET_HW_INFO, &[40, 0, id, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!((hw_info(id), s.process.u32_at(32)), (Ok(0), 0), "it cannot track");
    let hwpt = [48, HWPT_DIRTY_TRACKING, id, s.ioas, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(s.run(HWPT_ALLOC, &hwpt), Err(Errno::EOPNOTSUPP));
    let replace = |table| s.run(TEST_CMD, &[&[72, 10, mock, 0, table][..], &[0; 13]].concat());
    assert_eq!(replace(s.tracking), Err(Errno::EINVAL));
    assert_eq!(replace(s.plain), Ok(0));
    assert_eq!(s.run(DESTROY, &[8, table]), Err(Errno::ENOENT), "the kernel's own table went with its device");
    assert_eq!(s.run(IOAS_IOVA_RANGES, &[&[32, s.ioas, 0, 0][..], &[0; 4]].concat()), Err(EMSGSIZE));
    assert_eq!(s.run(DESTROY, &[8, mock]), Ok(0));
    assert_eq!(hw_info(id), Err(Errno::ENOENT));
    assert_eq!(s.run(TEST_CMD, &[&[72, 99][..], &[0; 16]].concat()), Err(Errno::EOPNOTSUPP));
}

#[test]
fn alignment_is_that_of_the_smallest_page_of_any_page_table() {
    let s = setup();
    let alignment = || {
        s.run(IOAS_IOVA_RANGES, &[&[32, s.ioas, 1, 0][..], &halves(BASE + 512), &[0, 0]].concat()).unwrap();
        s.process.u32_at(24)
    };
    assert_eq!(alignment(), 4096);
    for table in [s.tracking, s.plain] {
        s.run(DESTROY, &[8, table]).unwrap();
    }
    assert_eq!(alignment(), 1);
    s.run(TEST_CMD, &[&[72, 12, s.ioas, 0][..], &[0; 14]].concat()).unwrap();
    assert_eq!(alignment(), 2048, "the simulated IOMMU has pages of half the size");
    assert_eq!((s.map(IOVA + 0x800, 0x800), s.map(IOVA + 0x400, 0x400)), (Ok(0), Err(Errno::EINVAL)));
    s.run(IOAS_UNMAP, &[&[24, s.ioas][..], &halves(0), &halves(u64::MAX)].concat()).unwrap();
    s.run(OPTION, &[24, 1, 0, s.ioas, 0, 0]).unwrap();
    assert_eq!(alignment(), 4096, "held down to pages");
}
