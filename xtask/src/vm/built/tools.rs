// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Programs and headers that building a kernel takes and that machines rarely have: unpacked, not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::cache::{Cache, Lock};
use crate::vm::apt::Apt;
use crate::vm::error::ProvisionError;
use crate::vm::progress::Steps;
use crate::vm::{qemu, unpack};

/// Name and layout version of the component.
const COMPONENT: &str = "build-tools-1";
/// Each by its possible names, the newer distributions' first.
const PACKAGES: [&[&str]; 6] =
    [&["bison"], &["busybox-static"], &["flex"], &["libelf-dev"], &["libelf1t64", "libelf1"], &["m4"]];
/// What must have been in them.
const PROGRAMS: [&str; 3] = ["usr/bin/bison", "usr/bin/flex", "usr/bin/m4"];
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// What the manifest says.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Facts {
    /// Relative to the component.
    busybox: PathBuf,
    packages: Vec<(String, String)>,
}

/// The unpacked tools.
#[derive(Clone, Debug)]
pub(crate) struct BuildTools {
    root: PathBuf,
    busybox: PathBuf,
}

impl BuildTools {
    /// The tools in the cache, if they are complete.
    pub(crate) fn cached(cache: &Cache) -> Option<Self> {
        let facts: Facts = cache.facts(COMPONENT)?;
        Some(Self { root: cache.component(COMPONENT), busybox: facts.busybox })
    }

    /// A statically linked busybox, for the guest.
    pub(super) fn busybox(&self) -> PathBuf {
        self.root.join(&self.busybox)
    }

    /// Makes a command and its children find the tools. They are of the installed release and run with its libraries.
    pub(super) fn apply(&self, command: &mut Command) {
        let at = |path: &str| self.root.join(path);
        let before = |first: PathBuf, variable: &str| {
            let rest = std::env::var_os(variable).unwrap_or_default();
            let paths = core::iter::once(first).chain(std::env::split_paths(&rest).filter(|path| path.is_absolute()));
            // A path with a colon cannot be joined, and the cache refuses to be at one.
            std::env::join_paths(paths).unwrap_or(rest)
        };
        command.env("PATH", before(at("usr/bin"), "PATH"));
        command.env("BISON_PKGDATADIR", at("usr/share/bison")).env("M4", at("usr/bin/m4"));
        // For programs of the build itself. The kernel is compiled without any headers of the system.
        command.env("C_INCLUDE_PATH", before(at("usr/include"), "C_INCLUDE_PATH"));
        command.env("LIBRARY_PATH", before(at(LIBRARIES), "LIBRARY_PATH"));
        command.env("LD_LIBRARY_PATH", before(at(LIBRARIES), "LD_LIBRARY_PATH"));
    }
}

/// Fetches the tools of the installed release and puts them in place.
pub(crate) fn provision(
    cache: &Cache,
    lock: &Lock,
    apt: &Apt,
    scratch: &Path,
    steps: &mut Steps<'_>,
) -> Result<(), ProvisionError> {
    let mut packages = Vec::new();
    for names in PACKAGES {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let found = qemu::newest(apt.versions(&names)?, |_| true).ok_or_else(|| ProvisionError::NoPackage {
            mirrors: apt.mirrors(),
            wanted: names.join(" or "),
            remedy: "enable the component that holds it (Debian and Ubuntu: main)",
        })?;
        packages.push(found);
    }
    let (debs, tree) = (scratch.join("tool-debs"), scratch.join("tools"));
    fs::create_dir_all(&tree).map_err(ProvisionError::io("create", &tree))?;
    steps.run("downloading build tools", |report| apt.download(&packages, &debs, report))?;
    steps.run("unpacking build tools", |report| {
        unpack::unpack_all(&unpack::files(&debs)?, &tree, report)?;
        unpack::drop_privileges(&tree)
    })?;
    let lacks = |wanted: &str| ProvisionError::Layout { package: "the build tools".into(), wanted: wanted.into() };
    if let Some(missing) = PROGRAMS.into_iter().find(|program| !tree.join(program).is_file()) {
        return Err(lacks(missing));
    }
    let busybox = ["usr/bin/busybox", "bin/busybox"].into_iter().find(|path| tree.join(path).is_file());
    let facts = Facts {
        busybox: PathBuf::from(busybox.ok_or_else(|| lacks("bin/busybox"))?),
        packages: packages.into_iter().map(|package| (package.name, package.version)).collect(),
    };
    Ok(cache.commit(lock, COMPONENT, &tree, facts)?)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_tools_come_before_the_system_s() {
        let tools = BuildTools { root: PathBuf::from("/c/t"), busybox: PathBuf::from("bin/busybox") };
        let mut command = Command::new("make");
        tools.apply(&mut command);
        let variable = |name: &str| {
            let found = command.get_envs().find(|(key, _)| *key == name);
            found.and_then(|(_, value)| value).unwrap().to_string_lossy().into_owned()
        };
        assert!(variable("PATH").starts_with("/c/t/usr/bin:"));
        assert_eq!(variable("BISON_PKGDATADIR"), "/c/t/usr/share/bison");
        assert!(variable("LIBRARY_PATH").starts_with("/c/t/usr/lib/x86_64-linux-gnu"));
        // An empty entry would be the working folder.
        assert!(!variable("LD_LIBRARY_PATH").ends_with(':'));
        assert_eq!(tools.busybox(), Path::new("/c/t/bin/busybox"));
    }
}
