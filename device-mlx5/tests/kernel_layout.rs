// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The header against the kernel's own declarations. Set `SAVEVM_KERNEL_SOURCE` to an unpacked source tree of Linux;
//! without it there is nothing to compare with, and the test says so.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::string_slice,
    clippy::unwrap_used
)]

use std::path::PathBuf;
use std::{env, fs};

use device_mlx5::record::{FLAG_OPTIONAL, HEADER_BYTES, Header, Tag, VIRTIO};
use device_mlx5::{FORMAT, STOP_COPY_SIZE_BYTES, TAG_FW_DATA, TAG_STOP_COPY_SIZE};

/// A member of a C structure: name, offset and size. Arrays of unknown length have size 0.
type Member = (String, usize, usize);

/// The text between the braces after `start`, without comments.
fn body(source: &str, start: &str) -> String {
    let rest = &source[source.find(start).unwrap_or_else(|| panic!("{start} is declared"))..];
    let mut rest = rest.split_once('{').unwrap().1.split_once("};").unwrap().0;
    let mut text = String::new();
    while let Some((before, comment)) = rest.split_once("/*") {
        text.push_str(before);
        rest = comment.split_once("*/").unwrap().1;
    }
    text + rest
}

/// The members of a structure, laid out naturally.
fn members(source: &str, structure: &str) -> Vec<Member> {
    let code = body(source, &format!("struct {structure} {{"));
    let mut end = 0usize;
    let declarations = code.split(';').map(str::trim).filter(|declaration| !declaration.is_empty());
    declarations
        .map(|declaration| {
            let (kind, name) = declaration.rsplit_once(char::is_whitespace).unwrap();
            let bytes = match kind.trim() {
                "u8" | "__u8" => 1,
                "__le16" => 2,
                "__le32" => 4,
                "__le64" => 8,
                other => panic!("unknown type {other} of {name}"),
            };
            let (name, size) = match name.split_once('[') {
                Some((name, "]")) => (name, 0),
                Some((name, _)) => panic!("{name} is an array"),
                None => (name, bytes),
            };
            let offset = end.next_multiple_of(bytes);
            end = offset + size;
            (name.into(), offset, size)
        })
        .collect()
}

/// The value of an enumerator: a number, or `1 << n`.
fn enumerator(source: &str, enumeration: &str, name: &str) -> u32 {
    let code = body(source, &format!("enum {enumeration} {{"));
    let entry = code.split(',').map(str::trim).find(|entry| entry.split_whitespace().next() == Some(name)).expect(name);
    let value = entry.split_once('=').unwrap().1.trim();
    match value.split_once("<<") {
        Some((number, shift)) => number.trim().parse::<u32>().unwrap() << shift.trim().parse::<u32>().unwrap(),
        None => value.parse().unwrap(),
    }
}

/// A file of the kernel's tree, or `None` and the reason why it cannot be compared with.
fn source(path: &str) -> Option<String> {
    let Some(tree) = env::var_os("SAVEVM_KERNEL_SOURCE").map(PathBuf::from) else {
        eprintln!("skipped: SAVEVM_KERNEL_SOURCE does not name a Linux source tree to compare with");
        return None;
    };
    Some(fs::read_to_string(tree.join(path)).unwrap_or_else(|error| panic!("{path} of the tree: {error}")))
}

/// The fields of our header where our encoder puts them: each is set alone, to a value without zero bytes.
fn ours() -> Vec<Member> {
    let none = Header { record_bytes: 0, flags: 0, tag: 0 };
    let fields = [
        ("record_size", Header { record_bytes: u64::MAX, ..none }),
        ("flags", Header { flags: u32::MAX, ..none }),
        ("tag", Header { tag: u32::MAX, ..none }),
    ];
    let members = fields.map(|(name, header)| {
        let bytes = header.encode();
        let offset = bytes.iter().position(|byte| *byte != 0).unwrap();
        (name.to_string(), offset, bytes.iter().filter(|byte| **byte != 0).count())
    });
    members.into_iter().chain([("data".into(), HEADER_BYTES, 0)]).collect()
}

#[test]
fn the_layout_is_that_of_the_mlx5_driver() {
    let Some(source) = source("drivers/vfio/pci/mlx5/cmd.h") else { return };
    assert_eq!(members(&source, "mlx5_vf_migration_header"), ours());
    let size = members(&source, "mlx5_vf_migration_tag_stop_copy_data");
    assert_eq!(size, [("stop_copy_size".to_string(), 0, usize::try_from(STOP_COPY_SIZE_BYTES).unwrap())]);
    let tag = |name: &str| enumerator(&source, "mlx5_vf_migf_header_tag", name);
    assert_eq!(tag("MLX5_MIGF_HEADER_TAG_FW_DATA"), TAG_FW_DATA);
    assert_eq!(tag("MLX5_MIGF_HEADER_TAG_STOP_COPY_SIZE"), TAG_STOP_COPY_SIZE);
    let flag = |name| enumerator(&source, "mlx5_vf_migf_header_flags", name);
    assert_eq!(flag("MLX5_MIGF_HEADER_FLAGS_TAG_MANDATORY"), 0);
    assert_eq!(flag("MLX5_MIGF_HEADER_FLAGS_TAG_OPTIONAL"), FLAG_OPTIONAL);
    for Tag { number, name } in FORMAT.tags {
        assert_eq!(tag(&format!("MLX5_MIGF_HEADER_TAG_{name}")), *number);
    }
}

#[test]
fn the_layout_is_that_of_the_virtio_driver() {
    let Some(makefile) = source("drivers/vfio/pci/virtio/Makefile") else { return };
    if !makefile.contains("migrate.o") {
        eprintln!("skipped: the virtio driver of this tree cannot migrate (before 6.13)");
        return;
    }
    let Some(source) = source("drivers/vfio/pci/virtio/common.h") else { return };
    assert_eq!(members(&source, "virtiovf_migration_header"), ours());
    let data = enumerator(&source, "virtiovf_migf_header_tag", "VIRTIOVF_MIGF_HEADER_TAG_DEVICE_DATA");
    assert_eq!(data, VIRTIO.image_tag);
}

#[test]
fn the_parser_lays_out_as_c_does() {
    let code = "enum flags {\n\tNONE = 0, /* or A = 7 */\n\tA = 1 << 3,\n};\nstruct thing {\n\t__u8 a; /* __le64 no; */\n\t__le64 b;\n\t__u8 c[];\n};";
    assert_eq!(members(code, "thing"), [("a".to_string(), 0, 1), ("b".into(), 8, 8), ("c".into(), 16, 0)]);
    assert_eq!((enumerator(code, "flags", "NONE"), enumerator(code, "flags", "A")), (0, 8));
}
