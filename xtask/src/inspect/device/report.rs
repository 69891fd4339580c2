// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What there is to say about a device in the end.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Device, Packet};
use crate::inspect::fault::Fault;
use crate::inspect::format::StateFormat;
use crate::inspect::input::Input;
use crate::inspect::state::{Explanation, StateReader};
use crate::inspect::words::{count, shown, size, wide};

/// Packets that are listed at the start and at the end of many.
const LISTED: usize = 4;

/// A device, explained.
pub(in crate::inspect) struct Explained {
    /// In one line.
    pub(in crate::inspect) line: String,
    pub(in crate::inspect) lines: Vec<String>,
    pub(in crate::inspect) json: Value,
    pub(in crate::inspect) faults: Vec<(usize, Fault)>,
    pub(in crate::inspect) copy_error: Option<String>,
}

impl Device {
    /// Explains the device; its state is done with then. `is_whole` says that no file was cut.
    pub(in crate::inspect) fn explain(&mut self, files: &[Input], is_whole: bool, is_all: bool) -> Explained {
        let around = self.surroundings(is_whole);
        let state = core::mem::replace(&mut self.state, StateReader::new(None)).finish(&around);
        let faults = state.faults.iter().map(|fault| self.place(fault, files)).collect();
        let mut copy_error = self.copy_error.take();
        for (path, file) in self.copies.drain(..) {
            if let Err(error) = file.sync_all() {
                // Pipes and devices have nothing to synchronise.
                if error.raw_os_error() != Some(22) {
                    copy_error.get_or_insert(format!("cannot write {}: {error}", shown(&path.to_string_lossy())));
                }
            }
        }
        Explained {
            line: self.line(&state),
            lines: self.lines(&state, is_all),
            json: self.json(&state, is_all),
            faults,
            copy_error,
        }
    }

    fn place(&self, fault: &crate::inspect::state::StateFault, files: &[Input]) -> (usize, Fault) {
        let (file, offset) = self.locate(fault.offset).unwrap_or((0, 0));
        let found = files.get(file).map(|file| file.glimpse(offset)).unwrap_or_default();
        let within = format!("the state of device {}", shown(&self.name));
        let mut placed = Fault::new(offset, &fault.meaning, fault.advice).within(within).found(&found);
        placed.state_offset = Some(fault.offset);
        (file, placed)
    }

    fn line(&self, state: &Explanation) -> String {
        let (before, after) = (self.precopy_bytes, self.stopped_bytes);
        let when = match (before, after) {
            (0, 0) => return format!("{}  {} of state", shown(&self.name), size(state.sum.bytes)),
            (0, _) => "all after the switchover".to_owned(),
            (_, 0) => "all before the switchover".to_owned(),
            _ => format!("{before} before the switchover, {after} after"),
        };
        let name = shown(&self.name);
        format!("{name}  {} of state, {when}", size(state.sum.bytes))
    }

    fn lines(&self, state: &Explanation, is_all: bool) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.identity.is_empty() {
            lines.push(format!("identity  {}", shown(&self.identity)));
        }
        if let Some(text) = &self.config_text {
            lines.push(format!("config    {text}"));
        }
        if self.initial_sent > 0 {
            lines.push(format!("initial   sent, said {}", count(self.initial_sent, "time")));
        }
        if !self.packets.is_empty() {
            lines.extend(self.packet_lines(is_all));
        }
        if state.sum.bytes > 0 {
            lines.push(format!("digest    CRC-64 {:016x}", state.sum.crc64_nvme));
            lines.push(format!("format    {}: {}", state.format, state.known_by));
        }
        lines.extend(state.lines.iter().map(|line| format!("  {line}")));
        lines.extend(state.notes.iter().map(|note| format!("note      {note}")));
        lines.extend(self.hint(state).map(|hint| format!("note      {hint}")));
        lines
    }

    /// What the state of an unknown format may be, by the device's vendor.
    fn hint(&self, state: &Explanation) -> Option<String> {
        let vendor = self.pci.filter(|_| state.format == StateFormat::Opaque && state.sum.bytes > 0)?.0;
        let (name, format) = match vendor {
            0x15b3 => ("a ConnectX VF writes records, or a bare image with kernels up to 6.8", "mlx5"),
            0x1af4 => ("a virtio VF writes records", "virtio"),
            0x19e5 => ("an accelerator of this vendor writes a state with a magic, which this is not", "hisi"),
            _ => return None,
        };
        Some(format!("by its PCI id, {name}: --format {format} says what is wrong with it, or what is in it"))
    }

    fn packet_lines(&self, is_all: bool) -> Vec<String> {
        let mut channels: BTreeMap<u8, (u64, u64)> = BTreeMap::new();
        for packet in &self.packets {
            let (packets, bytes) = channels.entry(packet.channel).or_default();
            *packets = packets.saturating_add(1);
            *bytes = bytes.saturating_add(packet.bytes);
        }
        let by_channel = channels.iter().map(|(channel, (packets, bytes))| {
            format!("{} ({bytes} bytes) on channel {channel}", count(*packets, "packet"))
        });
        let mut lines = vec![format!("packets   {}", by_channel.collect::<Vec<_>>().join(", "))];
        let shown = |packet: &Packet| {
            let what = if packet.is_config { "config state" } else { "state" };
            let Packet { index, channel, offset, bytes, .. } = packet;
            format!("  {index:>6}  channel {channel} at {offset:08x}  {bytes:>9} bytes of {what}")
        };
        let total = self.packets.len();
        let is_folded = !is_all && total > LISTED.saturating_mul(2).saturating_add(1);
        for (number, packet) in self.packets.iter().enumerate() {
            if !is_folded || number < LISTED || number >= total.saturating_sub(LISTED) {
                lines.push(shown(packet));
            } else if number == LISTED {
                lines.push(format!("       …  {} more", total.saturating_sub(LISTED.saturating_mul(2))));
            }
        }
        lines
    }

    fn json(&self, state: &Explanation, is_all: bool) -> Value {
        let mut config = Map::new();
        config.extend(self.config.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let mut packets = Map::new();
        if !self.packets.is_empty() {
            let total = self.packets.len();
            let kept = if is_all { total } else { total.min(64) };
            packets.insert("count".to_owned(), wide(total).into());
            packets.insert("first".to_owned(), json!(self.packets.get(..kept).unwrap_or_default()));
        }
        json!({
            "device": self.name,
            "instance": self.instance,
            "identity": if self.identity.is_empty() { Value::Null } else { self.identity.clone().into() },
            "state_bytes": state.sum.bytes,
            "precopy_bytes": self.precopy_bytes,
            "stopped_bytes": self.stopped_bytes,
            "crc64_nvme": format!("{:016x}", state.sum.crc64_nvme),
            "initial_data_sent": self.initial_sent,
            "config": config,
            "packets": packets,
            "format": state.format.name(),
            "format_known_by": state.known_by,
            "state": state.facts,
            "lines": state.lines,
            "notes": state.notes,
        })
    }
}
