// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `engine`: a whole migration in one process, against the reads and writes it cannot do without.
//!
//! The state of a device is a file. The baseline moves the same files with one reading and one writing thread for each of up to four
//! devices at a time, each over a connection of its own, 1 MiB at a time and without a word about what it is. Processor time is that of both
//! sides.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;

use savevm_core::Channel;
use savevm_core::load::LoadOptions;
use savevm_core::save::SaveOptions;

use super::file_device::devices;
use super::measure::{Costly, Costs};
use super::peers::shares;
use super::rig::{self, SPEED_AND_PRICE, migrate, speed_and_price};
use super::{Goal, Outcome, Setting};

const CHUNK_BYTES: usize = 1 << 20;
/// `spec/perf/bench-plan.md`: what it adds must not show, and may cost this much.
const GOALS: [Option<Goal>; 2] = [Some(Goal::AtLeast(0.95)), Some(Goal::AtMost(1.05))];
/// With a checksum of each piece at both ends.
const CHECKED_GOALS: [Option<Goal>; 2] = [Some(Goal::AtLeast(0.93)), Some(Goal::AtMost(1.08))];

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>, String> {
    let total_bytes: u64 = if setting.quick { 64 << 20 } else { 1 << 30 };
    let mut outcomes = Vec::new();
    for (devices, channels) in [(1, 1), (1, 4), (4, 2), (4, 4), (16, 8)] {
        let files = Files::new(&setting.folder, devices, total_bytes)?;
        for transport in [Transport::Tcp, Transport::Unix] {
            let engine = |checks| files.migrate(transport, channels, checks);
            let costs = Costs {
                name: format!("engine/{transport:?}, {devices} devices, {channels} channels").to_lowercase(),
                metrics: SPEED_AND_PRICE,
                baseline: Costly::new("bare pump", [None; 2], || files.pump(transport)),
                contenders: vec![
                    Costly::new("framing, 1 MiB pieces", GOALS, move || engine(false)),
                    Costly::new("and piece checksums", CHECKED_GOALS, move || engine(true)),
                ],
            };
            outcomes.extend(setting.compare_costs(costs, setting.rounds())?);
        }
    }
    Ok(outcomes)
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Transport {
    Tcp,
    Unix,
}

/// What the pump reads and writes over.
pub(super) trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

pub(super) type Ends = (Box<dyn Stream>, Box<dyn Stream>);

impl Transport {
    /// Both ends of so many channels.
    fn channels(self, count: usize) -> Result<rig::Ends, String> {
        let pair = |_| match self {
            Self::Tcp => {
                let (left, right) = tcp()?;
                Ok((Channel::tcp(left).map_err(failed)?, Channel::tcp(right).map_err(failed)?))
            }
            Self::Unix => {
                let (left, right) = UnixStream::pair().map_err(failed)?;
                Ok((Channel::unix(left).map_err(failed)?, Channel::unix(right).map_err(failed)?))
            }
        };
        (0..count).map(pair).collect::<Result<Vec<_>, String>>().map(|pairs| pairs.into_iter().unzip())
    }

    /// Two ends of a connection.
    fn pair(self) -> Result<Ends, String> {
        match self {
            Self::Tcp => {
                let (left, right) = tcp()?;
                Ok((Box::new(left), Box::new(right)))
            }
            Self::Unix => {
                let (left, right) = UnixStream::pair().map_err(failed)?;
                Ok((Box::new(left), Box::new(right)))
            }
        }
    }
}

pub(super) fn failed(error: impl core::fmt::Display) -> String {
    format!("cannot measure: {error}")
}

pub(super) fn tcp() -> Result<(TcpStream, TcpStream), String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(failed)?;
    let left = TcpStream::connect(listener.local_addr().map_err(failed)?).map_err(failed)?;
    Ok((left, listener.accept().map_err(failed)?.0))
}

/// The devices' states, at both sides.
pub(super) struct Files {
    pub(super) source: Vec<File>,
    pub(super) target: Vec<File>,
    pub(super) total_bytes: u64,
}

impl Files {
    pub(super) fn new(folder: &Path, devices: u32, total_bytes: u64) -> Result<Self, String> {
        let each = total_bytes.checked_div(devices.into()).unwrap_or(0);
        let file = |seed: u32| {
            let mut file = tempfile::tempfile_in(folder)?;
            let mut state = u64::from(seed) | 1;
            let mut left = each;
            while left > 0 {
                let mut chunk = Vec::with_capacity(CHUNK_BYTES);
                while chunk.len() < CHUNK_BYTES {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    chunk.extend_from_slice(&state.to_le_bytes());
                }
                file.write_all(&chunk)?;
                left = left.saturating_sub(1 << 20);
            }
            Ok(file)
        };
        let files =
            |first: u32| (first..first.saturating_add(devices)).map(file).collect::<std::io::Result<Vec<File>>>();
        Ok(Self { source: files(1).map_err(failed)?, target: files(1000).map_err(failed)?, total_bytes })
    }

    fn pump(&self, transport: Transport) -> Result<[f64; 2], String> {
        self.pump_over(self.source.iter().map(|_| transport.pair()).collect::<Result<_, _>>()?)
    }

    /// Read, send, receive, write; nothing else. A connection for each.
    pub(super) fn pump_over(&self, pairs: Vec<Ends>) -> Result<[f64; 2], String> {
        speed_and_price(self.total_bytes, || {
            thread::scope(|scope| {
                let (left, right): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
                let mut ends = Vec::new();
                for share in shares(self.source.iter().zip(left)) {
                    ends.push(scope.spawn(|| share.into_iter().try_for_each(|(file, end)| copy(file, end))));
                }
                for share in shares(self.target.iter().zip(right)) {
                    ends.push(scope.spawn(|| share.into_iter().try_for_each(|(file, end)| copy_out(end, file))));
                }
                ends.into_iter().try_for_each(|end| end.join().map_err(|_| "a thread panicked")?.map_err(failed))
            })
        })
    }

    /// Whether the targets' files are the sources', after a migration.
    pub(super) fn are_equal(&self) -> Result<bool, String> {
        let [mut ours, mut theirs] = [vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]];
        for (source, target) in self.source.iter().zip(&self.target) {
            let bytes = source.metadata().map_err(failed)?.len();
            for at in (0..bytes).step_by(CHUNK_BYTES) {
                source.read_exact_at(&mut ours, at).map_err(failed)?;
                target.read_exact_at(&mut theirs, at).map_err(failed)?;
                if ours != theirs {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn migrate(&self, transport: Transport, channels: usize, checks: bool) -> Result<[f64; 2], String> {
        let ends = transport.channels(channels)?;
        let (mut source, mut target) = (devices(&self.source)?, devices(&self.target)?);
        let (mut save_options, mut load_options) = (SaveOptions::default(), LoadOptions::default());
        (save_options.limits.payload_checksums, load_options.limits.payload_checksums) = (checks, checks);
        let ran = migrate(&mut source, &mut target, ends, &mut (), &save_options, &load_options)?;
        Ok([ran.speed(), ran.price()])
    }
}

fn copy(mut source: &File, mut out: Box<dyn Stream>) -> std::io::Result<()> {
    source.seek(SeekFrom::Start(0))?;
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match source.read(&mut buffer)? {
            0 => return out.flush(),
            length => out.write_all(buffer.get(..length).unwrap_or_default())?,
        }
    }
}

fn copy_out(mut stream: Box<dyn Stream>, mut target: &File) -> std::io::Result<()> {
    target.seek(SeekFrom::Start(0))?;
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match stream.read(rest)? {
                0 => break,
                length => filled = length.saturating_add(filled),
            }
        }
        if filled == 0 {
            return Ok(());
        }
        target.write_all(buffer.get(..filled).unwrap_or_default())?;
    }
}
