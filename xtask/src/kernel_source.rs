// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `kernel-source`: where the declarations are that the vendors' layouts are tested against.

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use crate::cache::Cache;
use crate::cli;
use crate::out::outln;
use crate::vm::{self, Edition, Freshness, KernelSource, Progress};

/// Fetch what the kernel's source declares about migration, for tests to compare layouts with
///
/// Two packages of about 150 MB each are downloaded through apt, of which less than 1 MB is kept.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Fetch nothing; show what was fetched before
    #[arg(long, conflicts_with = "refresh")]
    cached: bool,

    /// Look for newer packages even if the cache has some
    #[arg(long)]
    refresh: bool,

    /// Where the files are kept [default: savevm in the user's cache folder]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,

    /// Print one JSON document on standard output
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Default, Serialize)]
struct Found {
    trees: Vec<Tree>,
    /// Why there are not more.
    missing: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Tree {
    version: String,
    path: PathBuf,
}

/// Runs the command; the exit status is 0 if there is any tree.
pub(crate) fn run(args: &Args) -> ExitCode {
    let cache = match Cache::open(args.cache.as_deref()) {
        Ok(cache) => cache,
        Err(error) => return cli::fail(args.json, &error.to_string()),
    };
    let mut found = Found::default();
    for edition in Edition::ALL {
        match source(args, &cache, edition) {
            Ok(KernelSource { tree, version }) => found.trees.push(Tree { version, path: tree }),
            Err(reason) => found.missing.push(reason),
        }
    }
    if args.json {
        cli::print_json(&found);
    } else {
        found.trees.iter().for_each(|tree| outln!("{}  {}", tree.version, tree.path.display()));
        found.missing.iter().for_each(|reason| eprintln!("{reason}"));
    }
    if found.trees.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn source(args: &Args, cache: &Cache, edition: Edition) -> Result<KernelSource, String> {
    if args.cached {
        let what = || "the cache has no kernel source; `cargo xtask kernel-source` fetches it".to_owned();
        return KernelSource::cached(cache, edition).ok_or_else(what);
    }
    let freshness = if args.refresh { Freshness::Newest } else { Freshness::Cached };
    let mut report = |event: Progress<'_>| {
        if let Progress::Begin { step } = event {
            eprintln!("now {step}");
        }
    };
    vm::provision_kernel_source(cache, edition, freshness, &mut report).map_err(|error| error.to_string())
}
