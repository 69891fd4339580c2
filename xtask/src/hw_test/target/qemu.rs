// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The `qemu` target: stock QEMUs migrate simulated devices to each other.

use std::path::PathBuf;

use super::super::progress::Progress;
use super::super::record::Run;
use super::super::{Missing, Plan};
use super::vm::show;
use crate::cache::Cache;
use crate::vm::{self, Freshness, Series};

/// Command line of `hw-test qemu`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the emulators are kept [default: savevm in the user's cache folder].
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

/// Runs.
pub(crate) fn run(args: &Args, _plan: &Plan<'_>, progress: &mut Progress) -> Result<Vec<Run>, Missing> {
    let cache = Cache::open(args.cache.as_deref()).unwrap();
    for series in Series::ALL {
        let got = vm::provision_qemu(&cache, series, Freshness::Cached, &mut |event| show(progress, event));
        println!("{got:?}");
    }
    Ok(vec![])
}
