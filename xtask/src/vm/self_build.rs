// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! This very program as one that needs no library, for the guest that has none.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::vm::error::ProvisionError;
use crate::vm::host;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds xtask statically linked and gives its path. It has a target folder of its own, so that its flags do not
/// invalidate the usual build; only the first time is long.
pub(crate) fn build_static_xtask() -> Result<PathBuf, ProvisionError> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from).join("static");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace);
    cargo
        .args(["build", "--release", "--package", "xtask", "--bin", "xtask", "--target", TARGET, "--target-dir"])
        .arg(&target);
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static -C relocation-model=static");
    // The guest holds it in memory; symbols would make it many times larger.
    cargo.env("CARGO_PROFILE_RELEASE_STRIP", "symbols").env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    cargo.env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("CARGO_BUILD_TARGET");
    host::run(&mut cargo)?;
    Ok(target.join(TARGET).join("release/xtask"))
}
