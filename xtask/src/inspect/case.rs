// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One migration while its files are read: what was found so far, and where it is told.

use core::ops::ControlFlow;

use super::Options;
use super::device::Devices;
use super::drive::Progress;
use super::entry::Entry;
use super::fault::{Fault, Faults};
use super::native::NativeFacts;
use super::paper::Paper;
use super::qemu::{AnswerFacts, ChannelFacts, MainFacts};
use super::words::size;

/// A migration.
pub(super) struct Case<'a> {
    pub(super) options: &'a Options,
    pub(super) paper: &'a mut Paper,
    pub(super) progress: &'a Progress,
    pub(super) devices: Devices<'a>,
    pub(super) faults: Faults,
    pub(super) main: Option<MainFacts>,
    pub(super) channels: Vec<ChannelFacts>,
    pub(super) answers: Option<AnswerFacts>,
    pub(super) natives: Vec<NativeFacts>,
    /// The devices that the source's first channel names: number, name, and place among all devices.
    pub(super) native_devices: Vec<(u32, String, usize)>,
    /// Whether every file came to its end.
    pub(super) is_whole: bool,
    /// Whether anything was recognised.
    pub(super) is_anything: bool,
}

impl<'a> Case<'a> {
    pub(super) fn new(options: &'a Options, paper: &'a mut Paper, progress: &'a Progress) -> Self {
        Self {
            options,
            paper,
            progress,
            devices: Devices::new(&options.forced, &options.extracts),
            faults: Faults::default(),
            main: None,
            channels: Vec::new(),
            answers: None,
            natives: Vec::new(),
            native_devices: Vec::new(),
            is_whole: true,
            is_anything: false,
        }
    }

    /// Shows an item of the file that is being read.
    pub(super) fn show(&mut self, entry: &Entry) {
        self.is_anything = true;
        self.paper.item(entry);
    }

    /// Whether to go on: not if all that was asked for was the tree, and its reader has left.
    pub(super) fn go_on(&self) -> ControlFlow<()> {
        let is_over = self.paper.is_closed() && !self.options.check && self.options.extracts.is_empty();
        if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Takes note of a fault, and shows it where it was found.
    pub(super) fn fault(&mut self, label: &str, mut fault: Fault) {
        label.clone_into(&mut fault.file);
        if self.paper.has_items() {
            let within = if fault.within.is_empty() { String::new() } else { format!(" in {}", fault.within) };
            self.paper.line(&format!("{:08x}  FAULT{within}: {}", fault.offset, fault.meaning));
        }
        self.faults.add(fault);
    }

    /// Heads the explanation of a file.
    pub(super) fn open_file(&mut self, label: &str, what: &str, format: &str, length: Option<u64>, has_items: bool) {
        let bytes = length.filter(|bytes| *bytes > 0).map(|bytes| format!(", {}", size(bytes))).unwrap_or_default();
        if self.paper.has_items() {
            self.paper.line(&format!("{label}: {what}{bytes}"));
            if has_items {
                self.paper.line("  offset       bytes");
            }
        }
        self.paper.json_open(None, "{");
        self.paper.json_member("file", &label);
        self.paper.json_member("format", &format);
        if self.paper.has_items() {
            self.paper.json_open(Some("items"), "[");
        }
    }

    /// Ends it.
    pub(super) fn close_file(&mut self, read_bytes: u64) {
        if self.paper.has_items() {
            self.paper.json_close("]");
            self.paper.line("");
        }
        self.paper.json_member("read_bytes", &read_bytes);
        self.paper.json_close("}");
    }
}
