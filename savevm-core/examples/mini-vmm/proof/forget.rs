// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A log that is wrong, to see whether the comparison would notice.

use std::sync::Arc;

use savevm_core::dirty::{DirtyTracker, HostLog, Request};

use crate::guest::{Guest, PAGE_BYTES, RAM_START};

/// The log of the vCPU's writes, but for one word of its bits in each attempt: in the last reading, after which nothing is written that
/// could bring a page back.
///
/// It does no harm where all of the word's pages had yet to go. The word is chosen so that this is unlikely, and an attempt that precopies for a
/// second, as with `--downtime 20`, leaves little of that.
pub(super) fn forgetful(guest: Arc<Guest>) -> impl DirtyTracker {
    let mut reported: Vec<u64> = Vec::new();
    let mut is_due = false;
    HostLog::new("vCPU, forgetful", move |request| {
        let Request::Read(_, marks) = request else {
            if matches!(request, Request::Start(_)) {
                (is_due, reported) = (true, Vec::new());
            }
            return guest.answer(request);
        };
        let mut written = guest.take_log()?;
        if guest.is_paused() && core::mem::take(&mut is_due) {
            reported.resize(written.len(), 0);
            // The most pages of which the target must have an older copy, as they were not reported since.
            let new = |(index, word): &(usize, &u64)| (*word & !reported[*index]).count_ones();
            let most = written.iter().enumerate().max_by_key(new).map(|(index, _)| index);
            if let Some(index) = most {
                written[index] = 0;
            }
        }
        marks.words(RAM_START, PAGE_BYTES, &written).map_err(|error| error.to_string())?;
        reported.resize(written.len(), 0);
        reported.iter_mut().zip(&written).for_each(|(known, word)| *known |= word);
        Ok(())
    })
}
