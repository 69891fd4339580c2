// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The `no_std` crates link without the standard library, and the state machine without a panic.
//!
//! An attribute proves little: a dependency or a feature may bring `std` in. So each program of
//! `no_std/` is built as a package of its own, outside the workspace and its feature unification.
#![allow(clippy::unwrap_used)]

use std::{
    env, fs,
    path::Path,
    process::{Command, Output},
};

/// Builds and runs `program`, named by its file in `no_std/`.
fn build_and_run(name: &str, program: &str) {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let package = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&package).unwrap();
    let manifest = format!(
        r#"
[workspace]

[package]
name = "{name}"
version = "0.0.0"
edition = "2024"

[[bin]]
name = "{name}"
path = "main.rs"

[dependencies]
device-hisi = {{ path = '{root}/device-hisi' }}
device-mlx5 = {{ path = '{root}/device-mlx5' }}
savevm-core = {{ path = '{root}/savevm-core', default-features = false }}
stream-codec = {{ path = '{root}/stream-codec', default-features = false }}
vfio-mig-fsm = {{ path = '{root}/vfio-mig-fsm', default-features = false }}

[profile.release]
lto = true
panic = "abort"
"#,
        root = workspace.display()
    );
    fs::write(package.join("Cargo.toml"), manifest).unwrap();
    fs::write(package.join("main.rs"), program).unwrap();
    // The versions of the workspace, which are at hand without a network.
    fs::copy(workspace.join("Cargo.lock"), package.join("Cargo.lock")).unwrap();

    let target = package.join("target");
    expect_success(
        Command::new(env::var_os("CARGO").unwrap())
            .args(["build", "--quiet", "--release", "--offline", "--target-dir"])
            .arg(&target)
            .current_dir(&package),
    );
    expect_success(&mut Command::new(target.join("release").join(name)));
}

fn expect_success(command: &mut Command) {
    let Output { status, stderr, .. } = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?}: {status}\n{stderr}");
}

#[test]
fn no_std_crates_link_without_std() {
    build_and_run("links", include_str!("no_std/links.rs"));
}

#[test]
fn the_state_machine_cannot_panic() {
    build_and_run("cannot_panic", include_str!("no_std/cannot_panic.rs"));
}
