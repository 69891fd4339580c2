// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the tests share: streams written by hand, byte by byte, from the table of offsets that `device_hisi::layout`
//! documents. No stream of real hardware was available.
#![allow(dead_code, reason = "every test file uses its own part")]
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::unwrap_used)]

use device_hisi::{Match, State, Version};

/// Bytes of a text of hexadecimal numbers; `|` and what follows on a line is a comment.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let numbers = text.lines().flat_map(|line| line.split('|').next().unwrap().split_whitespace());
    numbers.map(|number| u8::from_str_radix(number, 16).unwrap()).collect()
}

/// The match part of a ZIP VF with 16 queues from 0x40 on, version 2.
const MATCH_V2: &str = "
    de de ca de ed fe cc aa |   0 acc_magic
    10 00 00 00             |   8 qp_num
    51 a2 00 00             |  12 dev_id
    05 00 00 00             |  16 que_iso_cfg
    40 00 00 00             |  20 qp_base
    00 00 00 00             |  24 vf_qm_state
    01 00                   |  28 major_ver
    00 00                   |  30 minor_ver
    00 00 00 00 00 00 00 00 |  32 qm_rsv_state
";

/// The same, version 1.
const MATCH_V1: &str = "
    cc aa ed fe cd cd cd cd |   0 acc_magic
    10 00 00 00             |   8 qp_num
    51 a2 00 00             |  12 dev_id
    05 00 00 00             |  16 que_iso_cfg
    40 00 00 00             |  20 qp_base
    00 00 00 00             |  24 vf_qm_state
    00 00 00 00             |  28 reserved
    00 00 00 00 00 00 00 00 |  32 reserved
";

const REGISTERS: &str = "
    01 01 00 00             |  40 aeq_int_mask
    02 02 00 00             |  44 eq_int_mask
    03 03 00 00             |  48 ifc_int_source
    04 04 00 00             |  52 ifc_int_mask
    05 05 00 00             |  56 ifc_int_set
    06 06 00 00             |  60 page_size
    22 00 11 00             |  64 qm_eqc_dw[0]
    00 c0 ab 89             |  68 qm_eqc_dw[1]
    12 00 00 00             |  72 qm_eqc_dw[2]
    33 00 00 00             |  76 qm_eqc_dw[3]
    34 00 00 00             |  80 qm_eqc_dw[4]
    35 00 00 00             |  84 qm_eqc_dw[5]
    36 00 00 00             |  88 qm_eqc_dw[6]
    44 00 33 00             |  92 qm_aeqc_dw[0]
    00 d0 67 45             |  96 qm_aeqc_dw[1]
    13 00 00 00             | 100 qm_aeqc_dw[2]
    43 00 00 00             | 104 qm_aeqc_dw[3]
    44 00 00 00             | 108 qm_aeqc_dw[4]
    45 00 00 00             | 112 qm_aeqc_dw[5]
    46 00 00 00             | 116 qm_aeqc_dw[6]
    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 | 120 qm_rsv_regs
    00 00 00 00             | 140 padding
";

const ADDRESSES: &str = "
    00 c0 ab 89 12 00 00 00 | 144 eqe_dma, words 2 and 1
    00 d0 67 45 13 00 00 00 | 152 aeqe_dma, words 2 and 1
    00 10 00 00 14 00 00 00 | 160 sqc_dma
    00 20 00 00 15 00 00 00 | 168 cqc_dma
";

/// As kernels of about 6.8 to 6.15 compose them.
const WRONG_ADDRESSES: &str = "
    22 00 11 00 00 c0 ab 89 | 144 eqe_dma, words 1 and 0
    44 00 33 00 00 d0 67 45 | 152 aeqe_dma, words 1 and 0
    00 10 00 00 14 00 00 00 | 160 sqc_dma
    00 20 00 00 15 00 00 00 | 168 cqc_dma
";

pub(crate) fn match_v2() -> Vec<u8> {
    hex(MATCH_V2)
}

pub(crate) fn match_v1() -> Vec<u8> {
    hex(MATCH_V1)
}

pub(crate) fn full_v2() -> Vec<u8> {
    [hex(MATCH_V2), hex(REGISTERS), hex(ADDRESSES)].concat()
}

/// Version 1 with right addresses.
pub(crate) fn full_v1() -> Vec<u8> {
    [hex(MATCH_V1), hex(REGISTERS), hex(ADDRESSES)].concat()
}

/// Version 1 with the addresses of the faulty kernels.
pub(crate) fn full_v1_wrong() -> Vec<u8> {
    [hex(MATCH_V1), hex(REGISTERS), hex(WRONG_ADDRESSES)].concat()
}

/// What `match_v2` says.
pub(crate) const HEAD: Match = Match {
    version: Version::V2 { minor: 0 },
    qp_num: 16,
    dev_id: 0xa251,
    que_iso_cfg: 5,
    qp_base: 0x40,
    vf_qm_state: 0,
    qm_rsv_state: [0; 2],
};

/// What `full_v2` says.
pub(crate) const STATE: State = State {
    head: HEAD,
    aeq_int_mask: 0x101,
    eq_int_mask: 0x202,
    ifc_int_source: 0x303,
    ifc_int_mask: 0x404,
    ifc_int_set: 0x505,
    page_size: 0x606,
    qm_eqc_dw: [0x0011_0022, 0x89ab_c000, 0x12, 0x33, 0x34, 0x35, 0x36],
    qm_aeqc_dw: [0x0033_0044, 0x4567_d000, 0x13, 0x43, 0x44, 0x45, 0x46],
    qm_rsv_regs: [0; 5],
    padding: 0,
    eqe_dma: 0x12_89ab_c000,
    aeqe_dma: 0x13_4567_d000,
    sqc_dma: 0x14_0000_1000,
    cqc_dma: 0x15_0000_2000,
};

/// `bytes` with others from `offset` on.
pub(crate) fn patched(mut bytes: Vec<u8>, offset: usize, patch: &[u8]) -> Vec<u8> {
    bytes[offset..offset + patch.len()].copy_from_slice(patch);
    bytes
}
