// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Running a command on simulated devices: the preload library, built and put in front of libc.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use serde::Deserialize;
use tempfile::TempDir;

/// What the library reads its devices from.
const CONFIG_VARIABLE: &str = "SOFTVFIO";

/// A machine with enough to see and try everything.
const DEFAULT_CONFIG: &str = include_str!("soft/default.conf");

/// Where commands that take it find their devices.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SoftArgs {
    /// Use simulated devices instead of this machine's; CONFIG is a file as xtask/softvfio/README.md describes it,
    /// without it there are two mtty and three plain ones
    #[arg(long, value_name = "CONFIG", num_args = 0..=1, require_equals = true)]
    soft: Option<Option<PathBuf>>,
}

impl SoftArgs {
    /// Where simulated devices were asked for: runs this program again on top of them and gives its exit status.
    pub(crate) fn run_again_if_asked(&self) -> Option<ExitCode> {
        self.run_again_or(ExitCode::FAILURE)
    }

    /// The same, with the exit status for when that cannot be done.
    pub(crate) fn run_again_or(&self, failure: ExitCode) -> Option<ExitCode> {
        let config = self.soft.as_ref()?;
        Some(run_again(config.as_ref()).unwrap_or_else(|error| {
            eprintln!("{error}");
            failure
        }))
    }
}

fn run_again(config: Option<&PathBuf>) -> Result<ExitCode, String> {
    let config = match config {
        Some(path) => path.clone().into_os_string(),
        None => OsString::from(DEFAULT_CONFIG),
    };
    let program = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let arguments = std::env::args_os().skip(1).filter(|argument| !argument.to_string_lossy().starts_with("--soft"));
    let status = Command::new(program)
        .args(arguments)
        .env("LD_PRELOAD", library()?)
        .env(CONFIG_VARIABLE, config)
        .status()
        .map_err(|error| format!("cannot run this program again: {error}"))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// A folder for what processes on simulated devices write, in memory where there is such a place: each process lays out
/// hundreds of files that stand for its devices, which takes ten times as long on a disk.
pub(crate) fn scratch() -> io::Result<TempDir> {
    let memory = Path::new("/dev/shm");
    if std::env::var_os("TMPDIR").is_none() {
        if let Ok(folder) = tempfile::tempdir_in(memory) {
            return Ok(folder);
        }
    }
    tempfile::tempdir()
}

#[derive(Deserialize)]
struct CargoMessage {
    reason: String,
    target: Option<CargoTarget>,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct CargoTarget {
    name: String,
}

/// The folder of the workspace this program was built in.
pub(crate) fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Builds the preload library, where it is not up to date, and says where it is.
pub(crate) fn library() -> Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let output = Command::new(cargo)
        .current_dir(workspace())
        .args(["build", "--quiet", "--release", "--package", "softvfio", "--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot run cargo to build softvfio: {error}; is Rust installed?"))?;
    if !output.status.success() {
        return Err("cargo could not build softvfio; its messages are above".to_owned());
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<CargoMessage>(line).ok())
        .filter(|message| message.reason == "compiler-artifact")
        .filter(|message| message.target.as_ref().is_some_and(|target| target.name == "softvfio"))
        .flat_map(|message| message.filenames)
        .find(|file| file.extension().is_some_and(|extension| extension == "so"))
        .ok_or_else(|| "cargo built softvfio and named no shared library".to_owned())
}
