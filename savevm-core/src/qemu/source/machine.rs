// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The VMM's part of a source.

use std::string::String;
use std::vec::Vec;

use stream_codec::qemu::Item;

use crate::hooks::Hooks;

/// Which part of the main stream comes next.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Part {
    /// The machine type and its subsections: `Configuration`, `ConfigurationSubsection`.
    Configuration,
    /// What opens the machine's own devices that are sent in several sections, RAM above all unless
    /// [`save_with_memory`](super::save_with_memory) sends it: START sections, and FULL ones of devices
    /// that must be set up early.
    Start,
    /// More of those while the guest runs: PART sections. Called again and again in pre-copy; may write nothing.
    Round,
    /// The last of those, the guest being stopped: END sections.
    End,
    /// All other devices of the machine: FULL sections.
    Full,
    /// The description of the machine behind the end of the stream (`Vmdesc`, `VmdescBytes`). A QEMU target reads it, unless the machine
    /// type is historic, and ignores what it says: a length of 2 and `{}` will do.
    Description,
}

/// The VMM's part of a source: everything that is not a VFIO device, nor guest memory that [`save_with_memory`](super::save_with_memory)
/// sends.
pub trait SourceMachine: Hooks {
    /// Gives the items of a part, in order, to `put`: sections from header to footer.
    ///
    /// Section ids must be unique, not zero, and not those of the devices ([`super::SaveOptions::section_id_first`]).
    ///
    /// # Errors
    /// Those of `put`, or a sentence on what the machine could not do.
    fn write(&mut self, part: Part, put: &mut dyn FnMut(&Item<'_>) -> Result<(), String>) -> Result<(), String>;

    /// What the VMM itself knows of the device at `index`, as [`stream_codec::qemu::PciConfigState`] encodes it. Called when the guest is
    /// stopped.
    ///
    /// # Errors
    /// A sentence on what could not be read.
    fn config(&mut self, index: usize) -> Result<Vec<u8>, String>;
}
