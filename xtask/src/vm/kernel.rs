// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A stock distribution kernel with the sample driver `mtty`.
//!
//! Distributions build neither samples nor ship their source in the headers, so the driver's source comes out of the
//! `linux-source` package of exactly the kernel's version.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cache::{Cache, Lock};
use crate::vm::apt::{Apt, Package};
use crate::vm::error::ProvisionError;
use crate::vm::progress::{Progress, Steps};
use crate::vm::{module_build, modules, qemu, unpack, version};

/// Name and layout version of the component.
pub(crate) const COMPONENT: &str = "kernel-1";
/// The first kernel whose mtty can migrate.
const OLDEST: (u32, u32) = (6, 7);
/// The guest's first program.
const BUSYBOX: &str = "busybox-static";
/// Loaded in the guest besides what they and mtty depend on. Nothing depends on the IOMMU backend by name.
const MODULES: [&str; 2] = ["vfio_iommu_type1", "mdev"];
/// Images smaller than this are meta packages, which have only dependencies.
const META_BYTES: u64 = 1 << 20;

/// What the manifest says.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Facts {
    /// As `uname -r` says.
    release: String,
    /// The package's version.
    version: String,
    compiler: String,
    /// Files of modules in the order of loading.
    modules: Vec<PathBuf>,
    packages: Vec<(String, String)>,
}

/// A bootable kernel. All paths are absolute.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// As `uname -r` says.
    pub(crate) release: String,
    /// The package's version.
    pub(crate) version: String,
    /// The image.
    pub(crate) image: PathBuf,
    /// Modules, in the order of loading, mtty last.
    pub(crate) modules: Vec<PathBuf>,
    /// A statically linked busybox.
    pub(crate) busybox: PathBuf,
}

impl Kernel {
    /// The kernel in the cache, if it is complete.
    pub(crate) fn cached(cache: &Cache) -> Option<Self> {
        let facts: Facts = cache.facts(COMPONENT)?;
        let root = cache.component(COMPONENT);
        Some(Self {
            release: facts.release,
            version: facts.version,
            image: root.join("vmlinuz"),
            modules: facts.modules.iter().map(|path| root.join(path)).collect(),
            busybox: root.join("busybox"),
        })
    }
}

/// The packages of one kernel.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Choice {
    release: String,
    /// Image, and on Ubuntu its modules.
    images: Vec<Package>,
    /// Headers and the tools built for them.
    headers: Vec<Package>,
    source: Package,
}

/// Assembles the component in `scratch` and puts it in place.
pub(crate) fn provision(
    cache: &Cache,
    lock: &Lock,
    apt: &mut Apt,
    scratch: &Path,
    steps: &mut Steps<'_>,
) -> Result<(), ProvisionError> {
    let choice = choose(apt)?;
    let busybox =
        qemu::newest(apt.versions(&[BUSYBOX.to_owned()])?, |_| true).ok_or_else(|| ProvisionError::NoPackage {
            mirrors: apt.mirrors(),
            wanted: BUSYBOX.to_owned(),
            remedy: "enable the component that holds it (Debian and Ubuntu: main)",
        })?;
    let mut packages = choice.images.clone();
    packages.extend(choice.headers.iter().cloned());
    packages.extend([choice.source.clone(), busybox]);
    let (debs, tree) = (scratch.join("kernel-debs"), scratch.join("kernel"));
    fs::create_dir_all(&tree).map_err(ProvisionError::io("create", &tree))?;
    let step = format!("downloading kernel {}", choice.release);
    steps.run(&step, |report| apt.download(&packages, &debs, report))?;

    let build = scratch.join("build");
    steps.run("extracting the driver's source", |_| extract_source(&debs, &choice, &build))?;
    let headers = scratch.join("headers");
    steps.run("unpacking the kernel", |report| {
        unpack_headers(&debs, &choice, &headers, report)?;
        unpack_image(&debs, &choice, scratch, &tree)
    })?;
    let compiler = steps.run("building the driver", |_| module_build::build(&headers, &choice.release, &build))?;
    let modules = modules::collect(&scratch.join("image"), &choice.release, &MODULES, &build.join("mtty.ko"), &tree)?;
    let facts = Facts {
        release: choice.release,
        version: choice.source.version,
        compiler,
        modules,
        packages: packages.into_iter().map(|package| (package.name, package.version)).collect(),
    };
    Ok(cache.commit(lock, COMPONENT, &tree, facts)?)
}

/// The release's newest kernel that has everything, else the newest with backports.
fn choose(apt: &mut Apt) -> Result<Choice, ProvisionError> {
    let offered = offered(apt)?;
    if let Some(choice) = select(&offered, |version| !version::is_backport(version)) {
        return Ok(choice);
    }
    apt.add_backports()?;
    select(&self::offered(apt)?, |_| true).ok_or_else(|| ProvisionError::NoPackage {
        mirrors: apt.mirrors(),
        wanted: format!(
            "kernel of version {}.{} or later with headers and source of the same version",
            OLDEST.0, OLDEST.1
        ),
        remedy: "enable the distribution's security and updates suites, where kernels and their source agree",
    })
}

/// Every kernel package of the wanted flavours and what belongs to it.
fn offered(apt: &Apt) -> Result<Vec<Package>, ProvisionError> {
    let mut names = apt.names("linux-source-")?;
    for prefix in ["linux-image-", "linux-modules-", "linux-headers-", "linux-kbuild-"] {
        names.extend(apt.names(prefix)?.into_iter().filter(|name| is_versioned(name, prefix)));
    }
    apt.versions(&names)
}

/// True for `PREFIX6.12.1…` without the flavours that are of no use here.
fn is_versioned(name: &str, prefix: &str) -> bool {
    let rest = name.strip_prefix(prefix).map(|rest| rest.strip_prefix("extra-").unwrap_or(rest)).unwrap_or_default();
    let other = ["-cloud-", "-rt-", "-dbg", "-unsigned", "-lowlatency", "-template"];
    rest.starts_with(|c: char| c.is_ascii_digit()) && !other.iter().any(|flavour| rest.contains(flavour))
}

/// The newest kernel for which image, headers, their dependencies and source are all offered.
fn select(offered: &[Package], accept: impl Fn(&str) -> bool) -> Option<Choice> {
    let mut images: Vec<&Package> = offered
        .iter()
        .filter(|package| package.name.starts_with("linux-image-") && package.bytes > META_BYTES)
        .filter(|package| ["-amd64", "-generic"].iter().any(|flavour| package.name.ends_with(flavour)))
        .filter(|package| accept(&package.version) && version::major_minor(&package.version) >= Some(OLDEST))
        .collect();
    images.sort_by(|left, right| version::compare(&right.version, &left.version));
    images.into_iter().find_map(|image| complete(image, offered))
}

fn complete(image: &Package, offered: &[Package]) -> Option<Choice> {
    let release = image.name.strip_prefix("linux-image-")?;
    let named = |name: &str| offered.iter().filter(|package| package.name == name).cloned().collect::<Vec<_>>();
    let same = |name: &str| named(name).into_iter().find(|package| package.version == image.version);
    let source =
        offered.iter().find(|package| package.name.starts_with("linux-source-") && package.version == image.version)?;
    let headers = same(&format!("linux-headers-{release}"))?;
    let mut all_headers = vec![headers.clone()];
    for name in &headers.depends {
        if name.starts_with("linux-headers-") {
            all_headers.push(same(name)?);
        } else if name.starts_with("linux-kbuild-") {
            all_headers.push(qemu::newest(named(name), |_| true)?);
        }
    }
    let mut images = vec![image.clone()];
    for name in image.depends.iter().filter(|name| name.starts_with("linux-modules-")) {
        images.push(same(name)?);
    }
    let extra = format!("linux-modules-extra-{release}");
    if !images.iter().any(|package| package.name == extra) {
        images.extend(same(&extra));
    }
    Some(Choice { release: release.to_owned(), images, headers: all_headers, source: source.clone() })
}

fn extract_source(debs: &Path, choice: &Choice, build: &Path) -> Result<(), ProvisionError> {
    let source = &choice.source;
    let missing = |wanted: &str| ProvisionError::Layout {
        package: format!("{} {}", source.name, source.version),
        wanted: wanted.to_owned(),
    };
    let deb = unpack::deb(debs, &source.name)?;
    let archive = unpack::find(&deb, unpack::is_kernel_archive)?;
    let archive = archive.ok_or_else(|| missing("archive of the source"))?;
    let unpacked = build.join("source");
    unpack::unpack_nested(&deb, &archive, &["*/samples/vfio-mdev/mtty.c"], &unpacked)?;
    unpack::remove_file(&deb)?;
    let file = unpack::files(&unpacked)?.into_iter().next().ok_or_else(|| missing("samples/vfio-mdev/mtty.c"))?;
    let text = fs::read_to_string(&file).map_err(ProvisionError::io("read", &file))?;
    if !text.contains("VFIO_MIGRATION_PRE_COPY") {
        return Err(missing("mtty driver that can migrate"));
    }
    let target = build.join("mtty.c");
    fs::rename(&file, &target).map_err(ProvisionError::io("move", &file))
}

fn unpack_headers(
    debs: &Path,
    choice: &Choice,
    headers: &Path,
    report: &mut dyn FnMut(Progress<'_>),
) -> Result<(), ProvisionError> {
    let files: Result<Vec<_>, _> = choice.headers.iter().map(|package| unpack::deb(debs, &package.name)).collect();
    unpack::unpack_all(&files?, headers, report)
}

/// The image to `tree`, and of the modules only what has a chance to be needed.
fn unpack_image(debs: &Path, choice: &Choice, scratch: &Path, tree: &Path) -> Result<(), ProvisionError> {
    let unpacked = scratch.join("image");
    let without = [
        "*/kernel/drivers/gpu/*",
        "*/kernel/drivers/media/*",
        "*/kernel/drivers/net/*",
        "*/kernel/sound/*",
        "*/usr/share/*",
    ];
    for package in &choice.images {
        let deb = unpack::deb(debs, &package.name)?;
        unpack::unpack_without(&deb, &unpacked, &without)?;
        unpack::remove_file(&deb)?;
    }
    let vmlinuz = unpacked.join("boot").join(format!("vmlinuz-{}", choice.release));
    fs::rename(&vmlinuz, tree.join("vmlinuz")).map_err(ProvisionError::io("find the kernel image", &vmlinuz))?;
    let busybox = scratch.join("busybox");
    unpack::unpack_all(&[unpack::deb(debs, BUSYBOX)?], &busybox, &mut |_| ())?;
    let file = unpack::files(&busybox)?.into_iter().find(|path| path.ends_with("bin/busybox"));
    let file = file.ok_or_else(|| ProvisionError::Layout { package: BUSYBOX.into(), wanted: "bin/busybox".into() })?;
    fs::rename(&file, tree.join("busybox")).map_err(ProvisionError::io("move", &file))
}

#[cfg(test)]
#[path = "kernel_test.rs"]
mod test;
