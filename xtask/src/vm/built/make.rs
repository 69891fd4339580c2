// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Running the kernel's makefiles.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::config;
use super::tools::BuildTools;
use crate::vm::error::ProvisionError;
use crate::vm::host::{self, Guarded};
use crate::vm::progress::Progress;

/// How many files there are to compile, roughly; for the progress alone.
const FILES_ABOUT: u64 = 1400;
/// Lines of the log that go with an error.
const TAIL_LINES: usize = 25;

/// Writes the configuration to `out` and returns the kernel's release.
pub(super) fn configure(source: &Path, out: &Path, tools: &BuildTools) -> Result<String, ProvisionError> {
    fs::create_dir_all(out).map_err(ProvisionError::io("create", out))?;
    let wanted = out.join("wanted.config");
    fs::write(&wanted, config::fragment()).map_err(ProvisionError::io("write", &wanted))?;
    let mut make = make(source, out, tools)?;
    make.arg(format!("KCONFIG_ALLCONFIG={}", wanted.display())).arg("allnoconfig");
    host::run(&mut make)?;
    let path = out.join(".config");
    let found = fs::read_to_string(&path).map_err(ProvisionError::io("read", &path))?;
    let missing = config::missing(&found);
    if !missing.is_empty() {
        return Err(ProvisionError::Options { missing: missing.join(", ") });
    }
    let mut make = self::make(source, out, tools)?;
    Ok(host::run(make.args(["-s", "kernelrelease"]))?.trim().to_owned())
}

/// Compiles what is not compiled yet.
pub(super) fn build(
    source: &Path,
    out: &Path,
    tools: &BuildTools,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), ProvisionError> {
    let log = out.join("build.log");
    let mut errors = File::create(&log).map_err(ProvisionError::io("create", &log))?;
    let said = errors.try_clone().map_err(ProvisionError::io("share", &log))?;
    let jobs = std::thread::available_parallelism().map_or(1, core::num::NonZeroUsize::get);
    let mut make = make(source, out, tools)?;
    make.arg(format!("-j{jobs}")).arg("bzImage");
    make.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(said);
    let mut child = Guarded::spawn(&mut make).map_err(|error| host::not_started(&make, error))?;
    let begun = Instant::now();
    let mut files: u64 = 0;
    if let Some(output) = child.child().stdout.take() {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            // The log is for a person; that it cannot be written shows in the next file operation.
            let _ = errors.write_all(&line).and_then(|()| errors.write_all(b"\n"));
            if is_compilation(&line) {
                files = files.saturating_add(1);
                progress(Progress::Compile { files, files_about: FILES_ABOUT, seconds: begun.elapsed().as_secs() });
            }
        }
    }
    let status = child.child().wait().map_err(ProvisionError::io("wait for", Path::new("make")))?;
    if status.success() {
        return Ok(());
    }
    let text = fs::read_to_string(&log).unwrap_or_default();
    Err(ProvisionError::KernelBuild { output: host::tail(&text, TAIL_LINES), log })
}

/// `  CC      init/main.o` and the like.
fn is_compilation(line: &[u8]) -> bool {
    [&b"  CC "[..], b"  AS "].iter().any(|start| line.starts_with(start))
}

/// The command, in the background of whatever else the machine does.
fn make(source: &Path, out: &Path, tools: &BuildTools) -> Result<Command, ProvisionError> {
    let tree = fs::read_dir(source).map_err(ProvisionError::io("list", source))?.flatten().map(|entry| entry.path());
    let tree = tree.filter(|path| path.join("Kbuild").is_file()).min().ok_or_else(|| ProvisionError::Layout {
        package: "linux-source".to_owned(),
        wanted: "folder with the kernel's makefiles".to_owned(),
    })?;
    let mut make = Command::new("nice");
    make.args(["-n", "19", "make"]).arg("-C").arg(tree).arg(format!("O={}", out.display()));
    // Flags of an outer make, or of a distribution's package build, are not meant for this one.
    for variable in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "CROSS_COMPILE", "KCFLAGS", "LLVM", "O", "CC"] {
        make.env_remove(variable);
    }
    tools.apply(&mut make);
    // Neither the machine nor its user is anybody's business.
    make.env("ARCH", "x86_64").env("KBUILD_BUILD_USER", "savevm").env("KBUILD_BUILD_HOST", "savevm");
    Ok(make)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn compiled_files_are_counted_and_nothing_else() {
        assert!(is_compilation(b"  CC      init/main.o") && is_compilation(b"  AS      arch/x86/entry/entry_64.o"));
        assert!(!is_compilation(b"  AR      init/built-in.a") && !is_compilation(b"make: Entering directory"));
    }
}
