// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Keeping of a corpus only what reaches code that nothing else in it does.
//!
//! libFuzzer can merge corpora, but what it keeps is more than that: it counts how deep the stack was, and never takes
//! back a file whose code later ones reach together. So it only says here which file reaches what, in the control file
//! of a merge: how many files, how many of them in the first folder, their paths, and for each a line `FT` with its
//! number and its features.

use core::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::process::{files, watch};
use super::targets::Target;
use super::{Folders, shown};
use crate::out::outln;

/// A feature is a number; those of an edge are below this many times the number of edges, by libFuzzer's numbering.
const FEATURES_PER_EDGE: u64 = 8;

/// Replaces a crate's corpus by the fewest files that reach as much as it and what was learnt.
pub(super) fn minimise(program: &Path, target: &Target, folders: &Folders) -> Result<(), String> {
    let corpus = target.corpus();
    let failed = |error: std::io::Error| format!("cannot replace {}: {error}", corpus.display());
    fs::create_dir_all(&corpus).map_err(failed)?;
    let scratch = tempfile::tempdir_in(folders.of("corpus", target)?.parent().unwrap_or(&corpus)).map_err(failed)?;
    let (merged, control) = (scratch.path().join("merged"), scratch.path().join("control"));
    fs::create_dir(&merged).map_err(failed)?;
    let mut command = Command::new(program);
    // How often an edge is passed does not count.
    command.args(["-set_cover_merge=1", "-use_counters=0"]);
    command.arg(format!("-merge_control_file={}", control.display()));
    command.args([&merged, &corpus, &folders.of("corpus", target)?]);
    let log = folders.log(target)?;
    let (said, _, code) = watch(command, target, &log, Instant::now())?;
    if code != Some(0) {
        return Err(format!("{target}: {}; see {}", said.failure(), shown(&log)));
    }
    let limit = said.counters.saturating_mul(FEATURES_PER_EDGE);
    let control = fs::read_to_string(control).map_err(failed)?;
    let reached =
        parse(&control, limit).ok_or_else(|| format!("{target}: libFuzzer's control file is not understood"))?;
    let bytes = |file: &Path| fs::metadata(file).map_or(0, |metadata| metadata.len());
    let kept = fewest(reached, bytes);
    let before = files(&corpus);
    let contents: Vec<(PathBuf, Vec<u8>)> = kept
        .into_iter()
        .map(|file| fs::read(&file).map(|bytes| (file, bytes)))
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    before.iter().try_for_each(fs::remove_file).map_err(failed)?;
    for (file, bytes) in &contents {
        fs::write(corpus.join(file.file_name().unwrap_or_default()), bytes).map_err(failed)?;
    }
    outln!("{target}: {} files, {} before", contents.len(), before.len());
    Ok(())
}

/// A file and the features it has.
#[derive(Debug, Eq, PartialEq)]
struct Reached {
    file: PathBuf,
    features: Vec<u64>,
}

/// Reads a control file. Features from `limit` on are none of an edge.
fn parse(control: &str, limit: u64) -> Option<Vec<Reached>> {
    let mut lines = control.lines();
    let count: usize = lines.next()?.parse().ok()?;
    lines.next()?;
    let paths = lines.by_ref().take(count).map(PathBuf::from);
    let mut all: Vec<Reached> = paths.map(|file| Reached { file, features: Vec::new() }).collect();
    for line in lines {
        let Some(line) = line.strip_prefix("FT ") else { continue };
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let index = usize::try_from(numbers.next()?.ok()?).ok()?;
        let features = numbers.collect::<Result<Vec<_>, _>>().ok()?;
        all.get_mut(index)?.features = features.into_iter().filter(|feature| *feature < limit).collect();
    }
    Some(all)
}

/// Files that have all features between them, and each one that no other has.
fn fewest(mut all: Vec<Reached>, bytes: impl Fn(&Path) -> u64) -> Vec<PathBuf> {
    // Whoever comes first is looked at first, and goes if the others can do without it: the largest.
    all.sort_by_cached_key(|reached| (Reverse(bytes(&reached.file)), reached.features.len(), reached.file.clone()));
    let mut owners: BTreeMap<u64, u32> = BTreeMap::new();
    for feature in all.iter().flat_map(|reached| &reached.features) {
        let count = owners.entry(*feature).or_default();
        *count = count.saturating_add(1);
    }
    all.retain(|reached| {
        let is_needed = reached.features.iter().any(|feature| owners.get(feature) == Some(&1));
        for feature in reached.features.iter().filter(|_| !is_needed) {
            owners.entry(*feature).and_modify(|count| *count = count.saturating_sub(1));
        }
        is_needed
    });
    all.into_iter().map(|reached| reached.file).collect()
}

#[cfg(test)]
mod test {
    use super::*;

    fn reached(file: &str, features: &[u64]) -> Reached {
        Reached { file: file.into(), features: features.to_vec() }
    }

    #[test]
    fn a_control_file_is_read() {
        let control = "2\n0\na\nb c\nSTARTED 0 12\nFT 0 1 2 800\nCOV 0 7\nSTARTED 1 9\nFT 1 2\nCOV 1\n";
        assert_eq!(parse(control, 800), Some(vec![reached("a", &[1, 2]), reached("b c", &[2])]));
        assert_eq!(parse("2\n0\na\nb\nFT 2 1\n", 800), None);
        assert_eq!(parse("x", 800), None);
    }

    #[test]
    fn whoever_has_nothing_of_its_own_goes() {
        let kept = |all: &[(&str, &[u64])]| {
            // The length of its name stands for that of a file.
            let bytes = |file: &Path| u64::try_from(file.as_os_str().len()).unwrap();
            let kept = fewest(all.iter().map(|(file, features)| reached(file, features)).collect(), bytes);
            kept.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(kept(&[("a", &[1, 2, 3]), ("b", &[2]), ("c", &[4])]), "c a");
        assert_eq!(kept(&[("a", &[1]), ("b", &[1])]), "b", "one of two that are alike stays");
        assert_eq!(kept(&[("a", &[1, 2, 3]), ("b", &[1, 2, 4]), ("c", &[3, 4])]), "a b");
        assert_eq!(kept(&[("aa", &[1, 2, 3]), ("b", &[1, 2]), ("c", &[3])]), "c b", "two small ones for a large one");
        assert_eq!(kept(&[("a", &[])]), "");
    }
}
