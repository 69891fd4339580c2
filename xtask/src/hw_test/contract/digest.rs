// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The simulator's plain device: BAR0 shows what its state is, what it saved and what it loaded.

use super::check::{Checked, expect, failed, must};
use super::dut::Dut;

const BAR0: u32 = 0;
const STATE: u64 = 0x00;
const LOADED: u64 = 0x10;
const SAVED: u64 = 0x20;
const SCRATCH: u64 = 0x40;
const SCRATCH_BYTES: usize = 64;

/// The migrated part of the device, as its registers show it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Digest {
    /// Seed and generation.
    state: [u8; 16],
    scratch: Vec<u8>,
}

/// Fills the scratch bytes with a pattern that has no two equal bytes in a row.
pub(crate) fn seed(dut: &Dut) -> Checked {
    fill(dut, 0x11)
}

/// Another pattern.
pub(crate) fn spoil(dut: &Dut) -> Checked {
    fill(dut, 0xa5)
}

fn fill(dut: &Dut, first: u8) -> Checked {
    let pattern: Vec<u8> =
        (0..=u8::MAX).map(|byte| byte.wrapping_mul(37).wrapping_add(first)).take(SCRATCH_BYTES).collect();
    let device = dut.device()?;
    let bar = must("REGION_INFO of BAR0", device.region_info(BAR0))?;
    must("write of the scratch registers", device.region_write(&bar, SCRATCH, &pattern))
}

/// Reads what moves with a migration.
pub(crate) fn read(dut: &Dut) -> Checked<Digest> {
    Ok(Digest { state: registers(dut, STATE)?, scratch: registers::<SCRATCH_BYTES>(dut, SCRATCH)?.to_vec() })
}

/// The checksum and length of what `source` saved last must be those of what `target` loaded last, and cover `bytes`.
pub(crate) fn expect_same_stream(source: &Dut, target: &Dut, bytes: usize) -> Checked {
    let saved: [u8; 16] = registers(source, SAVED)?;
    let loaded: [u8; 16] = registers(target, LOADED)?;
    expect("checksum and length of the stream loaded by the target", loaded, saved)?;
    let length = u64::try_from(bytes).map_err(|_| failed("the state is too long"))?;
    expect("the length it says it loaded", loaded.last_chunk().map(|length| u64::from_le_bytes(*length)), Some(length))
}

fn registers<const BYTES: usize>(dut: &Dut, offset: u64) -> Checked<[u8; BYTES]> {
    let device = dut.device()?;
    let bar = must("REGION_INFO of BAR0", device.region_info(BAR0))?;
    let mut value = [0; BYTES];
    must(&format!("read of the registers at {offset:#x}"), device.region_read(&bar, offset, &mut value))?;
    Ok(value)
}
