// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What of a PCI config space must be equal on both sides.

use std::format;
use std::string::String;
use std::vec::Vec;

/// Fields no guest can write and every guest has read: name, offset, length.
const FIXED: [(&str, usize, usize); 8] = [
    ("vendor id", 0x00, 2),
    ("device id", 0x02, 2),
    ("revision", 0x08, 1),
    ("class", 0x09, 3),
    ("header type", 0x0e, 1),
    ("subsystem vendor id", 0x2c, 2),
    ("subsystem id", 0x2e, 2),
    ("capability pointer", 0x34, 1),
];

/// Compares the config space in a [`ConfigState`](stream_codec::qemu::ConfigState) with that of the device that is here, in
/// the fields that identify a device to its driver. A byte that is missing on one side is a difference.
///
/// # Errors
/// Every difference, in a sentence.
///
/// ```
/// use savevm_core::qemu::check_config_space;
///
/// let (mut there, here) = ([0; 256], [0; 256]);
/// assert_eq!(check_config_space(&there, &here), Ok(()));
/// there[2] = 0x1e;
/// let reason = check_config_space(&there, &here).unwrap_err();
/// assert_eq!(reason, "the device id at 0x2 is 1e 00 at the source and 00 00 here");
/// ```
pub fn check_config_space(source: &[u8], here: &[u8]) -> Result<(), String> {
    let field = |bytes: &[u8], offset: usize, length: usize| {
        bytes.get(offset..offset.saturating_add(length)).map(<[u8]>::to_vec).unwrap_or_default()
    };
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
    let differences = FIXED.into_iter().filter_map(|(name, offset, length)| {
        let (there, here) = (field(source, offset, length), field(here, offset, length));
        let differs = there != here || there.is_empty();
        differs.then(|| format!("the {name} at {offset:#x} is {} at the source and {} here", hex(&there), hex(&here)))
    });
    let differences: Vec<String> = differences.collect();
    if differences.is_empty() { Ok(()) } else { Err(differences.join("; ")) }
}
