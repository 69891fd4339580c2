// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The data fd: pre-copy queries and the bulk of the bytes.

use savevm_core::sim::{Direction, Errno, SimSession};

use crate::abi::{Argument, request};
use crate::machine::Process;

pub(crate) fn ioctl(
    session: Option<&SimSession>,
    process: &dyn Process,
    number: u32,
    argument: u64,
) -> Result<i64, Errno> {
    let session = session.filter(|session| session.direction() == Direction::Saving).ok_or(Errno::ENOTTY)?;
    if number != request::MIG_GET_PRECOPY_INFO || !session.has_precopy_info() {
        return Err(Errno::ENOTTY);
    }
    let mut info = Argument::<24>::read(process, argument)?;
    let answer = session.precopy_info()?;
    // Without the opt-in the driver returns the caller's own flags.
    if let Some(flags) = answer.flags {
        info.set_u32(4, flags);
    }
    info.set_u64(8, answer.initial_bytes);
    info.set_u64(16, answer.dirty_bytes);
    info.write(process, argument)?;
    Ok(0)
}
