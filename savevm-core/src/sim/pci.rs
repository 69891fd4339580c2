// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A plain PCI config space for models whose own one has nothing special.

/// Size in bytes, without extended capabilities.
const BYTES: usize = 256;

const COMMAND: u64 = 0x04;
const BAR0: u64 = 0x10;
const BAR5_END: u64 = 0x28;
const INTERRUPT_LINE: u64 = 0x3c;
/// I/O, memory, bus master, parity, SERR, INTx disable.
const COMMAND_WRITABLE: [u8; 2] = [0x47, 0x05];

/// A type 0 header with 32-bit memory BARs and no capabilities.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; BYTES],
    bar_bytes: [u32; 6],
}

impl ConfigSpace {
    /// The size of the space in bytes.
    pub const BYTES: u64 = 256;

    /// A function with these ids, 24-bit `class` and BAR sizes (powers of two; zero: no such BAR).
    #[must_use]
    pub fn new(vendor_id: u16, device_id: u16, class: u32, bar_bytes: [u32; 6]) -> Self {
        let mut space = Self { bytes: [0; BYTES], bar_bytes };
        space.put(0x00, &vendor_id.to_le_bytes());
        space.put(0x02, &device_id.to_le_bytes());
        let [low, middle, high, _] = class.to_le_bytes();
        space.put(0x09, &[low, middle, high]);
        space.put(0x2c, &vendor_id.to_le_bytes());
        space.put(0x2e, &device_id.to_le_bytes());
        space
    }

    /// Reads at `offset`; beyond the end there are zeros.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) {
        buffer.fill(0);
        let from = usize::try_from(offset).ok().and_then(|offset| self.bytes.get(offset..)).unwrap_or_default();
        for (to, from) in buffer.iter_mut().zip(from) {
            *to = *from;
        }
    }

    /// Writes at `offset`: the command register, BARs (with sizing) and the interrupt line; the rest is read-only.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let mut at = offset;
        for byte in data {
            self.write_byte(at, *byte);
            at = at.saturating_add(1);
        }
    }

    fn write_byte(&mut self, offset: u64, value: u8) {
        let command = offset.checked_sub(COMMAND).and_then(|at| usize::try_from(at).ok());
        if let Some(mask) = command.and_then(|at| COMMAND_WRITABLE.get(at)) {
            self.put(offset, &[value & mask]);
        } else if (BAR0..BAR5_END).contains(&offset) {
            self.put(offset, &[value & self.bar_mask(offset)]);
        } else if offset == INTERRUPT_LINE {
            self.put(offset, &[value]);
        }
    }

    /// Which bits of the BAR byte at `offset` an address may set: those above the size.
    fn bar_mask(&self, offset: u64) -> u8 {
        let at = offset.saturating_sub(BAR0);
        let size = usize::try_from(at / 4).ok().and_then(|index| self.bar_bytes.get(index)).copied().unwrap_or(0);
        let mask = if size == 0 { 0 } else { !size.saturating_sub(1) };
        usize::try_from(at % 4).ok().and_then(|byte| mask.to_le_bytes().get(byte).copied()).unwrap_or(0)
    }

    fn put(&mut self, offset: u64, data: &[u8]) {
        let to = usize::try_from(offset).ok().and_then(|offset| self.bytes.get_mut(offset..)).unwrap_or_default();
        for (to, from) in to.iter_mut().zip(data) {
            *to = *from;
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn bars_answer_a_sizing_write() {
        let mut space = ConfigSpace::new(0x1af4, 0x10f0, 0xff_0000, [4096, 0, 0, 0, 0, 0]);
        let mut word = [0; 4];
        for (bar, sized) in [(0x10, 0xffff_f000_u32), (0x14, 0)] {
            space.write(bar, &[0xff; 4]);
            space.read(bar, &mut word);
            assert_eq!(u32::from_le_bytes(word), sized);
        }
        space.write(0x10, &0xfebf_1000_u32.to_le_bytes());
        space.read(0x10, &mut word);
        assert_eq!(u32::from_le_bytes(word), 0xfebf_1000);
        space.write(0x00, &[0; 4]);
        space.read(0x00, &mut word);
        assert_eq!(word, [0xf4, 0x1a, 0xf0, 0x10], "ids are read-only");
    }
}
