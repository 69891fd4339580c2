// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The decoders of QEMU's streams keep the contract of every decoder.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests may panic"
)]

mod qemu_common;

use qemu_common::streams::{VMDESC, every_item, every_multifd_item, every_return_path_item, mapped_ram};
use qemu_common::{Record, record, vmdesc_of};
use stream_codec::qemu::{
    Event, Item, Limits, MainDecoder, MainOptions, MultifdDecoder, MultifdItem, MultifdOptions, RamRecord,
    ReturnPathDecoder, ReturnPathItem, VfioRecord, VmState, Vmdesc, VmdescLimits,
};
use stream_codec::testkit::{check_bytes, check_decoder};

/// The real thing: machine `none`, saved by QEMU 10.0.2.
const NONE: &[u8] = include_bytes!("../testdata/qemu/none.bin");

const LIMITS: Limits = Limits { sections: 3, ram_blocks: 4, section_bytes: 200, config_bytes: 400, command_bytes: 64 };

fn main_record(event: Event<'_, Item<'_>>, records: &mut Vec<Record>) {
    let (what, piece) = match event.item {
        Item::Ram(RamRecord::Gap(piece)) => ("gap".into(), Some(piece)),
        Item::Ram(RamRecord::Bitmap(piece)) => ("bitmap".into(), Some(piece)),
        Item::Ram(RamRecord::Pages(piece)) => ("pages".into(), Some(piece)),
        Item::Ram(RamRecord::PageBytes(piece)) => ("page".into(), Some(piece)),
        Item::Vfio(VfioRecord::DataBytes(piece)) => ("device state".into(), Some(piece)),
        Item::VmdescBytes(piece) => ("vmdesc".into(), Some(piece)),
        Item::VmState(VmState::Field(field)) => {
            (format!("{}/{}: {}", field.path, field.name, field.type_name), Some(field.piece))
        }
        item => (format!("{item:?}"), None),
    };
    record(what, piece, event.offset, event.raw, records);
}

fn check_main(options: &MainOptions, streams: &[&[u8]]) {
    check_decoder(|| MainDecoder::new(options.clone()), main_record, options.limits.main_bytes(), streams);
}

fn vmdesc() -> Option<Vmdesc> {
    Some(Vmdesc::parse(VMDESC.as_bytes(), &VmdescLimits::DEFAULT).unwrap())
}

#[test]
fn a_real_stream_with_its_vmdesc() {
    check_main(&MainOptions { limits: LIMITS, vmdesc: vmdesc_of(NONE), ..MainOptions::default() }, &[NONE]);
}

#[test]
fn a_real_stream_whose_sections_are_searched() {
    check_main(&MainOptions { limits: LIMITS, ..MainOptions::default() }, &[NONE]);
}

#[test]
fn every_item_by_the_vmdesc() {
    let options = MainOptions { limits: LIMITS, vmdesc: vmdesc(), ..MainOptions::default() };
    check_main(&options, &[&every_item(true)]);
}

#[test]
fn every_item_by_search() {
    check_main(&MainOptions { limits: LIMITS, ..MainOptions::default() }, &[&every_item(true)]);
}

#[test]
fn every_item_without_footers() {
    let options = MainOptions { limits: LIMITS, vmdesc: vmdesc(), ..MainOptions::default() };
    check_main(&options, &[&every_item(false)]);
}

/// Wherever a package says it ends, and whatever is there of it, it is cut there, however the stream came.
#[test]
fn a_package_that_ends_inside_something() {
    let start = b"QEVM\0\0\0\x03\x08\0\x07\0\x04";
    let contents = [
        b"\x01\0\0\0\x01\x04vfio\0\0\0\0\0\0\0\x01\xff\xff\xff\xff\xef\x10\0\x04\0\0\0\0\0\0\0\x02ab",
        &b"\x04\0\0\0\x02\x03cpu\0\0\0\0\0\0\0\x07payload\x7e\0\0\0\x02\x08\0\x02\0\x04\0\0\0\x09"[..],
    ];
    for content in contents {
        for end in 1..content.len() {
            for here in [end - 1, end, content.len()] {
                let stream = [&start[..], &(end as u32).to_be_bytes(), &content[..here]].concat();
                let options = MainOptions { limits: LIMITS, ..MainOptions::default() };
                let decoder = || MainDecoder::new(options.clone());
                (0..50).for_each(|seed| check_bytes(decoder, main_record, LIMITS.main_bytes(), &stream, seed));
            }
        }
    }
}

/// The search for the end of a payload looks ahead. What it has looked at in vain comes as events that consume nothing,
/// as many as there are items in it.
#[test]
fn small_items_that_were_looked_at_before() {
    let mut stream = b"QEVM\0\0\0\x03\x04\0\0\0\x02\x03cpu\0\0\0\0\0\0\0\x07".to_vec();
    // What might be a footer, and the start of the header of a section with a name of 255 bytes.
    stream.extend_from_slice(b"\x7e\0\0\0\x02\x04\0\0\0\x03\xff");
    stream.extend_from_slice(b"\x7e\0\0\0\x02");
    (0..60).for_each(|_| stream.extend_from_slice(b"\x08\0\x0b\0\0"));
    stream.push(0);
    check_main(&MainOptions { limits: LIMITS, vmdesc_follows: false, ..MainOptions::default() }, &[&stream]);
}

#[test]
fn ram_at_fixed_places() {
    let options = MainOptions { limits: LIMITS, vmdesc_follows: false, ..MainOptions::default() };
    check_main(&options, &[&mapped_ram()]);
}

#[test]
fn the_return_path() {
    let normalise = |event: Event<'_, ReturnPathItem<'_>>, records: &mut Vec<Record>| {
        let (what, piece) = match event.item {
            ReturnPathItem::BitmapBytes(piece) => ("bitmap".into(), Some(piece)),
            item => (format!("{item:?}"), None),
        };
        record(what, piece, event.offset, event.raw, records);
    };
    check_decoder(ReturnPathDecoder::new, normalise, 2048, &[&every_return_path_item()]);
}

#[test]
fn multifd_channels() {
    let options = MultifdOptions { limits: LIMITS, page_bits: 16 };
    let normalise = |event: Event<'_, MultifdItem<'_>>, records: &mut Vec<Record>| {
        let (what, piece) = match event.item {
            MultifdItem::RamBytes(piece) => ("pages".into(), Some(piece)),
            MultifdItem::DeviceBytes(piece) => ("device state".into(), Some(piece)),
            item => (format!("{item:?}"), None),
        };
        record(what, piece, event.offset, event.raw, records);
    };
    check_decoder(|| MultifdDecoder::new(options), normalise, LIMITS.buffer_bytes(), &[&every_multifd_item()]);
}
