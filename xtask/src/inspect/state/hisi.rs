// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state of a HiSilicon accelerator: one structure.

use device_hisi::check::Severity;
use device_hisi::{Error, StateDecoder, Stream};
use stream_codec::decode::Decoder;

use super::{Findings, StateFault, Surroundings};

/// HiSilicon's PCI vendor id.
const VENDOR: u16 = 0x19e5;

const DO_NOT_LOAD: &str = "do not load this state; save it again";

#[derive(Debug, Default)]
pub(super) struct Reader {
    decoder: StateDecoder,
    error: Option<Error>,
}

impl Reader {
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while self.error.is_none() && !bytes.is_empty() {
            match self.decoder.decode(bytes) {
                Ok(step) => bytes = bytes.get(step.consumed..).unwrap_or_default(),
                Err(error) => self.error = Some(error),
            }
        }
    }

    pub(super) fn finish(self, around: &Surroundings) -> Findings {
        let mut found = Findings::default();
        let stream = match self.error.map_or_else(|| self.decoder.end(), Err) {
            Ok(stream) => stream,
            Err(error) => {
                // A stream that was cut somewhere is already reported as such.
                if around.is_complete || self.decoder.finish().is_ok() {
                    found.faults.push(StateFault::of(&error));
                } else {
                    found.notes.push(error.to_string());
                }
                return found;
            }
        };
        found.lines = stream.to_string().lines().map(str::to_owned).collect();
        let head = stream.head();
        found.fact("version", head.version.to_string());
        found.fact("device_id", head.dev_id);
        found.fact("queue_pairs", head.qp_num);
        found.fact("has_registers", matches!(stream, Stream::Full(_)));
        for finding in stream.check().iter() {
            let text = format!("{} {finding}", finding.field());
            match finding.severity() {
                Severity::Warning => found.notes.push(format!("{text} (at byte {} of the state)", finding.offset())),
                _ => found.faults.push(StateFault::new(finding.offset(), text, DO_NOT_LOAD)),
            }
        }
        if let Some((vendor, device)) = around.pci {
            if (u32::from(device), vendor) != (head.dev_id, VENDOR) {
                let id = head.dev_id;
                let meaning = format!("dev_id is {id:#06x}, but the device is {vendor:04x}:{device:04x}");
                found.faults.push(StateFault::new(12, meaning, "find out which device this state is of"));
            }
        }
        found
    }
}
