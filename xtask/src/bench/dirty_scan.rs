// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `dirty-scan`: what it costs to find dirty pages in the bitmap of 1 TiB of guest memory.
//!
//! One bit per page of 4 KiB, 32 MiB of words, random pages dirty. Three questions, each beside the least that can be done with the same
//! words: finding the blocks with dirty pages, beside the sum of all words; taking pages off the account to send them and entering them as sent, beside
//! moving all words from a bitmap to a second and on to a third, which are the three states of a page (moving them once is
//! shown beside it); and singling out every stretch, beside copying one page of 4 KiB for each, which is what stretches are
//! for. Time is this thread's processor time: a pass takes a millisecond, and others want the processor too.

use core::hint::black_box;
use core::num::NonZeroU64;
use std::collections::VecDeque;

use savevm_core::dirty::{Bitmap, Ledger, Owed, Portion, Region, RegionId};

use super::tap::processor_time;
use super::{Comparison, Contender, Goal, Outcome, Setting, Unit};

const PAGE_BYTES: u64 = 4096;
/// What a pass may cost, in passes over bare words: a speed of two thirds.
const GOAL: Goal = Goal::AtLeast(1.0 / 1.5);
/// A share of dirty pages, and what it is called.
type Share = (u64, &'static str);
/// Of a million pages, the one that is judged first.
const SHARES: [Share; 5] =
    [(10_000, "1 % dirty"), (0, "clean"), (100, "0.01 % dirty"), (100_000, "10 % dirty"), (500_000, "50 % dirty")];
/// A single pass is too short to measure.
const PASSES: u64 = 4;
/// What a batch is, in pages: 64 MiB out of a stretch of at most 8 GiB.
const PORTION: (u64, u64) = (16384, 2 << 20);
/// Batches on their way at once.
const WINDOW: usize = 8;

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>, String> {
    let pages: u64 = if setting.quick { 1 << 24 } else { 1 << 28 };
    let mut outcomes = Vec::new();
    for (index, share) in SHARES.into_iter().enumerate() {
        let goal = (index == 0).then_some(GOAL);
        let bitmap = random(pages, share.0)?;
        outcomes.push(find(setting, &bitmap, share.1, goal)?);
        outcomes.push(take(setting, &bitmap, share.1, goal)?);
        if index == 0 {
            outcomes.push(runs(setting, &bitmap, share.1)?);
        }
    }
    Ok(outcomes)
}

/// `per_million` of the pages marked, anywhere.
fn random(pages: u64, per_million: u64) -> Result<Bitmap, String> {
    let mut bitmap = Bitmap::new(pages, u64::MAX).map_err(|error| error.to_string())?;
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..pages.saturating_mul(per_million) / 1_000_000 {
        state ^= state.wrapping_shl(13);
        state ^= state.wrapping_shr(7);
        state ^= state.wrapping_shl(17);
        bitmap.mark(state.checked_rem(pages).unwrap_or_default(), 1);
    }
    Ok(bitmap)
}

/// Speeds are of the bitmap's own bytes.
fn bytes(bitmap: &Bitmap) -> u64 {
    bitmap.pages() / 8
}

/// Does `work` and gives the speed, by processor time, at which it went through `bytes`.
fn per_second(bytes: u64, work: impl FnOnce() -> Result<(), String>) -> Result<f64, String> {
    let begin = processor_time()?;
    work()?;
    let seconds = processor_time()?.saturating_sub(begin).as_secs_f64();
    let kibibytes = u32::try_from(bytes >> 10).unwrap_or(u32::MAX);
    Ok(f64::from(kibibytes) * 1024.0 / seconds.max(f64::MIN_POSITIVE))
}

fn sum(words: &[u64]) -> u64 {
    words.iter().fold(0, |sum, word| sum.wrapping_add(*word))
}

fn find(setting: &Setting, bitmap: &Bitmap, share: &str, goal: Option<Goal>) -> Result<Outcome, String> {
    let speed = |pass: fn(&Bitmap) -> u64| {
        per_second(bytes(bitmap).saturating_mul(PASSES), || {
            (0..PASSES).for_each(|_| {
                black_box(pass(black_box(bitmap)));
            });
            Ok(())
        })
    };
    setting.compare(Comparison {
        name: format!("dirty-scan/find, {share}"),
        unit: Unit::BytesPerSecond,
        baseline: Contender::new("sum of all words", None, || speed(|bitmap| sum(bitmap.words()))),
        contenders: vec![
            Contender::new("blocks", goal, || {
                speed(|bitmap| bitmap.blocks().fold(0, |seen, block| seen ^ block.first() ^ sum(block.words())))
            }),
            Contender::new("pages counted", None, || speed(Bitmap::count)),
            Contender::new("stretches, one by one", None, || speed(stretches)),
        ],
    })
}

fn stretches(bitmap: &Bitmap) -> u64 {
    let runs = bitmap.blocks().flat_map(|block| block.runs(NonZeroU64::MAX));
    runs.fold(0, |seen, run| seen.wrapping_add(run.first ^ run.count))
}

/// The account's dirty, owed and held bits, as three bare bitmaps and as the account: with a window of batches on their way, as the
/// engine has it, each acknowledged in time.
fn take(setting: &Setting, bitmap: &Bitmap, share: &str, goal: Option<Goal>) -> Result<Outcome, String> {
    let mut from = bitmap.words().to_vec();
    let mut between = vec![0_u64; from.len()];
    let mut into = vec![0_u64; from.len()];
    let (mut source, mut copy) = (from.clone(), into.clone());
    let once = move || {
        source.copy_from_slice(bitmap.words());
        copy.fill(0);
        per_second(bytes(bitmap), || {
            black_box(move_words(black_box(&mut source), black_box(&mut copy)));
            Ok(())
        })
    };
    let moved = move || {
        from.copy_from_slice(bitmap.words());
        into.fill(0);
        per_second(bytes(bitmap), || {
            move_words(black_box(&mut from), black_box(&mut between));
            black_box(move_words(black_box(&mut between), black_box(&mut into)));
            Ok(())
        })
    };
    let (mut ledger, region) = account(bitmap)?;
    let taken = move || {
        mark(&mut ledger, region, bitmap);
        let mut pages = 0_u64;
        let speed = per_second(bytes(bitmap), || {
            let (portion, mut under_way) = (portion()?, VecDeque::with_capacity(WINDOW));
            let mut settle = |owed: Owed| {
                pages = pages.saturating_add(owed.pages());
                owed
            };
            while let Some(owed) = ledger.take(portion).map_err(|error| error.to_string())? {
                under_way.push_back(black_box(owed));
                if under_way.len() == WINDOW {
                    let oldest = under_way.pop_front().map(&mut settle);
                    oldest.map_or(Ok(()), |owed| ledger.acknowledge(owed)).map_err(|error| error.to_string())?;
                }
            }
            let mut rest = under_way.into_iter().map(&mut settle);
            rest.try_for_each(|owed| ledger.acknowledge(owed)).map_err(|error| error.to_string())
        })?;
        if pages == bitmap.count() { Ok(speed) } else { Err(format!("{pages} pages were taken")) }
    };
    setting.compare(Comparison {
        name: format!("dirty-scan/take, {share}"),
        unit: Unit::BytesPerSecond,
        baseline: Contender::new("words moved on, twice", None, moved),
        contenders: vec![
            Contender::new("words moved on, once", None, once),
            Contender::new("portions of 64 MiB", goal, taken),
        ],
    })
}

fn move_words(from: &mut [u64], into: &mut [u64]) -> u64 {
    from.iter_mut().zip(into).fold(0, |sum, (from, into)| {
        let word = core::mem::take(from);
        *into |= word;
        sum.wrapping_add(word)
    })
}

fn portion() -> Result<Portion, String> {
    let number = |value| NonZeroU64::new(value).ok_or("a portion of nothing");
    Ok(Portion::new(number(PORTION.0)?, number(PORTION.1)?))
}

/// An account of one region whose pages the target has.
fn account(bitmap: &Bitmap) -> Result<(Ledger, RegionId), String> {
    let region =
        Region { name: "ram".into(), bytes: bitmap.pages().saturating_mul(PAGE_BYTES), page_bytes: PAGE_BYTES };
    let mut ledger = Ledger::new(u64::MAX);
    let region = ledger.add(region).map_err(|error| error.to_string())?;
    while let Some(owed) = ledger.take(portion()?).map_err(|error| error.to_string())? {
        ledger.acknowledge(owed).map_err(|error| error.to_string())?;
    }
    Ok((ledger, region))
}

fn mark(ledger: &mut Ledger, region: RegionId, bitmap: &Bitmap) {
    bitmap.runs(NonZeroU64::MAX).for_each(|run| ledger.mark(region, run.first, run.count));
}

/// Pages copied one by one, out of memory that no cache holds, in the order of the stretches; and singled out besides.
fn runs(setting: &Setting, bitmap: &Bitmap, share: &str) -> Result<Outcome, String> {
    let memory = vec![1_u8; 64 << 20];
    let page_bytes = usize::try_from(PAGE_BYTES).map_err(|error| error.to_string())?;
    let mut buffer = vec![0_u8; page_bytes];
    let pages: Vec<u64> = bitmap.runs(NonZeroU64::MAX).take(1 << 16).map(|run| run.first).collect();
    let end = pages.last().copied().unwrap_or_default();
    let count = u64::try_from(pages.len()).unwrap_or(u64::MAX);
    let mut copy = |page: u64| {
        let pages = memory.len().checked_div(page_bytes).unwrap_or(1);
        let slot = usize::try_from(page).unwrap_or_default().checked_rem(pages).unwrap_or_default();
        if let Some(source) = memory.chunks_exact(page_bytes).nth(slot) {
            buffer.copy_from_slice(source);
            black_box(&mut buffer);
        }
    };
    let copy = core::cell::RefCell::new(&mut copy);
    setting.compare(Comparison {
        name: format!("dirty-scan/copy, {share}"),
        unit: Unit::BytesPerSecond,
        baseline: Contender::new("pages of a list", None, || {
            per_second(count.saturating_mul(PAGE_BYTES), || {
                pages.iter().for_each(|page| copy.borrow_mut()(*page));
                Ok(())
            })
        }),
        contenders: vec![Contender::new("pages of the bitmap", Some(Goal::AtLeast(0.9)), || {
            per_second(count.saturating_mul(PAGE_BYTES), || {
                let runs = bitmap.blocks().flat_map(|block| block.runs(NonZeroU64::MAX));
                runs.map(|run| run.first).take_while(|first| *first <= end).for_each(|page| copy.borrow_mut()(page));
                Ok(())
            })
        })],
    })
}
