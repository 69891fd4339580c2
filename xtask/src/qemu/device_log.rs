// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the simulated devices of one QEMU saw: the file that `SOFTVFIO_LOG` names.
//!
//! A line is `SECONDS PID DEVICE WHAT`; `xtask/softvfio/README.md` has the meanings.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use vfio_mig_fsm::State;

/// More than any run writes.
const LOG_BYTES_MAX: u64 = 64 << 20;

/// Everything that happened so far, in order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct DeviceLog {
    entries: Vec<Entry>,
}

/// Something that happened to a device.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Entry {
    /// Microseconds since the epoch.
    pub(crate) at_us: u64,
    /// The device's name in the configuration.
    pub(crate) device: String,
    /// What it was.
    pub(crate) what: What,
}

/// What can happen, as far as anybody here asks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum What {
    /// It entered a state.
    Entered(State),
    /// A data session ended.
    Ended(Way, Session),
    /// It was reset, and is running.
    Reset,
    /// Anything else.
    Other,
}

/// Which way the bytes of a session go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    /// Out of the device.
    Save,
    /// Into the device.
    Load,
}

/// A data session that is over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Session {
    /// Bytes read or written.
    pub(crate) bytes: u64,
    /// CRC-64/NVME over them.
    pub(crate) digest: u64,
}

impl DeviceLog {
    /// Reads a log that may still be written to. One that does not exist is empty.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            other => other?,
        };
        let mut text = String::new();
        file.take(LOG_BYTES_MAX).read_to_string(&mut text)?;
        Ok(Self::parse(&text))
    }

    /// Lines that are not of a log, or not whole, are left out.
    pub(crate) fn parse(text: &str) -> Self {
        Self { entries: text.split_inclusive('\n').filter_map(entry).collect() }
    }

    /// In order.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The state a device is in; `None` if nothing ever happened to it, and it is running.
    pub(crate) fn state(&self, device: &str) -> Option<State> {
        self.of(device).fold(None, |state, what| match what {
            What::Entered(state) => Some(state),
            What::Reset => Some(State::Running),
            What::Ended(..) | What::Other => state,
        })
    }

    /// Whether a device has been in a state.
    pub(crate) fn has_entered(&self, device: &str, state: State) -> bool {
        self.of(device).any(|what| what == What::Entered(state))
    }

    /// The sessions of a device that are over, in order.
    pub(crate) fn sessions(&self, device: &str, way: Way) -> Vec<Session> {
        let session = |what| match what {
            What::Ended(found, session) if found == way => Some(session),
            _ => None,
        };
        self.of(device).filter_map(session).collect()
    }

    fn of<'a>(&'a self, device: &'a str) -> impl Iterator<Item = What> + 'a {
        self.entries.iter().filter(move |entry| entry.device == device).map(|entry| entry.what)
    }
}

fn entry(line: &str) -> Option<Entry> {
    let mut parts = line.strip_suffix('\n')?.splitn(4, ' ');
    let (seconds, micros) = parts.next()?.split_once('.')?;
    let at_us = seconds.parse::<u64>().ok()?.checked_mul(1_000_000)?.checked_add(micros.parse().ok()?)?;
    let _pid: u32 = parts.next()?.parse().ok()?;
    let device = parts.next()?.to_owned();
    Some(Entry { at_us, device, what: what(parts.next()?) })
}

fn what(text: &str) -> What {
    if text == "reset" {
        return What::Reset;
    }
    if let Some(step) = text.strip_prefix("step ") {
        // A step that failed goes on with `: ERRNO`, and its target was not entered.
        let to = step.split_once(" -> ").and_then(|(_, to)| State::ALL.into_iter().find(|state| state.name() == to));
        return to.map_or(What::Other, What::Entered);
    }
    // A failed SET says where the device was found.
    if let Some((_, found)) = text.strip_prefix("set ").and_then(|text| text.split_once(", found ")) {
        let found = State::ALL.into_iter().find(|state| state.name() == found);
        return found.map_or(What::Other, What::Entered);
    }
    session(text).unwrap_or(What::Other)
}

/// `session ID save ends bytes=N crc64=X`.
fn session(text: &str) -> Option<What> {
    let mut words = text.strip_prefix("session ")?.split(' ').skip(1);
    let way = match words.next()? {
        "save" => Way::Save,
        "load" => Way::Load,
        _ => return None,
    };
    if words.next()? != "ends" {
        return None;
    }
    let bytes = words.next()?.strip_prefix("bytes=")?.parse().ok()?;
    let digest = u64::from_str_radix(words.next()?.strip_prefix("crc64=")?, 16).ok()?;
    Some(What::Ended(way, Session { bytes, digest }))
}

#[cfg(test)]
mod test {
    use super::*;

    const LOG: &str = "\
100.000001 7 d0 reset
100.000002 7 d0 step RUNNING -> PRE_COPY
100.000003 7 d1 step RUNNING -> PRE_COPY
100.000004 7 d0 session 1 save begins
100.000005 7 d0 set RUNNING -> PRE_COPY: PRE_COPY
100.000006 7 d0 step PRE_COPY -> STOP_COPY: EIO
100.000007 7 d0 session 1 save ends bytes=65536 crc64=346727633e688567
noise
101.500000 7 d1 session 4 load ends bytes=9 crc64=00000000000000ff
101.600000 7 d1 step PRE_COPY -> RUNN";

    #[test]
    fn states_and_sessions_are_found_per_device() {
        let log = DeviceLog::parse(LOG);
        assert_eq!(log.entries().len(), 8, "neither the noise nor the line that is not whole");
        assert_eq!(log.state("d0"), Some(State::PreCopy), "a failed step enters nothing");
        assert_eq!(log.state("d1"), Some(State::PreCopy));
        assert_eq!(log.state("d2"), None);
        assert!(log.has_entered("d0", State::PreCopy) && !log.has_entered("d0", State::StopCopy));
        assert_eq!(log.sessions("d0", Way::Save), [Session { bytes: 65536, digest: 0x3467_2763_3e68_8567 }]);
        assert_eq!(log.sessions("d0", Way::Load), []);
        assert_eq!(log.sessions("d1", Way::Load), [Session { bytes: 9, digest: 255 }]);
        assert_eq!(log.entries()[7].at_us, 101_500_000);
    }

    #[test]
    fn a_reset_and_a_failed_request_say_where_the_device_is() {
        let state =
            |line: &str| DeviceLog::parse(&format!("1.0 1 d step RUNNING -> STOP\n1.0 1 d {line}\n")).state("d");
        assert_eq!(state("reset"), Some(State::Running));
        assert_eq!(state("set STOP -> RESUMING: EIO, found ERROR"), Some(State::Error));
        assert_eq!(state("set STOP -> RESUMING: EIO, found 77"), Some(State::Stop));
        assert_eq!(state("session 1 save ends bytes=x crc64=0"), Some(State::Stop));
    }

    #[test]
    fn no_log_is_an_empty_log() {
        assert_eq!(DeviceLog::read(Path::new("/nonexistent/log")).unwrap(), DeviceLog::default());
    }
}
