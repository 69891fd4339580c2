// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The places tests can run. All but `qemu` start the same hidden subcommand, `xtask suite`. Each returns its runs.

pub(crate) mod device;
pub(crate) mod qemu;
pub(crate) mod soft;
pub(crate) mod vm;

use std::path::PathBuf;
use std::process::Command;

use super::{Missing, Plan};

/// The build folder this executable came from: `target` of the workspace, or where Cargo was told to build.
pub(crate) fn build_folder() -> PathBuf {
    let executable = std::env::current_exe().unwrap_or_default();
    // <build folder>/<profile>/xtask, or <build folder>/<profile>/deps/… for a test.
    let folder = executable.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    folder.map_or_else(|| PathBuf::from("target"), PathBuf::from)
}

/// Arguments of `xtask suite` that are the same everywhere: events to standard output, and what `--filter` looks at in the
/// run that a report calls `label`.
pub(crate) fn suite_arguments(label: &str, plan: &Plan<'_>) -> Vec<String> {
    let mut arguments: Vec<String> = ["suite", "--events", "-", "--label", label].map(Into::into).into();
    if let Some(filter) = plan.filter {
        arguments.extend(["--filter".into(), filter.into()]);
    }
    arguments
}

/// A command of this very executable.
pub(crate) fn this_executable() -> Result<Command, Missing> {
    let executable = std::env::current_exe().map_err(|error| {
        Missing::new(format!("This program cannot find its own executable: {error}."), "Mount /proc.")
    })?;
    Ok(Command::new(executable))
}
