// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#![allow(clippy::arithmetic_side_effects, clippy::as_conversions)]

use savevm_core::sim::Errno;

use super::*;
use crate::fake::{BASE, FakeProcess, halves};

fn unattached(kernel: &str) -> (Container, FakeProcess) {
    (Container::new(Kernel::parse(kernel).unwrap()), FakeProcess::new())
}

fn container(kind: u64) -> (Container, FakeProcess) {
    let (container, process) = unattached("6.12");
    container.attach(true);
    container.ioctl(&process, request::SET_IOMMU, kind).unwrap();
    (container, process)
}

fn map(container: &Container, process: &FakeProcess, iova: u64, size: u64) -> Result<i64, Errno> {
    let words = [&[32, 3][..], &halves(0x10000), &halves(iova), &halves(size)].concat();
    container.ioctl(process, request::IOMMU_MAP_DMA, process.words(&words))
}

fn bitmap(container: &Container, process: &FakeProcess, [iova, size, page, bytes]: [u64; 4]) -> Result<i64, Errno> {
    let fields = [halves(iova), halves(size), halves(page), halves(bytes), halves(BASE + 512)].concat();
    container.ioctl(process, request::IOMMU_DIRTY_PAGES, process.words(&[&[48, 4][..], &fields].concat()))
}

#[test]
fn a_container_needs_a_group_and_an_iommu() {
    let (container, process) = unattached("6.12");
    assert_eq!(container.ioctl(&process, request::SET_IOMMU, TYPE1_V2), Err(Errno::EINVAL));
    container.attach(true);
    assert_eq!(container.ioctl(&process, request::IOMMU_GET_INFO, BASE), Err(Errno::EINVAL));
    assert_eq!(container.ioctl(&process, request::SET_IOMMU, 77), Err(Errno::ENODEV));
    assert_eq!(container.ioctl(&process, request::SET_IOMMU, TYPE1_V2), Ok(0));
    assert_eq!(container.ioctl(&process, request::SET_IOMMU, TYPE1_V2), Err(Errno::EINVAL));
    container.detach(true);
    assert!(!container.has_iommu(), "the IOMMU goes with the last group");
}

#[test]
fn information_tells_about_dirty_pages_if_there_is_room() {
    let (container, process) = container(TYPE1_V2);
    assert_eq!(container.ioctl(&process, request::IOMMU_GET_INFO, process.words(&[15])), Err(Errno::EINVAL));
    assert_eq!(container.ioctl(&process, request::IOMMU_GET_INFO, process.words(&[24, 0, 0, 0, 99])), Ok(0));
    let needed = process.u32_at(0);
    assert!(needed > 24);
    assert_eq!((process.u32_at(4), process.u32_at(16)), (3, 0), "capabilities exist, and did not fit");
    assert_eq!(container.ioctl(&process, request::IOMMU_GET_INFO, process.words(&[needed])), Ok(0));
    // Walk the chain of capabilities as a program does.
    let mut found = Vec::new();
    let mut at = u64::from(process.u32_at(16));
    while at != 0 {
        found.push(process.u32_at(at) & 0xffff);
        at = u64::from(process.u32_at(at + 4));
    }
    assert_eq!(found, [2, 3]);
    let migration = u64::from(process.u32_at(16));
    assert_eq!(process.u32_at(migration + 24), 0x1000_0000, "the largest bitmap");
}

#[test]
fn mappings() {
    let (container, process) = container(TYPE1_V2);
    assert_eq!(map(&container, &process, 0x1000, 0x3000), Ok(0));
    assert_eq!(map(&container, &process, 0x3000, 0x1000), Err(Errno::EEXIST));
    assert_eq!(map(&container, &process, 0x9000, 0x800), Err(Errno::EINVAL));
    assert_eq!(map(&container, &process, 0x9000, 0), Err(Errno::EINVAL));
    assert_eq!(map(&container, &process, u64::MAX - 0xfff, 0x2000), Err(Errno::EINVAL));
    let unmap = |flags, iova, size| {
        let words = [&[24, flags][..], &halves(iova), &halves(size)].concat();
        container.ioctl(&process, request::IOMMU_UNMAP_DMA, process.words(&words))
    };
    assert_eq!(unmap(0, 0x1000, 0x1000), Err(Errno::EINVAL), "version 2 does not cut a mapping");
    assert_eq!(unmap(0, 0x8000, 0x1000), Ok(0));
    assert_eq!(process.u32_at(16), 0, "nothing was there");
    assert_eq!(unmap(2, 0x1000, 0), Err(Errno::EINVAL), "ALL takes no range");
    assert_eq!(unmap(4, 0x1000, 0x3000), Err(Errno::EINVAL));
    assert_eq!(unmap(2, 0, 0), Ok(0));
    assert_eq!(process.u32_at(16), 0x3000);
}

#[test]
fn dirty_pages() {
    let (container, process) = container(TYPE1_V2);
    let flags = |flags| container.ioctl(&process, request::IOMMU_DIRTY_PAGES, process.words(&[8, flags]));
    map(&container, &process, 0x10_0000, 0x4_0000).unwrap();
    assert_eq!(bitmap(&container, &process, [0x10_0000, 0x4_0000, 0x1000, 8]), Err(Errno::EINVAL), "not started");
    for (word, expected) in
        [(0, Err(Errno::EINVAL)), (3, Err(Errno::EINVAL)), (8, Err(Errno::EINVAL)), (1, Ok(0)), (1, Ok(0))]
    {
        assert_eq!(flags(word), expected, "flags {word}");
    }
    for (query, expected) in [
        ([0x10_0000, 0x4_0000, 0x1000, 8], Ok(0)),
        ([0, 0x20_0000, 0x1000, 64], Ok(0)),
        ([0x10_0000, 0x4_0000, 0x2000, 8], Err(Errno::EINVAL)),
        ([0x10_0000, 0x4_0000, 0x1000, 7], Err(Errno::EINVAL)),
        ([0x10_0000, 0x4_0000, 0x1000, 0x1000_0001], Err(Errno::EINVAL)),
        ([0x10_0000, 0x2_0000, 0x1000, 8], Err(Errno::EINVAL)),
        ([0x10_0000, 0, 0x1000, 8], Err(Errno::EINVAL)),
        ([0x10_0800, 0x1000, 0x1000, 8], Err(Errno::EINVAL)),
        ([u64::MAX - 0xfff, 0x2000, 0x1000, 8], Err(Errno::EINVAL)),
    ] {
        assert_eq!(bitmap(&container, &process, query), expected, "{query:x?}");
    }
    process.copy_out(BASE + 512, &[0xff; 16]).unwrap();
    bitmap(&container, &process, [0x10_0000, 0x4_0000, 0x1000, 8]).unwrap();
    assert_eq!(process.u32_at(512), 0, "whole words are overwritten");
    assert_eq!(process.u32_at(520), u32::MAX, "and no more than the mapping has");
    assert_eq!((flags(2), flags(2)), (Ok(0), Ok(0)));
    let (old, process) = self::container(TYPE1);
    let answer = old.ioctl(&process, request::IOMMU_DIRTY_PAGES, process.words(&[8, 1]));
    assert_eq!(answer, Err(Errno::EACCES), "not a version 2 IOMMU");
}

#[test]
fn a_bitmap_beyond_the_last_address_ends_as_the_kernel_ends_it() {
    for (kernel, errno) in [("6.12", Errno::EINVAL), ("6.12-iommufd", Errno::EINVAL), ("7.3", Errno::EOVERFLOW)] {
        let (container, process) = unattached(kernel);
        for round in 0..2 {
            container.attach(true);
            container.ioctl(&process, request::SET_IOMMU, TYPE1_V2).unwrap();
            container.ioctl(&process, request::IOMMU_DIRTY_PAGES, process.words(&[8, 1])).unwrap();
            let wrapped = bitmap(&container, &process, [u64::MAX - 0xfff, 0x2000, 0x1000, 8]);
            assert_eq!(wrapped, Err(errno), "{kernel}, round {round}");
            container.detach(true);
        }
    }
}
