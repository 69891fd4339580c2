// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Building fuzz targets: instrumented for libFuzzer, and for AddressSanitizer where the compiler can.

use core::fmt;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::targets::Target;

/// What libFuzzer steers by: counters of edges, the places they belong to, the operands of comparisons, and the depth
/// of the stack. Debug assertions bring the overflow checks.
const FLAGS: [&str; 10] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-sanitizer-coverage-stack-depth",
    "-Clink-dead-code",
    "-Cdebug-assertions",
    "-Ccodegen-units=1",
    "--cfg=fuzzing",
];

const SANITIZER: &str = "-Zsanitizer=address";

/// Which compiler is used, and for what.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Mode {
    has_sanitizer: bool,
    version: String,
    host: String,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let with = if self.has_sanitizer { "with AddressSanitizer" } else { "without AddressSanitizer" };
        write!(f, "{}, {with}", self.version)
    }
}

impl Mode {
    /// The nightly toolchain if it has AddressSanitizer and that is wanted, else the one that is used anyway.
    pub(super) fn detect(is_plain: bool) -> Self {
        let nightly = || asked(rustup_nightly("rustc"), &["-vV"]).and_then(|text| Self::of(&text, true));
        let default = || asked(plain("rustc"), &["-vV"]).and_then(|text| Self::of(&text, false));
        let sanitizing = if is_plain { None } else { nightly().filter(Self::has_runtime) };
        sanitizing.or_else(default).unwrap_or_else(|| Self {
            has_sanitizer: false,
            version: "an unknown compiler".into(),
            host: String::new(),
        })
    }

    /// From what `rustc -vV` says.
    fn of(text: &str, has_sanitizer: bool) -> Option<Self> {
        let version = text.lines().next()?.to_owned();
        let host = text.lines().find_map(|line| line.strip_prefix("host: "))?.to_owned();
        Some(Self { has_sanitizer, version, host })
    }

    /// Whether the toolchain came with the library that AddressSanitizer needs.
    fn has_runtime(&self) -> bool {
        let Some(library) = asked(rustup_nightly("rustc"), &["--print", "target-libdir"]) else { return false };
        let entries = std::fs::read_dir(library.trim()).into_iter().flatten().flatten();
        entries.into_iter().any(|entry| entry.file_name().to_string_lossy().ends_with("_rt.asan.a"))
    }

    fn cargo(&self) -> Command {
        if self.has_sanitizer { rustup_nightly("cargo") } else { plain("cargo") }
    }

    fn flags(&self) -> String {
        let sanitizer = self.has_sanitizer.then_some(SANITIZER);
        FLAGS.into_iter().chain(sanitizer).collect::<Vec<_>>().join(" ")
    }
}

fn rustup_nightly(program: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", program]);
    command
}

/// The program that cargo names for this purpose, or the one in the search path.
fn plain(program: &str) -> Command {
    Command::new(std::env::var_os(program.to_uppercase()).unwrap_or_else(|| program.into()))
}

/// What a command prints if it succeeds.
fn asked(mut command: Command, arguments: &[&str]) -> Option<String> {
    let output = command.args(arguments).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Fuzz targets that have been built.
pub(super) struct Built {
    folder: PathBuf,
}

impl Built {
    /// The program of a target.
    pub(super) fn program(&self, target: &Target) -> Result<PathBuf, String> {
        let program = self.folder.join(&target.krate).join(&target.name);
        if program.is_file() { Ok(program) } else { Err(format!("cargo did not build {}", program.display())) }
    }
}

/// Builds the crates of all `targets`. Each mode has a target folder of its own, for its flags are not the other's.
pub(super) fn build(mode: &Mode, targets: &[Target], folder: &Path) -> Result<Built, String> {
    let folder = folder.join(if mode.has_sanitizer { "address" } else { "plain" });
    let crates: BTreeSet<(&str, &Path)> =
        targets.iter().map(|target| (target.krate.as_str(), target.folder.as_path())).collect();
    let built = Built { folder: folder.join("programs") };
    for (krate, source) in crates {
        build_crate(mode, source, &folder)?;
        // Programs of two crates may have one name.
        let programs = built.folder.join(krate);
        for target in targets.iter().filter(|target| target.krate == krate) {
            let from = folder.join(&mode.host).join("release").join(&target.name);
            let failed = |error: std::io::Error| format!("cannot copy {}: {error}", from.display());
            std::fs::create_dir_all(&programs).map_err(failed)?;
            std::fs::copy(&from, programs.join(&target.name)).map_err(failed)?;
        }
    }
    Ok(built)
}

fn build_crate(mode: &Mode, source: &Path, folder: &Path) -> Result<(), String> {
    let mut cargo = mode.cargo();
    cargo.args(["build", "--quiet", "--release", "--locked", "--manifest-path"]).arg(source.join("Cargo.toml"));
    // With a target named, build scripts and macros are not instrumented.
    cargo.args(["--target", &mode.host, "--target-dir"]).arg(folder);
    cargo.env("RUSTFLAGS", mode.flags()).env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("RUSTC");
    let status = cargo.status().map_err(|error| format!("cannot run cargo: {error}; is Rust installed?"))?;
    if status.success() {
        return Ok(());
    }
    let source = source.display();
    Err(format!("cargo cannot build {source}; its messages are above. libFuzzer itself needs a C++ compiler (g++)"))
}

#[cfg(test)]
mod test {
    use super::*;

    const ANSWER: &str = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\nhost: x86_64-unknown-linux-gnu\n";

    #[test]
    fn the_mode_says_which_compiler_it_is() {
        let mode = Mode::of(ANSWER, true).unwrap();
        assert_eq!(mode.to_string(), "rustc 1.97.0-nightly (e50aa6fba 2026-05-19), with AddressSanitizer");
        assert_eq!(mode.host, "x86_64-unknown-linux-gnu");
        assert!(mode.flags().contains("-Zsanitizer=address"));
        let plain = Mode { has_sanitizer: false, ..mode };
        assert!(plain.to_string().ends_with(", without AddressSanitizer"));
        assert!(!plain.flags().contains("-Z"), "a stable compiler has no such flags: {}", plain.flags());
        assert_eq!(Mode::of("error: toolchain 'nightly' is not installed", true), None);
    }
}
