// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A real kernel with a real migration driver, without hardware and without privileges.
//!
//! [`provision`] puts a stock QEMU and a stock distribution kernel with the sample driver mtty into the cache, from the
//! machine's own package mirror and without touching its packages; [`boot()`] runs a program in a guest of them.
//!
//! Supported to provision: Debian 12 and later, and Ubuntu 24.04 and later, on x86-64. Supported to boot: any x86-64 Linux with a
//! cache provisioned on one of these.

mod apt;
mod boot;
mod console;
mod control;
mod cpio;
mod elf;
mod error;
mod guest;
mod host;
mod initramfs;
mod kernel;
mod module_build;
mod modules;
mod progress;
mod qemu;
mod self_build;
mod sources;
mod system;
mod unpack;
mod version;

use std::path::Path;

use crate::cache::{Cache, Lock};

pub(crate) use boot::boot;
pub(crate) use error::{ProvisionError, VmError};
pub(crate) use guest::{GuestExit, GuestJob, Mdev, MdevType};
pub(crate) use kernel::Kernel;
pub(crate) use progress::Progress;
pub(crate) use qemu::Qemu;
pub(crate) use self_build::build_static_xtask;

use apt::Apt;
use progress::Steps;
use system::System;

/// When to look at the mirror.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Freshness {
    /// Whatever complete version is in the cache serves; without one, the newest is fetched.
    Cached,
    /// The newest is fetched.
    Newest,
}

/// Everything that a guest needs. While it lives, no other run replaces what it names.
#[derive(Debug)]
pub(crate) struct Provisioned {
    /// The emulator.
    pub(crate) qemu: Qemu,
    /// The kernel and its modules.
    pub(crate) kernel: Kernel,
    _lock: Lock,
}

/// Makes sure that emulator and kernel are in the cache.
///
/// Needs the network only for what is missing. Downloads about 320 MB, keeps about 150 MB.
pub(crate) fn provision(
    cache: &Cache,
    freshness: Freshness,
    report: &mut dyn FnMut(Progress<'_>),
) -> Result<Provisioned, ProvisionError> {
    let cached = |cache: &Cache| Some((Qemu::cached(cache)?, Kernel::cached(cache)?));
    let ((qemu, kernel), lock) = ensure(cache, freshness, &[QEMU, KERNEL], cached, &mut Steps::new(report))?;
    Ok(Provisioned { qemu, kernel, _lock: lock })
}

/// A component and how to assemble it.
struct Part {
    /// Programs of the host, looked for before anything is downloaded.
    tools: &'static [&'static str],
    is_cached: fn(&Cache) -> bool,
    provision: fn(&Cache, &Lock, &mut Apt, &Path, &mut Steps<'_>) -> Result<(), ProvisionError>,
}

const QEMU: Part = Part {
    tools: &["apt-get", "apt-cache", "apt-config", "dpkg-deb"],
    is_cached: |cache| Qemu::cached(cache).is_some(),
    provision: qemu::provision,
};
const KERNEL: Part = Part {
    tools: &["apt-get", "dpkg-deb", "tar", "xz", "gcc", "ld", "make"],
    is_cached: |cache| Kernel::cached(cache).is_some(),
    provision: kernel::provision,
};

/// Gives what `cached` finds, under a shared lock, after assembling the parts that are missing.
fn ensure<T>(
    cache: &Cache,
    freshness: Freshness,
    parts: &[Part],
    cached: impl Fn(&Cache) -> Option<T>,
    steps: &mut Steps<'_>,
) -> Result<(T, Lock), ProvisionError> {
    let mut freshness = freshness;
    loop {
        let shared = cache.lock_shared(|| steps.waiting())?;
        if freshness == Freshness::Cached {
            if let Some(found) = cached(cache) {
                return Ok((found, shared));
            }
        }
        drop(shared);
        assemble(cache, freshness, parts, steps)?;
        // Between the locks another run may have replaced what was assembled: look again, but fetch no second time.
        freshness = Freshness::Cached;
    }
}

fn assemble(cache: &Cache, freshness: Freshness, parts: &[Part], steps: &mut Steps<'_>) -> Result<(), ProvisionError> {
    let lock = cache.lock(|| steps.waiting())?;
    let missing = |part: &&Part| freshness == Freshness::Newest || !(part.is_cached)(cache);
    let missing: Vec<&Part> = parts.iter().filter(missing).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let system = System::read(Path::new("/"))?;
    let tools: Vec<&str> = missing.iter().flat_map(|part| part.tools).copied().collect();
    host::require(&tools)?;
    let scratch = cache.scratch(&lock)?;
    let folder = scratch.path().join("apt");
    let mut apt = steps.run("looking up packages", |_| Apt::prepare(&folder, &system))?;
    for part in missing {
        (part.provision)(cache, &lock, &mut apt, scratch.path(), steps)?;
    }
    Ok(())
}
