// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A long way between two ends: what goes in at one comes out at the other, so much a second and so much later. All connections of one
//! way share what it carries in either direction.

use core::time::Duration;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

const PIECE_BYTES: usize = 64 << 10;
/// How far the reading of a piece may be ahead of its leaving: a sleep is not exact.
const AHEAD: Duration = Duration::from_millis(2);

/// A way between two ends.
#[derive(Clone)]
pub(super) struct Way {
    there: Arc<Road>,
    back: Arc<Road>,
}

/// One of its directions.
struct Road {
    bytes_per_second: u64,
    delay: Duration,
    /// When what was put on it last has left.
    free_at: Mutex<Option<Instant>>,
}

impl Way {
    /// Carries so much each way, and takes so long for it.
    pub(super) fn new(bytes_per_second: u64, delay: Duration) -> Self {
        let road = || Arc::new(Road { bytes_per_second, delay, free_at: Mutex::new(None) });
        Self { there: road(), back: road() }
    }

    /// One more connection. The threads that carry it end with it.
    pub(super) fn connect(&self) -> io::Result<(UnixStream, UnixStream)> {
        let (left, inner_left) = UnixStream::pair()?;
        let (inner_right, right) = UnixStream::pair()?;
        carry(inner_left.try_clone()?, inner_right.try_clone()?, &self.there);
        carry(inner_right, inner_left, &self.back);
        Ok((left, right))
    }
}

impl Road {
    /// So many bytes go on it: when they have left.
    fn leave(&self, bytes: usize, now: Instant) -> Instant {
        let nanos = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(1_000_000_000);
        let takes = Duration::from_nanos(nanos.checked_div(self.bytes_per_second).unwrap_or(0));
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let starts_at = free_at.map_or(now, |free_at| free_at.max(now));
        let left_at = starts_at.checked_add(takes).unwrap_or(starts_at);
        *free_at = Some(left_at);
        left_at
    }

    /// As much as may be under way, and some that are short.
    fn pieces(&self) -> usize {
        let nanos = u64::try_from(self.delay.saturating_add(AHEAD.saturating_mul(2)).as_nanos()).unwrap_or(u64::MAX);
        let bytes = nanos.saturating_mul(self.bytes_per_second / 1_000_000) / 1000;
        (usize::try_from(bytes).unwrap_or(usize::MAX) / PIECE_BYTES).saturating_add(64)
    }
}

fn carry(from: UnixStream, to: UnixStream, road: &Arc<Road>) {
    let (pieces, coming) = sync_channel(road.pieces());
    let road = Arc::clone(road);
    thread::spawn(move || take(from, &pieces, &road));
    thread::spawn(move || give(&coming, to));
}

fn take(mut from: UnixStream, pieces: &SyncSender<(Instant, Vec<u8>)>, road: &Road) {
    loop {
        let mut piece = vec![0; PIECE_BYTES];
        let length = from.read(&mut piece).unwrap_or(0);
        if length == 0 {
            return;
        }
        piece.truncate(length);
        let left_at = road.leave(length, Instant::now());
        let due = left_at.checked_add(road.delay).unwrap_or(left_at);
        if pieces.send((due, piece)).is_err() {
            return;
        }
        sleep_until(left_at.checked_sub(AHEAD));
    }
}

fn give(coming: &Receiver<(Instant, Vec<u8>)>, mut to: UnixStream) {
    while let Ok((due, piece)) = coming.recv() {
        sleep_until(Some(due));
        if to.write_all(&piece).is_err() {
            break;
        }
    }
    // Nobody is left to be told of a failure.
    let _ = to.shutdown(Shutdown::Both);
}

fn sleep_until(due: Option<Instant>) {
    if let Some(left) = due.map(|due| due.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero()) {
        thread::sleep(left);
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn bytes_leave_one_after_the_other() {
        let road = Road { bytes_per_second: 1000, delay: Duration::ZERO, free_at: Mutex::new(None) };
        let began = Instant::now();
        let ms = |ms: u64| began + Duration::from_millis(ms);
        assert_eq!(road.leave(10, began), ms(10));
        assert_eq!(road.leave(10, ms(5)), ms(20), "behind those before");
        assert_eq!(road.leave(10, ms(100)), ms(110), "nobody makes up for idleness");
    }

    #[test]
    fn what_goes_in_comes_out_no_sooner_than_it_may_and_so_does_the_end() {
        let delay = Duration::from_millis(20);
        let (mut left, mut right) = Way::new(100 << 20, delay).connect().unwrap();
        let began = Instant::now();
        let sent: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let received = thread::scope(|scope| {
            scope.spawn(|| {
                left.write_all(&sent).unwrap();
                left.shutdown(Shutdown::Write).unwrap();
            });
            let mut received = Vec::new();
            right.read_to_end(&mut received).unwrap();
            received
        });
        assert!(received == sent);
        assert!(began.elapsed() >= delay + Duration::from_millis(38), "4 MB at 100 MiB/s");
    }

    #[test]
    fn answers_take_as_long() {
        let delay = Duration::from_millis(20);
        let (mut left, mut right) = Way::new(100 << 20, delay).connect().unwrap();
        let began = Instant::now();
        left.write_all(b"a").unwrap();
        right.read_exact(&mut [0]).unwrap();
        right.write_all(b"b").unwrap();
        left.read_exact(&mut [0]).unwrap();
        assert!(began.elapsed() >= delay * 2);
    }
}
