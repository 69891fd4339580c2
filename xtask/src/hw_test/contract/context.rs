// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a test gets to work with: the devices, the place, and a way to report.

use core::cell::{Cell, RefCell};
use std::io::Write;
use std::rc::Rc;
use std::time::Instant;

use super::super::event::{Event, Phase};
use super::dut::Dut;
use super::kernel::KernelVersion;
use super::qemu::Stock;

/// Writes events, one per line.
pub(crate) struct Emitter {
    sink: RefCell<Box<dyn Write>>,
    broken: Cell<bool>,
}

impl Emitter {
    /// Events go to `sink`.
    pub(crate) fn new(sink: Box<dyn Write>) -> Self {
        Self { sink: RefCell::new(sink), broken: Cell::new(false) }
    }

    /// Writes `event` at once: the next thing may be the end of this process.
    pub(crate) fn emit(&self, event: &Event) {
        let Some(line) = event.to_line() else { return };
        let mut sink = self.sink.borrow_mut();
        if writeln!(sink, "{line}").and_then(|()| sink.flush()).is_err() {
            self.broken.set(true);
        }
    }

    /// Nobody listens any more.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.get()
    }
}

/// The devices under test and everything known about the place.
pub(crate) struct Ctx {
    /// The device every test uses.
    pub first: Dut,
    /// A device of the same kind to move states to.
    pub second: Option<Dut>,
    /// Further pairs, of any kinds, that whole migrations move together with the first: what leaves and what takes it.
    pub others: Vec<(Dut, Dut)>,
    /// The kernel whose rules hold.
    pub kernel: KernelVersion,
    /// A stock QEMU, or why it cannot be had; nothing where none was asked for.
    pub stock: Option<Result<Stock, String>>,
    /// Which system calls a sweep lets fail: every so many.
    pub sweep_every: u64,
    emitter: Rc<Emitter>,
    notes: RefCell<Vec<String>>,
}

impl Ctx {
    /// Reports through `emitter`.
    pub(crate) fn new(first: Dut, second: Option<Dut>, kernel: KernelVersion, emitter: Rc<Emitter>) -> Self {
        Self {
            first,
            second,
            others: Vec::new(),
            kernel,
            stock: None,
            sweep_every: 1,
            emitter,
            notes: RefCell::default(),
        }
    }

    /// The same with further pairs.
    pub(crate) fn with_others(self, others: Vec<(Dut, Dut)>) -> Self {
        Self { others, ..self }
    }

    /// The same with a QEMU to migrate to and from.
    pub(crate) fn with_stock(self, stock: Option<Result<Stock, String>>) -> Self {
        Self { stock, ..self }
    }

    /// Keeps an observation for the report, also if the test passes.
    pub(crate) fn note(&self, text: impl Into<String>) {
        self.notes.borrow_mut().push(text.into());
    }

    /// Takes the notes of the test that just ran.
    pub(crate) fn take_notes(&self) -> Vec<String> {
        self.notes.take()
    }

    /// After a failure: fresh device fds, so that the next test does not suffer from it. What cannot be repaired here
    /// shows in that test.
    pub(crate) fn reopen(&mut self) {
        for device in self.all_mut() {
            device.close();
            let _ = device.open();
        }
    }

    /// Every device.
    pub(crate) fn all_mut(&mut self) -> impl Iterator<Item = &mut Dut> {
        let others = self.others.iter_mut().flat_map(|(source, target)| [source, target]);
        [Some(&mut self.first), self.second.as_mut()].into_iter().flatten().chain(others)
    }

    /// The devices that a whole migration moves, each with the one that takes its state.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&Dut, &Dut)> {
        [(&self.first, self.target())].into_iter().chain(self.others.iter().map(|(source, target)| (source, target)))
    }

    /// The device to load into: the second one, or the first if there is no other.
    pub(crate) fn target(&self) -> &Dut {
        self.second.as_ref().unwrap_or(&self.first)
    }

    /// The clock of a migration named `title`; it starts with the first mark.
    pub(crate) fn timeline(&self, title: &str) -> Timeline {
        Timeline { title: title.into(), begin: Cell::new(None), emitter: Rc::clone(&self.emitter) }
    }
}

/// The clock of one migration.
pub(crate) struct Timeline {
    title: String,
    begin: Cell<Option<Instant>>,
    emitter: Rc<Emitter>,
}

impl Timeline {
    /// `phase` begins now on `device`, `bytes` having been moved so far.
    pub(crate) fn mark(&self, device: &str, phase: &str, bytes: usize) {
        let begin = self.begin.get().unwrap_or_else(Instant::now);
        self.begin.set(Some(begin));
        self.mark_at(begin.elapsed().as_secs_f64() * 1e3, device, phase, u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// As [`mark`](Self::mark), at a time somebody else took, in milliseconds since the migration began.
    pub(crate) fn mark_at(&self, at_ms: f64, device: &str, phase: &str, bytes: u64) {
        let (migration, device, phase) = (self.title.clone(), device.into(), phase.into());
        self.emitter.emit(&Event::Phase(Phase { migration, device, phase, at_ms, bytes }));
    }
}
