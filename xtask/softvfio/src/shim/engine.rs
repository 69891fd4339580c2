// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The one machine of the process, and which descriptor is which file.

use std::collections::HashMap;
use std::ffi::c_int;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, TryLockError};
use std::time::Duration;

use savevm_core::sim::{Direction, Errno};

use crate::abi::UserMemory;
use crate::config::Config;
use crate::dma::Host;
use crate::log;
use crate::machine::{Access, File, Machine, Process};
use crate::store::Store;
use crate::tree::Tree;

use super::descriptors::{self, Identity};
use super::guard;
use super::memory::Memory;

/// Everything the library knows in this process.
pub(super) struct Engine {
    pub(super) machine: Machine,
    files: Mutex<HashMap<u64, Arc<File>>>,
    /// The file system of all memfds: what lies elsewhere is not ours.
    memfd_device: u64,
    counter: AtomicU64,
    process_id: u32,
    root: Option<PathBuf>,
    tree: OnceLock<Option<Tree>>,
}

static ENGINE: OnceLock<Option<Engine>> = OnceLock::new();

/// The engine; `None` when `SOFTVFIO` is not set, and then every call is libc's.
pub(super) fn get() -> Option<&'static Engine> {
    let mut fresh = false;
    let engine = ENGINE.get_or_init(|| {
        fresh = true;
        Engine::from_environment()
    });
    let engine = engine.as_ref()?;
    if fresh {
        engine.adopt_listed();
        // SAFETY: the handler is a function of this library, which is never unloaded.
        unsafe { libc::atexit(at_exit) };
    }
    Some(engine)
}

/// What a kernel does when a process ends: closes its files. A forked child leaves that to its parent.
extern "C" fn at_exit() {
    guard::inside(|engine| {
        if engine.process_id == std::process::id() {
            engine.sweep(true);
            if let Some(Some(tree)) = engine.tree.get() {
                tree.remove();
            }
        }
        Some(())
    });
}

impl Engine {
    fn from_environment() -> Option<Self> {
        let value = std::env::var("SOFTVFIO").ok()?;
        let text = if value.contains('=') {
            value
        } else {
            std::fs::read_to_string(&value).unwrap_or_else(|error| fatal(&format!("{value}: {error}")))
        };
        let path = |name| std::env::var_os(name).map(PathBuf::from);
        let store = Arc::new(Store::new(path("SOFTVFIO_STATE")));
        let host: Arc<dyn Host> = Arc::new(Memory);
        let machine = Config::parse(&text).and_then(|config| Machine::new(&config, &store, &host));
        let machine = machine.unwrap_or_else(|error| fatal(&format!("SOFTVFIO: {error}")));
        if let Some(path) = path("SOFTVFIO_LOG") {
            for node in &machine.nodes {
                log::attach(&node.name, &node.sim, path.clone());
            }
        }
        let probe = descriptors::create("probe", Access::ReadWrite);
        let memfd_device = probe.as_ref().ok().and_then(|fd| descriptors::identity(*fd).ok()).map(|id| id.device);
        if let Ok(fd) = probe {
            descriptors::close(fd);
        }
        Some(Self {
            machine,
            files: Mutex::default(),
            memfd_device: memfd_device.unwrap_or_else(|| fatal("memfd_create does not work here")),
            counter: AtomicU64::new(0),
            process_id: std::process::id(),
            root: path("SOFTVFIO_ROOT"),
            tree: OnceLock::new(),
        })
    }

    /// `SOFTVFIO_FDS`: puts files of ours onto the descriptor numbers that a launcher has promised to the program.
    fn adopt_listed(&self) {
        let Ok(list) = std::env::var("SOFTVFIO_FDS") else {
            return;
        };
        for item in list.split(',').filter(|item| !item.is_empty()) {
            let parsed = item.split_once('=').and_then(|(fd, what)| Some((fd.parse::<c_int>().ok()?, what)));
            let Some((fd, what)) = parsed else {
                fatal(&format!("SOFTVFIO_FDS: {item}: expected FD=iommufd or FD=DEVICE"))
            };
            if self.file(fd).is_ok_and(|file| file.is_some()) {
                continue;
            }
            let file = match (what, self.machine.node(what)) {
                ("iommufd", _) => File::Iommufd(crate::iommufd::Iommufd::new(self.machine.kernel.bugs)),
                (_, Some(node)) => Machine::cdev(node),
                _ => fatal(&format!("SOFTVFIO_FDS: {what}: expected iommufd or the name of a device")),
            };
            let moved = self.install(Arc::new(file), Access::ReadWrite).and_then(|from| descriptors::move_to(from, fd));
            if let Err(errno) = moved {
                fatal(&format!("SOFTVFIO_FDS: {item}: {errno}"));
            }
        }
    }

    /// The tree of paths, made now if it is not there yet; `None` when it cannot be made.
    pub(super) fn tree(&self) -> Option<&Tree> {
        let made = self.tree.get_or_init(|| match Tree::make(self.root.clone(), &self.machine) {
            Ok(tree) => Some(tree),
            Err(error) => {
                eprintln!("softvfio: the paths of the devices cannot be made: {error}");
                None
            }
        });
        made.as_ref()
    }

    /// The tree, if it has been made.
    pub(super) fn tree_if_made(&self) -> Option<&Tree> {
        self.tree.get()?.as_ref()
    }

    /// Whether the descriptor is one of ours: the file's identity, whether used before or not.
    pub(super) fn identity_of_ours(&self, fd: c_int) -> Option<Identity> {
        let identity = descriptors::identity(fd).ok().filter(|id| id.device == self.memfd_device)?;
        let known = self.files().is_ok_and(|files| files.contains_key(&identity.inode));
        (known || descriptors::name(fd).is_some()).then_some(identity)
    }

    /// Releases files whose last descriptor is gone; all of them at the end of the process.
    pub(super) fn sweep(&self, all: bool) {
        let open = if all { Vec::new() } else { descriptors::open_now().unwrap_or_default() };
        let is_open = |inode: u64| open.iter().any(|id| id.device == self.memfd_device && id.inode == inode);
        let Ok(mut files) = self.files() else { return };
        let gone: Vec<u64> = files.keys().copied().filter(|inode| !is_open(*inode)).collect();
        let released: Vec<Arc<File>> = gone.iter().filter_map(|inode| files.remove(inode)).collect();
        // Releasing takes locks of its own and may take its time.
        drop(files);
        drop(released);
    }

    /// The table of files. In a forked child another thread of the parent may have held the lock for good.
    fn files(&self) -> Result<MutexGuard<'_, HashMap<u64, Arc<File>>>, Errno> {
        const TRIES: u32 = 20_000;
        for _ in 0..TRIES {
            match self.files.try_lock() {
                Ok(files) => return Ok(files),
                Err(TryLockError::Poisoned(files)) => return Ok(files.into_inner()),
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_micros(50)),
            }
        }
        Err(Errno::EIO)
    }

    /// A file that came with its descriptor from another process: opened anew, by its name.
    fn adopt(&self, name: &str) -> Option<File> {
        let mut words = name.split(':');
        let (kind, what) = (words.next()?, words.next()?);
        let node = self.machine.node(what);
        Some(match kind {
            "container" => self.machine.open("vfio/vfio").ok()?,
            "iommufd" => File::Iommufd(crate::iommufd::Iommufd::new(self.machine.kernel.bugs)),
            "group" => File::Group(self.machine.open_group(what.parse().ok()?).ok()?),
            "device" => Machine::open_device(node?, None).ok()?,
            "cdev" => Machine::cdev(node?),
            "save" | "load" => File::DeadSession,
            _ => return None,
        })
    }

    fn name(&self, file: &File) -> String {
        let (kind, what) = match file {
            File::Container(_) => ("container", String::new()),
            File::Iommufd(_) => ("iommufd", String::new()),
            File::Group(group) => ("group", group.number.to_string()),
            File::Device(device) => {
                let kind = if device.is_cdev() { "cdev" } else { "device" };
                (kind, device.node.name.clone())
            }
            File::Session(session) => match session.session.direction() {
                Direction::Saving => ("save", String::new()),
                Direction::Resuming => ("load", String::new()),
            },
            File::DeadSession => ("save", String::new()),
        };
        let count = self.counter.fetch_add(1, Ordering::Relaxed);
        format!("{kind}:{what}:{}-{count}", self.process_id)
    }
}

impl UserMemory for Engine {
    fn copy_in(&self, address: u64, to: &mut [u8]) -> Result<(), Errno> {
        Memory.copy_in(address, to)
    }

    fn copy_out(&self, address: u64, from: &[u8]) -> Result<(), Errno> {
        Memory.copy_out(address, from)
    }
}

impl Process for Engine {
    fn install(&self, file: Arc<File>, access: Access) -> Result<i32, Errno> {
        let fd = descriptors::create(&self.name(&file), access)?;
        let identity = descriptors::identity(fd);
        let stored = identity.and_then(|id| self.files().map(|mut files| files.insert(id.inode, file)));
        if let Err(errno) = stored {
            descriptors::close(fd);
            return Err(errno);
        }
        Ok(fd)
    }

    fn discard(&self, fd: i32) {
        descriptors::close(fd);
        self.sweep(false);
    }

    fn file(&self, fd: i32) -> Result<Option<Arc<File>>, Errno> {
        let identity = descriptors::identity(fd)?;
        if identity.device != self.memfd_device {
            return Ok(None);
        }
        if let Some(file) = self.files()?.get(&identity.inode) {
            return Ok(Some(Arc::clone(file)));
        }
        let Some(file) = descriptors::name(fd).and_then(|name| self.adopt(&name)) else {
            return Ok(None);
        };
        let mut files = self.files()?;
        let file = files.entry(identity.inode).or_insert_with(|| Arc::new(file));
        Ok(Some(Arc::clone(file)))
    }
}

/// A program that asked for devices must not run without them.
fn fatal(text: &str) -> ! {
    eprintln!("softvfio: {text}");
    // SAFETY: ends the process at once; nothing of it is needed any more.
    unsafe { libc::_exit(126) }
}
