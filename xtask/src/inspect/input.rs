// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is read: files, and standard input.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::words::{shown, wide};

/// How much is read at once, and how much of a stream is looked at to recognise it.
const CHUNK_BYTES: usize = 256 << 10;

/// A stream that is read from its start to its end once and, if it is a file, at places of choice as well.
pub(super) struct Input {
    /// Its name as it may be shown.
    pub(super) label: String,
    file: File,
    /// Where in the file the stream starts, and how long it is; `None` for a pipe.
    place: Option<(u64, u64)>,
    chunk: Vec<u8>,
    /// How many bytes at the front of the chunk are valid.
    filled: usize,
    /// Whether the chunk holds the stream's first bytes, which were read to recognise it.
    is_ahead: bool,
    /// How far it was read.
    position: u64,
}

impl Input {
    /// Opens a file, or standard input for `-`, and reads its first bytes.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let is_stdin = path == Path::new("-");
        let label = if is_stdin { "standard input".to_owned() } else { shown(&path.to_string_lossy()) };
        let opened = if is_stdin { io::stdin().as_fd().try_clone_to_owned().map(File::from) } else { File::open(path) };
        let mut file = opened.map_err(|error| format!("cannot open {label}: {error}"))?;
        let metadata = file.metadata().map_err(|error| format!("cannot look at {label}: {error}"))?;
        if metadata.is_dir() {
            return Err(format!("{label} is a directory; name the files in it"));
        }
        let place = if metadata.is_file() {
            let start = file.stream_position().map_err(|error| format!("cannot read {label}: {error}"))?;
            Some((start, metadata.len().saturating_sub(start)))
        } else {
            None
        };
        let chunk = vec![0; CHUNK_BYTES];
        let mut input = Self { label, file, place, chunk, filled: 0, is_ahead: true, position: 0 };
        input.look_ahead()?;
        Ok(input)
    }

    /// Fills the first chunk as far as the stream goes.
    fn look_ahead(&mut self) -> Result<(), String> {
        while self.filled < CHUNK_BYTES {
            let room = self.chunk.get_mut(self.filled..).unwrap_or_default();
            match self.file.read(room) {
                Ok(0) => break,
                Ok(count) => self.filled = self.filled.saturating_add(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("cannot read {}: {error}", self.label)),
            }
        }
        Ok(())
    }

    /// The stream's first bytes, before anything was read.
    pub(super) fn head(&self) -> &[u8] {
        self.chunk.get(..self.filled).unwrap_or_default()
    }

    /// The stream's length, if it is known beforehand.
    pub(super) fn length(&self) -> Option<u64> {
        self.place.map(|(_, length)| length)
    }

    /// How far it was read.
    pub(super) const fn position(&self) -> u64 {
        self.position
    }

    /// The next bytes and where they stand; none at the end.
    pub(super) fn next(&mut self) -> Result<(u64, &[u8]), String> {
        if !core::mem::take(&mut self.is_ahead) {
            self.filled = loop {
                match self.file.read(&mut self.chunk) {
                    Ok(count) => break count,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => {
                        return Err(format!("{}: cannot read at offset {}: {error}", self.label, self.position));
                    }
                }
            };
        }
        let at = self.position;
        self.position = at.saturating_add(wide(self.filled));
        Ok((at, self.chunk.get(..self.filled).unwrap_or_default()))
    }

    /// Bytes at a place of choice: as many as there are, up to the buffer's length. `None` from a pipe.
    pub(super) fn read_at<'a>(&self, offset: u64, buffer: &'a mut [u8]) -> Option<io::Result<&'a [u8]>> {
        let (start, _) = self.place?;
        let mut filled = 0usize;
        while filled < buffer.len() {
            let room = buffer.get_mut(filled..).unwrap_or_default();
            let at = start.saturating_add(offset).saturating_add(wide(filled));
            match self.file.read_at(room, at) {
                Ok(0) => break,
                Ok(count) => filled = filled.saturating_add(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Some(Err(error)),
            }
        }
        Some(Ok(buffer.get(..filled).unwrap_or_default()))
    }

    /// A few bytes at an offset for a person to look at: from the file, or from the chunk that was read last.
    pub(super) fn glimpse(&self, offset: u64) -> Vec<u8> {
        let mut buffer = [0; 16];
        match self.read_at(offset, &mut buffer) {
            Some(Ok(bytes)) => bytes.to_vec(),
            Some(Err(_)) => Vec::new(),
            None => {
                let chunk_at = self.position.saturating_sub(wide(self.filled));
                let from = offset.checked_sub(chunk_at).and_then(|skip| usize::try_from(skip).ok());
                let rest = from.and_then(|from| self.head().get(from..)).unwrap_or_default();
                rest.get(..16).unwrap_or(rest).to_vec()
            }
        }
    }
}
