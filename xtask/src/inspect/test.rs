// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Streams made here, whole and damaged in every way, explained in every shape.
#![allow(clippy::arithmetic_side_effects, clippy::as_conversions)]

mod damage;
mod explained;
mod recorded;
mod samples;

use core::cell::RefCell;
use std::io::{self, Write};
use std::path::PathBuf;
use std::rc::Rc;

use serde_json::Value;
use tempfile::TempDir;

use super::device::Extract;
use super::format::Forced;
use super::paper::{Paper, Shape};
use super::{Options, explain, group};

/// What is written, kept.
#[derive(Clone, Default)]
struct Written(Rc<RefCell<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A run of the command, on files with these contents.
struct Run {
    folder: TempDir,
    paths: Vec<PathBuf>,
    options: Options,
}

/// What came of it.
#[derive(Debug)]
struct Outcome {
    /// Exit status 0.
    is_good: bool,
    text: String,
}

impl Run {
    fn on(files: &[&[u8]]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut paths = Vec::new();
        for (number, bytes) in files.iter().enumerate() {
            let path = folder.path().join(format!("file{number}"));
            std::fs::write(&path, bytes).unwrap();
            paths.push(path);
        }
        let options = Options { forced: Vec::new(), extracts: Vec::new(), all: false, summary: false, check: false };
        Self { folder, paths, options }
    }

    fn format(mut self, text: &str) -> Self {
        self.options.forced.push(text.parse::<Forced>().unwrap());
        self
    }

    fn shape(&self, shape: Shape) -> Outcome {
        let written = Written::default();
        let groups = match group::open(&self.paths, &self.options) {
            Ok(groups) => groups,
            Err(text) => return Outcome { is_good: false, text },
        };
        let is_good = explain(groups, &self.options, Paper::on(Box::new(written.clone()), shape));
        let bytes = written.0.borrow().clone();
        Outcome { is_good, text: String::from_utf8(bytes).unwrap() }
    }

    fn tree(&self) -> String {
        self.shape(Shape::Tree { is_all: self.options.all }).text
    }

    fn check(&mut self) -> Outcome {
        self.options.check = true;
        self.shape(Shape::Words)
    }

    fn json(&self) -> Value {
        let outcome = self.shape(Shape::Json { has_items: true });
        serde_json::from_str(&outcome.text).unwrap_or_else(|error| panic!("{error} in {}", outcome.text))
    }

    /// The state of a device, as it is written to a file.
    fn extract(&mut self, device: &str) -> (Outcome, Vec<u8>) {
        let path = self.folder.path().join("extracted");
        self.options.extracts.push(Extract { device: device.to_owned(), path: path.clone() });
        let outcome = self.shape(Shape::Words);
        (outcome, std::fs::read(path).unwrap_or_default())
    }
}
