// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The layout, byte by byte. The bytes below were written by hand from the tables in the documentation of
//! `stream_codec::frame`, and their checksums computed with zlib.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod common;

use common::control;
use stream_codec::frame::{
    Abort, AbortCode, Channel, DeviceEnd, DeviceOpen, Digest, Header, Hello, InitialDone, Limits, Message, Reason,
    Role, Support, data_header, encode_prologue, parse_control, unchecked_data_header,
};

/// Bytes of a text of hexadecimal numbers; `|` and what follows on a line is a comment.
fn hex(text: &str) -> Vec<u8> {
    let numbers = text.lines().flat_map(|line| line.split('|').next().unwrap().split_whitespace());
    numbers.map(|number| u8::from_str_radix(number, 16).unwrap()).collect()
}

/// The message is written as these bytes and these bytes are read as the message.
fn check(message: &Message<'_>, golden: &str) {
    let golden = hex(golden);
    assert_eq!(control(message), golden, "{message:?}");
    let (header, payload) = golden.split_first_chunk::<32>().unwrap();
    let header = Header::decode(header, &Limits::DEFAULT, 0).unwrap();
    assert_eq!(header.payload_size(), payload.len());
    assert_eq!(parse_control(&header, payload, &Limits::DEFAULT, 0), Ok(Some(*message)));
}

#[test]
fn prologue() {
    let golden = hex("89 53 41 56 45 56 4d 0a | magic
         01 00                   | framing version
         20 00                   | header size
         89 2e e1 e2             | CRC-32");
    assert_eq!(encode_prologue().to_vec(), golden);
}

#[test]
fn data() {
    let golden = hex("12 00                   | kind
         00 00                   | flags
         05 00 00 00             | payload length
         03 02 00 00             | device
         00 00 00 00             | channel
         08 07 06 05 04 03 02 01 | sequence
         fb d2 93 a3             | payload CRC-32
         9a 7d 17 cc             | header CRC-32");
    assert_eq!(data_header(0x203, 0x0102_0304_0506_0708, b"state").unwrap().to_vec(), golden);
    let header = Header::decode(golden.first_chunk().unwrap(), &Limits { devices: 0x204, ..Limits::DEFAULT }, 0);
    let expected = Header {
        kind: 0x12,
        flags: 0,
        payload_length: 5,
        device: 0x203,
        channel: 0,
        sequence: 0x0102_0304_0506_0708,
        payload_crc: 0xa393_d2fb,
    };
    assert_eq!(header, Ok(expected));
}

#[test]
fn hello() {
    let mut nonce = [0; 16];
    nonce.iter_mut().zip(0xa0..).for_each(|(byte, value)| *byte = value);
    let support = Support { offered: 0x8000_0000_0000_0005, required: 4, ..Support::CURRENT };
    let hello = Hello {
        support,
        role: Role::Source,
        nonce,
        channel: Channel { index: 0, count: 1 },
        device_count: 2,
        data_bytes_max: 1 << 20,
    };
    check(
        &Message::Hello(hello),
        "01 00 00 00  40 00 00 00  ff ff ff ff  00 00 00 00  00 00 00 00 00 00 00 00  92 5f 38 5d  23 c5 df 25
         01 00                   | lowest version
         01 00                   | highest version
         01 00 00 00             | role
         00 00                   | channel index
         01 00                   | channel count
         02 00 00 00             | device count
         05 00 00 00 00 00 00 80 | offered
         04 00 00 00 00 00 00 00 | required
         a0 a1 a2 a3 a4 a5 a6 a7 a8 a9 aa ab ac ad ae af
         00 00 10 00             | largest Data payload
         00 00 00 00 00 00 00 00 00 00 00 00",
    );
}

#[test]
fn device_open() {
    let open = DeviceOpen { device: 1, name: "vf-0", identity: "a/b", migration_flags: 7, stop_copy_bytes: 0x40_0000 };
    check(
        &Message::DeviceOpen(open),
        "10 00 00 00  1f 00 00 00  01 00 00 00  00 00 00 00  00 00 00 00 00 00 00 00  97 f1 33 e2  15 cf c8 4c
         07 00 00 00 00 00 00 00 | migration flags
         00 00 40 00 00 00 00 00 | stop-copy size
         04 00                   | name length
         03 00                   | identity length
         00 00 00 00
         76 66 2d 30             | vf-0
         61 2f 62                | a/b",
    );
}

#[test]
fn device_end() {
    let digest = Digest::crc64_nvme(0x0102_0304_0506_0708);
    check(
        &Message::DeviceEnd(DeviceEnd { device: 1, frames: 9, bytes: 1 << 32, digest }),
        "13 00 00 00  18 00 00 00  01 00 00 00  00 00 00 00  09 00 00 00 00 00 00 00  8d 4c 79 9b  7b 71 ca 33
         00 00 00 00 01 00 00 00 | byte count
         01 00                   | CRC-64/NVME
         08 00                   | digest length
         00 00 00 00
         08 07 06 05 04 03 02 01 | digest",
    );
}

#[test]
fn initial_bytes() {
    check(
        &Message::InitialDone(InitialDone { device: 1, generation: 0x102, frames: 9 }),
        "15 00 00 00  08 00 00 00  01 00 00 00  00 00 00 00  09 00 00 00 00 00 00 00  a0 d3 70 81  15 ca aa c1
         02 01 00 00             | generation
         00 00 00 00",
    );
    check(
        &Message::InitialAck { device: 1, generation: 0x102 },
        "16 00 00 00  08 00 00 00  01 00 00 00  00 00 00 00  00 00 00 00 00 00 00 00  a0 d3 70 81  a3 f7 dd 5e
         02 01 00 00             | generation
         00 00 00 00",
    );
}

#[test]
fn abort() {
    check(
        &Message::Abort(Abort { code: AbortCode::DEVICE, device: Some(1), reason: "EIO" }),
        "02 00 00 00  0b 00 00 00  01 00 00 00  00 00 00 00  00 00 00 00 00 00 00 00  8e d3 ef bb  45 ec 73 6b
         02 00                   | device
         03 00                   | reason length
         00 00 00 00
         45 49 4f                | EIO",
    );
}

#[test]
fn commit() {
    check(
        &Message::Commit,
        "04 00 00 00  00 00 00 00  ff ff ff ff  00 00 00 00  00 00 00 00 00 00 00 00  00 00 00 00  ef e7 8d 76",
    );
}

#[test]
fn credit_and_channel_end() {
    check(
        &Message::Credit { device: 3, frames: 0x0102_0304_0506_0708 },
        "17 00 00 00  00 00 00 00  03 00 00 00  00 00 00 00  08 07 06 05 04 03 02 01  00 00 00 00  09 d2 3b 9d",
    );
    check(
        &Message::ChannelEnd,
        "20 00 00 00  00 00 00 00  ff ff ff ff  00 00 00 00  00 00 00 00 00 00 00 00  00 00 00 00  3b b0 e5 46",
    );
}

#[test]
fn data_without_a_checksum() {
    let bytes = unchecked_data_header(3, 7, b"state").unwrap();
    let expected =
        "12 00 02 00  05 00 00 00  03 00 00 00  00 00 00 00  07 00 00 00 00 00 00 00  00 00 00 00  51 48 1c be";
    assert_eq!(bytes.to_vec(), hex(expected));
    let taken = Limits { unchecked_data: true, ..Limits::DEFAULT };
    assert!(Header::decode(&bytes, &taken, 0).unwrap().is_unchecked());
    let refused = Header::decode(&bytes, &Limits::DEFAULT, 0).unwrap_err();
    assert_eq!(refused.reason, Reason::Flags { kind: 0x12, flags: 2 }, "only a side that offered it takes it");
}

#[test]
fn region() {
    let region = stream_codec::frame::Region { device: 1, name: "ram", bytes: 0x4000_0000, page_bytes: 0x1000 };
    check(
        &Message::Region(region),
        "00 01 00 00  1b 00 00 00  01 00 00 00  00 00 00 00  00 00 00 00 00 00 00 00  22 69 77 93  90 07 a6 3a
         00 00 00 40 00 00 00 00 | size
         00 10 00 00 00 00 00 00 | page size
         03 00                   | name length
         00 00 00 00 00 00
         72 61 6d                | ram",
    );
}
