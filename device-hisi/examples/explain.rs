// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Explains a file with a device state, field by field: `cargo run -p device-hisi --example explain FILE`.
//!
//! Exit status: 0 if the state may be loaded, 1 if not, 2 if the file cannot be read as one.

use std::{env, fs, process::ExitCode};

use device_hisi::{Blame, Stream};

fn main() -> ExitCode {
    let Some(path) = env::args().nth(1) else {
        eprintln!("usage: explain FILE");
        return ExitCode::from(2);
    };
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) => {
            eprintln!("{path}: {error}");
            return ExitCode::from(2);
        }
    };
    let stream = match Stream::decode(&bytes) {
        Ok(stream) => stream,
        Err(error) => {
            let fault = error.fault();
            eprintln!("{path}: {error}\n{fault}: {}", fault.advice());
            return ExitCode::from(2);
        }
    };
    let findings = stream.check();
    print!("{stream}{findings}");
    if findings.is_loadable() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
