// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One test for each rule.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use alloc::{format, vec};
use core::num::NonZeroU64;
use std::sync::Mutex;

use super::super::slots::Slots;
use super::super::*;

const PAGE: u64 = 4096;

fn region(name: &str, pages: u64) -> Region {
    Region { name: name.into(), bytes: pages * PAGE, page_bytes: PAGE }
}

fn many(count: u64) -> NonZeroU64 {
    NonZeroU64::new(count).unwrap()
}

fn range(start: u64, length: u64) -> Range {
    Range::new(start, length).unwrap()
}

/// One region of so many pages at address 0.
fn tracking<'t>(pages: u64) -> (Tracking<'t>, RegionId) {
    let table = RegionTable::new(vec![region("ram", pages)], 4).unwrap();
    let mut tracking = Tracking::new(Ledger::of(&table, 1 << 20).unwrap(), 8, 4);
    let id = tracking.ledger().regions().next().unwrap().0;
    let _ = tracking.map(Slot { range: range(0, pages * PAGE), region: id, offset: 0 }).unwrap();
    (tracking, id)
}

fn take(tracking: &mut Tracking<'_>, pages: u64) -> Option<Owed> {
    tracking.take(Portion::new(many(pages), many(1 << 20))).unwrap()
}

fn send_all(tracking: &mut Tracking<'_>) {
    while let Some(owed) = take(tracking, 1 << 20) {
        tracking.acknowledge(owed).unwrap();
    }
}

fn runs(bitmap: &Bitmap, pages_max: u64) -> Vec<(u64, u64)> {
    bitmap.runs(many(pages_max)).map(|run| (run.first, run.count)).collect()
}

#[test]
fn runs_cross_words_and_are_cut() {
    let mut bitmap = Bitmap::new(300, 64).unwrap();
    bitmap.mark(0, 1);
    bitmap.mark(60, 140);
    bitmap.mark(255, 1000);
    assert_eq!(runs(&bitmap, u64::MAX), [(0, 1), (60, 140), (255, 45)]);
    assert_eq!(runs(&bitmap, 64), [(0, 1), (60, 64), (124, 64), (188, 12), (255, 45)]);
    bitmap.clear(100, 1);
    assert_eq!(runs(&bitmap, u64::MAX), [(0, 1), (60, 40), (101, 99), (255, 45)]);
    assert_eq!((bitmap.count(), bitmap.is_dirty(300), bitmap.is_dirty(299)), (185, false, true));
    bitmap.mark_all();
    assert_eq!(runs(&bitmap, u64::MAX), [(0, 300)]);
}

#[test]
fn blocks_are_those_with_a_dirty_page() {
    let mut bitmap = Bitmap::new(4096 * 5 + 3, 1 << 12).unwrap();
    [4095, 12800, 20482].iter().for_each(|page| bitmap.mark(*page, 1));
    let blocks: Vec<_> =
        bitmap.blocks().map(|block| (block.first(), block.runs(many(9)).next().unwrap().first)).collect();
    assert_eq!(blocks, [(0, 4095), (12288, 12800), (20480, 20482)]);
}

/// Against the plain loop over bits, at every pair of offsets within a word.
#[test]
fn words_are_marked_at_any_offset() {
    let words = [0x8000_0000_0000_0001, u64::MAX, 0x0123_4567_89ab_cdef];
    for (first, from) in (0..130).step_by(13).flat_map(|first| (0..70).step_by(7).map(move |from| (first, from))) {
        let mut fast = Bitmap::new(250, 64).unwrap();
        fast.mark_words(first, &words, from, 110);
        let mut slow = Bitmap::new(250, 64).unwrap();
        for k in (0..110).filter(|k| words[usize::try_from((from + k) / 64).unwrap()] >> ((from + k) % 64) & 1 == 1) {
            slow.mark(first + k, 1);
        }
        assert_eq!(fast, slow, "{first} {from}");
    }
}

#[test]
fn bitmaps_stay_below_the_limit() {
    assert_eq!(Bitmap::new(65, 8), Err(BitmapError::TooLarge { pages: 65, bytes: 16, bytes_max: 8 }));
    assert!(Bitmap::new(u64::MAX, u64::MAX).is_err());
    let mut ledger = Ledger::new(24 * 2);
    let first = ledger.add(region("a", 64)).unwrap();
    assert!(ledger.add(region("b", 64 * 3)).is_err(), "two bitmaps of 24 bytes and 16 bytes taken");
    ledger.remove(first);
    ledger.add(region("b", 64 * 3)).unwrap();
}

#[test]
fn portions_are_exact_and_go_around() {
    let (mut tracking, _) = tracking(200);
    let first = take(&mut tracking, 70).unwrap();
    assert_eq!((first.pages(), first.runs(many(999)).collect::<Vec<_>>()), (70, vec![Run { first: 0, count: 70 }]));
    let second = take(&mut tracking, 1000).unwrap();
    assert_eq!(second.runs(many(999)).collect::<Vec<_>>(), [Run { first: 70, count: 130 }]);
    assert!(take(&mut tracking, 1).is_none());
    tracking.give_back(first).unwrap();
    assert_eq!(take(&mut tracking, 1000).unwrap().pages(), 70);
    tracking.acknowledge(second).unwrap();
}

/// Otherwise the older copy could arrive last, on another channel.
#[test]
fn a_page_is_not_on_its_way_twice() {
    let (mut tracking, id) = tracking(10);
    let owed = take(&mut tracking, 10).unwrap();
    tracking.mark(id, 4, 2);
    assert!(take(&mut tracking, 10).is_none());
    tracking.acknowledge(owed).unwrap();
    assert_eq!(take(&mut tracking, 10).unwrap().pages(), 2);
}

#[test]
fn what_is_owed_comes_back_and_what_is_held_with_a_lost_target() {
    let (mut tracking, _) = tracking(100);
    let held = take(&mut tracking, 30).unwrap();
    tracking.acknowledge(held).unwrap();
    let late = take(&mut tracking, 30).unwrap();
    drop(take(&mut tracking, 10));
    assert_eq!((tracking.ledger().dirty_pages(), tracking.ledger().owed_pages()), (30, 40));
    tracking.give_up(Target::Kept);
    assert_eq!((tracking.ledger().dirty_pages(), tracking.ledger().owed_pages()), (70, 0));
    let stale = tracking.acknowledge(late).unwrap_err();
    assert!(stale.to_string().contains("30 pages of region 0"), "{stale}");
    assert_eq!(tracking.ledger().dirty_pages(), 70, "a late acknowledgement changes nothing");
    tracking.give_up(Target::Lost);
    assert_eq!(tracking.ledger().dirty_pages(), 100);
}

/// More batches on their way than are kept as such, taken from words they share, and pages dirty again beneath them.
#[test]
fn many_batches_on_their_way_are_owed_like_few() {
    let (mut tracking, id) = tracking(300);
    let mut batches: Vec<Owed> = (0..40).map(|_| take(&mut tracking, 7).unwrap()).collect();
    assert_eq!((tracking.ledger().dirty_pages(), tracking.ledger().owed_pages()), (20, 280));
    tracking.mark(id, 0, 300);
    let rest = take(&mut tracking, 300).unwrap();
    assert_eq!(
        rest.runs(many(999)).collect::<Vec<_>>(),
        [Run { first: 280, count: 20 }],
        "the others are on their way"
    );
    assert!(take(&mut tracking, 300).is_none());
    // One that has been in the account for long, one that has not.
    tracking.give_back(batches.remove(1)).unwrap();
    tracking.acknowledge(batches.remove(37)).unwrap();
    let again = take(&mut tracking, 300).unwrap();
    let again: Vec<Run> = again.runs(many(999)).collect();
    assert_eq!(again, [Run { first: 7, count: 7 }, Run { first: 266, count: 7 }]);
    assert_eq!(tracking.ledger().owed_pages(), 300);
    batches.into_iter().for_each(|owed| tracking.acknowledge(owed).unwrap());
    assert_eq!((tracking.ledger().dirty_pages(), tracking.ledger().owed_pages()), (266, 34));
    tracking.give_up(Target::Kept);
    assert_eq!((tracking.ledger().dirty_pages(), tracking.ledger().owed_pages()), (300, 0));
}

#[test]
fn a_batch_fits_its_own_ledger_only() {
    let (mut one, _) = tracking(10);
    let (mut other, _) = tracking(10);
    let owed = take(&mut one, 10).unwrap();
    let _other = take(&mut other, 10).unwrap();
    let stale = other.acknowledge(owed).unwrap_err();
    assert_eq!(other.ledger().owed_pages(), 10);
    one.acknowledge(stale.owed).unwrap();
}

#[test]
fn memory_is_complete_after_a_reading_of_the_stopped_guest() {
    let (mut tracking, _) = tracking(10);
    send_all(&mut tracking);
    assert_eq!(tracking.check_complete(), Err(Incomplete::NotCollected));
    let _ = tracking.collect(Guest::Stopped);
    assert_eq!(tracking.check_complete(), Ok(()));
    tracking.give_up(Target::Kept);
    assert_eq!(tracking.check_complete(), Err(Incomplete::NotCollected), "the guest runs again");
}

/// A tracker of 2 MiB reports pages, one of 1 KiB parts of them; slots may begin within a large page.
#[test]
fn reports_of_any_page_size_mark_pages() {
    let mut ledger = Ledger::new(1 << 20);
    let region = ledger.add(region("ram", 2048)).unwrap();
    let mut slots = Slots::new(1);
    slots.insert(Slot { range: range(0, 2048 * PAGE), region, offset: 0 }).unwrap();
    let mut report = |start, page_bytes, words: &[u64]| {
        while let Some(owed) = ledger.take(Portion::new(many(9999), many(9999))).unwrap() {
            ledger.acknowledge(owed).unwrap();
        }
        Marks::new(&slots, &mut ledger).words(start, page_bytes, words).unwrap();
        runs(ledger.dirty(region).unwrap(), u64::MAX)
    };
    assert_eq!(report(0, 2 << 20, &[0b1010]), [(512, 512), (1536, 512)]);
    assert_eq!(report(PAGE, 1024, &[1 << 3 | 1 << 9]), [(1, 1), (3, 1)]);
    assert_eq!(report(PAGE * 5, PAGE, &[0b101, 1]), [(5, 1), (7, 1), (69, 1)]);
    assert_eq!(report(2047 * PAGE, PAGE, &[u64::MAX]), [(2047, 1)], "what no memory is behind is passed over");
    assert_eq!(report(u64::MAX - 70, PAGE, &[u64::MAX, 1]), []);
    assert_eq!(report(100, PAGE, &[1]), [(0, 2)], "a report that is not aligned");
    assert!(Marks::new(&slots, &mut ledger).words(0, 3 * PAGE, &[1]).is_err());
}

#[test]
fn slots_that_do_not_fit_are_refused() {
    let (mut tracking, id) = tracking(10);
    let mut refused = |start, length, offset| {
        let slot = Slot { range: range(start, length), region: id, offset };
        tracking.map(slot).unwrap_err().to_string()
    };
    assert_eq!(
        refused(9 * PAGE, PAGE, 0),
        "0x9000..0xa000 overlaps the memory mapped at 0x0..0xa000; unmap that first"
    );
    assert!(refused(0x10_0000, 11 * PAGE, 0).contains("0xa000 bytes of its region"));
    assert!(refused(0x10_0000, PAGE, 10 * PAGE).contains("offset 0xa000"));
    assert!(refused(0x10_0000, PAGE, u64::MAX - 4095).contains("offset"));
    assert!(refused(0x10_0800, PAGE, 0).contains("not aligned"));
    assert!(refused(0x10_0000, PAGE, 7).contains("offset 0x7"));
    let hole = tracking.unmap(range(9 * PAGE, 2 * PAGE), |_| Ok::<_, String>(())).unwrap_err();
    assert_eq!(hole, UnmapError::Slot(SlotError::Hole { address: 10 * PAGE }));
    assert!(tracking.unmap(range(100, PAGE), |_| Ok::<_, String>(())).is_err(), "half pages stay");
    assert!(tracking.remove_region(id));
    let gone = tracking.map(Slot { range: range(0, PAGE), region: id, offset: 0 }).unwrap_err();
    assert!(matches!(gone, SlotError::NoRegion { .. }));
}

#[test]
fn the_bits_of_an_unmapping_are_taken_over() {
    let asked = Mutex::new(Vec::new());
    let (mut tracking, id) = tracking(100);
    let log = HostLog::new("log", |request: Request<'_, '_>| {
        if let Request::Read(range, marks) = request {
            asked.lock().unwrap().push(range);
            marks.range(Range::new(range.start(), 1).unwrap());
        }
        Ok(())
    });
    assert!(tracking.add_tracker(Box::new(log)).is_ok());
    tracking.start().unwrap();
    send_all(&mut tracking);
    let cut = range(40 * PAGE, 20 * PAGE);
    let _ = tracking.unmap(cut, |marks| marks.words(41 * PAGE, PAGE, &[0b11])).unwrap();
    assert_eq!(*asked.lock().unwrap(), [cut], "read once more, before it is gone");
    assert_eq!(runs(tracking.ledger().dirty(id).unwrap(), 99), [(40, 3)]);
    asked.lock().unwrap().clear();
    let _ = tracking.collect(Guest::Running);
    assert_eq!(*asked.lock().unwrap(), [range(0, 40 * PAGE), range(60 * PAGE, 40 * PAGE)], "what is left of the slot");
    assert_eq!(runs(tracking.ledger().dirty(id).unwrap(), 99), [(0, 1), (40, 3), (60, 1)]);
    let failed = tracking.unmap(range(0, 2 * PAGE), |_| Err("no")).unwrap_err();
    assert_eq!(failed, UnmapError::Unmap("no"));
    assert_eq!(runs(tracking.ledger().dirty(id).unwrap(), 99), [(0, 2), (40, 3), (60, 1)]);
}

/// Two trackers; one fails once.
#[test]
fn a_failed_report_makes_everything_dirty_until_a_restart() {
    let fails = Mutex::new(false);
    let (mut tracking, _) = tracking(100);
    let log = HostLog::new("net0 (a log)", |request: Request<'_, '_>| match request {
        Request::Read(..) if *fails.lock().unwrap() => Err("it broke".into()),
        _ => Ok(()),
    });
    assert!(tracking.add_tracker(Box::new(HostLog::new("kvm", |_: Request<'_, '_>| Ok(())))).is_ok());
    assert!(tracking.add_tracker(Box::new(log)).is_ok());
    tracking.start().unwrap();
    send_all(&mut tracking);
    assert_eq!(tracking.collect(Guest::Running), Collected::default());
    assert_eq!(tracking.ledger().dirty_pages(), 0);
    *fails.lock().unwrap() = true;
    let collected = tracking.collect(Guest::Running);
    assert_eq!(
        collected.errors[0].to_string(),
        "net0 (a log): reading the dirty pages of 0x0..0x64000 failed: it broke"
    );
    assert_eq!((collected.not_running, tracking.ledger().dirty_pages()), (1, 100));
    *fails.lock().unwrap() = false;
    send_all(&mut tracking);
    assert_eq!(tracking.collect(Guest::Running).not_running, 1, "it is not asked again");
    assert_eq!(tracking.ledger().dirty_pages(), 100);
    send_all(&mut tracking);
    assert_eq!(tracking.restart_failed(), []);
    assert_eq!(tracking.ledger().dirty_pages(), 100, "nobody looked until now");
    send_all(&mut tracking);
    assert_eq!(tracking.collect(Guest::Running), Collected::default());
    assert_eq!(tracking.ledger().dirty_pages(), 0);
}

#[test]
fn a_start_that_fails_stops_what_it_started() {
    let calls = Mutex::new(Vec::new());
    let (mut tracking, _) = tracking(10);
    let log = |name: &'static str, fails: bool| {
        let calls = &calls;
        HostLog::new(name, move |request: Request<'_, '_>| {
            calls.lock().unwrap().push(match request {
                Request::Start(ranges) => format!("{name} start {}", ranges.len()),
                Request::Stop => format!("{name} stop"),
                _ => format!("{name} other"),
            });
            if fails { Err("no".into()) } else { Ok(()) }
        })
    };
    assert!(tracking.add_tracker(Box::new(log("a", false))).is_ok());
    assert!(tracking.add_tracker(Box::new(log("b", true))).is_ok());
    assert_eq!(tracking.start().unwrap_err().to_string(), "b: starting to track dirty pages failed: no");
    assert_eq!(*calls.lock().unwrap(), ["a start 1", "b start 1", "a stop"]);
    let states: Vec<_> = tracking.trackers().collect();
    assert_eq!(states, [("a", TrackerState::Idle), ("b", TrackerState::Failed)]);
}

#[test]
fn tables_that_differ_say_all_of_it() {
    let table = |regions: &[(&str, u64, u64)]| {
        let region = |&(name, pages, page): &(&str, u64, u64)| Region {
            name: name.into(),
            bytes: pages * page,
            page_bytes: page,
        };
        RegionTable::new(regions.iter().map(region).collect(), 8)
    };
    let source = table(&[("ram", 512, PAGE), ("rom", 7, PAGE), ("old", 1, PAGE), ("huge", 1, 2 << 20)]).unwrap();
    source.compare(&source.clone()).unwrap();
    let target = table(&[("rom", 8, PAGE), ("ram", 1, 2 << 20), ("huge", 1, 2 << 20), ("new", 1, PAGE)]).unwrap();
    let differ = source.compare(&target).unwrap_err();
    assert_eq!(
        differ.to_string(),
        "the guest memory of the two sides differs: ram has pages of 4096 bytes on the source and of 2097152 on the target; \
         rom has 28672 bytes on the source and 32768 on the target; old does not exist on the target; new exists on the target \
         only; common region 0 is ram on the source and rom on the target"
    );
    assert!(matches!(table(&[("a", 1, PAGE), ("a", 2, PAGE)]), Err(RegionError::Name { .. })));
    assert!(matches!(table(&[("a", 0, PAGE)]), Err(RegionError::Size { .. })));
    assert!(matches!(table(&[("a", 1, 5000)]), Err(RegionError::PageSize { .. })));
    assert!(matches!(table(&[("a", 1, PAGE); 9]), Err(RegionError::TooMany { .. })));
    let odd = Region { name: "odd".into(), bytes: PAGE + 1, page_bytes: PAGE };
    assert!(matches!(RegionTable::new(vec![odd], 8), Err(RegionError::Size { .. })));
}

#[test]
fn the_best_source_is_chosen_and_no_source_is_refused() {
    let mut offers = Offers::none("net0");
    let refused = choose(&offers, Untracked::Refuse).unwrap_err().to_string();
    for remedy in ["character device", "CONFIG_IOMMUFD_DRIVER", "while the guest stands"] {
        assert!(refused.starts_with("net0: ") && refused.contains(remedy), "{refused}");
    }
    let copied = choose(&offers, Untracked::CopyWhileStopped).unwrap();
    assert_eq!(copied.source, Source::StoppedCopy);
    offers.host = Offer::Works;
    assert_eq!(choose(&offers, Untracked::CopyWhileStopped).unwrap().source, Source::Host);
    offers.container = Offer::Works;
    assert_eq!(choose(&offers, Untracked::Refuse).unwrap().source, Source::Container);
    offers.page_table = Offer::Works;
    offers.device_log = Offer::Refused("its reports fail with EOPNOTSUPP".into());
    let choice = choose(&offers, Untracked::Refuse).unwrap();
    assert_eq!(choice.source, Source::PageTable);
    assert!(
        choice.reason.ends_with("passed over: the DMA log of the device: its reports fail with EOPNOTSUPP"),
        "{choice:?}"
    );
    offers.device_log = Offer::Works;
    assert_eq!(choose(&offers, Untracked::Refuse).unwrap().source, Source::DeviceLog);
}
