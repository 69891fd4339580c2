// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Files that a QEMU has written: one for each set of devices, which many tests read.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tempfile::TempDir;

use super::super::super::contract::check::Checked;
use super::scenario::{Kind, Scenario};
use crate::qemu::device_log::DeviceLog;

/// A whole migration into a file, and what its devices saw.
#[derive(Clone, Debug)]
pub(super) struct Written {
    pub(super) path: PathBuf,
    pub(super) log: DeviceLog,
}

type Place = Arc<OnceLock<Checked<Written>>>;

/// All of them, as long as this lives.
pub(super) struct Shelf {
    folder: TempDir,
    places: Mutex<HashMap<(Kind, usize), Place>>,
}

impl Shelf {
    pub(super) fn new() -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("savevm-qemu-").tempdir()?;
        Ok(Self { folder, places: Mutex::default() })
    }

    /// What was written of the scenario's devices. If nobody has yet, `write` does, into the file it is given; whoever asks
    /// meanwhile waits.
    pub(super) fn take(
        &self,
        scenario: &Scenario,
        write: impl FnOnce(PathBuf) -> Checked<Written>,
    ) -> Checked<Written> {
        let key = (scenario.kind, scenario.count);
        let place = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(places.entry(key).or_default())
        };
        let file = format!("{:?}-{}", scenario.kind, scenario.count);
        place.get_or_init(|| write(self.folder.path().join(file))).clone()
    }
}
