// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! VFIO sections: each record by the name of its flag.

use serde_json::Value;
use stream_codec::qemu::{ConfigState, PciConfigState, VfioRecord};

use crate::inspect::device::Device;
use crate::inspect::entry::Entry;
use crate::inspect::words::{count, hex, size};

/// From so many on, records with data that follow each other become one entry.
const FOLDED_MIN: u64 = 4;

/// The payload of the VFIO section that is open.
#[derive(Debug, Default)]
pub(super) struct VfioSection {
    pub(super) items: Vec<Entry>,
    /// Records with data that follow each other, of which the first few are entries.
    run: u64,
    run_bytes: u64,
    pub(super) data_records: u64,
    pub(super) data_bytes: u64,
    /// Where INIT_DATA_SENT stands.
    pub(super) initial_sent: Option<u64>,
}

impl VfioSection {
    pub(super) fn record(&mut self, record: &VfioRecord<'_>, offset: u64, bytes: u64, is_all: bool) {
        let end = offset.saturating_add(bytes);
        let flag = |kind, text: &str| Entry::new(kind, offset, bytes).text(text);
        let entry = match record {
            VfioRecord::Setup => flag("DEV_SETUP_STATE", "the device is set up"),
            VfioRecord::Data { length } => return self.data(*length, offset, bytes, is_all),
            VfioRecord::DataBytes(_) => {
                if let Some(last) = self.items.last_mut() {
                    last.reach(end);
                }
                return;
            }
            VfioRecord::Config => flag("DEV_CONFIG_STATE", ""),
            VfioRecord::ConfigState(state) => {
                if let Some(last) = self.items.last_mut() {
                    last.reach(end);
                    last.text = describe(state);
                    last.facts.extend(facts(state).into_iter().map(|(name, value)| (name.to_owned(), value)));
                }
                return;
            }
            VfioRecord::InitDataSent => {
                self.initial_sent = Some(offset);
                flag("DEV_INIT_DATA_SENT", "all initial bytes are sent")
            }
            VfioRecord::ConfigLoadReady => {
                flag("DEV_CONFIG_LOAD_READY", "the config state on the multifd channel may be loaded")
            }
            _ => flag("END_OF_STATE", ""),
        };
        self.run = 0;
        self.items.push(entry);
    }

    fn data(&mut self, length: u64, offset: u64, bytes: u64, is_all: bool) {
        self.data_records = self.data_records.saturating_add(1);
        self.data_bytes = self.data_bytes.saturating_add(length);
        if self.run == 0 {
            self.run_bytes = 0;
        }
        self.run = self.run.saturating_add(1);
        self.run_bytes = self.run_bytes.saturating_add(length);
        if !is_all && self.run >= FOLDED_MIN {
            // The entries of the run become one, which grows.
            if self.run == FOLDED_MIN {
                let keep = self.items.len().saturating_sub(usize::try_from(FOLDED_MIN).unwrap_or(0).saturating_sub(2));
                self.items.truncate(keep);
            }
            let (run, run_bytes) = (self.run, self.run_bytes);
            if let Some(last) = self.items.last_mut() {
                last.text = format!("×{run}, {} of device state", size(run_bytes));
                last.facts.insert("count".to_owned(), run.into());
                last.facts.insert("data_bytes".to_owned(), run_bytes.into());
            }
            return;
        }
        let entry = Entry::new("DEV_DATA_STATE", offset, bytes).fact("data_bytes", length);
        self.items.push(entry.text(format!("{} of device state", size(length))));
    }

    /// The entries, and what to say of the section as a whole.
    pub(super) fn finish(&mut self, is_all: bool) -> (Vec<Entry>, String) {
        let items = core::mem::take(&mut self.items);
        let is_plain = items.iter().all(|item| !item.kind.ends_with("DATA_STATE") && item.kind != "DEV_CONFIG_STATE");
        let text = if is_plain && !is_all {
            items.iter().map(|item| item.kind).collect::<Vec<_>>().join(", ")
        } else if self.data_records > 0 {
            format!("{} in {}", size(self.data_bytes), count(self.data_records, "record"))
        } else {
            String::new()
        };
        (items, text)
    }

    /// Whether the entries say no more than the section's text.
    pub(super) fn is_told(items: &[Entry]) -> bool {
        items.iter().all(|item| !item.kind.ends_with("DATA_STATE") && item.kind != "DEV_CONFIG_STATE")
    }
}

/// What a config state says of its device.
pub(super) fn note_config(device: &mut Device, state: &ConfigState<'_>) {
    device.config = facts(state);
    device.config_text = Some(describe(state));
    if let ConfigState::Pci(pci) = state {
        device.set_pci(pci.ids());
    }
}

/// A config state in words.
pub(super) fn describe(state: &ConfigState<'_>) -> String {
    match state {
        ConfigState::Pci(pci) => {
            let (vendor, device) = pci.ids().unwrap_or_default();
            let msix = match pci.vectors() {
                0 => "no MSI-X".to_owned(),
                vectors => format!("MSI-X with {vectors} vectors"),
            };
            let pins = if pci.irq_state == [0; 4] { String::new() } else { format!(", INTx {:?}", pci.irq_state) };
            let command = u16_at(pci, 4);
            let subsections = match pci.subsections {
                [] => String::new(),
                bytes => format!(", {} bytes of subsections", bytes.len()),
            };
            format!(
                "PCI {vendor:04x}:{device:04x}, config space of {} bytes, command {command:#06x}, {msix}{pins}{subsections}",
                pci.config_space.len()
            )
        }
        ConfigState::Other(bytes) => format!("{} bytes in no known layout: {}", bytes.len(), hex(bytes, 16)),
        _ => String::new(),
    }
}

fn u16_at(pci: &PciConfigState<'_>, offset: usize) -> u16 {
    let bytes = pci.config_space.get(offset..).and_then(|rest| rest.first_chunk());
    bytes.map_or(0, |bytes| u16::from_le_bytes(*bytes))
}

pub(super) fn facts(state: &ConfigState<'_>) -> Vec<(&'static str, Value)> {
    match state {
        ConfigState::Pci(pci) => {
            let (vendor, device) = pci.ids().unwrap_or_default();
            vec![
                ("pci_id", format!("{vendor:04x}:{device:04x}").into()),
                ("config_space_bytes", pci.config_space.len().into()),
                ("command", u16_at(pci, 4).into()),
                ("msix_vectors", pci.vectors().into()),
                ("irq_state", Vec::from(pci.irq_state).into()),
            ]
        }
        ConfigState::Other(bytes) => vec![("unknown_bytes", bytes.len().into())],
        _ => Vec::new(),
    }
}
