// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The memory that all move, and whether it arrived.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::CHANNELS;
use crate::bench::peers::cost::{Usage, float};
use crate::soft::scratch;

const PIECE_BYTES: usize = 1 << 20;
const PAGE_BYTES: usize = 4096;
/// One page in so many has something in it, where most are zero.
const SPARSE: usize = 16;

/// What the memory moves over.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Over {
    Tcp,
    Unix,
}

/// What is in the source's memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Contents {
    /// No page is like another.
    Random,
    /// One page in 16 is, the others were written with zeros.
    MostlyZero,
}

/// One file of memory, to be moved again and again.
pub(super) struct Work {
    pub(super) over: Over,
    contents: Contents,
    /// The target's memory was written to before, so that its pages exist.
    is_touched: bool,
    pub(super) bytes: u64,
    pub(super) source: PathBuf,
    folder: TempDir,
}

impl Work {
    pub(super) fn new(over: Over, contents: Contents, is_touched: bool, bytes: u64) -> Result<Self, String> {
        let folder = scratch().map_err(|error| format!("cannot make a folder for memory: {error}"))?;
        let source = folder.path().join("source.memory");
        fill(&source, bytes, contents).map_err(|error| format!("cannot fill {}: {error}", source.display()))?;
        Ok(Self { over, contents, is_touched, bytes, source, folder })
    }

    /// What is particular about it.
    pub(super) fn title(&self) -> String {
        let over = format!("{:?}", self.over).to_lowercase();
        let contents = match self.contents {
            Contents::Random => "random contents",
            Contents::MostlyZero => "15 pages in 16 zero",
        };
        let target = if self.is_touched { "used" } else { "new" };
        format!("{over}, {CHANNELS} channels, {contents}, target's memory {target}")
    }

    /// A place for the files of one run, and the target's memory there.
    pub(super) fn run_folder(&self) -> Result<(TempDir, PathBuf), String> {
        let make = || {
            let folder = tempfile::tempdir_in(self.folder.path())?;
            let target = folder.path().join("target.memory");
            let mut file = File::create(&target)?;
            if self.is_touched {
                let piece = vec![0xff; PIECE_BYTES];
                pieces(self.bytes).try_for_each(|_| file.write_all(&piece))?;
            }
            file.set_len(self.bytes)?;
            Ok((folder, target))
        };
        make().map_err(|error: std::io::Error| format!("cannot make the target's memory: {error}"))
    }

    /// What a run cost, if the target's memory is the source's.
    pub(super) fn cost(&self, target: &Path, seconds: f64, usage: &Usage) -> Result<[f64; 3], String> {
        if !are_equal(&self.source, target).map_err(|error| format!("cannot compare: {error}"))? {
            return Err("the target has another memory than the source".into());
        }
        let bytes = float(self.bytes);
        let price = usage.processor.as_secs_f64() / (bytes / 1e9);
        Ok([bytes / seconds.max(f64::MIN_POSITIVE), price, float(usage.target_peak_bytes)])
    }
}

fn pieces(bytes: u64) -> impl Iterator<Item = u64> {
    0..bytes >> 20
}

fn fill(path: &Path, bytes: u64, contents: Contents) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for _ in pieces(bytes) {
        let mut piece = vec![0; PIECE_BYTES];
        for (index, page) in piece.chunks_exact_mut(PAGE_BYTES).enumerate() {
            if contents == Contents::MostlyZero && index.checked_rem(SPARSE) != Some(0) {
                continue;
            }
            for word in page.chunks_exact_mut(8) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                word.copy_from_slice(&state.to_le_bytes());
            }
        }
        file.write_all(&piece)?;
    }
    Ok(())
}

fn are_equal(left: &Path, right: &Path) -> std::io::Result<bool> {
    let (mut left, mut right) = (File::open(left)?, File::open(right)?);
    if left.metadata()?.len() != right.metadata()?.len() {
        return Ok(false);
    }
    let (mut ours, mut theirs) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
    for _ in pieces(left.metadata()?.len()) {
        left.read_exact(&mut ours)?;
        right.read_exact(&mut theirs)?;
        if ours != theirs {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod test {
    use core::time::Duration;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn what_did_not_arrive_does_not_count() {
        let usage = Usage { processor: Duration::from_secs(2), target_peak_bytes: 7 };
        for (contents, share) in [(Contents::Random, 1), (Contents::MostlyZero, SPARSE)] {
            let work = Work::new(Over::Tcp, contents, true, 2 << 20).unwrap();
            let bytes = std::fs::read(&work.source).unwrap();
            let filled = bytes.chunks(PAGE_BYTES).filter(|page| page.iter().any(|byte| *byte != 0)).count();
            assert_eq!(filled * share, 512);
            let (_folder, target) = work.run_folder().unwrap();
            assert!(work.cost(&target, 1.0, &usage).unwrap_err().contains("another memory"));
            std::fs::copy(&work.source, &target).unwrap();
            let [speed, price, memory] = work.cost(&target, 0.5, &usage).unwrap();
            assert_eq!((speed, memory), (f64::from(4 << 20), 7.0));
            assert!((price - 2e9 / f64::from(2 << 20)).abs() < 1e-6);
            let file = File::options().write(true).open(&target).unwrap();
            file.write_all_at(&[bytes[2_000_000] ^ 1], 2_000_000).unwrap();
            assert!(work.cost(&target, 0.5, &usage).is_err(), "one bit differs");
        }
    }
}
