// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a subscriber sees of a migration: every phase and every device a span, every decision an event with its reason.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod common;

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread;

use common::{channels, devices, load_options, ports, save_options};
use savevm_core::sim::SimDevice;
use savevm_core::{Hooks, Phase, load, save};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber, dispatcher};

/// The phases both sides walk, in the documentation's words.
const PHASES: [&str; 8] = ["hello", "open", "pre-copy", "switchover", "stop-copy", "load", "commit", "done"];

#[derive(Debug)]
struct Span {
    name: &'static str,
    fields: String,
    parent: Option<u64>,
    handles: usize,
    closed: bool,
}

#[derive(Debug, Default)]
struct Seen {
    spans: BTreeMap<u64, Span>,
    /// The text of each event, and the span it is in.
    events: Vec<(Option<u64>, String)>,
}

/// Writes down everything.
#[derive(Clone, Default)]
struct Notebook {
    seen: Arc<Mutex<Seen>>,
    last: Arc<AtomicU64>,
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, "{}={value:?} ", field.name()).unwrap();
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        write!(self.0, "{}={value} ", field.name()).unwrap();
    }
}

impl Subscriber for Notebook {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let mut text = Text(String::new());
        span.record(&mut text);
        let parent = span.parent().map(Id::into_u64);
        let span = Span { name: span.metadata().name(), fields: text.0, parent, handles: 1, closed: false };
        self.seen.lock().unwrap().spans.insert(id, span);
        Id::from_u64(id)
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.seen.lock().unwrap().events.push((event.parent().map(Id::into_u64), text.0));
    }

    fn clone_span(&self, id: &Id) -> Id {
        self.seen.lock().unwrap().spans.get_mut(&id.into_u64()).unwrap().handles += 1;
        id.clone()
    }

    fn try_close(&self, id: Id) -> bool {
        let mut seen = self.seen.lock().unwrap();
        let span = seen.spans.get_mut(&id.into_u64()).unwrap();
        span.handles -= 1;
        span.closed = span.handles == 0;
        span.closed
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

impl Seen {
    /// How many spans of this name are children of a span of that name.
    fn count(&self, name: &str, parent: &str) -> usize {
        let is_in = |span: &&Span| span.parent.is_some_and(|parent_id| self.spans[&parent_id].name == parent);
        self.spans.values().filter(|span| span.name == name).filter(is_in).count()
    }

    /// The texts of the events in spans of this name.
    fn events_in(&self, name: &str) -> Vec<&str> {
        let is_in = |parent: &Option<u64>| parent.is_some_and(|id| self.spans[&id].name == name);
        self.events.iter().filter(|(parent, _)| is_in(parent)).map(|(_, text)| text.as_str()).collect()
    }

    fn assert_closed(&self) {
        let open: Vec<_> = self.spans.values().filter(|span| !span.closed).collect();
        assert!(open.is_empty(), "every span ends: {open:?}");
    }
}

struct Both {
    source: Seen,
    target: Seen,
    moved: bool,
}

/// A migration whose sides are watched each by a subscriber of its own thread.
fn migrate(source: &[SimDevice], target: &[SimDevice], hooks: &mut (dyn Hooks + Send)) -> Both {
    let (ours, theirs) = (Notebook::default(), Notebook::default());
    let (mut source, mut target) = (ports(source), ports(target));
    let (left, right) = channels(2);
    let moved = thread::scope(|scope| {
        let theirs = theirs.clone();
        let loading = scope.spawn(move || {
            dispatcher::with_default(&theirs.into(), || {
                load::load(&mut target, right, &mut (), &load_options()).and_then(load::Loaded::run).is_ok()
            })
        });
        let saved = dispatcher::with_default(&ours.clone().into(), || {
            save::save(&mut source, left, hooks, &save_options()).and_then(save::Ready::commit).is_ok()
        });
        saved & loading.join().unwrap()
    });
    let take = |notebook: Notebook| core::mem::take(&mut *notebook.seen.lock().unwrap());
    Both { source: take(ours), target: take(theirs), moved }
}

const CONFIGS: [&str; 3] = [
    "model=plain caps=7 initial=64KiB dirty=256KiB stop=1MiB seed=1",
    "model=plain caps=1 stop=512KiB seed=2",
    "model=mtty ports=1",
];

#[test]
fn every_phase_and_every_device_is_a_span_on_both_sides() {
    let both = migrate(&devices(&CONFIGS), &devices(&CONFIGS), &mut ());
    assert!(both.moved);
    for (side, seen) in [("source", &both.source), ("target", &both.target)] {
        for phase in PHASES {
            assert_eq!(seen.count(phase, "migration"), 1, "phase {phase} of the {side}");
        }
        assert_eq!(seen.count("device", "migration"), CONFIGS.len(), "{side}");
        let migration: Vec<_> = seen.spans.values().filter(|span| span.name == "migration").collect();
        assert_eq!(migration.len(), 1, "{side}");
        assert!(migration[0].fields.contains(&format!("side={side}")), "{migration:?}");
        for name in ["d0", "d1", "d2"] {
            let has_name = |span: &&Span| span.name == "device" && span.fields.contains(&format!("device={name} "));
            assert_eq!(seen.spans.values().filter(has_name).count(), 1, "{name} of the {side}");
        }
        seen.assert_closed();
    }
}

/// The threads of the engine have the caller's subscriber, although it was set for the caller's thread alone.
#[test]
fn calls_to_devices_are_spans_in_those_of_the_devices() {
    let both = migrate(&devices(&CONFIGS), &devices(&CONFIGS), &mut ());
    let count = CONFIGS.len();
    assert_eq!(both.source.count("describe", "device"), count);
    assert!(both.source.count("read", "device") >= count);
    assert!(both.source.count("query", "device") >= 1);
    // To STOP_COPY and, given up, to STOP; the first two also to PRE_COPY or RUNNING_P2P.
    assert!(both.source.count("transition", "device") >= 2 * count);
    // To RESUMING and to STOP.
    assert_eq!(both.target.count("transition", "device"), 2 * count);
}

#[test]
fn every_decision_says_its_reason() {
    let both = migrate(&devices(&CONFIGS), &devices(&CONFIGS), &mut ());
    let all: Vec<&str> = both.source.events.iter().map(|(_, text)| text.as_str()).collect();
    let switch: Vec<_> = all.iter().filter(|text| text.contains("decision=switch over ")).collect();
    assert_eq!(switch.len(), 1, "{all:?}");
    assert!(switch[0].contains("reason=the predicted downtime is within the limit "), "{switch:?}");
    assert!(switch[0].contains("pending_bytes=") && switch[0].contains("downtime_ms="), "{switch:?}");
    assert!(all.iter().any(|text| text.contains("decision=pause the guest ")), "{all:?}");
    for text in &all {
        assert_eq!(text.contains("decision="), text.contains("reason="), "a decision without its reason: {text}");
    }
    let accepted = both.target.events_in("open");
    assert_eq!(accepted.iter().filter(|text| text.contains("decision=accept")).count(), CONFIGS.len());
    let loaded = both.target.events_in("device");
    assert_eq!(loaded.iter().filter(|text| text.contains("loaded")).count(), CONFIGS.len(), "{loaded:?}");
}

/// A VMM that cannot pause its vCPUs, and says something of its own.
struct Stubborn;

impl Hooks for Stubborn {
    fn phase(&mut self, phase: Phase) {
        tracing::info!("the VMM hears of {phase}");
    }

    fn pause_guest(&mut self) -> Result<(), String> {
        Err("a vCPU does not answer".into())
    }
}

#[test]
fn an_abort_is_a_span_that_says_why_and_what_became_of_each_device() {
    let both = migrate(&devices(&CONFIGS), &devices(&CONFIGS), &mut Stubborn);
    assert!(!both.moved);
    for seen in [&both.source, &both.target] {
        assert_eq!(seen.count("abort", "migration"), 1);
        assert_eq!(seen.count("commit", "migration"), 0);
        let events = seen.events_in("abort");
        assert_eq!(events.iter().filter(|text| text.contains("put back")).count(), CONFIGS.len(), "{events:?}");
        assert!(events.iter().any(|text| text.contains("a vCPU does not answer")), "{events:?}");
        seen.assert_closed();
    }
}

#[test]
fn a_device_that_does_not_fit_is_named_with_the_reason() {
    let (ours, theirs) = (devices(&["model=mtty ports=1"]), devices(&["model=plain caps=1 stop=1KiB"]));
    let both = migrate(&ours, &theirs, &mut ());
    assert!(!both.moved);
    let refused = both.target.events_in("open");
    assert!(refused.iter().any(|text| text.contains("decision=refuse") && text.contains("reason=")), "{refused:?}");
}
