// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A file that is the state of one device and nothing else.

use super::case::Case;
use super::input::Input;

/// Reads a state; what it is, the list of devices tells.
///
/// # Errors
/// The file cannot be read.
pub(super) fn explain(file: usize, input: &mut Input, case: &mut Case<'_>) -> Result<(), String> {
    case.is_anything = true;
    let label = input.label.clone();
    loop {
        let (at, bytes) = input.next()?;
        if bytes.is_empty() {
            return Ok(());
        }
        if let Some(device) = case.devices.get(&label, 0) {
            device.is_ended = true;
            device.feed(bytes, file, at, None);
        }
        if case.go_on().is_break() {
            return Ok(());
        }
    }
}
