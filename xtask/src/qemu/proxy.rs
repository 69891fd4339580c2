// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A relay between a source and a target that keeps what either says to the other.
//!
//! Every connection has two threads, one per direction, each with one buffer and one file: memory does not grow with
//! what is said. The end of a direction is passed on, and so is a failure: without that a source whose target has gone
//! waits for ever.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

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
}

impl Proxy {
    /// Listens at `at`, connects every connection on to `target`, and records into the existing `folder`.
    pub(crate) fn start(at: &Path, target: &Path, folder: &Path) -> io::Result<Self> {
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

    /// Ends all connections in both directions, and takes no more.
    pub(crate) fn cut(&self) {
        self.shared.ended.store(true, Ordering::SeqCst);
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

/// A target that is not there is the peers' business: the source's connection is closed, as the target would.
fn connect(source: UnixStream, shared: &Arc<Shared>) -> io::Result<()> {
    source.set_nonblocking(false)?;
    let Ok(target) = UnixStream::connect(&shared.target) else {
        return Ok(());
    };
    let number = lock(&shared.recordings).len();
    let recording = Recording {
        forward: shared.folder.join(format!("channel-{number}.forward")),
        back: shared.folder.join(format!("channel-{number}.back")),
    };
    let (forward, back) = (File::create(&recording.forward)?, File::create(&recording.back)?);
    lock(&shared.recordings).push(recording);
    lock(&shared.ends).extend([source.try_clone()?, target.try_clone()?]);
    let directions = [(source.try_clone()?, target.try_clone()?, forward, true), (target, source, back, false)];
    for (from, to, record, counts) in directions {
        shared.open.fetch_add(1, Ordering::SeqCst);
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            let none = AtomicU64::new(0);
            let count = if counts { &shared.forward_bytes } else { &none };
            if let Err(fault) = relay(&from, &to, record, count) {
                shared.fail(fault);
            }
            shared.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
    Ok(())
}

impl Shared {
    fn fail(&self, fault: String) {
        lock(&self.fault).get_or_insert(fault);
    }
}

/// Passes on and keeps what comes, until its end. Failures of the peers are passed on; the error is of the record.
fn relay(mut from: &UnixStream, mut to: &UnixStream, mut record: impl Write, count: &AtomicU64) -> Result<(), String> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let end = loop {
        let bytes = match from.read(&mut buffer) {
            Ok(0) => break Shutdown::Write,
            Ok(length) => buffer.get(..length).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break Shutdown::Both,
        };
        // What a peer may have heard is on record.
        if let Err(error) = record.write_all(bytes) {
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
            return Err(format!("what was said cannot be recorded: {error}"));
        }
        if to.write_all(bytes).is_err() {
            // The hearer is gone: let the speaker know.
            let _ = from.shutdown(Shutdown::Both);
            break Shutdown::Both;
        }
        count.fetch_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
    };
    // Fails only if the connection is gone already.
    let _ = to.shutdown(end);
    record.flush().map_err(|error| format!("what was said cannot be recorded: {error}"))
}

#[cfg(test)]
#[path = "proxy_test.rs"]
mod test;
