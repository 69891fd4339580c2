// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One serial port of an mtty card: a 16550 whose transmitter is looped back into its own FIFO.

pub(super) const FIFO_BYTES: usize = 16;

const IER: usize = 1;
const LCR: usize = 3;
const MCR: usize = 4;
const SCR: usize = 7;

const IER_RECEIVED: u8 = 0x01;
const IER_TRANSMITTER_EMPTY: u8 = 0x02;
const IER_LINE_STATUS: u8 = 0x04;
const IIR_NONE: u8 = 0x01;
const IIR_TRANSMITTER_EMPTY: u8 = 0x02;
const IIR_RECEIVED: u8 = 0x04;
const IIR_LINE_STATUS: u8 = 0x06;
const IIR_FIFO: u8 = 0xc0;
const FCR_ENABLE: u8 = 0x01;
const FCR_CLEAR: u8 = 0x06;
const LCR_DLAB: u8 = 0x80;
const MCR_AUTO_FLOW: u8 = 0x20;
const LSR_DATA: u8 = 0x01;
const LSR_OVERRUN: u8 = 0x02;
const LSR_EMPTY: u8 = 0x60;
const MSR_FIXED: u8 = 0xa2;
const MSR_CLEAR_TO_SEND: u8 = 0x11;

/// Registers and FIFO, with the fields of the stream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Uart {
    pub(super) registers: [u8; 8],
    pub(super) fifo: [u8; FIFO_BYTES],
    pub(super) head: u8,
    pub(super) tail: u8,
    pub(super) count: u8,
    pub(super) dlab: bool,
    pub(super) overrun: bool,
    pub(super) divisor: u16,
    pub(super) fcr: u8,
    pub(super) fifo_max: u8,
    pub(super) trigger_level: u8,
}

impl Default for Uart {
    fn default() -> Self {
        Self {
            registers: [0; 8],
            fifo: [0; FIFO_BYTES],
            head: 0,
            tail: 0,
            count: 0,
            dlab: false,
            overrun: false,
            divisor: 0,
            fcr: 0,
            fifo_max: 16,
            trigger_level: 0,
        }
    }
}

impl Uart {
    pub(super) fn write(&mut self, offset: u64, value: u8) {
        match offset {
            0 if self.dlab => self.divisor |= u16::from(value),
            0 => self.push(value),
            1 if self.dlab => self.divisor |= u16::from(value).wrapping_shl(8),
            1 => self.set(IER, value),
            2 => self.control_fifo(value),
            3 => {
                self.dlab = value & LCR_DLAB != 0;
                if self.dlab {
                    self.divisor = 0;
                }
                self.set(LCR, value);
            }
            4 => self.set(MCR, value),
            7 => self.set(SCR, value),
            // Line and modem status cannot be written.
            _ => {}
        }
    }

    pub(super) fn read(&mut self, offset: u64) -> u8 {
        let [divisor_high, divisor_low] = self.divisor.to_be_bytes();
        match offset {
            0 if self.dlab => divisor_low,
            0 => self.pop(),
            1 if self.dlab => divisor_high,
            1 => self.get(IER) & 0x0f,
            2 => self.interrupt_identification(),
            3 => self.get(LCR),
            4 => self.get(MCR),
            5 => self.line_status(),
            6 => self.modem_status(),
            7 => self.get(SCR),
            _ => 0,
        }
    }

    fn get(&self, register: usize) -> u8 {
        self.registers.get(register).copied().unwrap_or(0)
    }

    fn set(&mut self, register: usize, value: u8) {
        if let Some(slot) = self.registers.get_mut(register) {
            *slot = value;
        }
    }

    /// The driver compares the indices and not the count, so a FIFO with all 16 bytes in it looks empty.
    fn looks_empty(&self) -> bool {
        self.head == self.tail
    }

    fn push(&mut self, value: u8) {
        if self.count >= self.fifo_max {
            self.overrun = true;
            return;
        }
        if let Some(slot) = self.fifo.get_mut(usize::from(self.head % 16)) {
            *slot = value;
        }
        self.count = self.count.wrapping_add(1);
        self.head = self.head.wrapping_add(1) % 16;
        self.overrun = false;
    }

    fn pop(&mut self) -> u8 {
        if self.looks_empty() {
            return 0;
        }
        let value = self.fifo.get(usize::from(self.tail % 16)).copied().unwrap_or(0);
        self.count = self.count.wrapping_sub(1);
        self.tail = self.tail.wrapping_add(1) % 16;
        value
    }

    fn control_fifo(&mut self, value: u8) {
        self.fcr = value;
        if value & FCR_CLEAR != 0 {
            self.count = 0;
            self.head = 0;
            self.tail = 0;
        }
        // Whatever trigger level is asked for, the driver ends up with 1.
        self.trigger_level = 1;
        self.fifo_max = if value & FCR_ENABLE != 0 { 16 } else { 1 };
    }

    /// The modem-status interrupt has no bit: pending or not, it reads as "none".
    fn interrupt_identification(&self) -> u8 {
        let enabled = self.get(IER);
        let mut pending = 0;
        if enabled & IER_LINE_STATUS != 0 && self.overrun {
            pending |= IIR_LINE_STATUS;
        }
        if enabled & IER_RECEIVED != 0 && self.count >= self.trigger_level {
            pending |= IIR_RECEIVED;
        }
        if enabled & IER_TRANSMITTER_EMPTY != 0 && self.looks_empty() {
            pending |= IIR_TRANSMITTER_EMPTY;
        }
        IIR_FIFO | if pending == 0 { IIR_NONE } else { pending }
    }

    fn line_status(&self) -> u8 {
        let overrun = if self.overrun { LSR_OVERRUN } else { 0 };
        overrun | if self.looks_empty() { LSR_EMPTY } else { LSR_DATA }
    }

    fn modem_status(&self) -> u8 {
        let full = self.count >= self.fifo_max;
        if self.get(MCR) & MCR_AUTO_FLOW != 0 && full { MSR_FIXED } else { MSR_FIXED | MSR_CLEAR_TO_SEND }
    }
}
