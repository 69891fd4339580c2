// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Taking dirty pages off a bitmap, and entering what has become of them: block by block, at the speed of a pass over its words.

use alloc::vec::Vec;

use super::bitmap::BitmapError;
use super::ledger::Account;
use super::owed::Portion;
use super::runs::BLOCK_WORDS;

/// What was taken.
pub(super) struct Taken {
    /// The page of the lowest bit.
    pub(super) first: u64,
    pub(super) words: Vec<u64>,
    pub(super) pages: u64,
}

/// Moves the next pages that are dirty and not owed from dirty to owed, from word `from` on. Also says where to go on.
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
    let (dirty, owed) = (account.dirty.words_mut(), account.owed.words_mut());
    let span = span.min(dirty.len().saturating_sub(begin));
    let end = begin.saturating_add(span);
    let (Some(dirty), Some(owed)) = (dirty.get_mut(begin..end), owed.get_mut(begin..end)) else { return Ok(None) };
    words.clear();
    let bytes = u64::try_from(span).unwrap_or(u64::MAX).saturating_mul(8);
    words.try_reserve_exact(span).map_err(|_| BitmapError::NoMemory { bytes })?;
    let mut words = core::mem::take(words);
    let mut left = portion.pages_max.get();
    for (dirty, owed) in dirty.chunks_mut(BLOCK_WORDS).zip(owed.chunks_mut(BLOCK_WORDS)) {
        if left == 0 {
            break;
        }
        let mut block = [0; BLOCK_WORDS];
        let mut used = dirty.len();
        // What is not dirty is not on its way from here: its words need not be touched.
        if dirty.iter().fold(0, |any, word| any | word) != 0 {
            let pages = move_free(dirty, owed, &mut block);
            if pages > left {
                used = move_back(dirty, owed, &mut block, left);
            }
            left = left.saturating_sub(pages);
        }
        words.extend_from_slice(block.get(..used).unwrap_or_default());
    }
    // A word that was taken in part is the first of the next portion.
    let next = begin.saturating_add(words.len()).saturating_sub(usize::from(left == 0));
    let first = u64::try_from(begin).unwrap_or(u64::MAX).saturating_mul(64);
    let pages = portion.pages_max.get().saturating_sub(left);
    Ok(Some((Taken { first, words, pages }, next)))
}

/// Moves what is dirty and not owed from dirty to owed, notes it in `taken` and counts it. One pass, for what is in a cache now is not
/// in a next one.
fn move_free(dirty: &mut [u64], owed: &mut [u64], taken: &mut [u64; BLOCK_WORDS]) -> u64 {
    for ((dirty, owed), taken) in dirty.iter_mut().zip(owed).zip(taken.iter_mut()) {
        *taken = *dirty & !*owed;
        *owed |= *dirty;
        *dirty ^= *taken;
    }
    taken.iter().map(|word| u64::from(word.count_ones())).sum()
}

/// Moves all but the lowest `count` pages of what was just taken back. Gives the number of words up to the last of those.
fn move_back(dirty: &mut [u64], owed: &mut [u64], taken: &mut [u64; BLOCK_WORDS], count: u64) -> usize {
    let (mut left, mut used) = (count, 0);
    for (index, ((dirty, owed), taken)) in dirty.iter_mut().zip(owed).zip(taken.iter_mut()).enumerate() {
        let kept = lowest(*taken, left);
        let rest = *taken & !kept;
        *dirty |= rest;
        *owed &= !rest;
        *taken = kept;
        left = left.saturating_sub(u64::from(kept.count_ones()));
        if kept != 0 {
            used = index.saturating_add(1);
        }
    }
    used
}

/// Moves what was taken from owed into another bitmap.
pub(super) fn settle(owed: &mut [u64], into: &mut [u64], taken: &[u64]) {
    let blocks = owed.chunks_mut(BLOCK_WORDS).zip(into.chunks_mut(BLOCK_WORDS)).zip(taken.chunks(BLOCK_WORDS));
    for ((owed, into), taken) in blocks {
        // Where nothing was taken there is nothing to write, and memory that is not written is moved once instead of twice.
        if taken.iter().fold(0, |any, word| any | word) != 0 {
            for ((owed, into), taken) in owed.iter_mut().zip(into).zip(taken) {
                *owed &= !taken;
                *into |= taken;
            }
        }
    }
}

/// The first word from `from` on with a page that is dirty and not owed.
fn find(account: &Account, from: usize) -> Option<usize> {
    let (dirty, owed) = (account.dirty.words().get(from..)?, account.owed.words().get(from..)?);
    let blocks = dirty.chunks(BLOCK_WORDS).zip(owed.chunks(BLOCK_WORDS));
    let any = |(dirty, owed): (&[u64], &[u64])| {
        dirty.iter().fold(0, |any, word| any | word) != 0
            && dirty.iter().zip(owed).fold(0, |any, (d, o)| any | (d & !o)) != 0
    };
    let block = blocks.clone().position(any)?;
    let (dirty, owed) = blocks.clone().nth(block)?;
    let within = dirty.iter().zip(owed).position(|(dirty, owed)| dirty & !owed != 0)?;
    from.checked_add(block.saturating_mul(BLOCK_WORDS))?.checked_add(within)
}

/// The lowest `count` ones of `bits`.
fn lowest(bits: u64, count: u64) -> u64 {
    let mut rest = bits;
    for _ in 0..count.min(64) {
        rest &= rest.wrapping_sub(1);
    }
    bits & !rest
}
