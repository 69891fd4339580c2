// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The layout against the kernel's own declaration. Set `SAVEVM_KERNEL_SOURCE` to an unpacked source tree of Linux;
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

use device_hisi::layout::{FIELDS, Kind};
use device_hisi::{MAGIC_V1, MAGIC_V2, MAJOR, STATE_BYTES};

/// A member of a C structure: name, offset, size of an element, number of elements.
#[derive(Debug, PartialEq)]
struct Member {
    name: String,
    offset: usize,
    element_bytes: usize,
    count: usize,
}

/// The members of `structure` in C source, laid out naturally.
fn members(source: &str, structure: &str) -> Vec<Member> {
    let start = source.find(&format!("struct {structure} {{")).expect("the structure is declared");
    let body = source[start..].split_once('{').unwrap().1.split_once("};").unwrap().0;
    let code = strip(body);
    let mut end = 0usize;
    let declarations = code.split(';').map(str::trim).filter(|declaration| !declaration.is_empty());
    declarations
        .map(|declaration| {
            let (kind, name) = declaration.rsplit_once(char::is_whitespace).unwrap();
            let element_bytes = match kind.trim() {
                "u16" | "__le16" => 2,
                "u32" | "__le32" => 4,
                "u64" | "__le64" => 8,
                other => panic!("unknown type {other} of {name}"),
            };
            let (name, count) = match name.split_once('[') {
                Some((name, count)) => (name, count.trim_end_matches(']').parse().unwrap()),
                None => (name, 1),
            };
            let offset = end.next_multiple_of(element_bytes);
            end = offset + element_bytes * count;
            Member { name: name.into(), offset, element_bytes, count }
        })
        .collect()
}

/// C without comments and preprocessor lines.
fn strip(code: &str) -> String {
    let mut text = String::new();
    let mut rest = code;
    while let Some((before, comment)) = rest.split_once("/*") {
        text.push_str(before);
        rest = comment.split_once("*/").unwrap().1;
    }
    text.push_str(rest);
    text.lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n")
}

/// The number that `name` is defined as.
fn defined(source: &str, name: &str) -> u64 {
    let line = source.lines().find(|line| line.split_whitespace().nth(1) == Some(name)).expect(name);
    let value = line.split_whitespace().nth(2).unwrap().to_lowercase();
    match value.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).unwrap(),
        None => value.parse().unwrap(),
    }
}

#[test]
fn the_layout_is_the_kernels() {
    let Some(tree) = env::var_os("SAVEVM_KERNEL_SOURCE").map(PathBuf::from) else {
        eprintln!("skipped: SAVEVM_KERNEL_SOURCE does not name a Linux source tree to compare with");
        return;
    };
    let path = tree.join("drivers/vfio/pci/hisilicon/hisi_acc_vfio_pci.h");
    let source = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));

    let ours = FIELDS.iter().map(|field| Member {
        name: field.name.into(),
        offset: field.offset,
        element_bytes: match field.kind {
            Kind::U16 => 2,
            Kind::U32 => 4,
            Kind::U64 => 8,
            _ => 0,
        },
        count: field.count,
    });
    let kernels = members(&source, "acc_vf_data");
    assert_eq!(ours.collect::<Vec<_>>(), kernels);
    let last = kernels.last().unwrap();
    assert_eq!(last.offset + last.element_bytes * last.count, STATE_BYTES);
    assert!(source.contains("QM_MATCH_SIZE offsetofend(struct acc_vf_data, qm_rsv_state)"), "the match part's end");

    assert_eq!(defined(&source, "ACC_DEV_MAGIC_V1"), MAGIC_V1);
    assert_eq!(defined(&source, "ACC_DEV_MAGIC_V2"), MAGIC_V2);
    assert_eq!(defined(&source, "ACC_DRV_MAJOR_VER"), u64::from(MAJOR));
}

#[test]
fn the_parser_lays_out_as_c_does() {
    let source =
        "struct other { u32 x; };\nstruct thing {\n#define Y 1\n\tu16 a; /* u64 not; */\n\tu64 b;\n\tu32 c[3];\n};";
    let member = |name: &str, offset, element_bytes, count| Member { name: name.into(), offset, element_bytes, count };
    let expected = [member("a", 0, 2, 1), member("b", 8, 8, 1), member("c", 16, 4, 3)];
    assert_eq!(members(source, "thing"), expected);
}
