// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#![allow(clippy::arithmetic_side_effects, clippy::as_conversions)]

use stream_codec::qemu::{
    DeviceStateHeader, Extent, InitialPacket, Piece, SectionHeader, SectionKind, VfioPacketHeader, VfioRecord,
};

use super::super::super::machine::idstr;
use super::*;

fn section(idstr: &str, id: u32, version_id: u32) -> Vec<u8> {
    let kind = SectionKind::Start;
    let header = SectionHeader { kind, id, idstr, instance_id: 0, version_id, extent: Extent::Format };
    main(&[
        Item::Section(header),
        Item::Vfio(VfioRecord::Setup),
        Item::Vfio(VfioRecord::EndOfState),
        Item::Footer { id },
    ])
}

fn main(items: &[Item<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    items.iter().for_each(|item| item.encode(&mut bytes).unwrap());
    bytes
}

fn part(idstr: &str, id: u32) -> Vec<u8> {
    let kind = SectionKind::Part;
    let header = SectionHeader { kind, id, idstr, instance_id: 0, version_id: 1, extent: Extent::Format };
    main(&[Item::Section(header), Item::Vfio(VfioRecord::EndOfState), Item::Footer { id }])
}

fn opening() -> Vec<u8> {
    main(&[Item::FileHeader, Item::Configuration { machine: "none" }])
}

fn switchover() -> Vec<u8> {
    main(&[Item::Command(Command::SwitchoverStart)])
}

fn initial() -> Vec<u8> {
    let mut bytes = Vec::new();
    InitialPacket { uuid: [0; 16], channel_id: 0 }.encode(&mut bytes);
    bytes
}

fn packet(device: &str, index: u32) -> Vec<u8> {
    let items = [
        MultifdItem::DeviceState(DeviceStateHeader::new(device, 0, 12 + 3)),
        MultifdItem::VfioPacket(VfioPacketHeader { index, is_config: false }),
        MultifdItem::DeviceBytes(Piece { position: 0, length: 3, bytes: b"abc" }),
    ];
    let mut bytes = Vec::new();
    items.iter().for_each(|item| item.encode(&mut bytes).unwrap());
    bytes
}

/// What goes out before and after the stop, whatever pieces the bytes come in.
fn passed(orders: Orders, stream: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    let all: Vec<_> = [1, 2, 7, 100, stream.len()]
        .map(|size| {
            let mut passage = Passage::new(orders, true).unwrap();
            let (mut before, mut after) = (Vec::new(), None);
            for mut piece in stream.chunks(size) {
                while passage.pass(&mut piece, after.as_mut().unwrap_or(&mut before)) {
                    assert_eq!(after, None, "one stop");
                    after = Some(Vec::new());
                }
                assert!(piece.is_empty());
            }
            passage.finish(after.as_mut().unwrap_or(&mut before));
            (before, after)
        })
        .into();
    assert!(all.windows(2).all(|two| two[0] == two[1]));
    all[0].clone()
}

fn change(change: Change) -> Orders {
    Orders { hold: None, change: Some(change) }
}

#[test]
fn a_relay_stops_in_front_of_the_point() {
    let (first, second) = (idstr(0), idstr(1));
    let setup = [section(&first, 7, 1), section(&second, 8, 1)].concat();
    let parts = [opening(), setup, part(&first, 7), switchover(), main(&[Item::EndOfStream])];
    let stream = parts.concat();
    let points = [Point::Opening, Point::Setup, Point::PreCopy, Point::Switchover, Point::End];
    for (count, point) in points.into_iter().enumerate() {
        let (before, after) = passed(Orders { hold: Some(point), change: None }, &stream);
        assert_eq!(before, parts[..count].concat(), "{point:?}");
        assert_eq!(after.unwrap(), parts[count..].concat(), "{point:?}");
    }
}

#[test]
fn a_stop_on_the_way_back_is_its_own_message() {
    let said =
        [ReturnPathItem::Pong { value: 1 }, ReturnPathItem::Pong { value: 2 }, ReturnPathItem::Shut { status: 0 }];
    let encoded = |items: &[ReturnPathItem<'_>]| {
        let mut bytes = Vec::new();
        items.iter().for_each(|item| item.encode(&mut bytes).unwrap());
        bytes
    };
    for (point, count) in [(Point::Pong(1), 0), (Point::Pong(2), 1), (Point::LastWord, 2)] {
        let orders = Orders { hold: Some(point), change: None };
        assert!(Passage::new(orders, true).is_none(), "nothing to do on the way there");
        let mut passage = Passage::new(orders, false).unwrap();
        let (bytes, mut out) = (encoded(&said), Vec::new());
        assert!(passage.pass(&mut bytes.as_slice(), &mut out));
        assert_eq!(out, encoded(&said[..count]), "{point:?}");
    }
}

#[test]
fn headers_are_changed_of_the_first_device_only() {
    let stream = |first: &str, version| [opening(), section(first, 7, version), section(&idstr(1), 8, 1)].concat();
    let right = stream(&idstr(0), 1);
    assert_eq!(passed(change(Change::Version(2)), &right), (stream(&idstr(0), 2), None));
    assert_eq!(passed(change(Change::Stranger), &right), (stream("0000:00:1e.0/vfio", 1), None));
    assert_eq!(passed(change(Change::Gap), &right), (right.clone(), None));
}

#[test]
fn packets_are_moved_or_get_company() {
    let (first, second) = (idstr(0), idstr(1));
    let stream = [initial(), packet(&first, 0), packet(&second, 0), packet(&first, 1)].concat();
    let moved = [initial(), packet(&first, 1), packet(&second, 0), packet(&first, 2)].concat();
    assert_eq!(passed(change(Change::Gap), &stream), (moved, None));
    let (out, _) = passed(change(Change::FarPacket), &stream);
    let far = &out[64..64 + 289];
    assert_eq!([&out[..64], &out[64 + 289..]].concat(), stream, "nothing else is changed");
    assert_eq!(far[276 + 4..276 + 8], [0xff, 0xff, 0xff, 0xfe]);
}

#[test]
fn what_is_not_understood_is_passed_on() {
    for noise in [&b"QEVN and so on"[..], b"QEVM\0\0\0\x09 a version of the future", b"QE"] {
        assert_eq!(passed(change(Change::Stranger), noise), (noise.to_vec(), None));
    }
}
