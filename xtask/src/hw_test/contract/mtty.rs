// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The kernel's sample serial card: its stream header, and its UART as the observable that must survive a migration.

use super::check::{Checked, expect, must};
use super::dut::Dut;

/// A register that takes any value.
pub(crate) struct Change {
    /// In the stream: behind the header, `uart_reg[8]` of the first port.
    pub offset: usize,
    /// In BAR0.
    pub register: u64,
    /// The new value.
    pub value: u8,
}

const IER: u64 = 1;
const LCR: u64 = 3;
const MCR: u64 = 4;
const SCR: u64 = 7;

/// Registers whose content the driver does not use as an index.
pub(crate) const HARMLESS_REGISTERS: &[Change] = &[
    Change { offset: 25, register: IER, value: 0x0a },
    Change { offset: 27, register: LCR, value: 0x1b },
    Change { offset: 28, register: MCR, value: 0x07 },
    Change { offset: 31, register: SCR, value: 0xc3 },
];

const BAR0: u32 = 0;

/// One byte: wider accesses reach a single register all the same.
fn write(dut: &Dut, register: u64, value: u8) -> Checked {
    let device = dut.device()?;
    let bar = must("REGION_INFO of BAR0", device.region_info(BAR0))?;
    must(&format!("write of UART register {register}"), device.region_write(&bar, register, &[value]))
}

fn read(dut: &Dut, register: u64) -> Checked<u8> {
    let device = dut.device()?;
    let bar = must("REGION_INFO of BAR0", device.region_info(BAR0))?;
    let mut value = [0];
    must(&format!("read of UART register {register}"), device.region_read(&bar, register, &mut value))?;
    let [value] = value;
    Ok(value)
}

/// The register must hold `expected`.
pub(crate) fn expect_register(dut: &Dut, register: u64, expected: u8) -> Checked {
    expect(
        &format!("UART register {register} of {}", dut.name),
        format!("{:#04x}", read(dut, register)?),
        format!("{expected:#04x}"),
    )
}

/// What [`seed`] queues in the FIFO.
const TEXT: &[u8] = b"hello";

/// Brings the UART of `dut` into a state in which every register differs from a fresh one.
pub(crate) fn seed(dut: &Dut) -> Checked {
    seed_with(dut, 0x5a, TEXT)
}

/// Another state, so that a load that does nothing is seen.
pub(crate) fn spoil(dut: &Dut) -> Checked {
    seed_with(dut, 0x99, b"x")?;
    write(dut, MCR, 0)?;
    write(dut, IER, 0)
}

fn seed_with(dut: &Dut, scratch: u8, text: &[u8]) -> Checked {
    // FCR: FIFO on, both directions cleared. LCR: divisor latch open, which zeroes the divisor, then set, then closed.
    for (register, value) in
        [(2, 0x07), (LCR, 0x80), (0, 0x0c), (1, 0x01), (LCR, 0x03), (MCR, 0x0b), (SCR, scratch), (IER, 0x05)]
    {
        write(dut, register, value)?;
    }
    text.iter().try_for_each(|byte| write(dut, 0, *byte))
}

/// Everything [`seed`] did must be seen on `dut`. Reads the FIFO empty.
pub(crate) fn expect_seeded(dut: &Dut) -> Checked {
    for (register, expected) in [(SCR, 0x5a), (LCR, 0x03), (MCR, 0x0b), (IER, 0x05), (2, 0xc4), (5, 0x01)] {
        expect_register(dut, register, expected)?;
    }
    let mut received = Vec::new();
    for _ in TEXT {
        received.push(read(dut, 0)?);
    }
    expect(
        "what the FIFO gives",
        String::from_utf8_lossy(&received).into_owned(),
        String::from_utf8_lossy(TEXT).into_owned(),
    )?;
    expect_register(dut, 5, 0x60)
}

/// Leaves the divisor latch open with a divisor in it: opening it later would zero the divisor.
pub(crate) fn seed_latch(dut: &Dut) -> Checked {
    for (register, value) in [(LCR, 0x83), (0, 0x0c), (1, 0x01)] {
        write(dut, register, value)?;
    }
    Ok(())
}

/// What [`seed_latch`] did must be seen on `dut`. Closes the latch.
pub(crate) fn expect_latch(dut: &Dut) -> Checked {
    for (register, expected) in [(LCR, 0x83), (0, 0x0c), (1, 0x01)] {
        expect_register(dut, register, expected)?;
    }
    write(dut, LCR, 0x03)
}
