// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The machine: its devices, its groups, and the files a process can open.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use savevm_core::sim::{ConfigError, Errno, SimDevice, SimSession, SystemClock};

use crate::abi::UserMemory;
use crate::bugs::DeviceBugs;
use crate::config::{Address, Config, Kernel};
use crate::container::Container;
use crate::dirty_log::DirtyLog;
use crate::dma::{Host, Route, Writer};
use crate::iommufd::Iommufd;
use crate::models;
use crate::store::Store;

/// A device of the machine.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) address: Address,
    pub(crate) group: u32,
    pub(crate) cdev: u32,
    pub(crate) sim: SimDevice,
    /// Bound through its cdev.
    pub(crate) bound: AtomicBool,
    /// Device files open through the group.
    pub(crate) group_opens: AtomicU32,
    /// Where its DMA goes.
    pub(crate) route: Mutex<Route>,
    pub(crate) bugs: DeviceBugs,
    /// What it keeps account of itself.
    pub(crate) log: Mutex<DirtyLog>,
    /// Whom it sends numbers to, if anybody.
    pub(crate) peer: OnceLock<Weak<Self>>,
    pub(crate) host: Arc<dyn Host>,
    /// While it is open, and performs DMA at all.
    writer: Mutex<Option<Writer>>,
    store: Arc<Store>,
}

impl Node {
    pub(crate) fn is_mdev(&self) -> bool {
        matches!(self.address, Address::Mdev(_))
    }

    /// Opens the device. Since it was last open here another process may have had it: its contents are read anew.
    pub(crate) fn open(self: &Arc<Self>) -> Result<(), Errno> {
        if !self.sim.is_open() {
            self.store.load(&self.name, &self.sim);
        }
        self.sim.open()?;
        let mut writer = lock(&self.writer);
        if writer.is_none() {
            *writer = Writer::start(self);
        }
        Ok(())
    }

    /// Closes one of the opens. With the last one DMA ends.
    pub(crate) fn close(&self) {
        self.sim.close();
        if self.sim.is_open() {
            return;
        }
        let writer = lock(&self.writer).take();
        if let Some(writer) = writer {
            writer.stop();
        }
        *lock(&self.route) = Route::None;
        lock(&self.log).stop();
    }

    /// The device may have DMA to do now.
    pub(crate) fn look(&self) {
        if let Some(writer) = &*lock(&self.writer) {
            writer.look();
        }
    }

    /// The state may have changed. A driver whose state outlives the last close leaves it behind also when the process
    /// is killed.
    pub(crate) fn state_changed(&self) {
        self.look();
        if self.sim.facts().state_survives_close {
            self.store.save(&self.name, &self.sim);
        }
    }
}

/// Everything that is configured, and who holds which group.
pub(crate) struct Machine {
    pub(crate) kernel: Kernel,
    pub(crate) nodes: Vec<Arc<Node>>,
    groups_open: Arc<Mutex<Vec<u32>>>,
}

/// An open file. Its last reference going away is its release.
pub(crate) enum File {
    Container(Container),
    Group(Group),
    Device(Device),
    Iommufd(Iommufd),
    Session(Session),
    /// A data fd inherited from another process: its session is over.
    DeadSession,
}

/// How a file that is opened anew is to be installed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Access {
    ReadOnly,
    WriteOnly,
    ReadWrite,
}

/// The process, as the emulation needs it.
pub(crate) trait Process: UserMemory {
    /// Gives `file` a descriptor with `O_CLOEXEC`; `EMFILE` when there is none.
    fn install(&self, file: Arc<File>, access: Access) -> Result<i32, Errno>;

    /// Takes back a descriptor that was just installed.
    fn discard(&self, fd: i32);

    /// The file behind a descriptor: `EBADF` when it is not open, `None` when it is not one of ours.
    fn file(&self, fd: i32) -> Result<Option<Arc<File>>, Errno>;
}

/// An open group.
pub(crate) struct Group {
    pub(crate) number: u32,
    /// Whether its devices are mediated ones.
    pub(crate) emulated: bool,
    /// The container or the iommufd that it was put into.
    pub(crate) container: Mutex<Option<Arc<File>>>,
    groups_open: Arc<Mutex<Vec<u32>>>,
}

/// An open device.
pub(crate) struct Device {
    pub(crate) node: Arc<Node>,
    pub(crate) origin: Origin,
    /// Where a `read` or `write` without a position goes on.
    pub(crate) position: AtomicU64,
}

impl Device {
    fn new(node: &Arc<Node>, origin: Origin) -> Self {
        Self { node: Arc::clone(node), origin, position: AtomicU64::new(0) }
    }

    pub(crate) fn is_cdev(&self) -> bool {
        matches!(self.origin, Origin::Cdev(_))
    }

    /// Whether the file answers anything: a cdev only once it is bound.
    pub(crate) fn is_bound(&self) -> bool {
        match &self.origin {
            Origin::Group(_) => true,
            Origin::Cdev(binding) => lock(binding).is_some(),
        }
    }
}

/// Which way a device was opened.
pub(crate) enum Origin {
    /// Through its group, which stays open meanwhile; `None` when inherited from another process.
    Group(#[allow(dead_code)] Option<Arc<File>>),
    /// Through its cdev; unbound at first.
    Cdev(Mutex<Option<crate::cdev::Binding>>),
}

/// An open data fd.
pub(crate) struct Session {
    pub(crate) session: SimSession,
}

impl Machine {
    pub(crate) fn new(config: &Config, store: &Arc<Store>, host: &Arc<dyn Host>) -> Result<Self, ConfigError> {
        let nodes = config.devices.iter().map(|device| {
            let sim = models::device(&device.sim, config.kernel, Arc::new(SystemClock::new()))?;
            store.load(&device.name, &sim);
            Ok(Arc::new(Node {
                name: device.name.clone(),
                address: device.address.clone(),
                group: device.group,
                cdev: device.cdev,
                sim,
                bound: AtomicBool::new(false),
                group_opens: AtomicU32::new(0),
                route: Mutex::default(),
                bugs: device.bugs,
                log: Mutex::default(),
                peer: OnceLock::new(),
                host: Arc::clone(host),
                writer: Mutex::default(),
                store: Arc::clone(store),
            }))
        });
        let nodes: Vec<Arc<Node>> = nodes.collect::<Result<_, ConfigError>>()?;
        for (node, device) in nodes.iter().zip(&config.devices) {
            if let Some(peer) = device.peer.and_then(|index| nodes.get(index)) {
                node.peer.get_or_init(|| Arc::downgrade(peer));
            }
        }
        Ok(Self { kernel: config.kernel, nodes, groups_open: Arc::default() })
    }

    /// The device called `name`.
    pub(crate) fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// Opens a device file by its path below `/dev`.
    pub(crate) fn open(&self, path: &str) -> Result<File, Errno> {
        if path == "iommu" && self.kernel.iommufd {
            return Ok(File::Iommufd(Iommufd::new(self.kernel.bugs)));
        }
        let path = path.strip_prefix("vfio/").ok_or(Errno::ENOENT)?;
        if path == "vfio" {
            return Ok(File::Container(Container::new(self.kernel)));
        }
        if let Some(cdev) = path.strip_prefix("devices/vfio").filter(|_| self.kernel.iommufd) {
            let cdev: u32 = cdev.parse().map_err(|_| Errno::ENOENT)?;
            let node = self.nodes.iter().find(|node| node.cdev == cdev).ok_or(Errno::ENOENT)?;
            return Ok(Self::cdev(node));
        }
        let group = path.parse().map_err(|_| Errno::ENOENT)?;
        self.open_group(group).map(File::Group)
    }

    /// An unbound cdev file.
    pub(crate) fn cdev(node: &Arc<Node>) -> File {
        File::Device(Device::new(node, Origin::Cdev(Mutex::new(None))))
    }

    /// Opens a group: only once at a time, and not while a member is bound through its cdev.
    pub(crate) fn open_group(&self, number: u32) -> Result<Group, Errno> {
        let mut members = self.nodes.iter().filter(|node| node.group == number).peekable();
        let emulated = members.peek().ok_or(Errno::ENOENT)?.is_mdev();
        if members.any(|node| node.bound.load(Ordering::SeqCst)) {
            return Err(Errno::EBUSY);
        }
        let mut open = lock(&self.groups_open);
        if open.contains(&number) {
            return Err(Errno::EBUSY);
        }
        open.push(number);
        Ok(Group { number, emulated, container: Mutex::new(None), groups_open: Arc::clone(&self.groups_open) })
    }

    pub(crate) fn group_is_open(&self, number: u32) -> bool {
        lock(&self.groups_open).contains(&number)
    }

    /// Opens a device through its group.
    pub(crate) fn open_device(node: &Arc<Node>, group: Option<Arc<File>>) -> Result<File, Errno> {
        node.open()?;
        node.group_opens.fetch_add(1, Ordering::SeqCst);
        Ok(File::Device(Device::new(node, Origin::Group(group))))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.leave();
        lock(&self.groups_open).retain(|open| *open != self.number);
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        match &self.origin {
            Origin::Group(_) => {
                self.node.group_opens.fetch_sub(1, Ordering::SeqCst);
            }
            Origin::Cdev(binding) if lock(binding).is_some() => self.node.bound.store(false, Ordering::SeqCst),
            Origin::Cdev(_) => return,
        }
        self.node.close();
        self.node.store.save(&self.node.name, &self.node.sim);
    }
}

/// A poisoned lock is still a lock: a panic is answered with `EIO`, and the process goes on.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
