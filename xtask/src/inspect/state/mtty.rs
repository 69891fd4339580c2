// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state of an mtty: a header of 24 bytes and 36 bytes per port, little-endian as its host.

use stream_codec::cursor::{Cursor, CursorError};

use super::{Findings, StateFault, Surroundings};
use crate::inspect::words::{count, hex, wide};

/// The first eight bytes as a little-endian number.
pub(in crate::inspect) const MAGIC: u64 = 0x7e9d_0989_8c3e_2c4e;

const HEADER_BYTES: usize = 24;
const PORT_BYTES: usize = 36;
const PORTS_MAX: u32 = 2;
const STATE_BYTES_MAX: usize = HEADER_BYTES + 2 * PORT_BYTES;

const REFUSED: &str = "do not load this state: the driver refuses it or, worse, accepts it later";

#[derive(Debug, Default)]
pub(super) struct Reader {
    /// At most one byte more than the longest state has.
    bytes: Vec<u8>,
}

impl Reader {
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let room = STATE_BYTES_MAX.saturating_add(1).saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    }

    pub(super) fn finish(self, around: &Surroundings) -> Findings {
        let mut found = Findings::default();
        let mut cursor = Cursor::new(&self.bytes);
        if let Err(error) = read(&mut cursor, around, &mut found) {
            let meaning = format!("the state ends too early: {error}");
            if around.is_complete {
                found.faults.push(StateFault::new(wide(self.bytes.len()), meaning, "save it again"));
            } else {
                found.notes.push(meaning);
            }
        } else if !cursor.is_empty() {
            let meaning = "bytes follow the last port; the driver takes no more";
            found.faults.push(StateFault::new(cursor.offset(), meaning, REFUSED));
        }
        found
    }
}

fn read(cursor: &mut Cursor<'_>, around: &Surroundings, found: &mut Findings) -> Result<(), CursorError> {
    let mut expect = |offset, what: &str, value: u64, expected: u64| {
        if value != expected {
            let meaning = format!("{what} is {value:#x}; the driver takes {expected:#x} only");
            found.faults.push(StateFault::new(offset, meaning, REFUSED));
        }
    };
    expect(0, "magic", cursor.u64_le("magic")?, MAGIC);
    let (major, minor) = (cursor.u32_le("major version")?, cursor.u32_le("minor version")?);
    expect(8, "major version", major.into(), 1);
    expect(12, "minor version", minor.into(), 0);
    let ports = cursor.u32_le("number of ports")?;
    if let Some(stated) = around.ports {
        expect(16, "number of ports", ports.into(), stated.into());
    }
    expect(20, "flags", cursor.u32_le("flags")?.into(), 0);
    found.lines.push(format!("mtty device state, version {major}.{minor}, {}", count(ports.into(), "port")));
    found.fact("version", format!("{major}.{minor}"));
    found.fact("ports", ports);
    if !(1..=PORTS_MAX).contains(&ports) {
        let meaning = format!("number of ports is {ports}; a device has 1 or 2");
        found.faults.push(StateFault::new(16, meaning, REFUSED));
    }
    for port in 0..ports.min(PORTS_MAX) {
        read_port(port, cursor, found)?;
    }
    Ok(())
}

fn read_port(port: u32, cursor: &mut Cursor<'_>, found: &mut Findings) -> Result<(), CursorError> {
    let at = cursor.offset();
    let [_, ier, _, lcr, mcr, _, _, scr]: [u8; 8] = cursor.take_array("UART registers")?;
    let fifo: [u8; 16] = cursor.take_array("FIFO")?;
    let [head, tail, count, dlab, overrun, _] = cursor.take_array("FIFO pointers")?;
    let divisor = cursor.u16_le("divisor")?;
    let [fcr, fifo_max, trigger, _] = cursor.take_array("FIFO control")?;
    found.lines.push(format!(
        "port {port}  IER {ier:#04x}  LCR {lcr:#04x}  MCR {mcr:#04x}  SCR {scr:#04x}  FCR {fcr:#04x}  divisor {divisor}  \
         DLAB {dlab}  overrun {overrun}"
    ));
    found.lines.push(format!(
        "        FIFO {count} of {fifo_max} bytes, head {head}, tail {tail}, trigger {trigger}: {}",
        hex(&fifo, 16)
    ));
    // The driver does not look at these, and would index its FIFO by them.
    for (offset, what, value, max) in [(24, "head", head, 15), (25, "tail", tail, 15), (26, "count", count, 16)] {
        if value > max {
            let meaning = format!("{what} of port {port}'s FIFO is {value}, at most {max} fits");
            let advice = "do not load this state: the driver would write outside its FIFO";
            found.faults.push(StateFault::new(at.saturating_add(offset), meaning, advice));
        }
    }
    Ok(())
}
