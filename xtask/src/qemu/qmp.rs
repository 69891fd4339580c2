// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! QEMU's monitor: one JSON object per line, over a unix socket.

use core::time::Duration;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use serde::Deserialize;
use serde_json::{Value, json};

/// The longest line that is taken; QEMU's longest answers here have a few KiB.
const LINE_BYTES_MAX: usize = 1 << 20;
/// A migration has about ten; of more than this the oldest are forgotten.
const DEVICE_STATES_MAX: usize = 256;

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum QmpError {
    /// QEMU said no.
    #[error("QEMU refused {command}: {reason}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's words.
        reason: String,
    },
    /// No answer in time.
    #[error("QEMU did not answer {command} within {seconds} s")]
    Timeout {
        /// The command.
        command: String,
        /// The limit.
        seconds: u64,
    },
    /// The monitor is gone, and probably QEMU with it.
    #[error("QEMU closed its monitor instead of answering {command}")]
    Closed {
        /// The command.
        command: String,
    },
    /// Something else than QMP was said.
    #[error("QEMU answered {command} with what is not QMP: {said}")]
    Garbled {
        /// The command.
        command: String,
        /// The start of the line.
        said: String,
    },
    /// The socket failed.
    #[error("QEMU's monitor failed at {command}: {error}")]
    Io {
        /// The command.
        command: String,
        /// The system's answer.
        error: io::Error,
    },
}

/// A monitor that takes commands.
#[derive(Debug)]
pub(crate) struct Qmp {
    stream: UnixStream,
    received: Vec<u8>,
    limit: Duration,
    last_id: u64,
    version: String,
    device_states: VecDeque<DeviceState>,
}

/// QEMU has put a device into a state (`VFIO_MIGRATION`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct DeviceState {
    /// Microseconds since the epoch.
    pub(crate) at_us: u64,
    /// As QEMU calls it: `stop-copy`.
    pub(crate) state: String,
}

/// A line from QEMU.
#[derive(Clone, Debug, PartialEq)]
enum Message {
    Greeting { version: String },
    Answer { id: Option<u64>, value: Value },
    Refusal { id: Option<u64>, reason: String },
    Event(Option<DeviceState>),
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "QMP")]
    greeting: Option<Greeting>,
    #[serde(rename = "return")]
    answer: Option<Value>,
    error: Option<Refusal>,
    event: Option<String>,
    #[serde(default)]
    data: EventData,
    #[serde(default)]
    timestamp: Timestamp,
    id: Option<u64>,
}

#[derive(Default, Deserialize)]
struct EventData {
    #[serde(rename = "device-state")]
    device_state: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Timestamp {
    seconds: u64,
    microseconds: u64,
}

#[derive(Deserialize)]
struct Greeting {
    version: GreetingVersion,
}

#[derive(Deserialize)]
struct GreetingVersion {
    qemu: Triple,
}

#[derive(Deserialize)]
struct Triple {
    major: u32,
    minor: u32,
    micro: u32,
}

#[derive(Deserialize)]
struct Refusal {
    desc: String,
}

impl Qmp {
    /// Waits for the greeting and leaves the negotiation mode. Every wait on this monitor is bounded by `limit`.
    pub(crate) fn begin(stream: UnixStream, limit: Duration) -> Result<Self, QmpError> {
        let (received, version, device_states) = (Vec::new(), String::new(), VecDeque::new());
        let mut qmp = Self { stream, received, limit, last_id: 0, version, device_states };
        let deadline = Instant::now().checked_add(limit);
        match qmp.message("with a greeting", deadline)? {
            Message::Greeting { version } => qmp.version = version,
            other => return Err(garbled("with a greeting", &format!("{other:?}"))),
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// As the greeting says, for example `11.1.3`.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// What QEMU has done to its devices, as far as it was said before the last answer.
    pub(crate) fn device_states(&self) -> impl Iterator<Item = &DeviceState> {
        self.device_states.iter()
    }

    /// Runs a command and gives what it returns. Of events that come in between only the states of devices are kept.
    pub(crate) fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        let deadline = Instant::now().checked_add(self.limit);
        self.last_id = self.last_id.wrapping_add(1);
        let mut line = json!({ "execute": command, "arguments": arguments, "id": self.last_id }).to_string();
        line.push('\n');
        let failed = |error| self.failed(command, error);
        self.stream.set_write_timeout(Some(self.limit)).map_err(failed)?;
        (&self.stream).write_all(line.as_bytes()).map_err(failed)?;
        loop {
            match self.message(command, deadline)? {
                Message::Event(state) => {
                    self.device_states.extend(state);
                    if self.device_states.len() > DEVICE_STATES_MAX {
                        self.device_states.pop_front();
                    }
                }
                Message::Answer { id, value } if id == Some(self.last_id) => return Ok(value),
                Message::Refusal { id, reason } if id == Some(self.last_id) || id.is_none() => {
                    return Err(QmpError::Refused { command: command.to_owned(), reason });
                }
                other => return Err(garbled(command, &format!("{other:?}"))),
            }
        }
    }

    fn message(&mut self, command: &str, deadline: Option<Instant>) -> Result<Message, QmpError> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return parse(&line).ok_or_else(|| garbled(command, &String::from_utf8_lossy(&line)));
            }
            if self.received.len() > LINE_BYTES_MAX {
                return Err(garbled(command, "a line without end"));
            }
            self.receive(command, deadline)?;
        }
    }

    fn receive(&mut self, command: &str, deadline: Option<Instant>) -> Result<(), QmpError> {
        let left = deadline.map_or(self.limit, |deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            return Err(self.failed(command, io::ErrorKind::TimedOut.into()));
        }
        let mut buffer = [0; 4096];
        let failed = |error| self.failed(command, error);
        self.stream.set_read_timeout(Some(left)).map_err(failed)?;
        match (&self.stream).read(&mut buffer) {
            Ok(0) => Err(QmpError::Closed { command: command.to_owned() }),
            Ok(count) => {
                self.received.extend_from_slice(buffer.get(..count).unwrap_or_default());
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(self.failed(command, error)),
        }
    }

    fn failed(&self, command: &str, error: io::Error) -> QmpError {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, TimedOut, WouldBlock};
        let command = command.to_owned();
        match error.kind() {
            WouldBlock | TimedOut => QmpError::Timeout { command, seconds: self.limit.as_secs() },
            BrokenPipe | ConnectionReset => QmpError::Closed { command },
            _ => QmpError::Io { command, error },
        }
    }
}

fn garbled(command: &str, said: &str) -> QmpError {
    QmpError::Garbled { command: command.to_owned(), said: said.trim_end().chars().take(200).collect() }
}

fn parse(line: &[u8]) -> Option<Message> {
    let line: Line = serde_json::from_slice(line).ok()?;
    match line {
        Line { event: Some(_), data, timestamp, .. } => {
            let at_us = timestamp.seconds.saturating_mul(1_000_000).saturating_add(timestamp.microseconds);
            Some(Message::Event(data.device_state.map(|state| DeviceState { at_us, state })))
        }
        Line { error: Some(Refusal { desc }), id, .. } => Some(Message::Refusal { id, reason: desc }),
        Line { answer: Some(value), id, .. } => Some(Message::Answer { id, value }),
        Line { greeting: Some(Greeting { version }), .. } => {
            let Triple { major, minor, micro } = version.qemu;
            Some(Message::Greeting { version: format!("{major}.{minor}.{micro}") })
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "qmp_test.rs"]
mod test;
