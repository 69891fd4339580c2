// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `inspect`: explains the stream of a migration, whoever wrote it and however it is damaged.

mod bare;
mod case;
mod cross;
mod device;
mod drive;
mod entry;
mod fault;
mod format;
mod group;
mod input;
mod native;
mod paper;
mod qemu;
mod state;
mod summary;
#[cfg(test)]
mod test;
mod words;

use std::path::PathBuf;
use std::process::ExitCode;

use device::Extract;
use drive::Progress;
use format::Forced;
use paper::{Paper, Shape};

/// Explain a migration stream: ours, QEMU's, or the bare state of a device
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each FILE is recognised by its content:
  native        a file or one direction of a connection of `cargo xtask migrate`
  qemu          QEMU's main stream: from file:, exec: or a captured connection; mapped-ram too
  multifd       a captured multifd channel of QEMU, source to target
  return-path   the captured answers of the target on QEMU's main connection
  hisi, mlx5, virtio, mtty
                the state of one device, as its driver gave it

Several FILEs that belong together (main stream, channels, answers) are explained as one
migration; the packets of a device are put in order over all channels. Offsets are hexadecimal,
sizes decimal, both in bytes.

--json prints one document, while the files are read and an item per line, so in little memory:
  {\"migrations\": [{\"files\": [{\"file\", \"format\", \"items\": […], \"read_bytes\"}],
                   \"devices\": […], \"summary\": {…}, \"faults\": […]}]}
Every item has \"kind\", \"offset\" and \"bytes\"; sections have \"name\", \"fields\" and \"items\", and come
in parts that are marked \"partial\" where --all makes them long. With --summary or --check files
have no items.

Exit status: 0; 1 if a FILE cannot be read or nothing in it was understood, if an --extract is not
complete, and with --check if there is a fault; 2 for a wrong command line.

Examples:
  cargo xtask inspect vm.bin                            the whole stream as a tree
  cargo xtask inspect --summary vm.bin                  one screen
  cargo xtask inspect --check vm.bin && echo good       nothing but the verdict
  cargo xtask inspect main.fwd main.rev ch?.fwd         one migration from all its connections
  xz -dc vm.bin.xz | cargo xtask inspect -              a compressed one
  cargo xtask inspect --extract 0000:00:01.0/vfio=state.bin vm.bin
  cargo xtask inspect --format virtio state.bin         a state that cannot be recognised
  cargo xtask inspect --format nic=mlx5 saved.bin       the state of device nic inside a stream
  cargo xtask inspect --json vm.bin | jq '.migrations[0].devices'")]
pub(crate) struct Args {
    /// Files to explain; `-` is standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,

    /// What the FILEs are (native, qemu, multifd, return-path), or what the states of devices are (hisi, mlx5, virtio,
    /// mtty, opaque), all or that of one DEVICE. May be repeated
    #[arg(long, value_name = "[DEVICE=]FORMAT")]
    format: Vec<Forced>,

    /// Print one screen: what it is, who wrote it, the devices, bytes by section and phase
    #[arg(long)]
    summary: bool,

    /// Do not fold anything: every page, packet and field on a line of its own
    #[arg(long)]
    all: bool,

    /// Print one JSON document on standard output
    #[arg(long)]
    json: bool,

    /// Write the state of DEVICE to FILE, the bytes as its driver gave them. May be repeated
    #[arg(long, value_name = "DEVICE=FILE", value_parser = extract)]
    extract: Vec<Extract>,

    /// Print the first fault, if there is one: where, what was read, what it means, what to do. The exit status is 1
    /// then. QEMU's streams have no checksums, so a changed byte inside a page or field is no fault
    #[arg(long)]
    check: bool,
}

/// What was asked for.
struct Options {
    forced: Vec<Forced>,
    extracts: Vec<Extract>,
    all: bool,
    summary: bool,
    check: bool,
}

fn extract(text: &str) -> Result<Extract, String> {
    let (device, path) = text
        .rsplit_once('=')
        .filter(|(device, path)| !device.is_empty() && !path.is_empty())
        .ok_or_else(|| format!("'{text}' is not DEVICE=FILE"))?;
    Ok(Extract { device: device.to_owned(), path: PathBuf::from(path) })
}

/// Explains the files.
pub(crate) fn run(args: Args) -> ExitCode {
    let Args { files, format, summary, all, json, extract, check } = args;
    let shape = match (json, summary || check) {
        (true, is_short) => Shape::Json { has_items: !is_short },
        (false, true) => Shape::Words,
        (false, false) => Shape::Tree { is_all: all },
    };
    let options = Options { forced: format, extracts: extract, all, summary, check };
    let inputs = match group::open(&files, &options) {
        Ok(inputs) => inputs,
        Err(error) => return crate::cli::fail(json, &error),
    };
    let is_good = explain(inputs, &options, Paper::new(shape));
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Explains groups of files on `paper`, and says whether all went well.
fn explain(groups: Vec<group::Group>, options: &Options, mut paper: Paper) -> bool {
    let lengths = groups.iter().flatten().map(|(_, input)| input.length().unwrap_or(0));
    let progress = Progress::new(lengths.fold(0, u64::saturating_add), paper.has_items());
    paper.json_open(None, "{");
    paper.json_open(Some("migrations"), "[");
    let mut is_good = true;
    for group in groups {
        is_good &= group::explain(group, options, &mut paper, &progress);
    }
    paper.json_close("]");
    paper.json_close("}");
    if paper.is_json() {
        paper.end_json();
    }
    progress.clear();
    paper.flush();
    is_good
}
