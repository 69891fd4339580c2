// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The byte layout of an mtty stream: C structures in the host's byte order.

use std::vec::Vec;

use super::super::Errno;
use super::uart::{FIFO_BYTES, Uart};

/// Header: magic, major, minor, ports, flags.
pub(super) const HEADER_BYTES: usize = 24;
/// One port record.
pub(super) const PORT_BYTES: usize = 36;

const MAGIC: u64 = 0x7e9d_0989_8c3e_2c4e;
const MAJOR: u32 = 1;
const MINOR: u32 = 0;

pub(super) fn header(ports: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    let [low, high] = halves(MAGIC);
    for (field, word) in header.chunks_exact_mut(4).zip([low, high, MAJOR, MINOR, ports, 0]) {
        field.copy_from_slice(&word.to_ne_bytes());
    }
    header
}

/// The two 32-bit words of `value` in memory order.
fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_ne_bytes();
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}

pub(super) fn encode(port: &Uart) -> [u8; PORT_BYTES] {
    let mut record = [0; PORT_BYTES];
    let [divisor_first, divisor_second] = port.divisor.to_ne_bytes();
    let tail = [
        port.head,
        port.tail,
        port.count,
        u8::from(port.dlab),
        u8::from(port.overrun),
        0,
        divisor_first,
        divisor_second,
        port.fcr,
        port.fifo_max,
        port.trigger_level,
        0,
    ];
    let bytes = port.registers.iter().chain(&port.fifo).chain(&tail);
    for (to, from) in record.iter_mut().zip(bytes) {
        *to = *from;
    }
    record
}

/// Nothing but the length is judged, as in the driver.
pub(super) fn decode(record: &[u8]) -> Option<Uart> {
    let record: &[u8; PORT_BYTES] = record.try_into().ok()?;
    let (registers, rest) = record.split_first_chunk::<8>()?;
    let (fifo, rest) = rest.split_first_chunk::<FIFO_BYTES>()?;
    let [head, tail, count, dlab, overrun, _, divisor_first, divisor_second, fcr, fifo_max, trigger_level, _] = *rest
    else {
        return None;
    };
    Some(Uart {
        registers: *registers,
        fifo: *fifo,
        head,
        tail,
        count,
        dlab: dlab != 0,
        overrun: overrun != 0,
        divisor: u16::from_ne_bytes([divisor_first, divisor_second]),
        fcr,
        fifo_max,
        trigger_level,
    })
}

/// What was written to a resuming session.
#[derive(Debug, Default)]
pub(super) struct LoadImage {
    /// Bounded by the length check before every write: at most 96 bytes.
    bytes: Vec<u8>,
}

impl LoadImage {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Stores `data`. The header is judged once, by the write that completes it; the bytes stay stored when it is
    /// refused, and nothing judges them again.
    pub(super) fn push(&mut self, data: &[u8], ports: u32) -> Result<(), Errno> {
        let incomplete = self.bytes.len() < HEADER_BYTES;
        self.bytes.extend_from_slice(data);
        match self.bytes.get(..HEADER_BYTES) {
            Some(found) if incomplete && found != header(ports).as_slice() => Err(Errno::EFAULT),
            _ => Ok(()),
        }
    }
}
