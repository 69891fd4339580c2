// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A stock QEMU system emulator in the cache.
//!
//! It is unpacked with every library it needs, the C library included, and started through its own dynamic loader:
//! it runs on any x86-64 Linux whatever the libraries installed there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::cache::{Cache, Lock};
use crate::vm::apt::{Apt, Package};
use crate::vm::error::ProvisionError;
use crate::vm::progress::Steps;
use crate::vm::system::Release;
use crate::vm::{host, unpack, version};

/// Which QEMU. The two between which the migration format was extended are kept side by side.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Series {
    /// 10.0, the oldest with device state on multifd channels. An older one, or one that the installed release has instead, is
    /// good enough for booting.
    V10_0,
    /// 11.1, with an acknowledgement per request.
    V11_1,
}

impl Series {
    /// Both, in order.
    pub(crate) const ALL: [Self; 2] = [Self::V10_0, Self::V11_1];

    /// Major and minor version.
    pub(crate) const fn wanted(self) -> (u32, u32) {
        match self {
            Self::V10_0 => (10, 0),
            Self::V11_1 => (11, 1),
        }
    }

    /// Name and layout version of the component.
    const fn component(self) -> &'static str {
        match self {
            Self::V10_0 => "qemu-1",
            Self::V11_1 => "qemu-11.1-1",
        }
    }

    /// The release whose packages, or whose backports, have it.
    pub(crate) const fn release(self) -> Release {
        match self {
            Self::V10_0 => Release::Installed,
            Self::V11_1 => Release::Named("trixie"),
        }
    }
}

const PACKAGE: &str = "qemu-system-x86";
const BINARY: &str = "usr/bin/qemu-system-x86_64";
/// What of the packages is kept.
const KEPT: [&str; 7] = [
    "lib/x86_64-linux-gnu",
    BINARY,
    "usr/lib/ipxe",
    "usr/lib/x86_64-linux-gnu",
    "usr/share/qemu",
    "usr/share/seabios",
    "usr/share/vgabios",
];
/// Folders in which QEMU looks for firmware, as far as they exist.
const FIRMWARE: [&str; 4] = ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu", "usr/share/vgabios"];
const LOADER: &str = "ld-linux-x86-64.so.2";

/// What the manifest says.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Facts {
    /// As the emulator prints it, for example `10.0.2 (Debian 1:10.0.2+ds-2)`.
    version: String,
    loader: PathBuf,
    libraries: Vec<PathBuf>,
    modules: PathBuf,
    firmware: Vec<PathBuf>,
    /// Name and version of every package.
    packages: Vec<(String, String)>,
}

/// A usable QEMU. All paths are absolute.
#[derive(Clone, Debug)]
pub(crate) struct Qemu {
    /// The system emulator.
    pub(crate) binary: PathBuf,
    /// Its dynamic loader.
    pub(crate) loader: PathBuf,
    /// Folders of its libraries.
    pub(crate) library_path: Vec<PathBuf>,
    /// Folder of its loadable modules.
    pub(crate) module_dir: PathBuf,
    /// Folders of its firmware, for `-L`.
    pub(crate) firmware: Vec<PathBuf>,
    /// As it prints it.
    pub(crate) version: String,
}

impl Qemu {
    /// The QEMU in the cache, if it is complete.
    pub(crate) fn cached(cache: &Cache, series: Series) -> Option<Self> {
        let facts: Facts = cache.facts(series.component())?;
        let root = cache.component(series.component());
        let absolute = |paths: Vec<PathBuf>| paths.iter().map(|path| root.join(path)).collect();
        Some(Self {
            binary: root.join(BINARY),
            loader: root.join(facts.loader),
            library_path: absolute(facts.libraries),
            module_dir: root.join(facts.modules),
            firmware: absolute(facts.firmware),
            version: facts.version,
        })
    }

    /// Whether it is of the series, by its own word.
    pub(crate) fn is(&self, series: Series) -> bool {
        version::major_minor(&self.version) == Some(series.wanted())
    }

    /// A command that starts the emulator; the caller adds the machine. The emulator does not outlive the thread that
    /// spawns it ([`host::tied_to_thread`]).
    pub(crate) fn command_tied_to_thread(&self) -> Command {
        self.complete(host::tied_to_thread(self.loader.as_os_str()), None)
    }

    /// The same with a library before all others. The emulator alone loads it, not what starts the emulator.
    pub(crate) fn command_preloading(&self, library: &Path) -> Command {
        self.complete(host::tied_to_thread(self.loader.as_os_str()), Some(library))
    }

    fn complete(&self, mut command: Command, preload: Option<&Path>) -> Command {
        let libraries: Vec<_> = self.library_path.iter().map(|path| path.to_string_lossy()).collect();
        if let Some(library) = preload {
            command.arg("--preload").arg(library);
        }
        command.arg("--library-path").arg(libraries.join(":")).arg(&self.binary);
        for folder in &self.firmware {
            command.arg("-L").arg(folder);
        }
        command.env("QEMU_MODULE_DIR", &self.module_dir);
        command
    }
}

/// Assembles the component in `scratch` and puts it in place.
pub(crate) fn provision(
    cache: &Cache,
    lock: &Lock,
    apt: &mut Apt,
    scratch: &Path,
    steps: &mut Steps<'_>,
    series: Series,
) -> Result<(), ProvisionError> {
    let chosen = choose(apt, series)?;
    if version::major_minor(&chosen.version) < Some(series.wanted()) {
        let (major, minor) = series.wanted();
        steps.note(&format!(
            "the mirror offers QEMU {} at most: it boots, but is too old as a migration peer (needs {major}.{minor})",
            chosen.version
        ));
    }
    let (debs, unpacked, tree) = (scratch.join("qemu-debs"), scratch.join("qemu-unpacked"), scratch.join("qemu"));
    let packages = apt.closure(&chosen)?;
    steps.run("downloading QEMU", |report| apt.download(&packages, &debs, report))?;
    steps.run("unpacking QEMU", |report| {
        unpack::unpack_all(&unpack::files(&debs)?, &unpacked, report)?;
        keep(&unpacked, &tree)?;
        unpack::drop_privileges(&tree)
    })?;
    let mut facts = Facts {
        version: String::new(),
        loader: find(&tree, LOADER, &chosen)?,
        libraries: existing(&tree, &["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"]),
        modules: PathBuf::from("usr/lib/x86_64-linux-gnu/qemu"),
        firmware: existing(&tree, &FIRMWARE),
        packages: packages.into_iter().map(|package| (package.name, package.version)).collect(),
    };
    facts.version = ask_version(&tree, &facts)?;
    Ok(cache.commit(lock, series.component(), &tree, facts)?)
}

/// The release's own QEMU if it is new enough, else the newest with backports.
fn choose(apt: &mut Apt, series: Series) -> Result<Package, ProvisionError> {
    let name = [PACKAGE.to_owned()];
    let wanted = Some(series.wanted());
    let own = newest(apt.versions(&name)?, |package| !version::is_backport(&package.version));
    if let Some(package) = own.as_ref().filter(|package| version::major_minor(&package.version) >= wanted) {
        return Ok(package.clone());
    }
    apt.add_backports()?;
    // Any will do for booting.
    let least = match series {
        Series::V10_0 => None,
        Series::V11_1 => wanted,
    };
    let found = newest(apt.versions(&name)?, |package| version::major_minor(&package.version) >= least);
    found.ok_or_else(|| ProvisionError::NoPackage {
        mirrors: apt.mirrors(),
        wanted: match least {
            Some((major, minor)) => format!("{PACKAGE} {major}.{minor}"),
            None => PACKAGE.to_owned(),
        },
        remedy: "enable the component that holds it (Debian: main; Ubuntu: main and universe), or use a newer mirror",
    })
}

/// The newest of the packages that satisfy a condition.
pub(crate) fn newest(packages: Vec<Package>, accept: impl Fn(&Package) -> bool) -> Option<Package> {
    packages.into_iter().filter(accept).max_by(|left, right| version::compare(&left.version, &right.version))
}

fn keep(unpacked: &Path, tree: &Path) -> Result<(), ProvisionError> {
    for path in KEPT {
        let (source, target) = (unpacked.join(path), tree.join(path));
        if source.symlink_metadata().is_err() {
            continue;
        }
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(ProvisionError::io("create", parent))?;
        }
        fs::rename(&source, &target).map_err(ProvisionError::io("move", &source))?;
    }
    fs::remove_dir_all(unpacked).map_err(ProvisionError::io("remove", unpacked))
}

fn existing(tree: &Path, folders: &[&str]) -> Vec<PathBuf> {
    folders.iter().filter(|folder| tree.join(folder).is_dir()).map(PathBuf::from).collect()
}

fn find(tree: &Path, name: &str, package: &Package) -> Result<PathBuf, ProvisionError> {
    let found = unpack::files(tree)?.into_iter().find(|path| path.file_name().is_some_and(|file| file == name));
    found.and_then(|path| path.strip_prefix(tree).map(Path::to_owned).ok()).ok_or_else(|| ProvisionError::Layout {
        package: format!("{PACKAGE} {} or what it depends on", package.version),
        wanted: name.to_owned(),
    })
}

/// Runs the emulator once, which also proves that it has all its libraries.
fn ask_version(tree: &Path, facts: &Facts) -> Result<String, ProvisionError> {
    let libraries: Vec<String> = facts.libraries.iter().map(|path| tree.join(path).display().to_string()).collect();
    let mut command = Command::new(tree.join(&facts.loader));
    command.arg("--library-path").arg(libraries.join(":")).arg(tree.join(BINARY)).arg("--version");
    let text = host::run(&mut command)?;
    let line = text.lines().next().unwrap_or_default();
    Ok(line.trim_start_matches("QEMU emulator version ").to_owned())
}

#[cfg(test)]
mod test {
    use super::*;

    fn package(version: &str) -> Package {
        Package { name: PACKAGE.into(), version: version.into(), bytes: 1, depends: Vec::new() }
    }

    #[test]
    fn the_newest_is_chosen_by_version_not_by_text() {
        let offered = ["1:7.2+dfsg-7+deb12u18+b3", "1:10.0.2+ds-2+deb13u1~bpo12+1", "1:7.2+dfsg-7+deb12u15"];
        let packages = || offered.iter().map(|version| package(version)).collect();
        assert_eq!(newest(packages(), |_| true).unwrap().version, offered[1]);
        let own = newest(packages(), |package| !version::is_backport(&package.version)).unwrap();
        assert_eq!(own.version, offered[0]);
    }

    #[test]
    fn the_command_brings_its_own_libraries_and_firmware() {
        let qemu = Qemu {
            binary: "/c/qemu".into(),
            loader: "/c/ld.so".into(),
            library_path: vec!["/c/a".into(), "/c/b".into()],
            module_dir: "/c/m".into(),
            firmware: vec!["/c/f".into()],
            version: "10.0.2 (Debian 1:10.0.2+ds-2)".into(),
        };
        let command = qemu.complete(Command::new(&qemu.loader), None);
        assert_eq!(command.get_program(), "/c/ld.so");
        assert_eq!(command.get_args().collect::<Vec<_>>(), ["--library-path", "/c/a:/c/b", "/c/qemu", "-L", "/c/f"]);
        let tied = qemu.command_tied_to_thread();
        let words: Vec<_> = core::iter::once(tied.get_program()).chain(tied.get_args()).collect();
        assert!(words.ends_with(&command.get_args().collect::<Vec<_>>()), "{words:?}");
        let preloading = qemu.complete(Command::new(&qemu.loader), Some(Path::new("/p.so")));
        // ld.so(8): options of the loader come before the program.
        assert_eq!(preloading.get_args().take(3).collect::<Vec<_>>(), ["--preload", "/p.so", "--library-path"]);
        assert!(qemu.is(Series::V10_0) && !qemu.is(Series::V11_1));
    }
}
