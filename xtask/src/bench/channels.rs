// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `channels`: one device beside which several channels are idle. Whether to use them is decided while it moves; the best number for it,
//! had one known beforehand, is the baseline.
//!
//! The fixed numbers are bare: so many threads take turns at reading the device, 1 MiB each, and send it on a channel of their own with
//! its place before it; the target writes each piece where it belongs as it comes, with nothing to put in order.

use core::time::Duration;
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use savevm_core::Channel;
use savevm_core::load::LoadOptions;
use savevm_core::save::SaveOptions;

use super::engine::{Files, devices, failed, tcp};
use super::measure::{Costly, Costs, median};
use super::rig::{Ends, SPEED_AND_PRICE, migrate, speed_and_price};
use super::{Goal, Outcome, Setting};

const PIECE_BYTES: usize = 1 << 20;
const COUNTS: [usize; 4] = [1, 2, 4, 8];
/// `spec/perf/bench-plan.md`, P7.
const GOALS: [Option<Goal>; 2] = [Some(Goal::AtLeast(0.95)), None];

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>, String> {
    let mebibytes = |full: u64| if setting.quick { 64 << 20 } else { full << 20 };
    let mut outcomes = Vec::new();
    for (what, rate, bytes, bare_bytes, rounds, others) in [
        ("no channel limits it", None, mebibytes(512), mebibytes(512), 9, vec![("of 4", 4), ("of 1", 1)]),
        ("a channel carries 64 MiB/s", Some(64 << 20), mebibytes(1024), mebibytes(256), 3, vec![("of 4", 4)]),
    ] {
        let files = Files::new(&setting.folder, 1, bytes)?;
        eprintln!("channels: which of {COUNTS:?} is best where {what}");
        let count = best(&files, bare_bytes, rate, if setting.quick { 1 } else { 3 })?;
        let engine = |count: usize| {
            let files = &files;
            move || adaptive(files, count, rate)
        };
        let mut contenders = vec![Costly::new("decided, of 8 channels", GOALS, engine(8))];
        contenders.extend(others.into_iter().map(|(name, count)| Costly::new(name, [None; 2], engine(count))));
        let baseline = Costly::new("the best number, bare", [None; 2], || fixed(&files, bare_bytes, count, rate));
        let costs = Costs {
            name: format!("channels/one device, {what}, where {count} of 1, 2, 4, 8 is best"),
            metrics: SPEED_AND_PRICE,
            baseline,
            contenders,
        };
        outcomes.extend(setting.compare_costs(costs, if setting.quick { 1 } else { rounds })?);
    }
    Ok(outcomes)
}

fn adaptive(files: &Files, count: usize, rate: Option<u64>) -> Result<[f64; 2], String> {
    let (mut ours, mut theirs) = (devices(&files.source)?, devices(&files.target)?);
    let (mut save, mut load) = (SaveOptions::default(), LoadOptions::default());
    (save.limits.payload_checksums, load.limits.payload_checksums) = (false, false);
    let ran = migrate(&mut ours, &mut theirs, ends(count, rate)?, &mut (), &save, &load)?;
    Ok([ran.speed(), ran.price()])
}

/// The source's ends carry no more than `rate`.
fn ends(count: usize, rate: Option<u64>) -> Result<Ends, String> {
    let pair = |_| {
        let (left, right) = tcp()?;
        left.set_nodelay(true).map_err(failed)?;
        let (reader, handle) = (left.try_clone().map_err(failed)?, left.try_clone().map_err(failed)?);
        let left = Channel::new(reader, Paced::new(left, rate)).with_shutdown(move |how| drop(handle.shutdown(how)));
        Ok((left, Channel::tcp(right).map_err(failed)?))
    };
    (0..count).map(pair).collect::<Result<Vec<_>, String>>().map(|pairs| pairs.into_iter().unzip())
}

/// A connection that is no faster than a rate in bytes per second.
struct Paced {
    stream: TcpStream,
    rate: Option<u64>,
    /// When it may write again.
    free_at: Instant,
}

impl Paced {
    fn new(stream: TcpStream, rate: Option<u64>) -> Self {
        Self { stream, rate, free_at: Instant::now() }
    }
}

impl Write for Paced {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(rate) = self.rate else { return self.stream.write(bytes) };
        let now = Instant::now();
        thread::sleep(self.free_at.saturating_duration_since(now));
        // Fine steps, so that a write returns about when its last byte is under way.
        let sent = self.stream.write(bytes.get(..bytes.len().min(PIECE_BYTES / 8)).unwrap_or(bytes))?;
        let nanos = u64::try_from(sent).unwrap_or(0).saturating_mul(1_000_000_000).checked_div(rate).unwrap_or(0);
        self.free_at = self.free_at.max(now).checked_add(Duration::from_nanos(nanos)).unwrap_or(now);
        Ok(sent)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match pieces.iter().find(|piece| !piece.is_empty()) {
            Some(first) if self.rate.is_some() => self.write(first),
            _ => self.stream.write_vectored(pieces),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let now = Instant::now();
        thread::sleep(self.free_at.saturating_duration_since(now));
        self.stream.flush()
    }
}

/// The fastest of all fixed numbers, each tried in turn.
fn best(files: &Files, bytes: u64, rate: Option<u64>, tries: usize) -> Result<usize, String> {
    let mut speeds = COUNTS.map(|count| (count, Vec::new()));
    for _ in 0..tries {
        for (count, speeds) in &mut speeds {
            let [speed, _] = fixed(files, bytes, *count, rate)?;
            speeds.push(speed);
        }
    }
    let medians = speeds.into_iter().filter_map(|(count, speeds)| Some((count, median(speeds)?)));
    let fastest = medians.max_by(|(_, one), (_, other)| one.total_cmp(other));
    fastest.map(|(count, _)| count).ok_or_else(|| "nothing was measured".to_owned())
}

/// The first `bytes` of the device over so many channels.
fn fixed(files: &Files, bytes: u64, count: usize, rate: Option<u64>) -> Result<[f64; 2], String> {
    let (Some(source), Some(target)) = (files.source.first(), files.target.first()) else {
        return Err("there is no device".into());
    };
    let pairs: Vec<(TcpStream, TcpStream)> = (0..count).map(|_| tcp()).collect::<Result<_, _>>()?;
    let reader = Mutex::new((source, 0_u64));
    speed_and_price(bytes, || {
        thread::scope(|scope| {
            let mut ends = Vec::new();
            for (left, right) in pairs {
                let reader = &reader;
                ends.push(scope.spawn(move || give(reader, bytes, Paced::new(left, rate))));
                ends.push(scope.spawn(move || take(right, target)));
            }
            ends.into_iter().try_for_each(|end| end.join().map_err(|_| "a thread panicked")?.map_err(failed))
        })
    })
}

fn give(reader: &Mutex<(&File, u64)>, bytes: u64, mut out: Paced) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let at = {
            let mut reader = reader.lock().map_err(|_| io::Error::other("a thread panicked"))?;
            let (file, at) = *reader;
            if at >= bytes {
                out.flush()?;
                return out.stream.shutdown(Shutdown::Write);
            }
            file.read_exact_at(&mut piece, at)?;
            reader.1 = at.saturating_add(u64::try_from(PIECE_BYTES).unwrap_or(0));
            at
        };
        out.write_all(&at.to_le_bytes())?;
        out.write_all(&piece)?;
    }
}

fn take(mut stream: TcpStream, target: &File) -> io::Result<()> {
    let (mut at, mut piece) = ([0; 8], vec![0; PIECE_BYTES]);
    loop {
        match stream.read_exact(&mut at) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            result => result?,
        }
        stream.read_exact(&mut piece)?;
        target.write_all_at(&piece, u64::from_le_bytes(at))?;
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// A channel of 64 MiB/s alone cannot be faster, four of them are; and the pump moves what it reads.
    #[test]
    fn channels_are_as_slow_as_they_are_told() {
        let files = Files::new(&std::env::temp_dir(), 1, 16 << 20).unwrap();
        let rate = Some(64 << 20);
        let speed = |count| fixed(&files, 16 << 20, count, rate).unwrap()[0] / f64::from(1 << 20);
        let (one, four) = (speed(1), speed(4));
        assert!(one <= 72.0, "{one} MiB/s over one");
        assert!(four > one * 1.5, "{four} MiB/s over four, {one} over one");
        let contents = |file: &File| {
            let mut bytes = vec![0; 16 << 20];
            file.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        };
        assert!(contents(&files.source[0]) == contents(&files.target[0]), "it arrived");
        let [engine, _] = adaptive(&files, 1, rate).unwrap();
        assert!(engine / f64::from(1 << 20) <= 72.0, "{engine} bytes a second through one");
    }
}
