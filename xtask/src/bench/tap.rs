// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `tap`: what it costs to look at a stream while it passes.
//!
//! A migration in this process, over a pair of sockets, of devices that cost nothing themselves: one holds a record of 1 MiB that
//! it yields again and again, the other forgets what is written to it. Two migrations differ by more than a tap costs (other
//! threads on other processors), so both sides' taps look at one stretch of the stream and away from the next, and the
//! stretches of one migration are compared. Whole migrations are compared as well, without a goal. And the decoder alone, where
//! a record may take a tenth of a microsecond of the processor's time, however long it is.

use core::cell::Cell;
use core::hint::black_box;
use core::time::Duration;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Instant;

use device_mlx5::record::Header;
use nix::time::{ClockId, clock_gettime};
use savevm_core::device::{DeviceError, PrecopyInfo, Read, TransitionError};
use savevm_core::load::{self, LoadOptions};
use savevm_core::save::{self, SaveOptions};
use savevm_core::tap::{Tap, TapError, Taps};
use savevm_core::{Channel, Device, Phase};
use vfio_mig_fsm::{Capabilities, State};

use super::spread::median;
use super::{Comparison, Contender, Goal, Outcome, Setting, Unit, per_second};
use crate::check_stream::Mlx5Tap;

/// A piece of device state as it is read, sent and written, the record's header included.
const PIECE_BYTES: u32 = 1 << 20;
/// What a record may take.
const RECORD_BUDGET_NS: u32 = 100;

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>, String> {
    let (pieces, count, records) = if setting.quick { (32, 8, 10_000) } else { (256, 64, 200_000) };
    let record = record(PIECE_BYTES);
    Ok(vec![
        stretches(setting, &record, count)?,
        migrations(setting, &record, pieces)?,
        budget(setting, records)?,
        length(setting, records)?,
    ])
}

/// A stretch, in pieces.
const STRETCH: u32 = 64;
/// Of each stretch, this many pieces do not count: while they are written, what is read may be of the next.
const SETTLING: u32 = 24;

/// Seen, unseen, unseen, seen and again, so that what drifts meets both alike.
const fn is_seen(stretch: u64) -> bool {
    matches!(stretch % 4, 0 | 3)
}

/// The stretches in which the taps look, against those in which they do not.
fn stretches(setting: &Setting, record: &[u8], count: u32) -> Result<Outcome, String> {
    // One migration gives both values of a round: whichever contender has its turn first runs it.
    let pending: [Cell<Option<f64>>; 2] = Default::default();
    let value = |wanted: usize| {
        let [unseen, seen] = &pending;
        let own = if wanted == 0 { unseen } else { seen };
        if let Some(value) = own.take() {
            return Ok(value);
        }
        let [of_unseen, of_seen] = speeds(record, count)?;
        unseen.set(Some(of_unseen));
        seen.set(Some(of_seen));
        own.take().ok_or_else(|| "nothing was measured".to_owned())
    };
    setting.compare(Comparison {
        name: "tap/stretches of one migration of mlx5 records".into(),
        unit: Unit::BytesPerSecond,
        baseline: Contender::new("looking away", None, || value(0)),
        contenders: vec![Contender::new("checked on both sides", Some(Goal::AtLeast(0.97)), || value(1))],
    })
}

/// Of the unseen and the seen stretches of a migration, the median.
fn speeds(record: &[u8], count: u32) -> Result<[f64; 2], String> {
    let pieces = STRETCH.saturating_mul(count);
    let written = migrate(record, pieces, &Taps::new(|_| Some(Box::new(Glancing::default()))))?;
    let (mut unseen, mut seen) = (Vec::new(), Vec::new());
    let stretches = written.chunks(usize::try_from(STRETCH).unwrap_or(usize::MAX));
    for (index, stretch) in (0..count).zip(stretches) {
        let counted =
            stretch.get(usize::try_from(SETTLING).unwrap_or(usize::MAX)..).and_then(|it| it.first().zip(it.last()));
        let (first, last) = counted.ok_or("a device state was not written in the pieces it was read in")?;
        let seconds = last.saturating_duration_since(*first).as_secs_f64().max(f64::MIN_POSITIVE);
        let bytes = f64::from(STRETCH.saturating_sub(SETTLING).saturating_sub(1)) * f64::from(PIECE_BYTES);
        if is_seen(index.into()) { &mut seen } else { &mut unseen }.push(bytes / seconds);
    }
    median(unseen)
        .zip(median(seen))
        .map(|(unseen, seen)| [unseen, seen])
        .ok_or_else(|| "nothing was measured".to_owned())
}

/// A tap that looks at every other stretch or so.
struct Glancing {
    tap: Mlx5Tap,
    offset: u64,
}

impl Default for Glancing {
    fn default() -> Self {
        Self { tap: Mlx5Tap::new(u64::MAX), offset: 0 }
    }
}

impl Tap for Glancing {
    fn data(&mut self, phase: Phase, bytes: &[u8]) -> Result<(), TapError> {
        let stretch_bytes = u64::from(PIECE_BYTES).saturating_mul(STRETCH.into());
        let mut rest = bytes;
        while !rest.is_empty() {
            let stretch = self.offset.checked_div(stretch_bytes).unwrap_or(0);
            let end = stretch.saturating_add(1).saturating_mul(stretch_bytes);
            let left = usize::try_from(end.saturating_sub(self.offset)).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(left.min(rest.len()));
            if is_seen(stretch) {
                self.tap.data(phase, now)?;
            }
            self.offset = self.offset.saturating_add(u64::try_from(now.len()).unwrap_or(u64::MAX));
            rest = later;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), TapError> {
        self.tap.end()
    }
}

/// The same migration with and without taps on both sides.
fn migrations(setting: &Setting, record: &[u8], pieces: u32) -> Result<Outcome, String> {
    let taps = || Taps::new(|_| Some(Box::new(Mlx5Tap::new(u64::MAX))));
    let bytes = u64::from(PIECE_BYTES).saturating_mul(pieces.into());
    let timed = |taps: &Taps| per_second(bytes, || migrate(record, pieces, taps).map(|_| ()));
    setting.compare(Comparison {
        name: "tap/whole migrations of mlx5 records".into(),
        unit: Unit::BytesPerSecond,
        baseline: Contender::new("without taps", None, || timed(&Taps::default())),
        contenders: vec![Contender::new("checked on both sides", None, || timed(&taps()))],
    })
}

/// Records of 8 bytes, in pieces of 64 KiB.
fn budget(setting: &Setting, records: u32) -> Result<Outcome, String> {
    let stream = record(24).repeat(usize::try_from(records).unwrap_or(0));
    let allowed = 1e9 / f64::from(RECORD_BUDGET_NS);
    setting.compare(Comparison {
        name: "tap/small records".into(),
        unit: Unit::RecordsPerSecond,
        baseline: Contender::new("one per 100 ns", None, move || Ok(allowed)),
        contenders: vec![Contender::new("checked", Some(Goal::AtLeast(1.0)), || {
            records_per_second(records, |tap| stream.chunks(64 << 10).try_for_each(|piece| see(tap, piece)))
        })],
    })
}

/// As many records, short ones and long ones: no byte of a payload costs anything.
fn length(setting: &Setting, records: u32) -> Result<Outcome, String> {
    let (short, long) = (record(4 << 10), record(PIECE_BYTES));
    let pass = |record: &[u8]| records_per_second(records, |tap| (0..records).try_for_each(|_| see(tap, record)));
    setting.compare(Comparison {
        name: "tap/long records".into(),
        unit: Unit::RecordsPerSecond,
        baseline: Contender::new("of 4 KiB", None, || pass(&short)),
        contenders: vec![Contender::new("of 1 MiB", Some(Goal::AtLeast(0.9)), || pass(&long))],
    })
}

/// A record of `bytes`, header included.
fn record(bytes: u32) -> Vec<u8> {
    let header = Header { record_bytes: 0, flags: 0, tag: device_mlx5::TAG_FW_DATA }.encode();
    let payload_bytes = bytes.saturating_sub(u32::try_from(header.len()).unwrap_or(0));
    let header = Header { record_bytes: payload_bytes.into(), flags: 0, tag: device_mlx5::TAG_FW_DATA }.encode();
    let payload = (0..payload_bytes).map(|byte| byte.to_le_bytes()[0]);
    header.into_iter().chain(payload).collect()
}

fn see(tap: &mut dyn Tap, piece: &[u8]) -> Result<(), String> {
    tap.data(Phase::StopCopy, black_box(piece)).map_err(|error| error.to_string())
}

fn records_per_second(records: u32, work: impl FnOnce(&mut dyn Tap) -> Result<(), String>) -> Result<f64, String> {
    let mut tap: Box<dyn Tap> = Box::new(Mlx5Tap::new(u64::MAX));
    let begin = processor_time()?;
    work(&mut *tap)?;
    let seconds = processor_time()?.saturating_sub(begin).as_secs_f64();
    tap.end().map_err(|error| error.to_string())?;
    Ok(f64::from(records) / seconds.max(f64::MIN_POSITIVE))
}

/// Of this thread: a budget in nanoseconds means nothing while others have the processor.
pub(super) fn processor_time() -> Result<Duration, String> {
    let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    now.map(Duration::from).map_err(|error| format!("no processor time: {error}"))
}

/// Gives when each piece was written.
fn migrate(record: &[u8], pieces: u32, taps: &Taps) -> Result<Vec<Instant>, String> {
    let no_pair = |error| format!("no pair of sockets: {error}");
    let (left, right) = UnixStream::pair().map_err(no_pair)?;
    let (left, right) = (Channel::unix(left).map_err(no_pair)?, Channel::unix(right).map_err(no_pair)?);
    let (mut save, mut load) = (SaveOptions::default(), LoadOptions::default());
    (save.taps, load.taps) = (taps.clone(), taps.clone());
    save.precopy = None;
    let mut source = [Replayed::new(record, pieces)];
    let mut target = [Replayed::new(&[], pieces)];
    thread::scope(|scope| {
        let loading =
            scope.spawn(|| load::load(&mut target, right, &mut (), &load).and_then(load::Loaded::run).map(|_| ()));
        let saved = save::save(&mut source, left, &mut (), &save).and_then(save::Ready::commit);
        saved.map_err(|error| error.to_string())?;
        loading.join().map_err(|_| "the target panicked".to_owned())?.map_err(|error| error.to_string())
    })?;
    let [target] = target;
    Ok(target.written)
}

/// A device that yields a record so many times, or forgets what it is given.
struct Replayed<'a> {
    state: State,
    record: &'a [u8],
    /// How much of the next record has been read.
    at: usize,
    left: u32,
    written_bytes: u64,
    /// When the last byte of each piece was written.
    written: Vec<Instant>,
}

impl<'a> Replayed<'a> {
    fn new(record: &'a [u8], pieces: u32) -> Self {
        let written = Vec::with_capacity(usize::try_from(pieces).unwrap_or(0));
        Self { state: State::Running, record, at: 0, left: pieces, written_bytes: 0, written }
    }
}

impl Device for Replayed<'_> {
    fn name(&self) -> &str {
        "replayed"
    }

    fn identity(&self) -> &str {
        "replayed"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::StopCopy
    }

    fn state(&mut self) -> Result<State, DeviceError> {
        Ok(self.state)
    }

    fn transition(&mut self, to: State) -> Result<(), TransitionError> {
        self.state = to;
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<Read, DeviceError> {
        if self.left == 0 {
            return Ok(Read::End);
        }
        // A source asks for less than a piece where it believes a link to be slow.
        let rest = self.record.get(self.at..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        if let (Some(space), Some(bytes)) = (buffer.get_mut(..length), rest.get(..length)) {
            space.copy_from_slice(bytes);
        }
        self.at = self.at.saturating_add(length);
        if self.at >= self.record.len() {
            (self.at, self.left) = (0, self.left.saturating_sub(1));
        }
        Ok(Read::Bytes(length))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DeviceError> {
        let pieces = |bytes: u64| bytes.checked_div(PIECE_BYTES.into()).unwrap_or(0);
        let before = pieces(self.written_bytes);
        self.written_bytes = self.written_bytes.saturating_add(u64::try_from(black_box(bytes).len()).unwrap_or(0));
        let now = Instant::now();
        self.written.extend((before..pieces(self.written_bytes)).map(|_| now));
        Ok(())
    }

    fn precopy_info(&mut self) -> Result<PrecopyInfo, DeviceError> {
        Ok(PrecopyInfo::default())
    }

    fn stop_copy_bytes(&mut self) -> Result<u64, DeviceError> {
        Ok(0)
    }

    fn reset(&mut self) -> Result<(), DeviceError> {
        self.state = State::Running;
        Ok(())
    }
}
