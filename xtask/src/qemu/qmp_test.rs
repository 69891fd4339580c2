// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#![allow(clippy::arithmetic_side_effects, clippy::as_conversions)]

use std::io::{BufRead, BufReader};
use std::thread::{self, JoinHandle};

use super::*;

/// As QEMU 11.1.3 says it.
const GREETING: &str = concat!(
    r#"{"QMP": {"version": {"qemu": {"micro": 3, "minor": 1, "major": 11}, "package": "Debian"}, "#,
    r#""capabilities": ["oob"]}}"#,
    "\r\n"
);

/// A monitor that says `answers`, one for each command, and gives back the commands once the other side is gone.
fn monitor(answers: &'static [&'static str]) -> (UnixStream, JoinHandle<Vec<String>>) {
    let (here, there) = UnixStream::pair().unwrap();
    let server = thread::spawn(move || {
        (&there).write_all(GREETING.as_bytes()).unwrap();
        let mut commands = BufReader::new(&there).lines();
        let mut heard = Vec::new();
        for answer in answers {
            let Some(Ok(command)) = commands.next() else { break };
            heard.push(command);
            // A byte at a time: a line may come in any pieces.
            for byte in answer.as_bytes() {
                if (&there).write_all(&[*byte]).is_err() {
                    break;
                }
            }
        }
        heard
    });
    (here, server)
}

const READY: &str = "{\"return\": {}, \"id\": 1}\r\n";
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn a_command_gets_its_answer_and_events_do_not_matter() {
    let (stream, server) = monitor(&[
        READY,
        "{\"event\": \"STOP\", \"timestamp\": {}}\r\n{\"return\": {\"status\": \"running\"}, \"id\": 2}\r\n",
    ]);
    let mut qmp = Qmp::begin(stream, LIMIT).unwrap();
    assert_eq!(qmp.version(), "11.1.3");
    assert_eq!(qmp.execute("query-status", json!({"a": 1})).unwrap()["status"], "running");
    drop(qmp);
    let heard: Vec<Value> = server.join().unwrap().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(heard[0]["execute"], "qmp_capabilities");
    assert_eq!(heard[1], json!({"execute": "query-status", "arguments": {"a": 1}, "id": 2}));
}

#[test]
fn the_states_of_devices_are_kept_with_their_times() {
    let (stream, _server) = monitor(&[
        READY,
        "{\"timestamp\": {\"seconds\": 3, \"microseconds\": 7}, \"event\": \"VFIO_MIGRATION\", \"data\": \
         {\"device-id\": \"\", \"qom-path\": \"/p\", \"device-state\": \"stop-copy\"}}\r\n\
         {\"event\": \"MIGRATION\", \"data\": {\"status\": \"active\"}}\r\n{\"return\": {}, \"id\": 2}\r\n",
    ]);
    let mut qmp = Qmp::begin(stream, LIMIT).unwrap();
    qmp.execute("query-status", json!({})).unwrap();
    let seen: Vec<_> = qmp.device_states().cloned().collect();
    assert_eq!(seen, [DeviceState { at_us: 3_000_007, state: "stop-copy".into() }]);
}

#[test]
fn a_refusal_is_an_error_in_qemu_s_words() {
    let (stream, _server) =
        monitor(&[READY, "{\"id\": 2, \"error\": {\"class\": \"GenericError\", \"desc\": \"No such thing\"}}\r\n"]);
    let error = Qmp::begin(stream, LIMIT).unwrap().execute("migrate", json!({})).unwrap_err();
    assert_eq!(error.to_string(), "QEMU refused migrate: No such thing");
}

#[test]
fn silence_is_not_waited_for_beyond_the_limit() {
    let (stream, _server) = monitor(&[READY, ""]);
    let mut qmp = Qmp::begin(stream.try_clone().unwrap(), LIMIT).unwrap();
    qmp.limit = Duration::from_millis(50);
    // The other side closes when it has said all: keep what it closes open.
    let error = qmp.execute("cont", json!({})).unwrap_err();
    assert!(matches!(error, QmpError::Timeout { .. } | QmpError::Closed { .. }), "{error}");
    let (open, _other) = UnixStream::pair().unwrap();
    let error = Qmp::begin(open, Duration::from_millis(50)).unwrap_err();
    assert!(matches!(error, QmpError::Timeout { .. }), "{error}");
}

#[test]
fn the_end_of_qemu_is_told_from_silence() {
    let (stream, server) = monitor(&[READY]);
    let mut qmp = Qmp::begin(stream, LIMIT).unwrap();
    server.join().unwrap();
    assert!(matches!(qmp.execute("cont", json!({})).unwrap_err(), QmpError::Closed { .. }));
}

#[test]
fn what_is_not_qmp_is_refused() {
    for answer in ["hello\n", "{\"id\": 2}\n", "{\"return\": {}, \"id\": 7}\n", "[]\n"] {
        let answers: &'static [&'static str] = vec![READY, answer].leak();
        let (stream, _server) = monitor(answers);
        let error = Qmp::begin(stream, LIMIT).unwrap().execute("cont", json!({})).unwrap_err();
        assert!(matches!(error, QmpError::Garbled { .. }), "{answer:?}: {error}");
    }
}
