// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The config state of a vfio-pci device: what QEMU, not the device's driver, knows of it.
//!
//! vmstate `VFIOPCIDevice`, version 1. It has no length of its own.
//!
//! | size | field |
//! |---|---|
//! | 4 | version of the PCI part, 2 |
//! | 256 or 4096 | config space; 4096 if the function has an extended one |
//! | 16 | four u32, the levels of the four interrupt pins, each 0 or 1 |
//! | 16·N | MSI-X table, only with MSI-X: N vectors |
//! | ⌈N/8⌉ | MSI-X pending bits |
//! | any | subsection `VFIOPCIDevice/VFIODisplay` |

use alloc::vec::Vec;

use super::configuration::SUBSECTION;
use crate::cursor::Cursor;

/// Most vectors an MSI-X table can have.
const VECTORS_MAX: usize = 2048;

/// The config state of a vfio-pci device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PciConfigState<'a> {
    /// Version of the PCI part. QEMU writes 2.
    pub version_id: u32,
    /// The config space as the guest sees it: 256 or 4096 bytes.
    pub config_space: &'a [u8],
    /// The levels of the pins INTA to INTD.
    pub irq_state: [u32; 4],
    /// The MSI-X table: 16 bytes per vector. Empty without MSI-X.
    pub msix_table: &'a [u8],
    /// The MSI-X pending bits, one per vector.
    pub msix_pending: &'a [u8],
    /// Subsections, undecoded. Mostly empty.
    pub subsections: &'a [u8],
}

impl<'a> PciConfigState<'a> {
    /// Reads a config state that fills `bytes`, which has to say by its length how many vectors there are.
    ///
    /// `None` if no layout fits: the device is not a PCI device, or newer than this reader. QEMU 10.0 writes such a
    /// state for PCI devices only.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        [4096, 256].into_iter().find_map(|size| Self::with_config_space(bytes, size))
    }

    fn with_config_space(bytes: &'a [u8], size: usize) -> Option<Self> {
        let mut cursor = Cursor::new(bytes);
        let version_id = cursor.u32_be("version").ok()?;
        let config_space = cursor.take(size, "config space").ok()?;
        let mut irq_state = [0; 4];
        for level in &mut irq_state {
            *level = cursor.u32_be("irq state").ok().filter(|level| *level <= 1)?;
        }
        let rest = cursor.rest();
        let (vectors, subsections) = split_msix(rest)?;
        let (msix_table, rest) = rest.split_at_checked(vectors.checked_mul(16)?)?;
        let msix_pending = rest.get(..rest.len().checked_sub(subsections)?)?;
        let subsections = rest.get(msix_pending.len()..)?;
        Some(Self { version_id, config_space, irq_state, msix_table, msix_pending, subsections })
    }

    /// How many MSI-X vectors there are.
    #[must_use]
    pub fn vectors(&self) -> usize {
        self.msix_table.len() / 16
    }

    /// The vendor and device id in the config space.
    #[must_use]
    pub fn ids(&self) -> Option<(u16, u16)> {
        let mut cursor = Cursor::new(self.config_space);
        Some((cursor.u16_le("vendor").ok()?, cursor.u16_le("device").ok()?))
    }

    /// Appends the config state.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.version_id.to_be_bytes());
        out.extend_from_slice(self.config_space);
        self.irq_state.iter().for_each(|level| out.extend_from_slice(&level.to_be_bytes()));
        out.extend_from_slice(self.msix_table);
        out.extend_from_slice(self.msix_pending);
        out.extend_from_slice(self.subsections);
    }
}

/// Splits what follows the interrupt pins: the number of vectors, and how many bytes of subsections end it.
fn split_msix(rest: &[u8]) -> Option<(usize, usize)> {
    (0..=VECTORS_MAX).find_map(|vectors| {
        let msix = vectors.checked_mul(16)?.checked_add(vectors.div_ceil(8))?;
        let tail = rest.get(msix..)?;
        let is_end = tail.is_empty() || is_subsection(tail);
        is_end.then_some((vectors, tail.len()))
    })
}

/// Whether `tail` starts like a subsection of the vmstate.
fn is_subsection(tail: &[u8]) -> bool {
    let mut cursor = Cursor::new(tail);
    let name = (|| {
        let (marker, length) = (cursor.u8("marker").ok()?, cursor.u8("length").ok()?);
        (marker == SUBSECTION).then(|| cursor.take(length.into(), "name").ok()).flatten()
    })();
    name.is_some_and(|name| name.starts_with(b"VFIOPCIDevice/"))
}

#[cfg(test)]
mod test {
    use alloc::vec;

    use super::*;

    fn state(config_bytes: usize, vectors: usize, tail: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 2];
        bytes.resize(4 + config_bytes, 0xa5);
        bytes.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes.resize(bytes.len() + 16 * vectors, 0x3c);
        bytes.resize(bytes.len() + vectors.div_ceil(8), 0xff);
        bytes.extend_from_slice(tail);
        bytes
    }

    #[test]
    fn every_layout_is_told_by_its_length() {
        for config_bytes in [256, 4096] {
            for vectors in [0, 1, 8, 9, 64, 2048] {
                let bytes = state(config_bytes, vectors, b"");
                let parsed = PciConfigState::parse(&bytes).unwrap();
                assert_eq!((parsed.config_space.len(), parsed.vectors()), (config_bytes, vectors));
                assert_eq!(parsed.irq_state, [1, 0, 0, 0]);
                assert!(parsed.msix_pending.iter().all(|&byte| byte == 0xff));
                let mut encoded = Vec::new();
                parsed.encode(&mut encoded);
                assert_eq!(encoded, bytes);
            }
        }
        // vfio-section.md: PCIe, 8 vectors.
        assert_eq!(state(4096, 8, b"").len(), 4245);
    }

    #[test]
    fn a_subsection_is_left_undecoded() {
        let tail = b"\x05\x19VFIOPCIDevice/VFIODisplay\0\0\0\x01rest";
        let bytes = state(4096, 8, tail);
        let parsed = PciConfigState::parse(&bytes).unwrap();
        assert_eq!((parsed.vectors(), parsed.subsections), (8, &tail[..]));
    }

    #[test]
    fn other_bytes_have_no_layout() {
        let mut bad_irq = state(256, 0, b"");
        bad_irq[4 + 256] = 7;
        for bytes in [&b""[..], &[0; 275], &state(256, 0, b"x"), &bad_irq] {
            assert_eq!(PciConfigState::parse(bytes), None, "{} bytes", bytes.len());
        }
    }
}
