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

use savevm_core::Channel;
use savevm_core::load::LoadOptions;
use savevm_core::save::SaveOptions;
use savevm_core::sim::{Clock, SystemClock};

use super::engine::{Files, failed, tcp};
use super::file_device::devices;
use super::measure::{Costly, Costs};
use super::network;
use super::rig::{Ends, SPEED_AND_PRICE, migrate, speed_and_price};
use super::spread::median;
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
        let count = {
            let _inside = network::enter()?;
            best(&files, bare_bytes, rate, if setting.quick { 1 } else { 3 })?
        };
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

/// A connection that is no faster than a rate in bytes per second, by its clock.
struct Paced<W, C> {
    stream: W,
    rate: Option<u64>,
    clock: C,
    /// When it may write again.
    free_at: Duration,
}

impl<W> Paced<W, SystemClock> {
    fn new(stream: W, rate: Option<u64>) -> Self {
        Self { stream, rate, clock: SystemClock::new(), free_at: Duration::ZERO }
    }
}

impl<W: Write, C: Clock> Paced<W, C> {
    /// Waits until the last byte is under way, and says when that was due: a sleep that ends late does not make it slower.
    fn wait(&self) -> Duration {
        let now = self.clock.now();
        if self.free_at > now {
            self.clock.sleep(self.free_at.saturating_sub(now));
        }
        self.free_at.max(now)
    }
}

impl<W: Write, C: Clock> Write for Paced<W, C> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(rate) = self.rate else { return self.stream.write(bytes) };
        let due = self.wait();
        // Fine steps, so that a write returns about when its last byte is under way.
        let sent = self.stream.write(bytes.get(..bytes.len().min(PIECE_BYTES / 8)).unwrap_or(bytes))?;
        let nanos = u64::try_from(sent).unwrap_or(0).saturating_mul(1_000_000_000).checked_div(rate).unwrap_or(0);
        self.free_at = due.saturating_add(Duration::from_nanos(nanos));
        Ok(sent)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match pieces.iter().find(|piece| !piece.is_empty()) {
            Some(first) if self.rate.is_some() => self.write(first),
            _ => self.stream.write_vectored(pieces),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.rate.is_some() {
            self.wait();
        }
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

fn give(reader: &Mutex<(&File, u64)>, bytes: u64, mut out: Paced<TcpStream, SystemClock>) -> io::Result<()> {
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
    use savevm_core::sim::ManualClock;

    use super::*;

    /// A clock whose sleeps end late, as those of a busy machine do.
    struct Late(ManualClock, Duration);

    impl Clock for Late {
        fn now(&self) -> Duration {
            self.0.now()
        }

        fn sleep(&self, duration: Duration) {
            self.0.advance(duration.saturating_add(self.1));
        }
    }

    fn paced(rate: Option<u64>, late: Duration) -> Paced<Vec<u8>, Late> {
        Paced { stream: Vec::new(), rate, clock: Late(ManualClock::new(), late), free_at: Duration::ZERO }
    }

    /// 64 MiB/s, by a clock of the test's.
    #[test]
    fn channels_are_as_slow_as_they_are_told() {
        let second = Duration::from_secs(1);
        let mut channel = paced(Some(64 << 20), Duration::ZERO);
        let piece = vec![7; PIECE_BYTES];
        for _ in 0..64 {
            channel.write_all(&piece).unwrap();
        }
        assert!(channel.clock.now() < second, "the last step is under way");
        channel.flush().unwrap();
        assert_eq!(channel.clock.now(), second);
        // Nobody makes up for what it did not carry while it was idle.
        channel.clock.0.advance(second);
        channel.write_all(&piece).unwrap();
        channel.flush().unwrap();
        assert_eq!(channel.clock.now(), second * 2 + second / 64);
        let header = channel.write_vectored(&[IoSlice::new(&[]), IoSlice::new(&[1; 8]), IoSlice::new(&piece)]).unwrap();
        assert_eq!((header, channel.stream.len()), (8, 65 * PIECE_BYTES + 8), "piece by piece");

        let mut free = paced(None, second);
        free.write_all(&piece).and_then(|()| free.flush()).unwrap();
        assert_eq!((free.clock.now(), free.stream.len()), (Duration::ZERO, PIECE_BYTES), "it has no limit");
    }

    #[test]
    fn a_sleep_that_ends_late_does_not_make_a_channel_slower() {
        let late = Duration::from_micros(700);
        let mut channel = paced(Some(64 << 20), late);
        for _ in 0..64 {
            channel.write_all(&vec![7; PIECE_BYTES]).unwrap();
        }
        channel.flush().unwrap();
        let took = channel.clock.now();
        assert!((Duration::from_secs(1)..=Duration::from_secs(1) + late).contains(&took), "{took:?}");
    }

    #[test]
    fn the_pump_moves_what_it_reads() {
        let contents = |file: &File| {
            let mut bytes = vec![0; 8 << 20];
            file.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        };
        for count in [1, 4] {
            let files = Files::new(&std::env::temp_dir(), 1, 8 << 20).unwrap();
            assert!(contents(&files.source[0]) != contents(&files.target[0]));
            fixed(&files, 8 << 20, count, None).unwrap();
            assert!(contents(&files.source[0]) == contents(&files.target[0]), "over {count} channels");
        }
    }
}
