// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Devices whose state is a file: read and written page by page, as a driver's data fd is.
//!
//! A state may be longer than its file, which is then gone through again and again: the kernel copies each byte, the engine checks
//! each, and no machine has to have as much memory as the state is long.

use core::time::Duration;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread;

use savevm_core::{Device, DeviceError, PrecopyInfo, TransitionError, device};
use vfio_mig_fsm::{Capabilities, State};

use super::engine::failed;

/// Each file is the state of a device.
pub(super) fn devices(files: &[File]) -> Result<Vec<FileDevice>, String> {
    files.iter().enumerate().map(|(index, file)| FileDevice::new(index, file)).collect()
}

/// A device whose state is read once it is stopped.
pub(super) struct FileDevice {
    name: String,
    file: File,
    file_bytes: u64,
    state: State,
    /// Where in the file its state begins.
    first: u64,
    state_bytes: u64,
    moved_bytes: u64,
    first_write_takes: Duration,
}

impl FileDevice {
    pub(super) fn new(index: usize, file: &File) -> Result<Self, String> {
        let file = file.try_clone().map_err(failed)?;
        let file_bytes = file.metadata().map_err(failed)?.len();
        if file_bytes == 0 {
            return Err(failed("an empty file is no device's state"));
        }
        Ok(Self {
            name: format!("device{index}"),
            file,
            file_bytes,
            state: State::Running,
            first: 0,
            state_bytes: file_bytes,
            moved_bytes: 0,
            first_write_takes: Duration::ZERO,
        })
    }

    /// So many bytes are its state, from there in the file, and from the file's begin again where that ends.
    pub(super) fn with_state(self, first: u64, state_bytes: u64) -> Self {
        Self { first, state_bytes, ..self }
    }

    /// Its first write takes longer than the others, so that what may wait for it is waiting when it ends.
    pub(super) fn with_first_write(self, takes: Duration) -> Self {
        Self { first_write_takes: takes, ..self }
    }

    /// Where in the file it goes on, and how much of so many bytes is there in one piece.
    fn next(&self, length: usize) -> (u64, usize) {
        let at = self.first.saturating_add(self.moved_bytes).checked_rem(self.file_bytes).unwrap_or(0);
        let left = usize::try_from(self.file_bytes.saturating_sub(at)).unwrap_or(usize::MAX);
        (at, length.min(left))
    }

    fn has_moved(&mut self, length: usize) {
        self.moved_bytes = self.moved_bytes.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
    }

    fn failed(&self, call: device::Call, error: &std::io::Error) -> DeviceError {
        DeviceError::contract(&self.name, call, error.to_string())
    }
}

impl Device for FileDevice {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> &str {
        "file"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::StopCopy
    }

    fn state(&mut self) -> Result<State, DeviceError> {
        Ok(self.state)
    }

    fn transition(&mut self, to: State) -> Result<(), TransitionError> {
        self.moved_bytes = 0;
        self.state = to;
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<device::Read, DeviceError> {
        let left = usize::try_from(self.state_bytes.saturating_sub(self.moved_bytes)).unwrap_or(usize::MAX);
        let (at, length) = self.next(buffer.len().min(left));
        let read = self.file.read_at(buffer.get_mut(..length).unwrap_or_default(), at);
        match read.map_err(|error| self.failed(device::Call::Read, &error))? {
            0 => Ok(device::Read::End),
            length => {
                self.has_moved(length);
                Ok(device::Read::Bytes(length))
            }
        }
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), DeviceError> {
        if self.moved_bytes == 0 {
            thread::sleep(self.first_write_takes);
        }
        while !bytes.is_empty() {
            let (at, length) = self.next(bytes.len());
            let (piece, rest) = bytes.split_at_checked(length).unwrap_or((bytes, &[]));
            let written = self.file.write_all_at(piece, at);
            written.map_err(|error| self.failed(device::Call::Write, &error))?;
            self.has_moved(piece.len());
            bytes = rest;
        }
        Ok(())
    }

    fn precopy_info(&mut self) -> Result<PrecopyInfo, DeviceError> {
        Ok(PrecopyInfo::default())
    }

    fn stop_copy_bytes(&mut self) -> Result<u64, DeviceError> {
        Ok(self.state_bytes)
    }

    fn reset(&mut self) -> Result<(), DeviceError> {
        self.state = State::Running;
        Ok(())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const FILE: &[u8] = b"0123456789";

    fn file(contents: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(contents, 0).unwrap();
        file
    }

    fn state_of(device: &mut FileDevice, piece_bytes: usize) -> Vec<u8> {
        device.transition(State::StopCopy).unwrap();
        let (mut state, mut piece) = (Vec::new(), vec![0; piece_bytes]);
        while let device::Read::Bytes(length) = device.read(&mut piece).unwrap() {
            state.extend_from_slice(&piece[..length]);
        }
        state
    }

    #[test]
    fn a_state_is_a_stretch_of_its_file_however_long() {
        let file = file(FILE);
        for (first, bytes, expected) in [
            (0, 10, "0123456789"),
            (3, 4, "3456"),
            (8, 5, "89012"),
            (7, 26, "78901234567890123456789012"),
            (24, 3, "456"),
            (0, 0, ""),
        ] {
            let mut device = FileDevice::new(0, &file).unwrap().with_state(first, bytes);
            for piece_bytes in [1, 3, 10, 64] {
                let state = state_of(&mut device, piece_bytes);
                assert_eq!(state, expected.as_bytes(), "{bytes} from {first}, {piece_bytes} at a time");
            }
            assert_eq!(device.stop_copy_bytes().unwrap(), bytes);
        }
        assert_eq!(state_of(&mut devices(&[file]).unwrap()[0], 4), FILE, "the whole, where nothing is said");
    }

    #[test]
    fn what_is_written_is_where_it_was_read() {
        for (first, bytes) in [(0, 10), (3, 27), (9, 20), (25, 10)] {
            for piece_bytes in [1, 3, 64] {
                let target = file(b"----------");
                let source = &mut FileDevice::new(0, &file(FILE)).unwrap().with_state(first, bytes);
                let mut device = FileDevice::new(0, &target).unwrap().with_state(first, bytes);
                device.transition(State::Resuming).unwrap();
                state_of(source, 64).chunks(piece_bytes).for_each(|piece| device.write(piece).unwrap());
                let mut written = [0; 10];
                target.read_exact_at(&mut written, 0).unwrap();
                assert_eq!(written, FILE, "{bytes} from {first}, {piece_bytes} at a time");
                assert_eq!(target.metadata().unwrap().len(), 10, "and not behind its end");
            }
        }
    }

    #[test]
    fn an_empty_file_is_nothing_to_measure_with() {
        assert!(FileDevice::new(0, &file(b"")).is_err());
    }
}
