// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Kernel modules: what they depend on and in which order they load.
//!
//! `modules.dep` is written when a kernel package is installed and is not in the package. The same facts are in each
//! module's `.modinfo` section, from which depmod takes them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::vm::error::ProvisionError;
use crate::vm::{elf, host, unpack};

/// A kernel package's modules.
#[derive(Debug)]
struct Collection {
    release: String,
    /// Files by module name.
    files: BTreeMap<String, PathBuf>,
    /// Names that are part of the image.
    builtin: BTreeSet<String>,
    /// Uncompressed modules that were looked into.
    loaded: BTreeMap<String, Vec<u8>>,
}

/// Writes the `wanted` modules of the unpacked package in `image`, the module file `own` and everything they depend on,
/// uncompressed to `tree/modules`. Gives their paths relative to `tree` in the order of loading, `own` last.
pub(crate) fn collect(
    image: &Path,
    release: &str,
    wanted: &[&str],
    own: &Path,
    tree: &Path,
) -> Result<Vec<PathBuf>, ProvisionError> {
    let mut collection = Collection::read(image, release)?;
    let own_name = module_name(own);
    let data = fs::read(own).map_err(ProvisionError::io("read", own))?;
    collection.loaded.insert(own_name.clone(), data);
    collection.files.insert(own_name.clone(), own.to_owned());
    let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).chain([own_name]).collect();
    let order = load_order(&wanted, |name, needed_by| collection.dependencies(name, needed_by))?;

    let folder = tree.join("modules");
    fs::create_dir_all(&folder).map_err(ProvisionError::io("create", &folder))?;
    let mut paths = Vec::new();
    for name in order {
        let Some(data) = collection.loaded.get(&name) else {
            continue;
        };
        let path = Path::new("modules").join(format!("{name}.ko"));
        fs::write(tree.join(&path), data).map_err(ProvisionError::io("write", &path))?;
        paths.push(path);
    }
    Ok(paths)
}

impl Collection {
    fn read(image: &Path, release: &str) -> Result<Self, ProvisionError> {
        let files = unpack::files(image)?;
        let is_module = |path: &&PathBuf| path.file_name().is_some_and(|file| file.to_string_lossy().contains(".ko"));
        let builtin = files.iter().find(|path| path.ends_with("modules.builtin")).cloned();
        let builtin = match builtin {
            Some(path) => fs::read_to_string(&path).map_err(ProvisionError::io("read", &path))?,
            None => String::new(),
        };
        Ok(Self {
            release: release.to_owned(),
            files: files.iter().filter(is_module).map(|path| (module_name(path), path.clone())).collect(),
            builtin: builtin.lines().map(|line| module_name(Path::new(line))).collect(),
            loaded: BTreeMap::new(),
        })
    }

    /// What a module depends on; what is built in depends on nothing.
    fn dependencies(&mut self, name: &str, needed_by: Option<&str>) -> Result<Vec<String>, ProvisionError> {
        if !self.loaded.contains_key(name) {
            let Some(path) = self.files.get(name) else {
                if self.builtin.contains(name) {
                    return Ok(Vec::new());
                }
                return Err(ProvisionError::NoModule {
                    release: self.release.clone(),
                    module: name.to_owned(),
                    needed_by: needed_by.unwrap_or("the test suite").to_owned(),
                });
            };
            let data = decompress(path)?;
            self.loaded.insert(name.to_owned(), data);
        }
        let data = self.loaded.get(name).map(Vec::as_slice).unwrap_or_default();
        let section = elf::section(data, ".modinfo").ok_or_else(|| ProvisionError::Layout {
            package: format!("module {name} of kernel {}", self.release),
            wanted: "readable .modinfo section".to_owned(),
        })?;
        Ok(depends(section))
    }
}

/// Depth-first: every module after what it depends on, each once. `dependencies` is asked once per module and told
/// who needs it.
fn load_order<E>(
    wanted: &[String],
    mut dependencies: impl FnMut(&str, Option<&str>) -> Result<Vec<String>, E>,
) -> Result<Vec<String>, E> {
    enum Step {
        Enter(String, Option<String>),
        Leave(String),
    }
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    let mut stack: Vec<Step> = wanted.iter().rev().map(|name| Step::Enter(name.clone(), None)).collect();
    while let Some(step) = stack.pop() {
        match step {
            Step::Leave(name) => order.push(name),
            Step::Enter(name, needed_by) if seen.insert(name.clone()) => {
                let needs = dependencies(&name, needed_by.as_deref())?;
                stack.push(Step::Leave(name.clone()));
                stack.extend(needs.into_iter().rev().map(|needed| Step::Enter(needed, Some(name.clone()))));
            }
            Step::Enter(..) => {}
        }
    }
    Ok(order)
}

/// The kernel's name for a module file: without folder and extensions, `-` written as `_`.
fn module_name(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    file.split(".ko").next().unwrap_or_default().replace('-', "_")
}

fn decompress(path: &Path) -> Result<Vec<u8>, ProvisionError> {
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(path).map_err(ProvisionError::io("read", path)),
    };
    let mut command = Command::new(program);
    command.args(["-d", "-c"]).arg(path).stdin(Stdio::null());
    let output = command.output().map_err(|error| host::not_started(&command, error))?;
    if !output.status.success() {
        return Err(host::failed(&command, output.status, &String::from_utf8_lossy(&output.stderr)));
    }
    Ok(output.stdout)
}

/// The names in `depends=` of a `.modinfo` section, which is NUL-terminated `key=value` strings.
fn depends(section: &[u8]) -> Vec<String> {
    let value = section.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"depends="));
    let value = String::from_utf8_lossy(value.unwrap_or_default());
    value.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
#[path = "modules_test.rs"]
mod test;
