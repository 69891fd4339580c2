// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which fuzz targets there are: the programs of every `CRATE/fuzz` in the workspace.

use core::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

/// A fuzz target.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Target {
    /// The folder of the crate it fuzzes.
    pub(super) krate: String,
    /// The program.
    pub(super) name: String,
    /// The folder with the fuzz crate.
    pub(super) folder: PathBuf,
}

impl Target {
    /// The inputs that are kept with the crate.
    pub(super) fn corpus(&self) -> PathBuf {
        self.folder.join("corpus").join(&self.name)
    }

    fn is_meant(&self, name: &str) -> bool {
        [&self.krate, &self.name].contains(&&name.to_owned()) || self.to_string() == name
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.krate, self.name)
    }
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    targets: Vec<CargoTarget>,
}

#[derive(Deserialize)]
struct CargoTarget {
    name: String,
    kind: Vec<String>,
}

/// All targets of a workspace, in order.
pub(super) fn find(workspace: &Path) -> Result<Vec<Target>, String> {
    let failed = |error: std::io::Error| format!("cannot list {}: {error}", workspace.display());
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(workspace).map_err(failed)? {
        let folder = entry.map_err(failed)?.path().join("fuzz");
        if folder.join("Cargo.toml").is_file() {
            folders.push(folder);
        }
    }
    folders.sort();
    let mut targets = Vec::new();
    for folder in folders {
        targets.extend(programs(&folder)?);
    }
    Ok(targets)
}

fn programs(folder: &Path) -> Result<Vec<Target>, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"])
        .arg(folder.join("Cargo.toml"))
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot run cargo: {error}; is Rust installed?"))?;
    let metadata: Metadata = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("cargo does not describe {}: {error}", folder.display()))?;
    let krate = folder.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
    let all = metadata.packages.into_iter().flat_map(|package| package.targets);
    let programs = all.filter(|target| target.kind.iter().any(|kind| kind == "bin"));
    let mut targets: Vec<Target> = programs
        .map(|program| Target { krate: krate.clone(), name: program.name, folder: folder.to_owned() })
        .collect();
    targets.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(targets)
}

/// The targets that are meant by `names`, all if there are none.
pub(super) fn choose(all: Vec<Target>, names: &[String]) -> Result<Vec<Target>, String> {
    if let Some(unknown) = names.iter().find(|name| !all.iter().any(|target| target.is_meant(name))) {
        return Err(format!("there is no fuzz target {unknown}; --list names them"));
    }
    Ok(all.into_iter().filter(|target| names.is_empty() || names.iter().any(|name| target.is_meant(name))).collect())
}

#[cfg(test)]
mod test {
    use super::*;

    fn target(krate: &str, name: &str) -> Target {
        Target { krate: krate.into(), name: name.into(), folder: PathBuf::new() }
    }

    #[test]
    fn targets_are_chosen_by_crate_or_name() {
        let all = || vec![target("a", "x"), target("a", "y"), target("b", "x")];
        let chosen = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            choose(all(), &names).map(|chosen| chosen.iter().map(Target::to_string).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(chosen(&[]).unwrap(), "a/x a/y b/x");
        assert_eq!(chosen(&["a"]).unwrap(), "a/x a/y");
        assert_eq!(chosen(&["x"]).unwrap(), "a/x b/x");
        assert_eq!(chosen(&["b/x", "y", "y"]).unwrap(), "a/y b/x");
        assert_eq!(chosen(&["x", "z"]).unwrap_err(), "there is no fuzz target z; --list names them");
    }

    #[test]
    fn every_fuzz_crate_of_the_workspace_is_found() {
        let found = find(&crate::soft::workspace()).unwrap();
        for name in ["device-hisi/state", "device-mlx5/stream", "stream-codec/frame", "stream-codec/qemu_main"] {
            let target = found.iter().find(|target| target.to_string() == name);
            assert!(target.is_some_and(|target| target.corpus().is_dir()), "{name} and its corpus, of {found:?}");
        }
    }
}
