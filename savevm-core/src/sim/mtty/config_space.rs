// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The PCI config space of an mtty card. It is not part of the stream.

/// 255 bytes, one less than a config space has.
const BYTES: usize = 0xff;

const BAR0: u64 = 0x10;
const BAR1: u64 = 0x14;
const BAR2: u64 = 0x18;
const BAR4: u64 = 0x20;
const INTERRUPT_LINE: u64 = 0x3c;
/// An I/O BAR of eight bytes answers a sizing write with this.
const BAR_SIZING: u32 = !(8 - 1);

/// The visible header and the few writable fields.
#[derive(Debug)]
pub(super) struct ConfigSpace {
    bytes: [u8; BYTES],
    ports: usize,
}

impl ConfigSpace {
    pub(super) const BYTES: u64 = 0xff;

    pub(super) fn new(ports: usize) -> Self {
        let mut space = Self { bytes: [0; BYTES], ports };
        // Vendor 0x4348, device 0x3253, also as the subsystem; multi-byte fields are little-endian.
        space.put(0x00, &[0x48, 0x43, 0x53, 0x32]);
        space.put(0x2c, &[0x48, 0x43, 0x53, 0x32]);
        // Command: I/O. Status: medium timing, no capability list.
        space.put(0x04, &[0x01, 0x00, 0x00, 0x02]);
        // Revision 0x10, class 0x070002.
        space.put(0x08, &[0x10, 0x02, 0x00, 0x07]);
        space.put(0x10, &[0x01]);
        if ports > 1 {
            space.put(0x14, &[0x01]);
        }
        // Interrupt pin INTA.
        space.put(0x3d, &[0x01]);
        for (offset, value) in [(0x40, 0x23), (0x43, 0x80), (0x44, 0x23), (0x48, 0x23), (0x4c, 0x23)] {
            space.put(offset, &[value]);
        }
        space.put(0x60, b"PCI Serial/UART");
        space
    }

    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) {
        buffer.fill(0);
        let from = usize::try_from(offset).ok().and_then(|offset| self.bytes.get(offset..)).unwrap_or_default();
        for (to, from) in buffer.iter_mut().zip(from) {
            *to = *from;
        }
    }

    /// One aligned access of at most four bytes.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        let mut word = [0; 4];
        for (to, from) in word.iter_mut().zip(data) {
            *to = *from;
        }
        match offset {
            INTERRUPT_LINE => self.put(offset, data.get(..1).unwrap_or_default()),
            BAR0 => self.write_bar(offset, u32::from_le_bytes(word)),
            BAR1 if self.ports > 1 => self.write_bar(offset, u32::from_le_bytes(word)),
            BAR1..=BAR4 if offset == BAR1 || offset == BAR2 || offset == 0x1c || offset == BAR4 => {
                self.put(offset, &[0; 4]);
            }
            _ => {}
        }
    }

    fn write_bar(&mut self, offset: u64, value: u32) {
        let mut kind = [0];
        self.read(offset, &mut kind);
        let [kind] = kind;
        let address = if value == u32::MAX { BAR_SIZING } else { value };
        self.put(offset, &(address | u32::from(kind & 0x3)).to_le_bytes());
    }

    fn put(&mut self, offset: u64, data: &[u8]) {
        let to = usize::try_from(offset).ok().and_then(|offset| self.bytes.get_mut(offset..)).unwrap_or_default();
        for (to, from) in to.iter_mut().zip(data) {
            *to = *from;
        }
    }
}
