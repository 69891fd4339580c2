// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Running this program on simulated devices, for the tests of its commands.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The preload library, built once for all tests of a file.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("commands");
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--release", "--package", "softvfio", "--target-dir"])
            .arg(&target)
            .status()
            .unwrap();
        assert!(built.success());
        target.join("release/libsoftvfio.so")
    })
}

/// `cargo xtask` with these arguments on the devices of `machine`.
pub(crate) fn xtask(machine: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(arguments).env("LD_PRELOAD", library()).env("SOFTVFIO", machine).stdin(Stdio::null());
    command
}
