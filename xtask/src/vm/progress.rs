// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is told to the caller while it waits.

use std::time::Instant;

/// An event of provisioning. Between [`Progress::Begin`] and [`Progress::End`] of a step come any number of the others.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub(crate) enum Progress<'a> {
    /// Another run holds the cache; this one waits for it.
    Waiting,
    /// A step begins; the text completes "now …".
    Begin {
        /// For example "downloading the kernel".
        step: &'a str,
    },
    /// State of the running download.
    Download {
        /// Packages begun.
        packages: usize,
        /// Packages altogether.
        packages_total: usize,
        /// Bytes on disk.
        bytes: u64,
        /// Bytes altogether.
        total_bytes: u64,
    },
    /// Packages unpacked.
    Unpack {
        /// Packages done.
        packages: usize,
        /// Packages altogether.
        packages_total: usize,
    },
    /// State of the running build.
    Compile {
        /// Files compiled.
        files: u64,
        /// Files altogether, roughly.
        files_about: u64,
        /// How long it has been going on.
        seconds: u64,
    },
    /// The step is done.
    End {
        /// The text of its beginning.
        step: &'a str,
        /// How long it took.
        seconds: f64,
    },
    /// A remark worth showing.
    Note {
        /// One sentence.
        text: &'a str,
    },
}

/// Reports steps to the caller.
pub(crate) struct Steps<'a> {
    report: &'a mut dyn FnMut(Progress<'_>),
}

impl<'a> Steps<'a> {
    /// Reports to `report`.
    pub(crate) fn new(report: &'a mut dyn FnMut(Progress<'_>)) -> Self {
        Self { report }
    }

    /// Runs one step.
    pub(crate) fn run<T, E>(
        &mut self,
        step: &str,
        work: impl FnOnce(&mut dyn FnMut(Progress<'_>)) -> Result<T, E>,
    ) -> Result<T, E> {
        (self.report)(Progress::Begin { step });
        let begun = Instant::now();
        let result = work(self.report)?;
        let seconds = begun.elapsed().as_secs_f64();
        (self.report)(Progress::End { step, seconds });
        Ok(result)
    }

    /// Passes a remark on.
    pub(crate) fn note(&mut self, text: &str) {
        (self.report)(Progress::Note { text });
    }

    /// Passes on that another run holds the cache.
    pub(crate) fn waiting(&mut self) {
        (self.report)(Progress::Waiting);
    }
}
