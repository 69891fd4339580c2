// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vmdesc: a JSON text behind the end of a stream that names every field of every FULL section with its size.
//!
//! ```text
//! { "configuration": …, "page_size": 4096,
//!   "devices": [ { "name", "instance_id", "vmsd_name", "version",
//!                  "fields": [ { "name", "type", "size", "array_len" or "index", "struct": { … } } ],
//!                  "subsections": [ { "vmsd_name", "version", "fields", "subsections" } ] } ] }
//! ```
//!
//! Sizes are in bytes and count one element of an array. Devices without a vmstate, VFIO among them, have one field
//! `data` of their exact size. Sections of other kinds than FULL are not described.

mod build;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;

use super::json::JsonError;
use super::search::{EOF, VMDESC};
use crate::cursor::Cursor;

/// Bounds of a [`Vmdesc`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct VmdescLimits {
    /// Longest text, in bytes. 16 MiB by default; a PC has 40 to 100 KiB.
    pub json_bytes: usize,
    /// Most fields, structs and devices together. 1 Mi by default; each costs some 100 bytes of memory.
    pub nodes: usize,
    /// Deepest nesting of the JSON text. 64 by default, never more than 256; a struct in a struct takes three.
    pub depth: usize,
}

impl VmdescLimits {
    /// The values named at the fields.
    pub const DEFAULT: Self = Self { json_bytes: 16 << 20, nodes: 1 << 20, depth: 64 };
}

impl Default for VmdescLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What a vmdesc says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Vmdesc {
    page_bytes: Option<u64>,
    devices: Vec<Device>,
    pub(super) structs: Vec<Struct>,
    pub(super) fields: Vec<Field>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Device {
    name: Box<str>,
    instance_id: u32,
    structure: usize,
}

/// A vmstate description: fields, then subsections.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Struct {
    pub(super) name: Box<str>,
    pub(super) version: u32,
    /// Where its fields stand among all fields. Fields without bytes are left out.
    pub(super) fields: Range<usize>,
    /// Where its subsections stand among all structs.
    pub(super) subsections: Range<usize>,
    /// Length of all of it in the stream.
    pub(super) bytes: u64,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Field {
    pub(super) name: Box<str>,
    pub(super) type_name: Box<str>,
    /// Length of one element in the stream.
    pub(super) bytes: u64,
    /// How many elements there are.
    pub(super) count: u64,
    /// Which element of an array it is, if the array is not described as a whole.
    pub(super) index: Option<u64>,
    /// The struct each element is.
    pub(super) structure: Option<usize>,
}

/// A device that a vmdesc describes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DeviceDescription<'a> {
    /// The idstr of its FULL section.
    pub name: &'a str,
    /// The instance id of its FULL section.
    pub instance_id: u32,
    /// The name of its vmstate; empty if it has none.
    pub vmsd_name: &'a str,
    /// The version of its vmstate.
    pub version: u32,
    /// Length of the payload of its FULL section.
    pub bytes: u64,
}

impl Vmdesc {
    /// Finds the vmdesc at the end of a stream: the place of the JSON text in `tail`, the stream's last bytes.
    ///
    /// `None` if the stream has no vmdesc, or if `tail` does not reach back to the end-of-stream byte before it: try
    /// again with more, up to the limit for the text and six bytes.
    ///
    /// ```
    /// # use stream_codec::qemu::Vmdesc;
    /// assert_eq!(Vmdesc::locate(b"\x7e\0\0\0\x01\0\x06\0\0\0\x02{}"), Some(11..13));
    /// assert_eq!(Vmdesc::locate(b"\x06\0\0\0\x02{}"), None);
    /// ```
    #[must_use]
    pub fn locate(tail: &[u8]) -> Option<Range<usize>> {
        // JSON has no byte below 0x20 but white space, so no earlier candidate can be inside the text.
        let candidates = tail.iter().enumerate().rev().filter(|(_, byte)| **byte == VMDESC);
        candidates.map(|(position, _)| position).find_map(|position| {
            let mut cursor = Cursor::new(tail.get(position.checked_sub(1)?..)?);
            let end_of_stream = cursor.u8("end of stream").ok()?;
            cursor.u8("vmdesc").ok()?;
            let length = usize::try_from(cursor.u32_be("length of the vmdesc").ok()?).ok()?;
            let starts = end_of_stream == EOF && cursor.left() == length && cursor.peek().first() == Some(&b'{');
            starts.then(|| tail.len().saturating_sub(length)..tail.len())
        })
    }

    /// Reads the JSON text of a vmdesc.
    ///
    /// # Errors
    /// [`JsonError`] with the offset in the text: it is no JSON, no vmdesc, or above a limit.
    pub fn parse(json: &[u8], limits: &VmdescLimits) -> Result<Self, JsonError> {
        build::parse(json, limits)
    }

    /// The page size of the target in bytes, if it is given.
    #[must_use]
    pub const fn page_bytes(&self) -> Option<u64> {
        self.page_bytes
    }

    /// The devices, in the order of their FULL sections.
    pub fn devices(&self) -> impl Iterator<Item = DeviceDescription<'_>> {
        self.devices.iter().map(|device| self.describe(device))
    }

    fn describe<'a>(&'a self, device: &'a Device) -> DeviceDescription<'a> {
        let (vmsd_name, version, bytes) = match self.structs.get(device.structure) {
            Some(structure) => (&*structure.name, structure.version, structure.bytes),
            None => ("", 0, 0),
        };
        DeviceDescription { name: &device.name, instance_id: device.instance_id, vmsd_name, version, bytes }
    }

    /// The device with this name, from number `first` on and then from the start: where one name is described more
    /// than once, descriptions are in the order of the sections.
    pub(super) fn find(&self, name: &str, instance_id: u32, first: usize) -> Option<usize> {
        let is_it = |device: &Device| device.instance_id == instance_id && &*device.name == name;
        let later = self.devices.iter().enumerate().skip(first).find(|(_, device)| is_it(device));
        let found = later.or_else(|| self.devices.iter().enumerate().take(first).find(|(_, device)| is_it(device)));
        found.map(|(number, _)| number)
    }

    /// The struct of the device with this number.
    pub(super) fn structure(&self, device: usize) -> Option<usize> {
        self.devices.get(device).map(|device| device.structure)
    }

    /// How long the payload of the device with this number is.
    pub(super) fn payload_bytes(&self, device: usize) -> u64 {
        let structure = self.structure(device).and_then(|structure| self.structs.get(structure));
        structure.map_or(0, |structure| structure.bytes)
    }
}

#[cfg(test)]
mod test {
    use alloc::string::String;
    use std::format;

    use super::*;
    use crate::qemu::json::JsonReason;

    fn parse(json: &str) -> Result<Vmdesc, JsonError> {
        Vmdesc::parse(json.as_bytes(), &VmdescLimits::DEFAULT)
    }

    fn device(fields: &str) -> String {
        format!(
            r#"{{"page_size": 4096, "devices": [{{"name": "x", "instance_id": 3, "vmsd_name": "y", "version": 2, {fields}}}]}}"#
        )
    }

    fn bytes(fields: &str) -> u64 {
        parse(&device(fields)).unwrap().devices().next().unwrap().bytes
    }

    #[test]
    fn a_device_is_as_long_as_its_fields_and_subsections() {
        assert_eq!(bytes(r#""fields": []"#), 0);
        assert_eq!(bytes(r#""fields": [{"name": "a", "type": "uint32", "size": 4}]"#), 4);
        assert_eq!(bytes(r#""fields": [{"name": "a", "type": "uint16", "array_len": 7, "size": 2}]"#), 14);
        let structure = r#"{"vmsd_name": "s", "version": 1, "fields": [{"name": "b", "type": "u", "size": 3}]}"#;
        let field = format!(r#"{{"name": "a", "type": "struct", "struct": {structure}, "array_len": 5, "size": 3}}"#);
        assert_eq!(bytes(&format!(r#""fields": [{field}]"#)), 15);
        // 05, length, "y/s", version, 3 bytes.
        let subsection = structure.replace("\"s\"", "\"y/s\"");
        assert_eq!(bytes(&format!(r#""subsections": [{subsection}], "fields": [{field}]"#)), 15 + 1 + 1 + 3 + 4 + 3);
    }

    #[test]
    fn a_device_is_described() {
        let vmdesc = parse(&device(r#""fields": [{"name": "a", "type": "u", "size": 9}]"#)).unwrap();
        assert_eq!(vmdesc.page_bytes(), Some(4096));
        let expected = DeviceDescription { name: "x", instance_id: 3, vmsd_name: "y", version: 2, bytes: 9 };
        assert_eq!(vmdesc.devices().collect::<Vec<_>>(), [expected]);
    }

    #[test]
    fn devices_of_one_name_are_found_in_order() {
        let one = r#"{"name": "x", "instance_id": 0, "fields": []}"#;
        let vmdesc = parse(&format!(r#"{{"devices": [{one}, {one}]}}"#)).unwrap();
        assert_eq!([0, 1, 2].map(|first| vmdesc.find("x", 0, first)), [Some(0), Some(1), Some(0)]);
        assert_eq!(vmdesc.find("x", 1, 0), None);
    }

    #[test]
    fn a_vmdesc_is_located_by_what_surrounds_it() {
        let stream = b"\x7e\0\0\0\x06\0\x06\0\0\0\x0c{\"a\": 6666 }";
        assert_eq!(Vmdesc::locate(stream), Some(11..23));
        assert_eq!(Vmdesc::locate(&stream[5..]), Some(6..18));
        for (position, byte) in [(5, 1), (6, 7), (10, 11), (11, b'[')] {
            let mut other = *stream;
            other[position] = byte;
            assert_eq!(Vmdesc::locate(&other), None, "byte {position}");
        }
        assert_eq!(Vmdesc::locate(&stream[6..]), None, "the end of the stream is not there");
        assert_eq!(Vmdesc::locate(&stream[..22]), None);
    }

    #[test]
    fn hostile_sizes_are_refused() {
        for field in [
            r#"{"name": "a", "type": "u", "size": 18446744073709551615, "array_len": 2}"#,
            r#"{"name": "a", "type": "u", "size": 18446744073709551615}, {"name": "b", "type": "u", "size": 1}"#,
            r#"{"name": "a", "type": "u", "size": -1}"#,
        ] {
            let error = parse(&device(&format!(r#""fields": [{field}]"#))).unwrap_err();
            assert!(matches!(error.reason, JsonReason::Range { .. }), "{error}");
        }
    }

    #[test]
    fn limits_hold() {
        let json = device(r#""fields": [{"name": "a", "type": "u", "size": 1}]"#);
        for (limits, what) in [
            (VmdescLimits { json_bytes: json.len() - 1, ..VmdescLimits::DEFAULT }, "bytes of a vmdesc"),
            (VmdescLimits { nodes: 2, ..VmdescLimits::DEFAULT }, "nodes of a vmdesc"),
            (VmdescLimits { depth: 4, ..VmdescLimits::DEFAULT }, "nesting"),
        ] {
            let error = Vmdesc::parse(json.as_bytes(), &limits).unwrap_err();
            assert!(matches!(error.reason, JsonReason::Limit { what: found, .. } if found == what), "{error}");
        }
        let exact = VmdescLimits { json_bytes: json.len(), nodes: 3, depth: 5 };
        assert!(Vmdesc::parse(json.as_bytes(), &exact).is_ok());
    }

    #[test]
    fn a_name_cannot_drive_a_terminal() {
        assert!(parse(r#"{"devices": [{"name": "\u001b[2J", "instance_id": 0, "fields": []}]}"#).is_err());
    }
}
