// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Page tables, PASIDs and a container's dirty pages against a scripted kernel.

use std::fs::File;

use nix::libc::{EBUSY, EINVAL, EMSGSIZE, ENOENT, ENOTTY, EOPNOTSUPP};

use super::*;
use crate::ioctl::fake::{Answer, Ask, done, script, words_at};
use crate::ioctls as nr;
use crate::{Device, DirtyBitmap, DmaRange};

const PAGE: u64 = 4096;
const SET: Ask = Ask::Plain(nr::IOMMU_HWPT_SET_DIRTY_TRACKING);
const GET: Ask = Ask::Plain(nr::IOMMU_HWPT_GET_DIRTY_BITMAP);
/// On a container: DIRTY_PAGES with GET_BITMAP.
const GET_BITMAP: Ask = Ask::Feature(4);

fn null() -> File {
    File::open("/dev/null").unwrap()
}

fn fails(errno: i32) -> Answer {
    Box::new(move |_| Err(errno))
}

fn u32_at(message: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(message[at..at + 4].try_into().unwrap())
}

fn u64_at(message: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(message[at..at + 8].try_into().unwrap())
}

fn put(message: &mut [u8], at: usize, bytes: &[u8]) {
    message[at..at + bytes.len()].copy_from_slice(bytes);
}

fn set(hwpt: u32, flags: u32, result: Result<i32, i32>) -> Answer {
    Box::new(move |message| {
        assert_eq!(message.len(), 16);
        assert_eq!([u32_at(message, 4), u32_at(message, 8), u32_at(message, 12)], [flags, hwpt, 0]);
        result
    })
}

/// The answer to a GET of 70 pages from 1 MiB on, which sets `bits`.
fn get(flags: u32, bits: [u64; 2], result: Result<i32, i32>) -> Answer {
    Box::new(move |message| {
        assert_eq!(message.len(), 48);
        assert_eq!([u32_at(message, 4), u32_at(message, 8), u32_at(message, 12)], [7, flags, 0]);
        assert_eq!([16, 24, 32].map(|at| u64_at(message, at)), [0x10_0000, 70 * PAGE, PAGE]);
        let words = words_at(message, 40, 2);
        assert_eq!(words, [0, 0], "the kernel only sets bits");
        words.copy_from_slice(&bits);
        result
    })
}

fn range(iova: u64, pages: u64) -> DmaRange {
    DmaRange { iova, length: pages * PAGE }
}

fn bitmap() -> DirtyBitmap {
    DirtyBitmap::new(range(0x10_0000, 70), PAGE).unwrap()
}

/// A tracked page table 7 of an address space in which exactly the bitmap's range is mapped.
fn tracked(iommufd: &Iommufd<File>) -> (Ioas, TrackedHwpt) {
    let ioas = Ioas::from_id(3);
    ioas.declare_mapped(range(0x10_0000, 70));
    script([(SET, set(7, 1, Ok(0)))]);
    let hwpt = Hwpt::from_id(7, HwptFlags::DIRTY_TRACKING, &ioas);
    let tracked = iommufd.start_dirty_tracking(hwpt).unwrap();
    (ioas, tracked)
}

#[test]
fn ranges_are_asked_for_until_they_fit() {
    let query = Ask::Plain(nr::IOMMU_IOAS_IOVA_RANGES);
    let answer = |room: u32, count: u32, result| -> Answer {
        Box::new(move |message| {
            assert_eq!(message.len(), 32);
            assert_eq!([u32_at(message, 4), u32_at(message, 8), u32_at(message, 12)], [3, room, 0]);
            words_at(message, 16, 4).copy_from_slice(&[0, 0xfedf_ffff, 0xfef0_0000, u64::MAX]);
            put(message, 8, &count.to_ne_bytes());
            put(message, 24, &PAGE.to_ne_bytes());
            result
        })
    };
    let iommufd = Iommufd::new(null());
    script([(query, answer(8, 11, Err(EMSGSIZE))), (query, answer(22, 2, Ok(0)))]);
    let found = iommufd.iova_ranges(&Ioas::from_id(3)).unwrap();
    assert_eq!(found, IovaRanges { ranges: vec![(0, 0xfedf_ffff), (0xfef0_0000, u64::MAX)], alignment: PAGE });
    script([(query, answer(8, u32::MAX, Err(EMSGSIZE)))]);
    let error = iommufd.iova_ranges(&Ioas::from_id(3)).unwrap_err();
    assert!(matches!(error, Error::Answer { call: Call::IoasIovaRanges, .. }), "{error}");
    script([(query, fails(ENOENT))]);
    assert_eq!(iommufd.iova_ranges(&Ioas::from_id(3)).unwrap_err().errno(), Some(ENOENT));
    done();
}

#[test]
fn the_iommu_says_what_it_can_do() {
    let answer: Answer = Box::new(|message| {
        assert_eq!(message.len(), 40);
        assert_eq!([4, 8, 12, 16, 20].map(|at| u32_at(message, at)), [0, 5, 0, 0, 0]);
        put(message, 24, &2_u32.to_ne_bytes());
        put(message, 28, &[20]);
        put(message, 32, &0x8000_0001_u64.to_ne_bytes());
        Ok(0)
    });
    script([(Ask::Plain(nr::IOMMU_GET_HW_INFO), answer)]);
    let info = Iommufd::new(null()).hw_info(CdevId::from_raw(5)).unwrap();
    assert!(info.capabilities.contains(HwCapabilities::DIRTY_TRACKING));
    assert_eq!((info.capabilities.bits(), info.kind, info.pasid_bits), (0x8000_0001, 2, 20));
    done();
}

#[test]
fn a_page_table_is_allocated_for_a_device_on_an_address_space() {
    let answer: Answer = Box::new(|message| {
        assert_eq!(message.len(), 48);
        assert_eq!([4, 8, 12].map(|at| u32_at(message, at)), [2, 5, 3]);
        assert!(message[16..].iter().all(|byte| *byte == 0));
        put(message, 16, &7_u32.to_ne_bytes());
        Ok(0)
    });
    let alloc = Ask::Plain(nr::IOMMU_HWPT_ALLOC);
    script([(alloc, answer), (alloc, fails(EOPNOTSUPP)), (Ask::Plain(nr::IOMMU_DESTROY), fails(EBUSY))]);
    let (iommufd, ioas) = (Iommufd::new(null()), Ioas::from_id(3));
    let hwpt = iommufd.alloc_hwpt(CdevId::from_raw(5), &ioas, HwptFlags::DIRTY_TRACKING).unwrap();
    assert_eq!((hwpt.id(), hwpt.flags()), (7, HwptFlags::DIRTY_TRACKING));
    let error = iommufd.alloc_hwpt(CdevId::from_raw(5), &ioas, HwptFlags::DIRTY_TRACKING).unwrap_err();
    assert!(error.to_string().contains("cannot track dirty pages"), "{error}");
    let kept = iommufd.destroy_hwpt(hwpt).unwrap_err();
    assert_eq!((kept.error.errno(), kept.object.id()), (Some(EBUSY), 7));
    done();
}

#[test]
fn no_table_without_tracking_is_ever_read() {
    let (iommufd, ioas) = (Iommufd::new(null()), Ioas::from_id(3));
    let plain = Hwpt::from_id(7, HwptFlags::NEST_PARENT, &ioas);
    let refused = iommufd.start_dirty_tracking(plain).unwrap_err();
    assert!(matches!(refused.error, Error::Refused { reason: Refusal::NoDirtyTracking, .. }), "{}", refused.error);
    // The kernel's own table, under a wrong flag.
    script([(SET, set(7, 1, Err(EOPNOTSUPP)))]);
    let refused = iommufd.start_dirty_tracking(Hwpt::from_id(7, HwptFlags::DIRTY_TRACKING, &ioas)).unwrap_err();
    assert!(refused.to_string().contains("the kernel's own page table never is"), "{refused}");
    assert_eq!(refused.object.id(), 7);
    done();
}

#[test]
fn bits_are_read_with_and_without_clearing() {
    let iommufd = Iommufd::new(null());
    let (_ioas, tracked) = tracked(&iommufd);
    // The bits after the 70th page are noise.
    script([(GET, get(0, [1 << 63, 1 << 5 | 1 << 6], Ok(0))), (GET, get(1, [2, 0], Ok(0)))]);
    let mut bitmap = bitmap();
    iommufd.dirty_bitmap(&tracked, AfterRead::Clear, &mut bitmap).unwrap();
    assert_eq!(bitmap.words(), [1 << 63, 1 << 5]);
    iommufd.dirty_bitmap(&tracked, AfterRead::Keep, &mut bitmap).unwrap();
    assert_eq!(bitmap.words(), [2, 0]);
    script([(SET, set(7, 0, Err(ENOENT))), (SET, set(7, 0, Ok(0)))]);
    let kept = iommufd.stop_dirty_tracking(tracked).unwrap_err();
    assert_eq!(iommufd.stop_dirty_tracking(kept.object).unwrap().id(), 7);
    done();
}

#[test]
fn a_failed_reading_makes_everything_dirty() {
    let iommufd = Iommufd::new(null());
    let (_ioas, tracked) = tracked(&iommufd);
    script([(GET, get(0, [1, 0], Err(EINVAL)))]);
    let mut bitmap = bitmap();
    let error = iommufd.dirty_bitmap(&tracked, AfterRead::Clear, &mut bitmap).unwrap_err();
    assert!(error.to_string().contains("treat every page as dirty"), "{error}");
    assert_eq!(bitmap.dirty_pages(), 70);
    done();
}

#[test]
fn holes_are_refused_and_dirty() {
    let iommufd = Iommufd::new(null());
    let (ioas, tracked) = tracked(&iommufd);
    ioas.declare_unmapped(range(0x10_0000 + 3 * PAGE, 1));
    let mut bitmap = bitmap();
    let error = iommufd.dirty_bitmap(&tracked, AfterRead::Clear, &mut bitmap).unwrap_err();
    let reason = Refusal::NotMapped { iova: 0x10_3000 };
    assert!(matches!(&error, Error::Refused { call: Call::GetDirtyBitmap, reason: found, .. } if *found == reason));
    assert_eq!(bitmap.dirty_pages(), 70);
    // What is unmapped by the address space's own call is a hole as well, and only when that succeeded.
    ioas.declare_mapped(range(0x10_0000, 70));
    let unmap = Ask::Plain(nr::IOMMU_IOAS_UNMAP);
    script([(unmap, fails(ENOENT)), (GET, get(0, [0, 0], Ok(0))), (unmap, Box::new(|_| Ok(0)))]);
    iommufd.unmap(&ioas, 0x10_0000, PAGE).unwrap_err();
    iommufd.dirty_bitmap(&tracked, AfterRead::Clear, &mut bitmap).unwrap();
    iommufd.unmap(&ioas, 0x10_0000, PAGE).unwrap();
    iommufd.dirty_bitmap(&tracked, AfterRead::Clear, &mut bitmap).unwrap_err();
    done();
}

#[test]
fn pasids_go_with_their_flag() {
    let device = Device::with_label(null(), "vf1");
    let attach: Answer = Box::new(|message| {
        assert_eq!([0, 4, 8, 12].map(|at| u32_at(message, at)), [16, 1, 7, 42]);
        put(message, 8, &9_u32.to_ne_bytes());
        Ok(0)
    });
    let detach: Answer = Box::new(|message| {
        assert_eq!([0, 4, 8].map(|at| u32_at(message, at)), [12, 1, 42]);
        Err(EOPNOTSUPP)
    });
    script([(Ask::Plain(nr::DEVICE_ATTACH_IOMMUFD_PT), attach), (Ask::Plain(nr::DEVICE_DETACH_IOMMUFD_PT), detach)]);
    assert_eq!(device.attach_pasid(7, 42), Ok(9));
    let error = device.detach_pasid(42).unwrap_err();
    assert!(error.to_string().contains("has no PASIDs"), "{error}");
    done();
}

#[test]
fn a_container_says_what_its_dirty_pages_take() {
    let answer = |flags: u32, offset: u32| -> Answer {
        Box::new(move |message| {
            assert_eq!((message.len(), u32_at(message, 4)), (4096, 0));
            put(message, 4, &flags.to_ne_bytes());
            put(message, 8, &0xffff_f000_u64.to_ne_bytes());
            put(message, 16, &offset.to_ne_bytes());
            // Capability 2, version 1, the last one.
            put(message, 32, &[2, 0, 1, 0, 0, 0, 0, 0]);
            put(message, 48, &0x3000_u64.to_ne_bytes());
            put(message, 56, &0x1000_0000_u64.to_ne_bytes());
            Ok(0)
        })
    };
    let info = Ask::Plain(nr::IOMMU_GET_INFO);
    let container = Container::new(null());
    script([(info, answer(3, 32)), (info, answer(1, 0)), (info, answer(2, 0)), (info, fails(EINVAL))]);
    let found = container.iommu_info().unwrap();
    let dirty = found.dirty_pages.unwrap();
    assert_eq!((found.page_sizes, dirty.page_size(), dirty.bitmap_bytes_max), (0xffff_f000, Some(4096), 0x1000_0000));
    assert_eq!(container.iommu_info().unwrap().dirty_pages, None);
    assert!(matches!(container.iommu_info(), Err(Error::Answer { .. })), "what did not fit is not what is not there");
    assert!(container.iommu_info().unwrap_err().to_string().contains("no IOMMU is set"));
    done();
}

#[test]
fn a_container_s_dirty_pages_are_read_alone_and_while_unmapping() {
    let bits = |at: usize, bits: [u64; 2], result: Result<i32, i32>| -> Answer {
        Box::new(move |message| {
            assert_eq!(message.len(), 48);
            assert_eq!([u64_at(message, 8), u64_at(message, 16)], [0x10_0000, 70 * PAGE]);
            assert_eq!([u64_at(message, at), u64_at(message, at + 8)], [PAGE, 16]);
            let words = words_at(message, at + 16, 2);
            assert_eq!(words, [0, 0], "the kernel keeps the bits below an unaligned mapping");
            words.copy_from_slice(&bits);
            result
        })
    };
    let container = Container::new(null());
    let mut bitmap = bitmap();
    let unmap = Ask::Plain(nr::IOMMU_UNMAP_DMA);
    script([
        (Ask::Feature(1), Box::new(|_| Ok(0))),
        (GET_BITMAP, bits(24, [3, 0], Ok(0))),
        (unmap, bits(24, [0, 1 << 5 | 1 << 9], Ok(0))),
        (Ask::Feature(2), fails(ENOTTY)),
        (GET_BITMAP, bits(24, [0, 0], Err(EINVAL))),
    ]);
    container.start_dirty_pages().unwrap();
    container.dirty_pages(&mut bitmap).unwrap();
    assert_eq!(bitmap.words(), [3, 0]);
    assert_eq!(container.unmap_dma_dirty(&mut bitmap), Ok(70 * PAGE));
    assert_eq!(bitmap.words(), [0, 1 << 5]);
    assert!(container.stop_dirty_pages().unwrap_err().to_string().contains("an iommufd in its place"));
    let error = container.dirty_pages(&mut bitmap).unwrap_err();
    assert!(error.to_string().contains("was not started"), "{error}");
    assert_eq!(bitmap.dirty_pages(), 70);
    done();
}
