// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the kernel's own source declares about migration: the files of a `linux-source` package that tests compare with.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cache::{Cache, Lock};
use crate::vm::apt::{Apt, Package};
use crate::vm::error::ProvisionError;
use crate::vm::progress::Steps;
use crate::vm::system::Release;
use crate::vm::{qemu, unpack, version};

/// Which kernel's. Neither has all drivers in all their versions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Edition {
    /// The newest that the installed release's archive offers.
    Installed,
    /// The newest there is for Debian 13, with its backports.
    Newest,
}

impl Edition {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Installed, Self::Newest];

    /// Name and layout version of the component.
    const fn component(self) -> &'static str {
        match self {
            Self::Installed => "kernel-source-1",
            Self::Newest => "kernel-source-newest-1",
        }
    }

    /// Where it is looked for.
    pub(crate) const fn release(self) -> Release {
        match self {
            Self::Installed => Release::Installed,
            Self::Newest => Release::Named("trixie"),
        }
    }
}

/// The first kernel with every file of [`FILES`], and with the layouts that are compared.
const OLDEST: (u32, u32) = (6, 12);
const PREFIX: &str = "linux-source-";
/// Patterns of tar, of which each must match.
const FILES: [&str; 4] = [
    "*/drivers/vfio/pci/hisilicon/*.h",
    "*/drivers/vfio/pci/mlx5/*.h",
    "*/drivers/vfio/pci/virtio/*",
    "*/include/uapi/linux/vfio.h",
];

/// What the manifest says.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Facts {
    package: String,
    version: String,
}

/// Some files of a kernel, at their places below `tree`.
#[derive(Clone, Debug)]
pub(crate) struct KernelSource {
    /// The absolute path of the tree.
    pub(crate) tree: PathBuf,
    /// The package's version.
    pub(crate) version: String,
}

impl KernelSource {
    /// The files in the cache, if they are complete.
    pub(crate) fn cached(cache: &Cache, edition: Edition) -> Option<Self> {
        let Facts { version, .. } = cache.facts(edition.component())?;
        Some(Self { tree: cache.component(edition.component()), version })
    }
}

/// Assembles the component in `scratch` and puts it in place.
pub(crate) fn provision(
    cache: &Cache,
    lock: &Lock,
    apt: &mut Apt,
    scratch: &Path,
    steps: &mut Steps<'_>,
    edition: Edition,
) -> Result<(), ProvisionError> {
    if edition == Edition::Newest {
        apt.add_backports()?;
    }
    let package = choose(apt)?;
    let folder = scratch.join(edition.component());
    let (debs, unpacked) = (folder.join("debs"), folder.join("unpacked"));
    let step = format!("downloading {} {}", package.name, package.version);
    steps.run(&step, |report| apt.download(core::slice::from_ref(&package), &debs, report))?;
    let missing = |wanted: &str| ProvisionError::Layout {
        package: format!("{} {}", package.name, package.version),
        wanted: wanted.to_owned(),
    };
    let deb = unpack::deb(&debs, &package.name)?;
    let archive = unpack::find(&deb, unpack::is_kernel_archive)?.ok_or_else(|| missing("archive of the source"))?;
    steps.run("extracting its declarations", |_| unpack::unpack_nested(&deb, &archive, &FILES, &unpacked))?;
    unpack::remove_file(&deb)?;
    let trees = fs::read_dir(&unpacked).map_err(ProvisionError::io("list", &unpacked))?;
    let tree = trees.flatten().map(|entry| entry.path()).next().ok_or_else(|| missing("source tree"))?;
    let Package { name: package, version, .. } = package;
    Ok(cache.commit(lock, edition.component(), &tree, Facts { package, version })?)
}

fn choose(apt: &Apt) -> Result<Package, ProvisionError> {
    let names: Vec<String> = apt.names(PREFIX)?.into_iter().filter(|name| is_numbered(name)).collect();
    let is_new = |package: &Package| version::major_minor(&package.version) >= Some(OLDEST);
    qemu::newest(apt.versions(&names)?, is_new).ok_or_else(|| ProvisionError::NoPackage {
        mirrors: apt.mirrors(),
        wanted: format!("source of kernel {}.{} or later", OLDEST.0, OLDEST.1),
        remedy: "enable the distribution's security and updates suites",
    })
}

/// `linux-source-6.12`, not a flavour's, nor the meta package.
fn is_numbered(name: &str) -> bool {
    let number = name.strip_prefix(PREFIX).unwrap_or_default();
    !number.is_empty() && number.chars().all(|character| character.is_ascii_digit() || character == '.')
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn only_numbered_packages_hold_source() {
        assert!(is_numbered("linux-source-6.12") && is_numbered("linux-source-7.3"));
        for other in ["linux-source-", "linux-source", "linux-source-6.12-rt", "linux-headers-6.12"] {
            assert!(!is_numbered(other), "{other}");
        }
    }
}
