// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Data frames of a device from several channels of ours, put into the order in which the device was read.

use stream_codec::frame::Digest;

use super::Device;
use crate::inspect::fault::Fault;
use crate::inspect::input::Input;
use crate::inspect::native;
use crate::inspect::words::{shown, wide};

const LOST: &str =
    "give all channels of the migration as FILEs; if all are there, the source lost state: do not use it";
const DAMAGED: &str = "do not use the data; check the connection, then repeat the transfer";

/// What the source says of a device at its end, and where.
#[derive(Clone, Copy, Debug)]
pub(in crate::inspect) struct Stated {
    pub(in crate::inspect) file: usize,
    pub(in crate::inspect) offset: u64,
    pub(in crate::inspect) frames: u64,
    pub(in crate::inspect) digest: Digest,
}

impl Device {
    /// Puts the frames in order, adds their bytes to the state as far as none is missing, and says what is wrong.
    pub(in crate::inspect) fn join_frames(&mut self, files: &[Input]) -> Vec<(usize, Fault)> {
        self.packets.sort_by_key(|packet| (packet.index, packet.file, packet.offset));
        let (mut next, mut buffer) = (0_u32, super::order::buffer());
        let name = shown(&self.name);
        for packet in self.packets.clone() {
            let at = |meaning: String, advice: &str| {
                let within = format!("frame {} of device {name}", packet.index);
                vec![(packet.file, Fault::new(packet.offset, meaning, advice).within(within))]
            };
            if packet.index < next {
                return at("this frame was sent before".to_owned(), DAMAGED);
            }
            if packet.index > next {
                return at(format!("frame {next} of the device is missing"), LOST);
            }
            if let Err(fault) = self.read_packet(&packet, files, &mut buffer) {
                return vec![(packet.file, *fault)];
            }
            next = next.saturating_add(1);
        }
        let Some(stated) = self.stated else { return Vec::new() };
        let at = |meaning: String, advice: &str| vec![(stated.file, Fault::new(stated.offset, meaning, advice))];
        if stated.frames != wide(self.packets.len()) {
            return at(format!("device {name} ends after {} frames, there are {next}", stated.frames), LOST);
        }
        self.is_ended = true;
        let found = Digest::crc64_nvme(self.state.sum().crc64_nvme);
        if stated.digest.algorithm() == found.algorithm() && stated.digest != found {
            let (found, stated) = (native::digest(&found), native::digest(&stated.digest));
            return at(format!("the bytes of device {name} give {found}, the stream says {stated}"), DAMAGED);
        }
        Vec::new()
    }
}
