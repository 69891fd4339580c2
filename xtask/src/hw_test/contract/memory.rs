// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A target keeps to its bound of memory while slow devices take far more than that.
//!
//! The limit is on private memory (RLIMIT_DATA): buffers, heap and the stacks of all threads, touched or not. The simulated
//! devices make their contents and check them, and store nothing.

use std::fs;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::check::{Checked, ensure, failed, must};
use super::context::Ctx;
use super::migrate::{Transport, expect_moved, observe_all, open_all, prepare, socket, start_source, start_target};
use super::process::Side;
use super::{Need, Test, test};
use crate::hw_test::event::Group;

/// The tests of this kind.
pub(super) const TESTS: &[Test] =
    &[test(Group::Migrate, "a target in 8 MiB of buffers and 32 MiB besides", &[Need::SecondDevice], bounded)];

const BUFFER_BYTES: u64 = 8 << 20;
/// For everything that is no buffer of state.
const BESIDES_BYTES: u64 = 32 << 20;
/// A writer of the largest device takes its time.
const SILENCE_S: &str = "20";

fn bounded(ctx: &mut Ctx) -> Checked {
    let before = prepare(ctx)?;
    let moved = go(ctx);
    open_all(ctx)?;
    moved?;
    observe_all(ctx, &before)
}

fn go(ctx: &Ctx) -> Checked {
    let (_folder, from) = socket(Transport::Unix)?;
    let buffers = BUFFER_BYTES.to_string();
    let bounds = ["--channels", "2", "--buffer-bytes", buffers.as_str()];
    let paused = [&bounds[..], &["--pause-at", "done"]].concat();
    // A child has the limits of its parent at its birth.
    let (soft, hard) = must("getrlimit", getrlimit(Resource::RLIMIT_DATA))?;
    let limit = BUFFER_BYTES.saturating_add(BESIDES_BYTES);
    must("limit the memory", setrlimit(Resource::RLIMIT_DATA, limit, hard))?;
    let target = start_target(ctx, &from, (&paused, &[]), SILENCE_S);
    must("lift that limit", setrlimit(Resource::RLIMIT_DATA, soft, hard))?;
    let mut target = target?;
    let source = start_source(ctx, target.address(), (&["--channels", "2"], &[]), SILENCE_S)?;
    target.pauses_at_after("done", super::process::LONG)?;
    let resident = resident_peak(&target)?;
    target.goes_on();
    let (_, report) = expect_moved(ctx, source.ends()?, target.ends()?)?;
    let used = report.buffer_bytes.ok_or_else(|| failed("the target does not report its buffers"))?;
    let moved: u64 = report.devices.iter().filter_map(|device| device.bytes).sum();
    ctx.note(format!(
        "{} MiB of state; buffers {} of {} KiB; resident at most {} KiB, limit of private memory {} KiB",
        moved >> 20,
        used.peak >> 10,
        used.bound >> 10,
        resident >> 10,
        limit >> 10
    ));
    ensure(moved > limit.saturating_mul(4), || format!("{moved} bytes of state would fit into the limit"))?;
    ensure(used.peak <= used.bound && used.bound <= BUFFER_BYTES, || "the buffers passed their bound".into())?;
    ensure(resident <= limit, || format!("{resident} bytes were resident, the limit is {limit}"))
}

/// The most memory the process ever had resident, its program's included.
fn resident_peak(side: &Side) -> Checked<u64> {
    let status = must("read its status", fs::read_to_string(format!("/proc/{}/status", side.id())))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib.saturating_mul(1024)).ok_or_else(|| failed("its status has no VmHWM"))
}
