// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::fs::File;

use nix::libc::ENOTTY;

use super::*;

const PAGE: u64 = 4096;

fn range(iova: u64, length: u64) -> DmaRange {
    DmaRange { iova, length }
}

fn null() -> Device<File> {
    Device::with_label(File::open("/dev/null").unwrap(), "null")
}

#[test]
fn ranges_the_kernel_should_refuse_are_refused() {
    let refused = |page_size, ranges: &[DmaRange]| check_ranges(page_size, ranges).unwrap_err();
    let good = range(0, PAGE);
    assert_eq!(refused(PAGE, &[]), Refusal::NoRange);
    assert_eq!(refused(0, &[good]), Refusal::PageSize { page_size: 0, min: 1 });
    assert_eq!(refused(3, &[range(0, 3)]), Refusal::PageSize { page_size: 3, min: 1 });
    assert_eq!(refused(PAGE, &[good, range(0x5000, 0)]), Refusal::EmptyRange { iova: 0x5000 });
    for (iova, length) in [(1, PAGE), (PAGE, 1), (PAGE / 2, PAGE / 2)] {
        assert_eq!(refused(PAGE, &[range(iova, length)]), Refusal::UnalignedRange { iova, length, page_size: PAGE });
    }
    let last = 0_u64.wrapping_sub(PAGE);
    assert_eq!(refused(PAGE, &[range(last, PAGE)]), Refusal::RangeEnd { iova: last, length: PAGE });
    assert_eq!(refused(PAGE, &[range(last, 2 * PAGE)]), Refusal::RangeEnd { iova: last, length: 2 * PAGE });
    let overlap = Refusal::Overlap { first: 0x1000, second: 0x2000 };
    assert_eq!(refused(PAGE, &[range(0x2000, PAGE), range(0x9000, PAGE), range(0x1000, 2 * PAGE)]), overlap);
    assert_eq!(refused(PAGE, &[good, good]), Refusal::Overlap { first: 0, second: 0 });
    assert_eq!(refused(PAGE, &vec![good; 4097]), Refusal::TooManyRanges { count: 4097, max: 4096 });
}

#[test]
fn ranges_that_touch_and_the_last_possible_page_pass() {
    let last = 0_u64.wrapping_sub(2 * PAGE);
    check_ranges(PAGE, &[range(0x2000, PAGE), range(0x1000, PAGE), range(last, PAGE), range(0x3000, PAGE)]).unwrap();
}

#[test]
#[cfg_attr(miri, ignore = "system calls")]
fn only_sound_ranges_reach_the_kernel() {
    let error = null().dma_logging_start(PAGE, &[range(1, PAGE)]).unwrap_err();
    assert!(matches!(error, Error::Refused { call: Call::DmaLoggingStart, .. }), "{error}");
    let error = null().dma_logging_start(PAGE, &[range(0, PAGE)]).unwrap_err();
    assert_eq!((error.errno(), error.call()), (Some(ENOTTY), Call::DmaLoggingStart));
}

#[test]
fn bitmaps_the_kernel_would_misread_are_refused() {
    let refused = |range, page_size| DirtyBitmap::new(range, page_size).unwrap_err();
    assert_eq!(refused(range(0, PAGE), 2048), Refusal::PageSize { page_size: 2048, min: 4096 });
    assert_eq!(refused(range(0, 3 * PAGE), 3 * PAGE), Refusal::PageSize { page_size: 3 * PAGE, min: 4096 });
    assert_eq!(refused(range(PAGE, 0), PAGE), Refusal::EmptyRange { iova: PAGE });
    let whole = 0_u64.wrapping_sub(PAGE);
    assert_eq!(refused(range(0, whole), PAGE), Refusal::BitmapSize { bytes: (whole / PAGE).div_ceil(64) * 8 });
    let too_large = DirtyBitmap::MAX_BYTES * 8 * PAGE + PAGE;
    assert_eq!(refused(range(0, too_large), PAGE), Refusal::BitmapSize { bytes: DirtyBitmap::MAX_BYTES + 8 });
}

#[test]
fn bits_are_pages_from_the_start_of_the_range() {
    let mut bitmap = DirtyBitmap::new(range(0x10_0000, 130 * PAGE), PAGE).unwrap();
    assert_eq!(bitmap.words().len(), 3);
    assert_eq!(bitmap.iter().next(), None);
    bitmap.zeroed_words().copy_from_slice(&[1 | 1 << 63, 0, 0b10]);
    let pages = [0, 63, 129].map(|page| 0x10_0000 + page * PAGE);
    assert_eq!(bitmap.iter().collect::<Vec<_>>(), pages);
    assert_eq!(bitmap.dirty_pages(), 3);
    assert_eq!(bitmap.zeroed_words(), [0, 0, 0], "a report starts clean");
}

#[test]
fn no_page_lies_beyond_the_range() {
    for pages in [1, 63, 64, 65, 128, 130] {
        let mut bitmap = DirtyBitmap::new(range(0, pages * PAGE), PAGE).unwrap();
        bitmap.mark_all();
        assert_eq!(bitmap.dirty_pages(), pages);
        assert_eq!(bitmap.iter().last(), Some((pages - 1) * PAGE));
        bitmap.zeroed_words().fill(u64::MAX);
        bitmap.clear_tail();
        assert_eq!(bitmap.dirty_pages(), pages);
    }
}

#[test]
fn stretches_of_dirty_pages_are_as_long_as_they_can_be() {
    let mut bitmap = DirtyBitmap::new(range(0x10_0000, 200 * PAGE), PAGE).unwrap();
    let mut stretches = |words: [u64; 4]| {
        bitmap.zeroed_words().copy_from_slice(&words);
        let page = |iova: u64| (iova - 0x10_0000) / PAGE;
        bitmap.dirty_ranges().map(|range| (page(range.iova), range.length / PAGE)).collect::<Vec<_>>()
    };
    assert_eq!(stretches([0, 0, 0, 0]), []);
    assert_eq!(stretches([0b1011, 0, 0, 0]), [(0, 2), (3, 1)]);
    assert_eq!(stretches([1 << 63, 1, 0, 1 << 7]), [(63, 2), (199, 1)]);
    assert_eq!(stretches([0, u64::MAX, u64::MAX, 0b11]), [(64, 130)]);
    assert_eq!(stretches([u64::MAX, u64::MAX, u64::MAX, 0xff]), [(0, 200)]);
}

#[test]
fn stretches_are_the_pages_of_the_slow_way() {
    // Any words will do; the multiplier only spreads the bits.
    for seed in 1..200_u64 {
        let mut bitmap = DirtyBitmap::new(range(0, 150 * PAGE), PAGE).unwrap();
        for (index, word) in bitmap.zeroed_words().iter_mut().enumerate() {
            *word = (seed + index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(seed as u32);
        }
        bitmap.clear_tail();
        let pages =
            bitmap.dirty_ranges().flat_map(|range| (0..range.length / PAGE).map(move |n| range.iova + n * PAGE));
        assert_eq!(pages.collect::<Vec<_>>(), bitmap.iter().collect::<Vec<_>>(), "{seed}");
    }
}

#[test]
fn readings_of_the_same_pages_add_up() {
    let reading = |words: [u64; 2]| {
        let mut bitmap = DirtyBitmap::new(range(PAGE, 70 * PAGE), PAGE).unwrap();
        bitmap.zeroed_words().copy_from_slice(&words);
        bitmap
    };
    let mut sum = reading([0b01, 0]);
    assert!(!sum.is_clean() && reading([0, 0]).is_clean() && !reading([0, 1]).is_clean());
    sum.union(&reading([0b10, 4])).unwrap();
    assert_eq!(sum.words(), [0b11, 4]);
    let other = DirtyBitmap::new(range(0, 70 * PAGE), PAGE).unwrap();
    assert_eq!(sum.union(&other), Err(Refusal::OtherPages { range: other.range(), page_size: PAGE }));
    let other = DirtyBitmap::new(range(0, 70 * PAGE), 2 * PAGE).unwrap();
    sum.union(&other).unwrap_err();
    assert_eq!(sum.words(), [0b11, 4], "nothing of the other is in it");
}

#[test]
#[cfg_attr(miri, ignore = "system calls")]
fn a_failed_report_makes_everything_dirty() {
    let mut bitmap = DirtyBitmap::new(range(PAGE, 70 * PAGE), PAGE).unwrap();
    let error = null().dma_logging_report(&mut bitmap).unwrap_err();
    assert_eq!((error.errno(), error.call()), (Some(ENOTTY), Call::DmaLoggingReport));
    assert!(error.to_string().contains("treat every page as dirty"), "{error}");
    assert_eq!(bitmap.dirty_pages(), 70);
}
