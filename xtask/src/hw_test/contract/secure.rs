// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Migrations over TLS, with certificates made for the test, and a source that must not get in.

use super::check::{Checked, ensure, failed, must};
use super::context::Ctx;
use super::migrate::{Pair, Transport, clean, expect_source_kept, expect_target_reset, open_all, prepare};
use super::{Need, Test, test};
use crate::hw_test::event::Group;
use crate::tls::throwaway::{Authority, Files};

pub(super) const TESTS: &[Test] = &[
    test(Group::Migrate, "over TLS on 2 channels", &[Need::SecondDevice], |ctx| secured(ctx, Transport::Tcp)),
    test(Group::Migrate, "over TLS by a unix socket", &[Need::SecondDevice], |ctx| secured(ctx, Transport::Unix)),
    test(Group::Migrate, "a source with a stranger's certificate", &[Need::SecondDevice], stranger),
];

const SOURCE: &str = "source.test";
const TARGET: &str = "target.test";

/// The options of a side, which expects a peer of that name.
fn options(files: Result<Files, String>, peer: &str) -> Checked<Vec<String>> {
    let mut options = files.map_err(failed)?.arguments();
    options.extend(["--tls-name", peer, "--channels", "2"].map(str::to_owned));
    Ok(options)
}

fn secured(ctx: &mut Ctx, transport: Transport) -> Checked {
    let folder = must("make a folder", tempfile::tempdir())?;
    let authority = must("make an authority", Authority::new())?;
    let source = options(Files::write(&folder.path().join("source"), &authority, SOURCE), TARGET)?;
    let target = options(Files::write(&folder.path().join("target"), &authority, TARGET), SOURCE)?;
    clean(ctx, transport, &texts(&source), &texts(&target))
}

fn texts(options: &[String]) -> Vec<&str> {
    options.iter().map(String::as_str).collect()
}

/// The source gives up with the devices running, and the target's are never touched.
fn stranger(ctx: &mut Ctx) -> Checked {
    let folder = must("make a folder", tempfile::tempdir())?;
    let (ours, others) = (must("make an authority", Authority::new())?, must("make an authority", Authority::new())?);
    let place = folder.path().join("source");
    let source = options(Files::write_changed(&place, &others, &ours, SOURCE, |_| ()), TARGET)?;
    let target = options(Files::write(&folder.path().join("target"), &ours, TARGET), SOURCE)?;
    prepare(ctx)?;
    let (source, target) = Pair::start(ctx, Transport::Tcp, &texts(&source), &texts(&target))?.end_apart()?;
    let said = source.error.clone().unwrap_or_default();
    ensure(said.contains("refuses this side's certificate"), || format!("the source says: {said}"))?;
    expect_source_kept(&source)?;
    expect_target_reset(&target)?;
    open_all(ctx)
}
