// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The return path: what the target answered.

use serde::Serialize;
use stream_codec::qemu::{Event, ReturnPathDecoder, ReturnPathItem};

use crate::inspect::case::Case;
use crate::inspect::drive::{End, drive};
use crate::inspect::entry::Entry;
use crate::inspect::fault::Fault;
use crate::inspect::input::Input;
use crate::inspect::words::{shown, wide};

/// Most PONGs whose values are kept.
const PONGS_MAX: usize = 256;

/// What the target said, as a whole.
#[derive(Clone, Debug, Default, Serialize)]
pub(in crate::inspect) struct AnswerFacts {
    pub(in crate::inspect) file: String,
    pub(in crate::inspect) pongs: Vec<u32>,
    pub(in crate::inspect) switchover_acks: u64,
    pub(in crate::inspect) page_requests: u64,
    /// The status of SHUT; none if the target did not say it.
    pub(in crate::inspect) shut: Option<u32>,
}

/// Explains a return path.
///
/// # Errors
/// The file cannot be read.
pub(in crate::inspect) fn explain(input: &mut Input, case: &mut Case<'_>) -> Result<(), String> {
    let label = input.label.clone();
    let mut reader = Reader {
        facts: AnswerFacts { file: label.clone(), ..AnswerFacts::default() },
        requests: None,
        is_all: case.options.all,
        failed: None,
    };
    let mut decoder = ReturnPathDecoder::new();
    let end = drive(input, &mut decoder, case.progress, |event| {
        reader.event(&event, case);
        case.go_on()
    })?;
    reader.close_requests(case);
    if let Some(fault) = reader.failed.take() {
        case.fault(&label, fault);
    }
    if let End::Refused(fault) = end {
        case.is_whole = false;
        case.fault(&label, fault);
    }
    case.answers = Some(reader.facts);
    Ok(())
}

struct Reader {
    facts: AnswerFacts,
    /// Page requests that follow each other.
    requests: Option<(Entry, u64, u64)>,
    is_all: bool,
    failed: Option<Fault>,
}

impl Reader {
    fn event(&mut self, event: &Event<'_, ReturnPathItem<'_>>, case: &mut Case<'_>) {
        let (offset, bytes) = (event.offset, wide(event.raw.len()));
        let named = |name| Entry::new("message", offset, bytes).named(name);
        let entry = match &event.item {
            ReturnPathItem::Shut { status } => {
                self.facts.shut = Some(*status);
                if *status != 0 {
                    let meaning = format!("the target says that it failed: SHUT with status {status}");
                    let advice = "look into the log of the target";
                    self.failed = Some(Fault::new(offset, meaning, advice).found(event.raw));
                }
                let text =
                    if *status == 0 { "the target read its main stream without error" } else { "the target failed" };
                named("SHUT").fact("status", *status).text(format!("status {status}: {text}"))
            }
            ReturnPathItem::Pong { value } => {
                if self.facts.pongs.len() < PONGS_MAX {
                    self.facts.pongs.push(*value);
                }
                named("PONG").fact("value", *value).text(format!("{value:#x}"))
            }
            ReturnPathItem::RequestPages { start, length, block } => {
                return self.request(*start, *length, *block, offset, bytes, case);
            }
            ReturnPathItem::RecvBitmap { block } => named("RECV_BITMAP").fact("block", *block).text(shown(block)),
            ReturnPathItem::BitmapSize { bytes } => {
                named("bitmap size").fact("size", *bytes).text(format!("{bytes} bytes"))
            }
            ReturnPathItem::BitmapBytes(piece) => named("bitmap").text(format!("from byte {}", piece.position)),
            ReturnPathItem::BitmapEnd => named("bitmap end"),
            ReturnPathItem::ResumeAck { value } => named("RESUME_ACK").fact("value", *value).text(value.to_string()),
            ReturnPathItem::SwitchoverAck => {
                self.facts.switchover_acks = self.facts.switchover_acks.saturating_add(1);
                named("SWITCHOVER_ACK").text("a device has loaded its initial bytes")
            }
            _ => named("unknown"),
        };
        self.close_requests(case);
        case.show(&entry);
    }

    fn request(&mut self, start: u64, length: u32, block: Option<&str>, offset: u64, bytes: u64, case: &mut Case<'_>) {
        self.facts.page_requests = self.facts.page_requests.saturating_add(1);
        let length = u64::from(length);
        if let Some((entry, requests, wanted)) = self.requests.as_mut().filter(|_| !self.is_all) {
            *requests = requests.saturating_add(1);
            *wanted = wanted.saturating_add(length);
            entry.reach(offset.saturating_add(bytes));
            return;
        }
        self.close_requests(case);
        let of = block.map(|block| format!(" of {}", shown(block))).unwrap_or_default();
        let entry = Entry::new("message", offset, bytes).named("REQ_PAGES").fact("start", start).fact("length", length);
        self.requests = Some((entry.text(format!("from {start:#x}{of}")), 1, length));
    }

    fn close_requests(&mut self, case: &mut Case<'_>) {
        if let Some((entry, requests, bytes)) = self.requests.take() {
            let text = format!("{}, ×{requests}, {bytes} bytes", entry.text);
            case.show(&entry.fact("requests", requests).fact("bytes_wanted", bytes).text(text));
        }
    }
}
