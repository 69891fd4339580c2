// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask migrate`, as anybody would run it.

use core::net::SocketAddr;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use super::cost::Work;
use super::{log, process};
use crate::qemu::machine::{configuration, soft_address};

pub(super) fn measure(work: &Work) -> Result<[f64; 3], String> {
    let folder = work.run_folder()?;
    let at = format!("tcp:{}", free_address()?);
    let mut target = side(work, folder.path(), "target", 1)?;
    target.args(["migrate", "target", "--json", "--from", &at]);
    let mut source = side(work, folder.path(), "source", 101)?;
    source.args(["migrate", "source", "--json", "--to", &at]);
    for command in [&mut target, &mut source] {
        devices(command, work, 1);
        command.arg("--channels").arg(work.channels.to_string());
        command.stdout(Stdio::null());
    }
    let usage = process::run_both(&mut target, &mut source)?;
    work.cost(&log(folder.path(), "source"), &log(folder.path(), "target"), &usage)
}

/// An address where nobody listens now; the source tries until the target does.
fn free_address() -> Result<SocketAddr, String> {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    free.map_err(|error| format!("cannot find a free port: {error}"))
}

/// This program on top of the devices of one side.
pub(super) fn side(work: &Work, folder: &Path, name: &str, first_seed: usize) -> Result<Command, String> {
    let program = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let mut command = Command::new(program);
    command.env("LD_PRELOAD", &work.library).env("SOFTVFIO", configuration(&work.soft_devices(first_seed)));
    command.env("SOFTVFIO_LOG", log(folder, name)).stdin(Stdio::null());
    Ok(command)
}

/// Names the devices on the command line.
pub(super) fn devices(command: &mut Command, work: &Work, first_seed: usize) {
    for (index, device) in work.soft_devices(first_seed).iter().enumerate() {
        command.arg("--device").arg(format!("{}={}", device.name, soft_address(index, device)));
    }
}
