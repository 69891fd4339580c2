// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Taking dirty pages off a bitmap: block by block, at the speed of a pass over its words.

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
        let at = words.len();
        words.extend(dirty.iter().zip(owed.iter()).map(|(dirty, owed)| dirty & !owed));
        let free = words.get(at..).unwrap_or_default();
        if free.iter().fold(0, |any, word| any | word) == 0 {
            continue;
        }
        let pages: u64 = free.iter().map(|word| u64::from(word.count_ones())).sum();
        if pages <= left {
            for ((dirty, owed), bits) in dirty.iter_mut().zip(owed).zip(free) {
                move_bits(dirty, owed, *bits);
            }
            left = left.saturating_sub(pages);
        } else {
            words.truncate(at);
            for (dirty, owed) in dirty.iter_mut().zip(owed) {
                if left == 0 {
                    break;
                }
                let bits = lowest(*dirty & !*owed, left);
                left = left.saturating_sub(u64::from(bits.count_ones()));
                words.push(move_bits(dirty, owed, bits));
            }
        }
    }
    // A word that was taken in part is the first of the next portion.
    let next = begin.saturating_add(words.len()).saturating_sub(usize::from(left == 0));
    let first = u64::try_from(begin).unwrap_or(u64::MAX).saturating_mul(64);
    let pages = portion.pages_max.get().saturating_sub(left);
    Ok(Some((Taken { first, words, pages }, next)))
}

fn move_bits(dirty: &mut u64, owed: &mut u64, bits: u64) -> u64 {
    *dirty &= !bits;
    *owed |= bits;
    bits
}

/// The first word from `from` on with a page that is dirty and not owed.
fn find(account: &Account, from: usize) -> Option<usize> {
    let (dirty, owed) = (account.dirty.words().get(from..)?, account.owed.words().get(from..)?);
    let blocks = dirty.chunks(BLOCK_WORDS).zip(owed.chunks(BLOCK_WORDS));
    let any = |(dirty, owed): (&[u64], &[u64])| dirty.iter().zip(owed).fold(0, |any, (d, o)| any | (d & !o)) != 0;
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
