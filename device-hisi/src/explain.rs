// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A stream for a person to read: one line per field.

use core::fmt;

use crate::addresses::{AddressFault, QueueAddress};
use crate::layout::{FIELDS, Field, Kind};
use crate::state::{Match, State, Stream};
use crate::version::Version;
use crate::{VF_NOT_READY, VF_READY, device_name};

impl fmt::Display for Stream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::MatchOnly(_) => "match part only (no guest driver)",
            Self::Full(_) => "complete",
        };
        writeln!(formatter, "hisi_acc device state, {}, {} bytes, {what}", self.head().version, self.len())?;
        match self {
            Self::MatchOnly(head) => write!(formatter, "{head}"),
            Self::Full(state) => write!(formatter, "{state}"),
        }
    }
}

impl fmt::Display for Match {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        lines(formatter, &self.encode(), self, None)
    }
}

impl fmt::Display for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        lines(formatter, &self.encode(), &self.head, Some(self))
    }
}

/// A line for every field within `bytes`.
fn lines(formatter: &mut fmt::Formatter<'_>, bytes: &[u8], head: &Match, state: Option<&State>) -> fmt::Result {
    for field in FIELDS {
        let Some(value) = bytes.get(field.offset..field.offset.saturating_add(field.bytes())) else { break };
        write!(formatter, "{:>5}  {:<15}", field.offset, field.name)?;
        write_value(formatter, field, value)?;
        write!(formatter, "  {}", field.meaning)?;
        write_note(formatter, field, head, state)?;
        formatter.write_str("\n")?;
    }
    Ok(())
}

/// The numbers of a field in hexadecimal; an array as a row, trailing zeros included.
fn write_value(formatter: &mut fmt::Formatter<'_>, field: &Field, value: &[u8]) -> fmt::Result {
    for (index, element) in value.chunks_exact(field.kind.bytes()).enumerate() {
        let number = element.iter().rev().fold(0u64, |number, byte| (number << 8) | u64::from(*byte));
        let digits = field.kind.bytes().saturating_mul(2);
        write!(formatter, "{}0x{number:0digits$x}", if index == 0 { " " } else { "," })?;
    }
    // Scalars line up; arrays are longer than any column.
    let width = match (field.count, field.kind) {
        (1, Kind::U16) => 12,
        (1, Kind::U32) => 8,
        _ => 0,
    };
    write!(formatter, "{:width$}", "")
}

/// What a number means, where that can be said.
fn write_note(formatter: &mut fmt::Formatter<'_>, field: &Field, head: &Match, state: Option<&State>) -> fmt::Result {
    match field.name {
        "acc_magic" => write!(formatter, ": {}", head.version),
        "qp_num" => write!(formatter, ": {}", head.qp_num),
        "qp_base" => write!(formatter, ": {}", head.qp_base),
        "dev_id" => write!(formatter, ": {}", device_name(head.dev_id).unwrap_or("unknown")),
        "vf_qm_state" => formatter.write_str(match head.vf_qm_state {
            VF_READY if state.is_none() => ": ready, or not known yet when this was read",
            VF_READY => ": ready",
            VF_NOT_READY => ": not ready",
            _ => ": unknown",
        }),
        "major_ver" | "minor_ver" if matches!(head.version, Version::V1 { .. }) => {
            formatter.write_str(" in version 2, reserved in this one")
        }
        "eqe_dma" => state.map_or(Ok(()), |state| write_address(formatter, state.event_queue())),
        "aeqe_dma" => state.map_or(Ok(()), |state| write_address(formatter, state.async_event_queue())),
        _ => Ok(()),
    }
}

fn write_address(formatter: &mut fmt::Formatter<'_>, address: QueueAddress) -> fmt::Result {
    let true_address = address.from_context;
    match address.fault() {
        None => Ok(()),
        Some(AddressFault::KernelFault) => {
            write!(formatter, "; WRONG by the known fault of kernels 6.8 to 6.15, should be {true_address:#x}")
        }
        Some(_) => write!(formatter, "; WRONG, should be {true_address:#x}"),
    }
}
