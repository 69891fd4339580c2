// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Taking dirty pages off a bitmap: block by block, at the speed of a pass over its words.

use alloc::vec::Vec;

use super::bitmap::BitmapError;
use super::ledger::Account;
use super::owed::Portion;
use super::runs::BLOCK_WORDS;
use super::under_way::Overlaps;

/// What was taken.
pub(super) struct Taken {
    /// The page of the lowest bit.
    pub(super) first: u64,
    pub(super) words: Vec<u64>,
    pub(super) pages: u64,
}

/// Takes the next pages that are dirty and not owed off the dirty ones, from word `from` on. Also says where to go on.
///
/// `words` is memory of an earlier batch, or none: a batch is hundreds of KiB, and memory that is new from the system costs more than
/// the pass over it.
pub(super) fn take(
    account: &mut Account,
    from: usize,
    portion: Portion,
    words: &mut Vec<u64>,
) -> Result<Option<(Taken, usize)>, BitmapError> {
    let Some(begin) = find(account, from) else { return Ok(None) };
    let span = usize::try_from(portion.span_pages_max.get().div_ceil(64)).unwrap_or(usize::MAX);
    let span = span.min(account.dirty.words().len().saturating_sub(begin));
    let owed = account.under_way.overlaps(begin..begin.saturating_add(span));
    let dirty = account.dirty.words_mut().get_mut(begin..begin.saturating_add(span)).unwrap_or_default();
    words.clear();
    let bytes = u64::try_from(span).unwrap_or(u64::MAX).saturating_mul(8);
    words.try_reserve_exact(span).map_err(|_| BitmapError::NoMemory { bytes })?;
    let mut words = core::mem::take(words);
    let mut left = portion.pages_max.get();
    for dirty in dirty.chunks_mut(BLOCK_WORDS) {
        if left == 0 {
            break;
        }
        let done = words.len();
        words.extend_from_slice(dirty);
        let taken = words.get_mut(done..).unwrap_or_default();
        if !any(taken) {
            continue;
        }
        let pages = move_free(dirty, &owed, begin.saturating_add(done), taken);
        if pages > left {
            let used = move_back(dirty, taken, left);
            words.truncate(done.saturating_add(used));
        }
        left = left.saturating_sub(pages);
    }
    // A word that was taken in part is the first of the next portion.
    let next = begin.saturating_add(words.len()).saturating_sub(usize::from(left == 0));
    let first = u64::try_from(begin).unwrap_or(u64::MAX).saturating_mul(64);
    let pages = portion.pages_max.get().saturating_sub(left);
    Ok(Some((Taken { first, words, pages }, next)))
}

/// Takes what is dirty and not owed off words that begin at `at`, and counts it. `taken` is their copy.
fn move_free(dirty: &mut [u64], owed: &Overlaps<'_>, at: usize, taken: &mut [u64]) -> u64 {
    if owed.is_empty() {
        dirty.fill(0);
    } else {
        owed.clear(at, taken);
        dirty.iter_mut().zip(taken.iter()).for_each(|(dirty, taken)| *dirty ^= taken);
    }
    taken.iter().map(|word| u64::from(word.count_ones())).sum()
}

/// Moves all but the lowest `count` pages of what was just taken back. Gives the number of words up to the last of those.
fn move_back(dirty: &mut [u64], taken: &mut [u64], count: u64) -> usize {
    let (mut left, mut used) = (count, 0);
    for (index, (dirty, taken)) in dirty.iter_mut().zip(taken.iter_mut()).enumerate() {
        let kept = lowest(*taken, left);
        *dirty |= *taken & !kept;
        *taken = kept;
        left = left.saturating_sub(u64::from(kept.count_ones()));
        if kept != 0 {
            used = index.saturating_add(1);
        }
    }
    used
}

/// The first word from `from` on with a page that is dirty and not owed.
fn find(account: &Account, from: usize) -> Option<usize> {
    let dirty = account.dirty.words().get(from..)?;
    let owed = account.under_way.overlaps(from..account.dirty.words().len());
    let mut at = from;
    for dirty in dirty.chunks(BLOCK_WORDS) {
        if any(dirty) {
            let mut free = [0; BLOCK_WORDS];
            free.iter_mut().zip(dirty).for_each(|(free, dirty)| *free = *dirty);
            owed.clear(at, &mut free);
            if let Some(within) = free.iter().position(|word| *word != 0) {
                return at.checked_add(within);
            }
        }
        at = at.saturating_add(dirty.len());
    }
    None
}

/// Whether not all words are 0.
pub(super) fn any(words: &[u64]) -> bool {
    words.iter().fold(0, |any, word| any | word) != 0
}

/// The lowest `count` ones of `bits`.
fn lowest(bits: u64, count: u64) -> u64 {
    if count >= u64::from(bits.count_ones()) {
        return bits;
    }
    let mut rest = bits;
    for _ in 0..count {
        rest &= rest.wrapping_sub(1);
    }
    bits & !rest
}
