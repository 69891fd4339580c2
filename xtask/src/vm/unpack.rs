// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Taking packages apart without installing them.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::vm::error::ProvisionError;
use crate::vm::host::{self, Guarded};
use crate::vm::progress::Progress;

/// The file of package `name` among the downloads in `folder`.
pub(crate) fn deb(folder: &Path, name: &str) -> Result<PathBuf, ProvisionError> {
    let prefix = format!("{name}_");
    let entries = fs::read_dir(folder).map_err(ProvisionError::io("list", folder))?;
    entries
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .ok_or_else(|| ProvisionError::Layout { package: name.to_owned(), wanted: "downloaded file".to_owned() })
}

/// Unpacks whole packages into `target`, deleting each file when done.
pub(crate) fn unpack_all(
    debs: &[PathBuf],
    target: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), ProvisionError> {
    for (packages, deb) in debs.iter().enumerate() {
        progress(Progress::Unpack { packages, packages_total: debs.len() });
        host::run(Command::new("dpkg-deb").arg("-x").arg(deb).arg(target))?;
        remove_file(deb)?;
    }
    progress(Progress::Unpack { packages: debs.len(), packages_total: debs.len() });
    Ok(())
}

/// Unpacks a package without the files that match a pattern (of tar, where `*` matches `/` too). The package is kept.
pub(crate) fn unpack_without(deb: &Path, target: &Path, without: &[&str]) -> Result<(), ProvisionError> {
    fs::create_dir_all(target).map_err(ProvisionError::io("create", target))?;
    let mut tar = Command::new("tar");
    tar.args(["-x", "--no-same-owner", "--wildcards", "-C"]).arg(target);
    tar.args(without.iter().map(|pattern| format!("--exclude={pattern}")));
    host::pipeline(&mut [contents(deb), tar])
}

/// Whether a file of a `linux-source` package is the archive with the source.
pub(crate) fn is_kernel_archive(name: &str) -> bool {
    name.contains("/linux-source-") && name.contains(".tar.")
}

/// Extracts the files that match out of the tar archive inside a package, without unpacking either. Each pattern (of tar,
/// where `*` matches `/` too) must match something.
pub(crate) fn unpack_nested(deb: &Path, archive: &str, patterns: &[&str], target: &Path) -> Result<(), ProvisionError> {
    match patterns {
        // The reading ends at a single file, which matters in an archive of 1.5 GB.
        [one] if !one.ends_with('*') => nested(deb, archive, target, &["--occurrence=1", one]),
        _ => nested(deb, archive, target, patterns),
    }
}

/// Unpacks the tar archive inside a package, but for the files that match a pattern.
pub(crate) fn unpack_nested_without(
    deb: &Path,
    archive: &str,
    without: &[&str],
    target: &Path,
) -> Result<(), ProvisionError> {
    let without: Vec<String> = without.iter().map(|pattern| format!("--exclude={pattern}")).collect();
    nested(deb, archive, target, &without)
}

fn nested(deb: &Path, archive: &str, target: &Path, what: &[impl AsRef<OsStr>]) -> Result<(), ProvisionError> {
    fs::create_dir_all(target).map_err(ProvisionError::io("create", target))?;
    let compressor = match archive.rsplit('.').next() {
        Some("xz") => "xz",
        Some("bz2") => "bzip2",
        Some("zst") => "zstd",
        _ => "gzip",
    };
    host::require(&["tar", compressor])?;
    let mut outer = Command::new("tar");
    outer.args(["-x", "-O", "--wildcards", archive]);
    let mut inner = Command::new("tar");
    inner.args(["-x", "--no-same-owner", "--wildcards"]);
    // The archive was compressed in blocks, which xz also takes apart in parallel.
    let threads = if compressor == "xz" { " -T0" } else { "" };
    inner.arg(format!("--use-compress-program={compressor}{threads}"));
    inner.arg("-C").arg(target).args(what);
    host::pipeline(&mut [contents(deb), outer, inner])
}

fn contents(deb: &Path) -> Command {
    let mut command = Command::new("dpkg-deb");
    command.arg("--fsys-tarfile").arg(deb);
    command
}

/// The name of the first regular file in a package that satisfies a condition. The reading ends there.
pub(crate) fn find(deb: &Path, accept: impl Fn(&str) -> bool) -> Result<Option<String>, ProvisionError> {
    let mut command = Command::new("dpkg-deb");
    command.arg("--contents").arg(deb).env("LC_ALL", "C");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = Guarded::spawn(&mut command).map_err(|e| host::not_started(&command, e))?;
    let Some(output) = child.child().stdout.take() else {
        return Ok(None);
    };
    // A line is `-rw-r--r-- root/root BYTES DATE TIME NAME`.
    for line in BufReader::new(output).lines() {
        let line = line.map_err(ProvisionError::io("list", deb))?;
        let name = line.split_whitespace().nth(5).filter(|name| accept(name));
        if let (true, Some(name)) = (line.starts_with('-'), name) {
            return Ok(Some(name.to_owned()));
        }
    }
    Ok(None)
}

/// All regular files under a folder.
pub(crate) fn files(folder: &Path) -> Result<Vec<PathBuf>, ProvisionError> {
    let mut found = Vec::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).map_err(ProvisionError::io("list", &folder))? {
            let entry = entry.map_err(ProvisionError::io("list", &folder))?;
            let kind = entry.file_type().map_err(ProvisionError::io("look at", &entry.path()))?;
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Takes the set-user-id and set-group-id bits away: nothing unpacked here is meant to be installed.
pub(crate) fn drop_privileges(folder: &Path) -> Result<(), ProvisionError> {
    for path in files(folder)? {
        let metadata = fs::metadata(&path).map_err(ProvisionError::io("look at", &path))?;
        let mode = metadata.permissions().mode();
        if mode & 0o6000 != 0 {
            let plain = fs::Permissions::from_mode(mode & 0o777);
            fs::set_permissions(&path, plain).map_err(ProvisionError::io("change the mode of", &path))?;
        }
    }
    Ok(())
}

/// Removes a file.
pub(crate) fn remove_file(path: &Path) -> Result<(), ProvisionError> {
    fs::remove_file(path).map_err(ProvisionError::io("remove", path))
}
