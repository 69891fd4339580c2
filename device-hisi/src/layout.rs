// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where each field of the structure stands. All integers are little-endian.
//!
//! The kernel hands out its `struct acc_vf_data` as it lies in memory. The only supported hosts are little-endian, so
//! that is the byte order of every stream. The compiler checks that the table below has no hole and ends where the
//! structure ends.

use crate::{MATCH_BYTES, STATE_BYTES};

/// The integer type of a field.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// Two bytes.
    U16,
    /// Four bytes.
    U32,
    /// Eight bytes.
    U64,
}

impl Kind {
    /// Size of one integer in bytes, which is its alignment too.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::U16 => 2,
            Self::U32 => 4,
            Self::U64 => 8,
        }
    }
}

/// A field of the structure, or an array of equal ones.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub struct Field {
    /// The kernel's name.
    pub name: &'static str,
    /// Offset in bytes.
    pub offset: usize,
    /// Type of the field, or of its elements.
    pub kind: Kind,
    /// How many elements: 1, or the length of the array.
    pub count: usize,
    /// What it is, in a few words.
    pub meaning: &'static str,
}

impl Field {
    const fn new(name: &'static str, offset: usize, kind: Kind, count: usize, meaning: &'static str) -> Self {
        Self { name, offset, kind, count, meaning }
    }

    /// Size of the field in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.kind.bytes().saturating_mul(self.count)
    }
}

/// Every field, in order.
pub const FIELDS: &[Field] = &[
    Field::new("acc_magic", 0, Kind::U64, 1, "magic"),
    Field::new("qp_num", 8, Kind::U32, 1, "queue pairs of the VF"),
    Field::new("dev_id", 12, Kind::U32, 1, "PCI device id"),
    Field::new("que_iso_cfg", 16, Kind::U32, 1, "queue isolation of the PF"),
    Field::new("qp_base", 20, Kind::U32, 1, "number of the first queue"),
    Field::new("vf_qm_state", 24, Kind::U32, 1, "guest driver"),
    Field::new("major_ver", 28, Kind::U16, 1, "major version"),
    Field::new("minor_ver", 30, Kind::U16, 1, "minor version"),
    Field::new("qm_rsv_state", 32, Kind::U32, 2, "reserved"),
    Field::new("aeq_int_mask", 40, Kind::U32, 1, "VF register 0x04"),
    Field::new("eq_int_mask", 44, Kind::U32, 1, "VF register 0x0c"),
    Field::new("ifc_int_source", 48, Kind::U32, 1, "VF register 0x20"),
    Field::new("ifc_int_mask", 52, Kind::U32, 1, "VF register 0x24"),
    Field::new("ifc_int_set", 56, Kind::U32, 1, "VF register 0x2c"),
    Field::new("page_size", 60, Kind::U32, 1, "VF register 0x34"),
    Field::new("qm_eqc_dw", 64, Kind::U32, 7, "event queue context"),
    Field::new("qm_aeqc_dw", 92, Kind::U32, 7, "asynchronous event queue context"),
    Field::new("qm_rsv_regs", 120, Kind::U32, 5, "reserved"),
    Field::new("padding", 140, Kind::U32, 1, "reserved"),
    Field::new("eqe_dma", 144, Kind::U64, 1, "guest address of the event queue"),
    Field::new("aeqe_dma", 152, Kind::U64, 1, "guest address of the asynchronous event queue"),
    Field::new("sqc_dma", 160, Kind::U64, 1, "guest address of the send queue contexts"),
    Field::new("cqc_dma", 168, Kind::U64, 1, "guest address of the completion queue contexts"),
];

/// Where the last field ends, if each starts, aligned, where the one before ends.
#[allow(dead_code, reason = "Rust 1.85 does not count its use in the assertions below")]
const fn end(mut fields: &[Field]) -> Option<usize> {
    let mut offset = 0usize;
    while let [field, rest @ ..] = fields {
        if field.offset != offset || !matches!(offset.checked_rem(field.kind.bytes()), Some(0)) {
            return None;
        }
        offset = offset.saturating_add(field.bytes());
        fields = rest;
    }
    Some(offset)
}

const _: () = assert!(matches!(end(FIELDS), Some(STATE_BYTES)));
const _: () = assert!(
    matches!(FIELDS.split_at(9), (head, [Field { offset: MATCH_BYTES, .. }, ..]) if matches!(end(head), Some(MATCH_BYTES)))
);
