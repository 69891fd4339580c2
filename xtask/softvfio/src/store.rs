// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Device contents that outlive a process, as those of a real device do: one file per device.
//!
//! First line: the migration state's number. Second line: the contents in hexadecimal.

use std::fmt::Write as _;
use std::path::PathBuf;

use savevm_core::sim::SimDevice;

/// The folder of `SOFTVFIO_STATE`, or nothing.
pub(crate) struct Store {
    folder: Option<PathBuf>,
}

impl Store {
    pub(crate) fn new(folder: Option<PathBuf>) -> Self {
        Self { folder }
    }

    /// Takes over what an earlier process left; a file that does not fit is ignored, as if the device were new.
    pub(crate) fn load(&self, name: &str, device: &SimDevice) {
        let Some(folder) = &self.folder else { return };
        let Ok(text) = std::fs::read_to_string(folder.join(name)) else {
            return;
        };
        let Some((state, contents)) = parse(&text) else {
            return;
        };
        let _ = device.import(state, &contents);
    }

    pub(crate) fn save(&self, name: &str, device: &SimDevice) {
        let Some(folder) = &self.folder else { return };
        let (state, contents) = device.export();
        let mut text = format!("{state}\n");
        for byte in contents {
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
        // Written aside and renamed, so that a process that opens the device meanwhile sees old or new.
        let aside = folder.join(format!(".{name}.{}", std::process::id()));
        let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&aside, text));
        if let Err(error) = written.and_then(|()| std::fs::rename(&aside, folder.join(name))) {
            eprintln!("softvfio: the state of {name} is not kept: {}: {error}", folder.display());
        }
    }
}

fn parse(text: &str) -> Option<(u32, Vec<u8>)> {
    let (state, contents) = text.trim_end().split_once('\n')?;
    let digits = contents.as_bytes().chunks(2).map(|pair| {
        let pair = core::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
        u8::from_str_radix(pair, 16).ok()
    });
    Some((state.parse().ok()?, digits.collect::<Option<_>>()?))
}
