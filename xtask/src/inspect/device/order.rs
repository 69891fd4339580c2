// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Packets of device state from several channels, put into the order in which the device was read.

use serde::Serialize;

use super::{Device, PACKETS_MAX};
use crate::inspect::fault::Fault;
use crate::inspect::input::Input;
use crate::inspect::words::{shown, wide};

/// How much of a packet is read at once.
const BUFFER_BYTES: usize = 256 << 10;

const LOST: &str = "give all multifd channels of the migration as FILEs; if all are there, the source lost state: do not \
                    use it";

/// A packet with device state.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub(in crate::inspect) struct Packet {
    pub(in crate::inspect) index: u32,
    pub(in crate::inspect) is_config: bool,
    pub(in crate::inspect) channel: u8,
    #[serde(skip)]
    pub(in crate::inspect) file: usize,
    /// Where it starts.
    pub(in crate::inspect) offset: u64,
    #[serde(skip)]
    pub(in crate::inspect) data_offset: u64,
    /// Whether it was read after the guest had stopped.
    #[serde(skip)]
    pub(in crate::inspect) is_stopped: bool,
    /// Bytes of device or config state in it.
    pub(in crate::inspect) bytes: u64,
}

/// To read packets through.
pub(super) fn buffer() -> Vec<u8> {
    vec![0; BUFFER_BYTES]
}

impl Device {
    /// Puts the packets in order, adds their bytes to the state as far as none is missing, and says what is wrong.
    pub(in crate::inspect) fn join_packets(&mut self, files: &[Input]) -> Vec<(usize, Fault)> {
        self.packets.sort_by_key(|packet| (packet.index, packet.file, packet.offset));
        let mut faults = self.order_faults();
        let (mut next, mut buffer) = (0_u32, buffer());
        for packet in self.packets.clone() {
            if packet.index < next {
                continue;
            }
            if packet.index > next {
                break;
            }
            next = next.saturating_add(1);
            if packet.is_config {
                self.is_ended = true;
            } else if let Err(fault) = self.read_packet(&packet, files, &mut buffer) {
                faults.push((packet.file, *fault));
                break;
            }
        }
        faults
    }

    pub(super) fn read_packet(
        &mut self,
        packet: &Packet,
        files: &[Input],
        buffer: &mut [u8],
    ) -> Result<(), Box<Fault>> {
        let mut done = 0;
        while done < packet.bytes {
            let at = packet.data_offset.saturating_add(done);
            let left = usize::try_from(packet.bytes.saturating_sub(done)).unwrap_or(usize::MAX);
            let wanted = buffer.len().min(left);
            let room = buffer.get_mut(..wanted).unwrap_or_default();
            let bytes = match files.get(packet.file).and_then(|file| file.read_at(at, room)) {
                Some(Ok(bytes)) if !bytes.is_empty() => bytes,
                // A packet that was cut is a fault of its channel.
                Some(Ok(_)) => return Ok(()),
                Some(Err(error)) => return Err(Box::new(Fault::new(at, error, "make the file readable"))),
                None => {
                    let meaning = "state on several channels is put in order by reading it twice, and this is a pipe";
                    return Err(Box::new(Fault::new(at, meaning, "save the channel to a file and name that")));
                }
            };
            let (length, file) = (wide(bytes.len()), packet.file);
            self.feed(bytes, file, at, Some(packet.is_stopped));
            done = done.saturating_add(length);
        }
        Ok(())
    }

    fn order_faults(&self) -> Vec<(usize, Fault)> {
        let mut faults = Vec::new();
        let mut fault = |packet: &Packet, meaning: String, advice: &str| {
            let within = format!("packet {} of device {}", packet.index, shown(&self.name));
            faults.push((packet.file, Fault::new(packet.offset, meaning, advice).within(within)));
        };
        let mut before: Option<&Packet> = None;
        for packet in &self.packets {
            let next = before.map_or(0, |before| before.index.saturating_add(1));
            let missing = packet.index.saturating_sub(next);
            if let Some(before) = before.filter(|before| before.index == packet.index) {
                let (index, channel, offset) = (packet.index, before.channel, before.offset);
                let meaning = format!("packet {index} was sent before, on channel {channel} at offset {offset}");
                fault(packet, meaning, "do not use the data; report the error to whoever maintains the sender");
            } else if missing > 0 {
                let what = match missing {
                    1 => format!("packet {next} is missing"),
                    _ => format!("packets {next} to {} are missing", packet.index.saturating_sub(1)),
                };
                fault(packet, what, LOST);
            }
            if let Some(config) = before.filter(|before| before.is_config && packet.index > before.index) {
                let meaning = format!("packet {} ended the device, but this follows it", config.index);
                fault(packet, meaning, "do not use the data; report the error to whoever maintains the sender");
            }
            before = Some(packet);
        }
        if let Some(last) = self.packets.last().filter(|last| !last.is_config) {
            let meaning = "this is the last packet of the device, and no config packet: the device is not complete";
            fault(last, meaning.to_owned(), LOST);
        }
        if let Some(last) = self.packets.last().filter(|_| self.lost_packets > 0) {
            let meaning = format!("{} packets more than the {PACKETS_MAX} that are kept", self.lost_packets);
            fault(last, meaning, "this program cannot judge such a stream");
        }
        faults
    }
}
