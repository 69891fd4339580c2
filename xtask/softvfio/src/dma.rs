// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! DMA: a thread of each device that performs any, and the way its writes take to memory.
//!
//! A write goes through the address space that the device is in at that moment, is kept by whatever tracks dirty pages there,
//! and then by the device's own log. Keeping comes after writing: a page that is reported and read between the two is
//! reported once more.

use std::sync::{Arc, Condvar, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use savevm_core::sim::{DmaBus, Errno};

use crate::abi::UserMemory;
use crate::machine::{File, Node, lock};
use crate::mappings::Mappings;

/// How often a device writes.
const TICK: Duration = Duration::from_millis(1);
/// Most writes at once: a transition waits for them.
const WRITES_MAX: u64 = 4096;
/// A device that was kept waiting for longer does not make up for it.
const DEBT_MAX: Duration = Duration::from_millis(20);

/// What threads that write to memory need of the process.
pub(crate) trait Host: UserMemory + Send + Sync {
    /// Starts a thread that no signal of the program's reaches.
    fn spawn(&self, work: Box<dyn FnOnce() + Send>) -> std::io::Result<JoinHandle<()>>;
}

/// The address space that a device is in.
#[derive(Default)]
pub(crate) enum Route {
    /// None: every write is a fault.
    #[default]
    None,
    /// That of a container.
    Container(Weak<File>),
    /// What a device of this id is attached to.
    Iommufd(Weak<File>, u32),
}

impl Route {
    /// A route that does not keep `file` open.
    pub(crate) fn container(file: &Arc<File>) -> Self {
        Self::Container(Arc::downgrade(file))
    }

    fn write(&self, memory: &dyn UserMemory, iova: u64, data: &[u8]) -> Result<(), Errno> {
        let file = match self {
            Self::None => None,
            Self::Container(file) | Self::Iommufd(file, _) => file.upgrade(),
        };
        match (self, file.as_deref()) {
            (Self::Container(_), Some(File::Container(container))) => container.dma_write(memory, iova, data),
            (Self::Iommufd(_, id), Some(File::Iommufd(iommufd))) => iommufd.dma_write(*id, memory, iova, data),
            _ => Err(Errno::EFAULT),
        }
    }
}

/// Writes `data` to the memory that `mappings` have at `iova`, and tells `written` of every piece that arrived.
///
/// # Errors
/// EFAULT if some of it did not: it is not mapped, not for writing, or not there any more.
pub(crate) fn deliver(
    mappings: &Mappings,
    memory: &dyn UserMemory,
    iova: u64,
    data: &[u8],
    mut written: impl FnMut(u64, u64),
) -> Result<(), Errno> {
    let len = u64::try_from(data.len()).unwrap_or(u64::MAX);
    let mut arrived = 0_u64;
    for (at, piece) in mappings.pieces(iova, len) {
        let from = usize::try_from(at.saturating_sub(iova)).unwrap_or(usize::MAX);
        let bytes = usize::try_from(piece.len).unwrap_or(usize::MAX);
        let part = data.get(from..).and_then(|data| data.get(..bytes)).unwrap_or_default();
        if piece.writable && memory.copy_out(piece.user, part).is_ok() {
            written(at, piece.len);
            arrived = arrived.saturating_add(piece.len);
        }
    }
    if arrived == len { Ok(()) } else { Err(Errno::EFAULT) }
}

/// What a device's writes go over.
struct Bus<'a>(&'a Node);

impl DmaBus for Bus<'_> {
    fn write(&mut self, iova: u64, data: &[u8]) -> Result<(), Errno> {
        let Self(node) = self;
        let answer = lock(&node.route).write(&*node.host, iova, data);
        lock(&node.log).mark(iova, u64::try_from(data.len()).unwrap_or(u64::MAX));
        answer
    }

    fn write_peer(&mut self, number: u64) {
        if let Some(peer) = self.0.peer.get().and_then(Weak::upgrade) {
            peer.sim.take_peer_write(number);
        }
    }
}

/// What a device's thread is told.
#[derive(Default)]
struct Told {
    stop: bool,
    look: bool,
}

/// A device's thread. It ends with [`stop`](Self::stop).
pub(crate) struct Writer {
    told: Arc<(Mutex<Told>, Condvar)>,
    thread: JoinHandle<()>,
}

impl Writer {
    /// Starts the thread of `node`, if it performs any DMA.
    pub(crate) fn start(node: &Arc<Node>) -> Option<Self> {
        let facts = node.sim.facts().dma?;
        let told = Arc::new((Mutex::new(Told::default()), Condvar::new()));
        let (node, ears) = (Arc::clone(node), Arc::clone(&told));
        let host = Arc::clone(&node.host);
        let writes_per_s = facts.rate.checked_div(u64::try_from(facts.write_bytes).ok()?)?.max(1);
        let thread = host.spawn(Box::new(move || write(&node, writes_per_s, &ears)));
        match thread {
            Ok(thread) => Some(Self { told, thread }),
            Err(error) => {
                eprintln!("softvfio: a device cannot perform DMA: no thread: {error}");
                None
            }
        }
    }

    /// The device may have something to do now.
    pub(crate) fn look(&self) {
        let (told, bell) = &*self.told;
        lock(told).look = true;
        bell.notify_one();
    }

    /// Ends the thread, and returns when it has.
    pub(crate) fn stop(self) {
        let (told, bell) = &*self.told;
        lock(told).stop = true;
        bell.notify_one();
        // A panic of the thread's has been printed, and its device is closed either way.
        let _ = self.thread.join();
    }
}

fn write(node: &Node, writes_per_s: u64, ears: &(Mutex<Told>, Condvar)) {
    let (told, bell) = ears;
    let due = |time: Duration| {
        let writes = time.as_nanos().saturating_mul(u128::from(writes_per_s)) / 1_000_000_000;
        u64::try_from(writes).unwrap_or(u64::MAX)
    };
    let (mut begin, mut done) = (Instant::now(), 0_u64);
    loop {
        let is_busy = node.sim.has_dma_to_do();
        let heard = lock(told);
        let heard = if is_busy {
            bell.wait_timeout_while(heard, TICK, |told| !told.stop).map(|(heard, _)| heard).ok()
        } else {
            bell.wait_while(heard, |told| !told.stop && !told.look).ok()
        };
        let Some(mut heard) = heard.filter(|heard| !heard.stop) else { return };
        heard.look = false;
        drop(heard);
        if !is_busy {
            (begin, done) = (Instant::now(), 0);
            continue;
        }
        let owed = due(begin.elapsed()).saturating_sub(done);
        if owed > due(DEBT_MAX).max(1) {
            (begin, done) = (Instant::now(), 0);
        }
        let writes = owed.min(due(DEBT_MAX).max(1)).min(WRITES_MAX);
        done = done.saturating_add(node.sim.dma(writes, &mut Bus(node)));
    }
}
