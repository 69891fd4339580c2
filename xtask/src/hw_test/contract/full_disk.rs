// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A file that cannot take the whole state: the devices run on, and no file of that name is there.

use std::fs;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::check::{Checked, ensure, failed, must, skipped};
use super::context::Ctx;
use super::migrate::{SILENCE_S, common, expect_source_kept, open_all, prepare};
use super::process::{Report, Side};
use super::{Need, Test, test};
use crate::hw_test::event::Group;

/// Files that are too small.
pub(super) const TESTS: &[Test] = &[
    test(Group::Migrate, "into a file that may not grow", &[Need::SecondDevice], limited),
    test(Group::Migrate, "into a folder where no file can be", &[Need::SecondDevice], nowhere),
];

/// What a simulated device itself keeps in files has to fit below the limit too.
const STATE_BYTES_MIN: u64 = 16 << 10;

fn save(ctx: &Ctx, path: &Path, bytes_max: Option<u64>) -> Checked<Report> {
    // What is dirty in pre-copy differs from one attempt to the next, and with it the size.
    let mut arguments = common("source", ctx.pairs().map(|(source, _)| source), &["--no-precopy"], SILENCE_S);
    arguments.extend(["--to".into(), format!("file:{}", path.display())]);
    let Some(bytes_max) = bytes_max else { return Side::start("source", &arguments)?.ends() };
    // A child has the limits of its parent at its birth.
    let (soft, hard) = must("getrlimit", getrlimit(Resource::RLIMIT_FSIZE))?;
    must("limit the size of files", setrlimit(Resource::RLIMIT_FSIZE, bytes_max, hard))?;
    let side = Side::start("source", &arguments);
    must("lift that limit", setrlimit(Resource::RLIMIT_FSIZE, soft, hard))?;
    side?.ends()
}

fn limited(ctx: &mut Ctx) -> Checked {
    prepare(ctx)?;
    let outcome = limited_on(ctx);
    open_all(ctx)?;
    outcome
}

fn limited_on(ctx: &Ctx) -> Checked {
    let folder = must("make a folder", tempfile::tempdir())?;
    let path = folder.path().join("state");
    let report = save(ctx, &path, None)?;
    ensure(report.moved, || format!("without a limit: {:?}", report.error))?;
    let whole = must("look at the file", fs::metadata(&path))?.len();
    must("remove the file", fs::remove_file(&path))?;
    if whole < STATE_BYTES_MIN {
        return Err(skipped(format!("a state of {whole} bytes fits into any file")));
    }
    // The last frame has to be written for the file to be whole.
    for bytes_max in [whole / 2, whole.saturating_sub(1)] {
        let report = save(ctx, &path, Some(bytes_max))?;
        expect_source_kept(&report).map_err(|failure| failed(format!("at {bytes_max}: {}", failure.text())))?;
        let error = report.error.unwrap_or_default();
        ensure(error.contains("File too large"), || format!("it must say what is full, and says: {error}"))?;
        ctx.note(format!("at {bytes_max} of {whole} bytes: {error}"));
        let left = must("list the folder", fs::read_dir(folder.path()))?.count();
        ensure(left == 0, || format!("{left} files are left behind"))?;
    }
    let report = save(ctx, &path, Some(whole))?;
    ensure(report.moved, || format!("with exactly enough: {:?}", report.error))
}

fn nowhere(ctx: &mut Ctx) -> Checked {
    prepare(ctx)?;
    let folder = must("make a folder", tempfile::tempdir())?;
    let report = save(ctx, &folder.path().join("missing/state"), None);
    open_all(ctx)?;
    let report = report?;
    expect_source_kept(&report)?;
    ctx.note(report.error.unwrap_or_default());
    Ok(())
}
