// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A real kernel with a real migration driver, without hardware and without privileges.
//!
//! [`provision`] puts a stock QEMU and a distribution kernel, stock or built anew, with the sample driver mtty into the cache, from the
//! machine's own package mirror and without touching its packages; [`boot()`] runs a program in a guest of them.
//!
//! Supported to provision: Debian 12 and later, and Ubuntu 24.04 and later, on x86-64. Supported to boot: any x86-64 Linux with a
//! cache provisioned on one of these.

mod apt;
mod boot;
mod built;
mod bundle;
mod console;
mod control;
mod cpio;
mod elf;
mod error;
mod guest;
mod host;
mod initramfs;
mod kernel;
mod kernel_source;
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
pub(crate) use host::{Guarded, tail};
pub(crate) use kernel::Kernel;
pub(crate) use kernel_source::{Edition, KernelSource};
pub(crate) use progress::Progress;
pub(crate) use qemu::{Qemu, Series};
pub(crate) use self_build::build_static_xtask;

use apt::Apt;
use progress::Steps;
use system::{Release, System};

/// When to look at the mirror.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Freshness {
    /// Whatever complete version is in the cache serves; without one, the newest is fetched.
    Cached,
    /// The newest is fetched.
    Newest,
}

/// Which kernel a guest gets.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum KernelKind {
    /// The distribution's own, with mtty built as a module.
    #[default]
    Stock,
    /// One built from the distribution's source, with character devices, iommufd and a simulated IOMMU.
    Built,
}

impl KernelKind {
    fn parts(self) -> Vec<Part> {
        match self {
            Self::Stock => vec![Part::qemu(Series::V10_0), KERNEL],
            Self::Built => vec![Part::qemu(Series::V10_0), BUILD_TOOLS, BUILT_KERNEL],
        }
    }

    fn cached(self, cache: &Cache) -> Option<Kernel> {
        match self {
            Self::Stock => Kernel::cached(cache),
            Self::Built => built::cached(cache),
        }
    }
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
/// Needs the network only for what is missing. Downloads about 320 MB, keeps about 150 MB; a built kernel takes 170 MB
/// and minutes instead of 280 MB and seconds, and nearly 2 GB while it is being built.
pub(crate) fn provision(
    cache: &Cache,
    kind: KernelKind,
    freshness: Freshness,
    report: &mut dyn FnMut(Progress<'_>),
) -> Result<Provisioned, ProvisionError> {
    let cached = |cache: &Cache| Some((Qemu::cached(cache, Series::V10_0)?, kind.cached(cache)?));
    let ((qemu, kernel), lock) = ensure(cache, freshness, &kind.parts(), cached, &mut Steps::new(report))?;
    Ok(Provisioned { qemu, kernel, _lock: lock })
}

/// An emulator without a kernel. While it lives, no other run replaces it; nor can this one provision more.
#[derive(Debug)]
pub(crate) struct ProvisionedQemu {
    /// The emulator.
    pub(crate) qemu: Qemu,
    _lock: Lock,
}

/// Makes sure that an emulator is in the cache.
///
/// Needs the network only if it is missing. Downloads about 40 MB, keeps about 200 MB.
pub(crate) fn provision_qemu(
    cache: &Cache,
    series: Series,
    freshness: Freshness,
    report: &mut dyn FnMut(Progress<'_>),
) -> Result<ProvisionedQemu, ProvisionError> {
    let cached = |cache: &Cache| Qemu::cached(cache, series);
    let (qemu, lock) = ensure(cache, freshness, &[Part::qemu(series)], cached, &mut Steps::new(report))?;
    Ok(ProvisionedQemu { qemu, _lock: lock })
}

/// Makes sure that the declarations of a kernel are in the cache.
///
/// Needs the network only if they are missing. Downloads about 150 MB, keeps less than 1 MB. They are small and nothing
/// runs from them, so what is given is not locked.
pub(crate) fn provision_kernel_source(
    cache: &Cache,
    edition: Edition,
    freshness: Freshness,
    report: &mut dyn FnMut(Progress<'_>),
) -> Result<KernelSource, ProvisionError> {
    let cached = |cache: &Cache| KernelSource::cached(cache, edition);
    let parts = [Part::kernel_source(edition)];
    let (source, _lock) = ensure(cache, freshness, &parts, cached, &mut Steps::new(report))?;
    Ok(source)
}

/// A component and how to assemble it.
#[derive(Clone, Copy)]
struct Part {
    /// Programs of the host, looked for before anything is downloaded.
    tools: &'static [&'static str],
    release: Release,
    component: Component,
}

#[derive(Clone, Copy)]
enum Component {
    Qemu(Series),
    Kernel,
    KernelSource(Edition),
    BuildTools,
    BuiltKernel,
}

const KERNEL: Part = Part {
    tools: &["apt-get", "dpkg-deb", "tar", "xz", "gcc", "ld", "make"],
    release: Release::Installed,
    component: Component::Kernel,
};

const BUILD_TOOLS: Part = Part {
    tools: &["apt-cache", "apt-config", "apt-get", "dpkg-deb"],
    release: Release::Installed,
    component: Component::BuildTools,
};

/// The newest kernels are in the backports of the release after the oldest supported one.
const BUILT_KERNEL: Part = Part {
    tools: &["apt-cache", "apt-config", "apt-get", "bc", "dpkg-deb", "gcc", "gzip", "ld", "make", "nice", "tar", "xz"],
    release: Release::Named("trixie"),
    component: Component::BuiltKernel,
};

impl Part {
    const fn qemu(series: Series) -> Self {
        let tools = &["apt-get", "apt-cache", "apt-config", "dpkg-deb"];
        Self { tools, release: series.release(), component: Component::Qemu(series) }
    }

    const fn kernel_source(edition: Edition) -> Self {
        let tools = &["apt-get", "apt-cache", "apt-config", "dpkg-deb", "tar", "xz"];
        Self { tools, release: edition.release(), component: Component::KernelSource(edition) }
    }

    fn is_cached(&self, cache: &Cache) -> bool {
        match self.component {
            Component::Qemu(series) => Qemu::cached(cache, series).is_some(),
            Component::Kernel => Kernel::cached(cache).is_some(),
            Component::KernelSource(edition) => KernelSource::cached(cache, edition).is_some(),
            Component::BuildTools => built::BuildTools::cached(cache).is_some() || built::cached(cache).is_some(),
            Component::BuiltKernel => built::cached(cache).is_some(),
        }
    }
}

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
    let missing = |part: &&Part| freshness == Freshness::Newest || !part.is_cached(cache);
    let missing: Vec<&Part> = parts.iter().filter(missing).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let system = System::read(Path::new("/"))?;
    let tools: Vec<&str> = missing.iter().flat_map(|part| part.tools).copied().collect();
    host::require(&tools)?;
    let scratch = cache.scratch(&lock)?;
    let scratch = scratch.path();
    let mut prepared: Option<(Release, Apt)> = None;
    for part in missing {
        if prepared.as_ref().is_some_and(|(release, _)| *release != part.release) {
            prepared = None;
        }
        let (_, apt) = match &mut prepared {
            Some(prepared) => prepared,
            none => none.insert((part.release, look_up(scratch, &system, part.release, steps)?)),
        };
        match part.component {
            Component::Qemu(series) => qemu::provision(cache, &lock, apt, scratch, steps, series)?,
            Component::Kernel => kernel::provision(cache, &lock, apt, scratch, steps)?,
            Component::KernelSource(edition) => {
                kernel_source::provision(cache, &lock, apt, scratch, steps, edition)?;
            }
            Component::BuildTools => built::provision_tools(cache, &lock, apt, scratch, steps)?,
            Component::BuiltKernel => built::provision(cache, &lock, apt, scratch, steps)?,
        }
    }
    Ok(())
}

fn look_up(scratch: &Path, system: &System, release: Release, steps: &mut Steps<'_>) -> Result<Apt, ProvisionError> {
    let folder = match release {
        Release::Installed => scratch.join("apt"),
        Release::Named(codename) => scratch.join(format!("apt-{codename}")),
    };
    steps.run("looking up packages", |_| Apt::prepare(&folder, system, release))
}
