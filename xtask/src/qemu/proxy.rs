// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A relay between a source and a target that keeps what either says to the other.
//!
//! Every direction of a connection has a file, a thread that writes it and one that passes on what is in it: a peer that
//! speaks never waits for one that does not listen, and memory does not grow with what is said.
//!
//! The speaker must not wait, because QEMU can then wait for itself (seen with 10.0.2 and 11.1.3). Its last RAM sync needs every channel to
//! become ready twice, device threads beside it use up what is ready, and the target reads no channel on which it has met the
//! sync until it has met it on all: with full sockets nobody moves again.
//!
//! The end of a direction is passed on, and so is a failure: without that a source whose target has gone waits for ever.
//!
//! It can also be told to stop at a point of the stream, or to change something in it ([`passage`]). What it keeps is what was
//! said, not what was passed on.

mod change;
mod passage;

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

pub(crate) use self::change::Change;
use self::passage::Passage;
pub(crate) use self::passage::{Orders, Point};

const BUFFER_BYTES: usize = 64 << 10;
/// How often the listening thread looks whether it is still wanted.
const POLL: Duration = Duration::from_millis(2);

/// What was said over one connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Recording {
    /// File with the bytes from the source.
    pub(crate) forward: PathBuf,
    /// File with the bytes from the target.
    pub(crate) back: PathBuf,
}

/// A relay at work. Dropping it cuts all connections.
#[derive(Debug)]
pub(crate) struct Proxy {
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    target: PathBuf,
    folder: PathBuf,
    /// No new connections.
    ended: AtomicBool,
    /// Directions that have not ended.
    open: AtomicUsize,
    forward_bytes: AtomicU64,
    /// Both ends of every connection, for cutting them.
    ends: Mutex<Vec<UnixStream>>,
    recordings: Mutex<Vec<Recording>>,
    /// The first thing that went wrong here, as opposed to at the peers.
    fault: Mutex<Option<String>>,
    orders: Orders,
    stop: Mutex<Stop>,
    stop_changed: Condvar,
}

/// How far the one stop is for which there may be an order.
#[derive(Clone, Copy, Debug, Default)]
struct Stop {
    is_reached: bool,
    is_over: bool,
}

impl Proxy {
    /// Listens at `at`, connects every connection on to `target`, and records into the existing `folder`. On the way it does
    /// what it is told.
    pub(crate) fn start(orders: Orders, at: &Path, target: &Path, folder: &Path) -> io::Result<Self> {
        let listener = UnixListener::bind(at)?;
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            target: target.to_owned(),
            folder: folder.to_owned(),
            ended: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            forward_bytes: AtomicU64::new(0),
            ends: Mutex::default(),
            recordings: Mutex::default(),
            fault: Mutex::default(),
            orders,
            stop: Mutex::default(),
            stop_changed: Condvar::new(),
        });
        let listening = thread::spawn({
            let shared = Arc::clone(&shared);
            move || listen(&listener, &shared)
        });
        Ok(Self { shared, listening: Some(listening) })
    }

    /// Bytes from the source so far, over all connections.
    pub(crate) fn forward_bytes(&self) -> u64 {
        self.shared.forward_bytes.load(Ordering::Relaxed)
    }

    /// Whether the point has been reached where it was to stop.
    pub(crate) fn has_stopped(&self) -> bool {
        lock(&self.shared.stop).is_reached
    }

    /// Goes on from there.
    pub(crate) fn go_on(&self) {
        self.shared.stop(|stop| stop.is_over = true);
    }

    /// Ends all connections in both directions, and takes no more.
    pub(crate) fn cut(&self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared.stop(|_| {});
        for end in lock(&self.shared.ends).iter() {
            // One that its peer has closed already is as good.
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    /// Waits until the peers have closed all connections, and gives what was recorded, in the order of connecting.
    /// The error says what went wrong here, or that a peer did not close.
    pub(crate) fn finish(self, limit: Duration) -> Result<Vec<Recording>, String> {
        let begin = Instant::now();
        while self.shared.open.load(Ordering::SeqCst) > 0 {
            if begin.elapsed() > limit {
                let open = self.shared.open.load(Ordering::SeqCst);
                return Err(format!("{open} directions of connections were not closed within {} s", limit.as_secs()));
            }
            thread::sleep(POLL);
        }
        self.cut();
        match lock(&self.shared.fault).take() {
            Some(fault) => Err(fault),
            None => Ok(lock(&self.shared.recordings).clone()),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        if let Some(listening) = self.listening.take() {
            // It ends within POLL; a panic of it has been printed.
            let _ = listening.join();
        }
        // A connection may have been accepted just before the listening ended.
        self.cut();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listen(listener: &UnixListener, shared: &Arc<Shared>) {
    while !shared.ended.load(Ordering::SeqCst) {
        match listener.accept() {
            Ok((source, _)) => {
                if let Err(error) = connect(source, shared) {
                    shared.fail(format!("the relay cannot take a connection: {error}"));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(POLL),
            Err(error) => {
                shared.fail(format!("the relay cannot accept: {error}"));
                return;
            }
        }
    }
}

/// Counts both directions from before the target can notice the connection.
fn connect(source: UnixStream, shared: &Arc<Shared>) -> io::Result<()> {
    shared.open.fetch_add(2, Ordering::SeqCst);
    let directions = match directions(source, shared) {
        Ok(Some(directions)) => directions,
        none => {
            shared.open.fetch_sub(2, Ordering::SeqCst);
            return none.map(drop);
        }
    };
    for Begun { direction, record, playback, is_forward } in directions {
        let direction = Arc::new(direction);
        thread::spawn({
            let (direction, shared) = (Arc::clone(&direction), Arc::clone(shared));
            move || {
                if let Err(error) = direction.record(record) {
                    shared.fail(format!("what was said cannot be recorded: {error}"));
                }
            }
        });
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            let none = AtomicU64::new(0);
            let count = if is_forward { &shared.forward_bytes } else { &none };
            let passage = Passage::new(shared.orders, is_forward);
            if let Err(error) = direction.pass_on(playback, count, passage, || shared.wait()) {
                shared.fail(format!("what was said cannot be read back: {error}"));
            }
            shared.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
    Ok(())
}

/// A target that is not there is the peers' business: the source's connection is closed, as the target would.
fn directions(source: UnixStream, shared: &Shared) -> io::Result<Option<[Begun; 2]>> {
    source.set_nonblocking(false)?;
    let Ok(target) = UnixStream::connect(&shared.target) else {
        return Ok(None);
    };
    let number = lock(&shared.recordings).len();
    let recording = Recording {
        forward: shared.folder.join(format!("channel-{number}.forward")),
        back: shared.folder.join(format!("channel-{number}.back")),
    };
    let begin = |path: &Path, from: &UnixStream, to: &UnixStream, is_forward| -> io::Result<Begun> {
        let (record, playback) = (File::create(path)?, File::open(path)?);
        Ok(Begun { direction: Direction::new(from.try_clone()?, to.try_clone()?), record, playback, is_forward })
    };
    let directions =
        [begin(&recording.forward, &source, &target, true)?, begin(&recording.back, &target, &source, false)?];
    lock(&shared.recordings).push(recording);
    lock(&shared.ends).extend([source, target]);
    Ok(Some(directions))
}

impl Shared {
    fn fail(&self, fault: String) {
        lock(&self.fault).get_or_insert(fault);
    }

    fn stop(&self, change: impl FnOnce(&mut Stop)) {
        change(&mut lock(&self.stop));
        self.stop_changed.notify_all();
    }

    /// Stands still until it is to go on, which is true, or everything has ended.
    fn wait(&self) -> bool {
        self.stop(|stop| stop.is_reached = true);
        let waits = |stop: &mut Stop| !stop.is_over && !self.ended.load(Ordering::SeqCst);
        let stop = lock(&self.stop);
        let stop = self.stop_changed.wait_while(stop, waits).unwrap_or_else(PoisonError::into_inner);
        stop.is_over
    }
}

/// A direction, and the two ends of its file.
struct Begun {
    direction: Direction,
    record: File,
    playback: File,
    is_forward: bool,
}

/// One direction of a connection.
#[derive(Debug)]
struct Direction {
    from: UnixStream,
    to: UnixStream,
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    recorded_bytes: u64,
    /// How the speaker ended, once it has.
    ended: Option<Shutdown>,
}

impl Direction {
    fn new(from: UnixStream, to: UnixStream) -> Self {
        Self { from, to, progress: Mutex::default(), changed: Condvar::new() }
    }

    /// Keeps what comes, until its end. Failures of the peers are passed on; the error is of the record.
    fn record(&self, mut record: impl Write) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut recorded = Ok(());
        let end = loop {
            let bytes = match (&self.from).read(&mut buffer) {
                Ok(0) => break Shutdown::Write,
                Ok(length) => buffer.get(..length).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break Shutdown::Both,
            };
            recorded = record.write_all(bytes);
            if recorded.is_err() {
                let _ = self.from.shutdown(Shutdown::Both);
                break Shutdown::Both;
            }
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            self.progress(|progress| progress.recorded_bytes = progress.recorded_bytes.saturating_add(length));
        };
        self.progress(|progress| progress.ended = Some(end));
        recorded
    }

    /// Passes on what was kept, and then the end. At a stop of the passage it waits.
    fn pass_on(
        &self,
        mut playback: File,
        count: &AtomicU64,
        mut passage: Option<Passage>,
        wait: impl Fn() -> bool,
    ) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut passed_bytes = 0_u64;
        let end = loop {
            let progress = self.beyond(passed_bytes);
            if progress.recorded_bytes == passed_bytes {
                if let Some(passage) = &mut passage {
                    let mut rest = Vec::new();
                    passage.finish(&mut rest);
                    // One that is gone has no use for it.
                    let _ = (&self.to).write_all(&rest);
                }
                break progress.ended.unwrap_or(Shutdown::Both);
            }
            let length = match playback.read(&mut buffer) {
                Ok(length) => length,
                Err(error) => {
                    let _ = (self.from.shutdown(Shutdown::Both), self.to.shutdown(Shutdown::Both));
                    return Err(error);
                }
            };
            if self.write(buffer.get(..length).unwrap_or_default(), &mut passage, &wait).is_err() {
                // The hearer is gone: let the speaker know.
                let _ = self.from.shutdown(Shutdown::Both);
                break Shutdown::Both;
            }
            let length = u64::try_from(length).unwrap_or(u64::MAX);
            passed_bytes = passed_bytes.saturating_add(length);
            count.fetch_add(length, Ordering::Relaxed);
        };
        // Fails only if the connection is gone already.
        let _ = self.to.shutdown(end);
        Ok(())
    }

    fn write(&self, mut bytes: &[u8], passage: &mut Option<Passage>, wait: impl Fn() -> bool) -> io::Result<()> {
        let Some(passage) = passage else { return (&self.to).write_all(bytes) };
        loop {
            let mut out = Vec::new();
            let stops = passage.pass(&mut bytes, &mut out);
            (&self.to).write_all(&out)?;
            if !stops {
                return Ok(());
            }
            if !wait() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        }
    }

    fn progress(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut lock(&self.progress));
        self.changed.notify_all();
    }

    /// Waits until more than this is recorded, or all is.
    fn beyond(&self, passed_bytes: u64) -> Progress {
        let waits = |progress: &mut Progress| progress.recorded_bytes <= passed_bytes && progress.ended.is_none();
        *self.changed.wait_while(lock(&self.progress), waits).unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "proxy_test.rs"]
mod test;
