// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The structure as values.

use stream_codec::cursor::{Cursor, CursorError};
use stream_codec::decode::Located;

use crate::error::{Error, Reason};
use crate::version::{Version, check_magic};
use crate::{MATCH_BYTES, STATE_BYTES};

/// The first 40 bytes: what the kernel compares before it accepts a state.
///
/// Field names are the kernel's. Reserved words are kept as found, so that encoding gives back the same bytes.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Match {
    /// Magic and version.
    pub version: Version,
    /// Number of queue pairs of the VF, 1 to 1024. Must equal the target's.
    pub qp_num: u32,
    /// PCI device id of the VF. Must equal the target's.
    pub dev_id: u32,
    /// The PF's queue isolation register. Must equal the target's.
    pub que_iso_cfg: u32,
    /// Number of the VF's first queue within the PF. The kernel does not compare it.
    pub qp_base: u32,
    /// [`VF_READY`](crate::VF_READY) or [`VF_NOT_READY`](crate::VF_NOT_READY). Always ready if the match part was read
    /// in PRE_COPY, where the kernel has not looked yet.
    pub vf_qm_state: u32,
    /// Reserved, 0.
    pub qm_rsv_state: [u32; 2],
}

/// All 176 bytes: the match part, registers, and where the guest's queues lie.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct State {
    /// The first 40 bytes.
    pub head: Match,
    /// VF register 0x04.
    pub aeq_int_mask: u32,
    /// VF register 0x0c.
    pub eq_int_mask: u32,
    /// VF register 0x20.
    pub ifc_int_source: u32,
    /// VF register 0x24.
    pub ifc_int_mask: u32,
    /// VF register 0x2c.
    pub ifc_int_set: u32,
    /// VF register 0x34.
    pub page_size: u32,
    /// Context of the event queue. Words 1 and 2 are its address.
    pub qm_eqc_dw: [u32; 7],
    /// Context of the asynchronous event queue. Words 1 and 2 are its address.
    pub qm_aeqc_dw: [u32; 7],
    /// Reserved, 0.
    pub qm_rsv_regs: [u32; 5],
    /// Reserved, 0.
    pub padding: u32,
    /// Guest address of the event queue. In version 1 it may be wrong: see [`State::event_queue`].
    pub eqe_dma: u64,
    /// Guest address of the asynchronous event queue. In version 1 it may be wrong: see [`State::async_event_queue`].
    pub aeqe_dma: u64,
    /// Guest address of the send queue contexts.
    pub sqc_dma: u64,
    /// Guest address of the completion queue contexts.
    pub cqc_dma: u64,
}

/// A whole stream. It is exactly one of two lengths.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "the kernel knows two lengths and refuses every other")]
pub enum Stream {
    /// 40 bytes: the VF had no guest driver. The kernel loads nothing from it.
    MatchOnly(Match),
    /// 176 bytes.
    Full(State),
}

impl Match {
    /// Reads a match part.
    ///
    /// # Errors
    /// [`Reason::Magic`], [`Reason::ByteOrder`] or [`Reason::Major`].
    pub fn decode(bytes: &[u8; MATCH_BYTES]) -> Result<Self, Error> {
        Self::read(&mut Cursor::new(bytes))
    }

    /// The bytes of a match part.
    #[must_use]
    pub fn encode(&self) -> [u8; MATCH_BYTES] {
        collect(self.bytes())
    }

    fn read(cursor: &mut Cursor<'_>) -> Result<Self, Error> {
        let magic = cursor.u64_le("acc_magic").map_err(truncated)?;
        check_magic(magic).map_err(|reason| Located::new(0, reason))?;
        let mut field = |what| cursor.u32_le(what).map_err(truncated);
        let (qp_num, dev_id, que_iso_cfg) = (field("qp_num")?, field("dev_id")?, field("que_iso_cfg")?);
        let (qp_base, vf_qm_state) = (field("qp_base")?, field("vf_qm_state")?);
        let version_offset = cursor.offset();
        let [m0, m1] = cursor.take_array("major_ver").map_err(truncated)?;
        let [n0, n1] = cursor.take_array("minor_ver").map_err(truncated)?;
        let version = Version::new(magic, u32::from_le_bytes([m0, m1, n0, n1]))
            .map_err(|reason| Located::new(version_offset, reason))?;
        let qm_rsv_state = words(cursor, "qm_rsv_state")?;
        Ok(Self { version, qp_num, dev_id, que_iso_cfg, qp_base, vf_qm_state, qm_rsv_state })
    }

    fn bytes(&self) -> impl Iterator<Item = u8> {
        let Self { version, qp_num, dev_id, que_iso_cfg, qp_base, vf_qm_state, qm_rsv_state } = *self;
        let words = [qp_num, dev_id, que_iso_cfg, qp_base, vf_qm_state, version.word()];
        version.magic().to_le_bytes().into_iter().chain(le_bytes(words)).chain(le_bytes(qm_rsv_state))
    }
}

impl State {
    /// Reads a whole structure.
    ///
    /// # Errors
    /// [`Reason::Magic`], [`Reason::ByteOrder`] or [`Reason::Major`].
    pub fn decode(bytes: &[u8; STATE_BYTES]) -> Result<Self, Error> {
        Self::read(&mut Cursor::new(bytes))
    }

    /// The bytes of a whole structure.
    #[must_use]
    pub fn encode(&self) -> [u8; STATE_BYTES] {
        let registers = [
            self.aeq_int_mask,
            self.eq_int_mask,
            self.ifc_int_source,
            self.ifc_int_mask,
            self.ifc_int_set,
            self.page_size,
        ];
        let addresses = [self.eqe_dma, self.aeqe_dma, self.sqc_dma, self.cqc_dma];
        let bytes = (self.head.bytes())
            .chain(le_bytes(registers))
            .chain(le_bytes(self.qm_eqc_dw))
            .chain(le_bytes(self.qm_aeqc_dw))
            .chain(le_bytes(self.qm_rsv_regs))
            .chain(self.padding.to_le_bytes())
            .chain(addresses.into_iter().flat_map(u64::to_le_bytes));
        collect(bytes)
    }

    fn read(cursor: &mut Cursor<'_>) -> Result<Self, Error> {
        let head = Match::read(cursor)?;
        let mut register = |what| cursor.u32_le(what).map_err(truncated);
        Ok(Self {
            head,
            aeq_int_mask: register("aeq_int_mask")?,
            eq_int_mask: register("eq_int_mask")?,
            ifc_int_source: register("ifc_int_source")?,
            ifc_int_mask: register("ifc_int_mask")?,
            ifc_int_set: register("ifc_int_set")?,
            page_size: register("page_size")?,
            qm_eqc_dw: words(cursor, "qm_eqc_dw")?,
            qm_aeqc_dw: words(cursor, "qm_aeqc_dw")?,
            qm_rsv_regs: words(cursor, "qm_rsv_regs")?,
            padding: cursor.u32_le("padding").map_err(truncated)?,
            eqe_dma: cursor.u64_le("eqe_dma").map_err(truncated)?,
            aeqe_dma: cursor.u64_le("aeqe_dma").map_err(truncated)?,
            sqc_dma: cursor.u64_le("sqc_dma").map_err(truncated)?,
            cqc_dma: cursor.u64_le("cqc_dma").map_err(truncated)?,
        })
    }
}

impl Stream {
    /// Reads a whole stream.
    ///
    /// # Errors
    /// Any [`Reason`]. A length other than 40 and 176 is [`Reason::Truncated`], which names the first missing field, or
    /// [`Reason::TooLong`]. What is wrong in the bytes before counts first.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut cursor = Cursor::new(bytes);
        if bytes.len() <= MATCH_BYTES {
            return Match::read(&mut cursor).map(Self::MatchOnly);
        }
        let state = State::read(&mut cursor)?;
        if cursor.is_empty() { Ok(Self::Full(state)) } else { Err(Located::new(cursor.offset(), Reason::TooLong)) }
    }

    /// The match part.
    #[must_use]
    pub const fn head(&self) -> &Match {
        match self {
            Self::MatchOnly(head) | Self::Full(State { head, .. }) => head,
        }
    }

    /// The whole structure, unless there is only the match part.
    #[must_use]
    pub const fn state(&self) -> Option<&State> {
        match self {
            Self::MatchOnly(_) => None,
            Self::Full(state) => Some(state),
        }
    }

    /// Length in bytes: 40 or 176.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "no stream is empty")]
    pub const fn len(&self) -> usize {
        match self {
            Self::MatchOnly(_) => MATCH_BYTES,
            Self::Full(_) => STATE_BYTES,
        }
    }
}

fn truncated(missing: CursorError) -> Error {
    let (offset, left) = match missing {
        CursorError::Missing { offset, left, .. } => (offset, left),
        _ => (0, 0),
    };
    let have = usize::try_from(offset).unwrap_or(usize::MAX).saturating_add(left);
    Located::new(offset, Reason::Truncated { have, missing })
}

fn words<const N: usize>(cursor: &mut Cursor<'_>, what: &'static str) -> Result<[u32; N], Error> {
    let mut words = [0; N];
    for word in &mut words {
        *word = cursor.u32_le(what).map_err(truncated)?;
    }
    Ok(words)
}

fn le_bytes<const N: usize>(words: [u32; N]) -> impl Iterator<Item = u8> {
    words.into_iter().flat_map(u32::to_le_bytes)
}

fn collect<const N: usize>(bytes: impl Iterator<Item = u8>) -> [u8; N] {
    let mut collected = [0; N];
    collected.iter_mut().zip(bytes).for_each(|(slot, byte)| *slot = byte);
    collected
}
