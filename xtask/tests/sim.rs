// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The commands `sim` and `replay`: simulated migrations hold, promises are kept, and the log of a real migration replays.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod soft;

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;

use savevm_core::load::{self, LoadOptions};
use savevm_core::save::{self, SaveOptions};
use savevm_core::sched::{Config, Event, Logged, Record, Step};
use savevm_core::sim::{SimConfig, SimDevice, SimPort};
use savevm_core::{Channel, Hooks};
use serde_json::{Value, json};

fn run(arguments: &[&str]) -> (Output, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask")).args(arguments).output().unwrap();
    let document = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (output, document)
}

#[test]
fn hundreds_of_simulated_migrations_hold() {
    let (output, report) = run(&["sim", "--runs", "400", "--json"]);
    assert!(output.status.success(), "{report}");
    assert_eq!((&report["runs"], &report["failures"]), (&json!(400), &json!([])));
    let endings = report["endings"].as_object().unwrap();
    assert!(endings["done"].as_u64().unwrap() > 50, "{endings:?}");
    // Faults at every step: a migration that always ends well would prove little.
    let wanted = ["a section failed", "a transition failed", "the link failed", "the target gave up", "cancelled"];
    for ending in wanted {
        assert!(endings.keys().any(|name| name.ends_with(ending)), "no '{ending}' in {endings:?}");
    }
}

#[test]
fn promises_are_kept_where_qemus_rule_breaks_them() {
    let (output, lines) = run(&["sim", "--experiment", "downtime", "--runs", "12", "--jobs", "2", "--json"]);
    assert!(output.status.success(), "{lines}");
    let of = |rule: &str, field: &str| -> f64 {
        let lines = lines.as_array().unwrap().iter().filter(|line| line["rule"] == rule);
        lines.map(|line| line[field].as_f64().unwrap()).sum()
    };
    for rule in ["scheduler", "QEMU", "QEMU + bandwidth"] {
        assert!(of(rule, "switchovers") > 0.0, "{rule} never switched over: {lines}");
    }
    // In per cent, over three limits.
    assert_eq!(of("scheduler", "broken_percent"), 0.0, "{lines}");
    assert!(of("QEMU + bandwidth", "broken_percent") > 20.0, "the baseline forgets what is no byte: {lines}");
    assert!(of("scheduler", "met_percent") > of("QEMU + bandwidth", "met_percent"), "{lines}");
    assert!(of("scheduler", "met_percent") > 270.0, "a promise is also given where it can be kept: {lines}");
    assert!(of("scheduler", "within_p95_percent") > 270.0, "the interval is as wide as it says: {lines}");
}

/// Keeps the log.
#[derive(Default)]
struct Keeping {
    config: Option<Config>,
    records: Vec<Record>,
}

impl Hooks for Keeping {
    fn scheduled(&mut self, entry: Logged<'_>) {
        match entry {
            Logged::Config(config) => self.config = Some(config.clone()),
            Logged::Record(record) => self.records.push(*record),
        }
    }
}

/// A migration by the engine, over a socket: the log of its source as lines.
fn log_of_a_migration(options: &SaveOptions) -> (Keeping, Vec<String>) {
    let configs = [
        "model=plain caps=7 initial=300KiB dirty=1MiB dirty-rate=1MiB/s dirty-total=2MiB stop=1MiB reinit-after=3 seed=1",
        "model=plain caps=1 stop=2MiB seed=2",
    ];
    let devices = || configs.map(|config| SimConfig::parse(config).unwrap().device().unwrap());
    let open = |(index, device): (usize, &SimDevice)| SimPort::open(device, format!("d{index}")).unwrap();
    let (ours, theirs) = (devices(), devices());
    let mut ours: Vec<SimPort> = ours.iter().enumerate().map(open).collect();
    let mut theirs: Vec<SimPort> = theirs.iter().enumerate().map(open).collect();
    let (left, right) = UnixStream::pair().unwrap();
    let mut keeping = Keeping::default();
    thread::scope(|scope| {
        let target = scope.spawn(|| {
            let right = Channel::unix(right).unwrap();
            load::load(&mut theirs, right, &mut (), &LoadOptions::default()).and_then(load::Loaded::run).unwrap();
        });
        let left = Channel::unix(left).unwrap();
        save::save(&mut ours, left, &mut keeping, options).and_then(save::Ready::commit).unwrap();
        target.join().unwrap();
    });
    let head = json!({ "format": "savevm-sched-log/1", "config": keeping.config.as_ref().unwrap() });
    let records = keeping.records.iter().map(|record| serde_json::to_string(record).unwrap());
    let lines = core::iter::once(head.to_string()).chain(records).collect();
    (keeping, lines)
}

fn replay(path: &Path, lines: &[String]) -> (Option<i32>, Value) {
    std::fs::write(path, lines.join("\n")).unwrap();
    let (output, document) = run(&["replay", "--json", path.to_str().unwrap()]);
    (output.status.code(), document)
}

#[test]
fn the_log_of_a_real_migration_replays_and_a_changed_one_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let (keeping, lines) = log_of_a_migration(&SaveOptions::default());
    let records = &keeping.records;
    assert!(matches!(records.last(), Some(Record::Poll { step: Step::Ready, .. })), "it is whole: {records:?}");
    let has = |wanted: fn(&Event) -> bool| {
        records.iter().position(|record| matches!(record, Record::Event { event, .. } if wanted(event))).unwrap()
    };
    let acknowledged = has(|event| matches!(event, Event::Acknowledged { .. }));
    let read = has(|event| matches!(event, Event::Read { .. }));
    let loaded = has(|event| matches!(event, Event::Loaded { .. }));

    let (status, same) = replay(&path, &lines);
    assert_eq!((status, &same["same"]), (Some(0), &json!(true)), "{same}");
    assert_eq!(same["records"], json!(records.len()));

    // Records stand from the second line on.
    for (what, record) in [("acknowledgement", acknowledged), ("read", read), ("load", loaded)] {
        let mut without = lines.clone();
        without.remove(record + 1);
        let (status, differs) = replay(&path, &without);
        assert_eq!((status, &differs["same"]), (Some(1), &json!(false)), "without the {what}: {differs}");
        assert!(differs["divergence"].as_str().unwrap().starts_with("line "), "{differs}");
    }
    let mut cut = lines.clone();
    cut.last_mut().unwrap().truncate(10);
    std::fs::write(&path, cut.join("\n")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_xtask")).arg("replay").arg(&path).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "a log that cannot be read");
}

#[test]
fn migrate_writes_the_log_that_replay_reads() {
    let machine = "kernel=7.3\ndevice card model=plain caps=7 initial=1MiB dirty=1MiB stop=3MiB seed=1";
    let folder = tempfile::tempdir().unwrap();
    let (log, to) = (folder.path().join("log"), format!("file:{}", folder.path().join("state").display()));
    let log = log.to_str().unwrap();
    let arguments = ["migrate", "source", "--json", "--device", "0000:a0:00.0", "--to", &to, "--log", log];
    let saved = soft::xtask(machine, &arguments).output().unwrap();
    assert!(saved.status.success(), "{saved:?}");
    let (output, same) = run(&["replay", "--json", log]);
    assert!(output.status.success(), "{same}");
    assert!(same["records"].as_u64().unwrap() > 10, "{same}");
}
