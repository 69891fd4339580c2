// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Parts of a VFIO section.

use arbitrary::Arbitrary;
use stream_codec::qemu::{PciConfigState, VfioRecord};

/// Something in a VFIO section.
#[derive(Arbitrary, Debug)]
pub enum VfioPart<'a> {
    /// Bytes as they are.
    Raw(&'a [u8]),
    Setup,
    /// Device state, with its length or another.
    Data {
        lie: Option<u64>,
        bytes: &'a [u8],
    },
    Config(Config<'a>),
    InitDataSent,
    ConfigLoadReady,
    EndOfState,
}

/// A config state.
#[derive(Arbitrary, Debug)]
pub enum Config<'a> {
    /// Of a PCI device, with something behind it, and maybe no sense in its interrupt pins.
    Pci {
        pci: PciParts,
        spoilt: bool,
        subsections: &'a [u8],
    },
    Other(&'a [u8]),
}

/// What the config state of a PCI device is made of.
#[derive(Arbitrary, Debug)]
pub struct PciParts {
    version_id: u8,
    /// Every byte of the config space.
    fill: u8,
    levels: [bool; 4],
    vectors: u8,
    /// Every byte of the MSI-X table, and of the pending bits.
    msix: [u8; 2],
}

impl PciParts {
    /// Makes the state and hands it to `handle`.
    pub fn with<T>(&self, handle: impl FnOnce(PciConfigState<'_>) -> T) -> T {
        let vectors = usize::from(self.vectors % 12);
        handle(PciConfigState {
            version_id: self.version_id.into(),
            config_space: &[self.fill; 256],
            irq_state: self.levels.map(u32::from),
            msix_table: &vec![self.msix[0]; vectors * 16],
            msix_pending: &vec![self.msix[1]; vectors.div_ceil(8)],
            subsections: &[],
        })
    }
}

impl Config<'_> {
    pub fn append(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Other(bytes) => out.extend_from_slice(bytes),
            Self::Pci { ref pci, spoilt, subsections } => pci.with(|mut state| {
                state.irq_state[0] |= if spoilt { 2 } else { 0 };
                PciConfigState { subsections, ..state }.encode(out);
            }),
        }
    }
}

impl VfioPart<'_> {
    /// Writes the part.
    pub fn append(&self, out: &mut Vec<u8>) {
        match self {
            Self::Raw(bytes) => out.extend_from_slice(bytes),
            Self::Setup => VfioRecord::Setup.encode(out),
            Self::Data { lie, bytes } => {
                VfioRecord::Data { length: lie.unwrap_or(bytes.len() as u64) }.encode(out);
                out.extend_from_slice(bytes);
            }
            Self::Config(config) => {
                VfioRecord::Config.encode(out);
                config.append(out);
            }
            Self::InitDataSent => VfioRecord::InitDataSent.encode(out),
            Self::ConfigLoadReady => VfioRecord::ConfigLoadReady.encode(out),
            Self::EndOfState => VfioRecord::EndOfState.encode(out),
        }
    }
}
