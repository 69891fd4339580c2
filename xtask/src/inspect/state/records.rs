// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The states that are a row of records: mlx5 and virtio.

use device_mlx5::record::{HEADER_BYTES, Record, RecordDecoder, RecordEvent, VIRTIO};
use device_mlx5::{Error, Event, Image, Limits, Phase, StreamDecoder};
use serde_json::{Value, json};
use stream_codec::decode::{Decoder, Step};

use super::{Findings, StateFault, Surroundings};
use crate::inspect::words::{count, size, wide};

/// Most records that are listed one by one.
const LISTED_MAX: usize = 32;

/// Records, of which the first are listed.
#[derive(Debug, Default)]
struct List {
    lines: Vec<String>,
    facts: Vec<Value>,
    seen: u64,
}

impl List {
    fn add(&mut self, record: &Record, what: &str) {
        self.seen = self.seen.saturating_add(1);
        if self.lines.len() >= LISTED_MAX {
            return;
        }
        let (offset, header) = (record.offset, &record.header);
        let flags = if header.is_optional() { ", optional" } else { "" };
        self.lines.push(format!("{offset:>12}  tag {}{flags}  {what}, {}", header.tag, size(header.record_bytes)));
        self.facts.push(json!({
            "offset": offset, "tag": header.tag, "flags": header.flags, "bytes": header.record_bytes, "what": what,
        }));
    }

    fn finish(self, found: &mut Findings) {
        let more = self.seen.saturating_sub(wide(self.lines.len()));
        found.lines.extend(self.lines);
        if more > 0 {
            found.lines.push(format!("              … and {}", count(more, "record")));
        }
        found.fact("records", self.seen);
        found.fact("first_records", self.facts);
    }
}

/// Bytes after which nothing more is read, because of an error or because of the end.
fn judge(error: Option<Error>, ending: Result<(), Error>, around: &Surroundings, found: &mut Findings) {
    match (error, ending) {
        (Some(error), _) => found.faults.push(StateFault::of(&error)),
        // A stream that was cut somewhere is already reported as such.
        (None, Err(error)) if around.is_complete => found.faults.push(StateFault::of(&error)),
        (None, Err(error)) => found.notes.push(error.to_string()),
        (None, Ok(())) => {}
    }
}

/// The state of a ConnectX VF.
#[derive(Debug)]
pub(super) struct Mlx5 {
    decoder: StreamDecoder,
    error: Option<Error>,
    list: List,
}

impl Default for Mlx5 {
    fn default() -> Self {
        Self { decoder: StreamDecoder::new(Limits::FORMAT), error: None, list: List::default() }
    }
}

impl Mlx5 {
    pub(super) fn set_stopped(&mut self, is_stopped: bool) {
        self.decoder.set_phase(if is_stopped { Phase::StopCopy } else { Phase::PreCopy });
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while self.error.is_none() {
            match self.decoder.decode(bytes) {
                Ok(Step { event: None, .. }) => return,
                Ok(Step { consumed, event: Some(event) }) => {
                    bytes = bytes.get(consumed..).unwrap_or_default();
                    match event {
                        Event::StopCopySize { record, bytes } => {
                            self.list.add(&record, &format!("STOP_COPY_SIZE {bytes}"));
                        }
                        Event::ImageStart(image) => self.list.add(&image.record, &describe(&image)),
                        Event::Skipped(record) => self.list.add(&record, "unknown, skipped"),
                        _ => {}
                    }
                }
                Err(error) => self.error = Some(error),
            }
        }
    }

    pub(super) fn finish(self, around: &Surroundings) -> Findings {
        let mut found = Findings::default();
        let summary = *self.decoder.summary();
        found.lines = summary.to_string().lines().map(str::to_owned).collect();
        found.notes = summary.remarks().map(|remark| remark.to_string()).collect();
        found.lines.retain(|line| !line.starts_with("remark"));
        found.fact("images", summary.images);
        found.fact("image_bytes", summary.image_bytes);
        found.fact("stop_copy_size", summary.stop_copy_size);
        self.list.finish(&mut found);
        judge(self.error, self.decoder.finish(), around, &mut found);
        found
    }
}

fn describe(image: &Image) -> String {
    format!("FW_DATA {}, {}", image.number, image.part)
}

/// The state of a virtio VF.
#[derive(Debug)]
pub(super) struct Virtio {
    decoder: RecordDecoder,
    error: Option<Error>,
    list: List,
    bytes: u64,
}

impl Default for Virtio {
    fn default() -> Self {
        Self { decoder: RecordDecoder::new(VIRTIO, Limits::FORMAT), error: None, list: List::default(), bytes: 0 }
    }
}

impl Virtio {
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while self.error.is_none() {
            match self.decoder.decode(bytes) {
                Ok(Step { event: None, .. }) => return,
                Ok(Step { consumed, event: Some(event) }) => {
                    bytes = bytes.get(consumed..).unwrap_or_default();
                    match event {
                        RecordEvent::Start(record) => {
                            self.bytes = self.bytes.saturating_add(record.header.record_bytes);
                            self.list.add(&record, "DEVICE_DATA, a complete state");
                        }
                        RecordEvent::Skipped(record) => self.list.add(&record, "unknown, skipped"),
                        _ => {}
                    }
                }
                Err(error) => self.error = Some(error),
            }
        }
    }

    pub(super) fn finish(self, around: &Surroundings) -> Findings {
        let mut found = Findings::default();
        let records = count(self.list.seen, "record");
        found.lines.push(format!(
            "virtio device state, {records} with {}, and {HEADER_BYTES} bytes of header each; the last one counts",
            size(self.bytes)
        ));
        self.list.finish(&mut found);
        judge(self.error, self.decoder.finish(), around, &mut found);
        found
    }
}
