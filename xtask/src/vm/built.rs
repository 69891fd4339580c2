// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A small kernel with what distributions leave out, built from the distribution's own source package.
//!
//! Stock kernels have no character devices, no iommufd and no simulated IOMMU. This one has them, and mtty, all built in.
//! Building takes minutes of processor time, so an interrupted build is kept and taken up again.

mod config;
mod make;
mod tools;

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cache::{Cache, Lock};
use crate::vm::apt::{Apt, Package};
use crate::vm::error::ProvisionError;
use crate::vm::kernel::Kernel;
use crate::vm::progress::Steps;
use crate::vm::{unpack, version};

pub(super) use tools::{BuildTools, provision as provision_tools};

/// Name and layout version of the component.
const COMPONENT: &str = "kernel-built-1";
/// Where a build is until it is complete.
const UNFINISHED: &str = "kernel-built-unfinished";
/// What an unfinished build was begun for.
const BEGUN_FOR: &str = "begun-for";
/// The first kernel with dirty tracking in iommufd.
const OLDEST: (u32, u32) = (6, 7);
/// Sources of drivers that are not built. What describes them to the build stays, and so does the loopback, which is right
/// in the folder of network drivers. A star goes over slashes, too.
const LEFT_OUT: [&str; 8] = [
    "*/Documentation/*.[rt]??",
    "*/drivers/gpu/*.[ch]",
    "*/drivers/media/*.[ch]",
    "*/drivers/net/*/*.[ch]",
    "*/drivers/staging/*.[ch]",
    "*/sound/*.[ch]",
    "*/tools/perf/*",
    "*/tools/testing/*",
];

/// What the manifest says.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Facts {
    /// As `uname -r` says.
    release: String,
    /// The source package's version.
    version: String,
    /// The options it was built for.
    options: Vec<String>,
    /// The source package's name.
    package: String,
}

/// The built kernel in the cache, if it is complete and has the options wanted now.
pub(super) fn cached(cache: &Cache) -> Option<Kernel> {
    let facts: Facts = cache.facts(COMPONENT)?;
    let root = cache.component(COMPONENT);
    (facts.options == config::OPTIONS).then(|| Kernel {
        release: facts.release,
        version: facts.version,
        image: root.join("bzImage"),
        modules: Vec::new(),
        busybox: root.join("busybox"),
    })
}

/// Builds the newest kernel the mirror has the source of, unless it is there already, and puts it in place.
pub(super) fn provision(
    cache: &Cache,
    lock: &Lock,
    apt: &mut Apt,
    scratch: &Path,
    steps: &mut Steps<'_>,
) -> Result<(), ProvisionError> {
    let tools = BuildTools::cached(cache).ok_or_else(|| ProvisionError::Layout {
        package: "the cache".to_owned(),
        wanted: "build tools, which were put there a moment ago".to_owned(),
    })?;
    let source = choose(apt)?;
    if cached(cache).is_some_and(|kernel| kernel.version == source.version) {
        steps.note(&format!("the kernel in the cache is built from the newest source, {}", source.version));
        return Ok(());
    }
    let folder = unfinished(cache, &source)?;
    let (tree, out) = (folder.join("source"), folder.join("out"));
    if folder.join("unpacked").is_file() {
        steps.note("taking up a build that was interrupted");
    } else {
        fetch(apt, &source, &folder, &tree, steps)?;
    }
    let release = steps.run("configuring the kernel", |_| make::configure(&tree, &out, &tools))?;
    let step = format!("building Linux {release} with {} options", config::OPTIONS.len());
    steps.run(&step, |report| make::build(&tree, &out, &tools, report))?;

    let finished = scratch.join("kernel-built");
    fs::create_dir_all(&finished).map_err(ProvisionError::io("create", &finished))?;
    let copy = |from: &Path, name: &str| {
        fs::copy(from, finished.join(name)).map(drop).map_err(ProvisionError::io("copy", from))
    };
    copy(&out.join("arch/x86/boot/bzImage"), "bzImage")?;
    copy(&out.join(".config"), "config")?;
    copy(&tools.busybox(), "busybox")?;
    let facts = Facts {
        release,
        version: source.version,
        options: config::OPTIONS.iter().map(|option| (*option).to_owned()).collect(),
        package: source.name,
    };
    cache.commit(lock, COMPONENT, &finished, facts)?;
    steps.run("removing the build", |_| fs::remove_dir_all(&folder).map_err(ProvisionError::io("remove", &folder)))
}

/// The newest source of the release or its backports.
fn choose(apt: &mut Apt) -> Result<Package, ProvisionError> {
    apt.add_backports()?;
    let names = apt.names("linux-source-")?;
    select(apt.versions(&names)?).ok_or_else(|| ProvisionError::NoPackage {
        mirrors: apt.mirrors(),
        wanted: format!("package linux-source-{}.{} or later", OLDEST.0, OLDEST.1),
        remedy: "use the stock kernel: leave out --kernel built",
    })
}

/// Of kernels of one version the one that is no backport is as good and older in name only: the newest counts.
fn select(offered: Vec<Package>) -> Option<Package> {
    let usable = |package: &Package| {
        let series = package.name.strip_prefix("linux-source-").unwrap_or_default();
        series.starts_with(|c: char| c.is_ascii_digit()) && version::major_minor(&package.version) >= Some(OLDEST)
    };
    offered.into_iter().filter(usable).max_by(|left, right| version::compare(&left.version, &right.version))
}

/// The folder of the build, emptied if it was begun for another source, other options or another part of it.
fn unfinished(cache: &Cache, source: &Package) -> Result<PathBuf, ProvisionError> {
    let folder = cache.component(UNFINISHED);
    let (options, left_out) = (config::OPTIONS.join("\n"), LEFT_OUT.join("\n"));
    let purpose = format!("{} {}\n{options}\nwithout\n{left_out}\n", source.name, source.version);
    let mark = folder.join(BEGUN_FOR);
    if fs::read_to_string(&mark).is_ok_and(|found| found == purpose) {
        return Ok(folder);
    }
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(ProvisionError::io("remove", &folder))?;
    }
    fs::create_dir_all(&folder).map_err(ProvisionError::io("create", &folder))?;
    fs::write(&mark, purpose).map_err(ProvisionError::io("write", &mark))?;
    Ok(folder)
}

/// Downloads the source and unpacks it to `tree`.
fn fetch(apt: &Apt, source: &Package, folder: &Path, tree: &Path, steps: &mut Steps<'_>) -> Result<(), ProvisionError> {
    let debs = folder.join("debs");
    for leftover in [&debs, &tree.to_owned()] {
        if leftover.exists() {
            fs::remove_dir_all(leftover).map_err(ProvisionError::io("remove", leftover))?;
        }
    }
    let step = format!("downloading {} {}", source.name, source.version);
    steps.run(&step, |report| apt.download(core::slice::from_ref(source), &debs, report))?;
    steps.run("unpacking the kernel's source", |_| {
        let deb = unpack::deb(&debs, &source.name)?;
        let is_archive = |name: &str| name.contains("/linux-source-") && name.contains(".tar.");
        let archive = unpack::find(&deb, is_archive)?.ok_or_else(|| ProvisionError::Layout {
            package: format!("{} {}", source.name, source.version),
            wanted: "archive of the source".to_owned(),
        })?;
        unpack::unpack_nested_without(&deb, &archive, &LEFT_OUT, tree)?;
        unpack::remove_file(&deb)
    })?;
    let mark = folder.join("unpacked");
    fs::write(&mark, "").map_err(ProvisionError::io("write", &mark))
}

#[cfg(test)]
mod test {
    use super::*;

    fn package(name: &str, version: &str) -> Package {
        Package { name: name.into(), version: version.into(), bytes: 150 << 20, depends: Vec::new() }
    }

    #[test]
    fn the_newest_source_is_chosen() {
        let offered = vec![
            package("linux-source-6.12", "6.12.117-1"),
            package("linux-source-7.3", "7.3.4-1~bpo13+1"),
            package("linux-source-7.2", "7.2.12-1~bpo13+1"),
            // A meta package of a version of its own.
            package("linux-source", "9.0"),
        ];
        assert_eq!(select(offered).unwrap().version, "7.3.4-1~bpo13+1");
        assert_eq!(select(vec![package("linux-source-6.1", "6.1.192-2")]), None, "too old");
    }

    #[test]
    fn an_interrupted_build_is_taken_up_for_the_same_source_only() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(root.path())).unwrap();
        let source = package("linux-source-7.3", "7.3.4-1");
        let folder = unfinished(&cache, &source).unwrap();
        fs::write(folder.join("unpacked"), "").unwrap();
        assert!(unfinished(&cache, &source).unwrap().join("unpacked").exists());
        let newer = package("linux-source-7.3", "7.3.5-1");
        assert!(!unfinished(&cache, &newer).unwrap().join("unpacked").exists());
    }

    #[test]
    fn a_kernel_with_other_options_is_none() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(root.path())).unwrap();
        let lock = cache.lock(|| ()).unwrap();
        for (options, found) in [(config::OPTIONS.map(str::to_owned).to_vec(), true), (vec!["A=y".into()], false)] {
            let tree = root.path().join("tree");
            fs::create_dir(&tree).unwrap();
            let facts = Facts {
                release: "7.3.4".into(),
                version: "7.3.4-1".into(),
                options,
                package: "linux-source-7.3".into(),
            };
            cache.commit(&lock, COMPONENT, &tree, facts).unwrap();
            assert_eq!(cached(&cache).is_some(), found);
        }
    }
}
