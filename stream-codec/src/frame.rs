// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The native stream format, version 1.
//!
//! One stream is one direction of one channel: a [prologue](encode_prologue) by which the format is recognised, then
//! frames. A frame is a header of 32 bytes and a payload. Everything is little-endian, nothing is aligned beyond that,
//! and every CRC-32 is the one of IEEE 802.3 (zlib, Ethernet). Reserved fields are zero and a reader checks that.
//!
//! A header of fixed size in front of a payload of known length lets a reader fetch `[this payload, next header]` with
//! one scatter read, and a writer put out `[header, payload]` with one gather write, so framing adds neither copies
//! nor system calls to a bare transfer.
//!
//! # Prologue, 16 bytes
//!
//! | offset | size | field | value |
//! |---|---|---|---|
//! | 0 | 8 | magic | `89 53 41 56 45 56 4d 0a`: 0x89, `SAVEVM`, line feed |
//! | 8 | 2 | framing version | 1: how headers look, not what frames mean |
//! | 10 | 2 | header size | 32 |
//! | 12 | 4 | CRC-32 | of bytes 0 to 11 |
//!
//! # Header, 32 bytes
//!
//! | offset | size | field | value |
//! |---|---|---|---|
//! | 0 | 2 | kind | see below |
//! | 2 | 2 | flags | bit 0 `SKIPPABLE`: a reader that does not know the kind skips the frame, without it refuses the stream; kinds of version 1 never have it. Bit 1 `UNCHECKED`, on Data, with feature bit 1: no payload CRC-32. Bits 2 to 15 are zero |
//! | 4 | 4 | payload length | bytes after the header |
//! | 8 | 4 | device | number of the device, or `ffffffff` |
//! | 12 | 4 | channel | zero; kept |
//! | 16 | 8 | sequence | Data: number of the frame within its device, from 0. DeviceEnd: how many Data frames the device had. InitialDone: how many have all the initial bytes. Credit: how many there is room for, counted from the first. Else zero |
//! | 24 | 4 | payload CRC-32 | of the payload; zero if there is none, or if it is unchecked |
//! | 28 | 4 | header CRC-32 | of bytes 0 to 27 |
//!
//! # Kinds
//!
//! `S` is sent by a source (or file), `T` by a target.
//!
//! | number | kind | by | device | payload |
//! |---|---|---|---|---|
//! | 0x0000 | never valid | | | |
//! | 0x0001 | Hello | S T | none | below |
//! | 0x0002 | Abort | S T | optional | below |
//! | 0x0003 | Switchover | S | none | none |
//! | 0x0004 | Commit | S | none | none |
//! | 0x0005 | Complete | T | none | none |
//! | 0x0010 | DeviceOpen | S | required | below |
//! | 0x0011 | DeviceAccept | T | required | none |
//! | 0x0012 | Data | S | required | 1 or more bytes of the device's state, as read from it |
//! | 0x0013 | DeviceEnd | S | required | byte count and digest, below |
//! | 0x0014 | Loaded | T | required | byte count and digest, below |
//! | 0x0015 | InitialDone | S | required | generation, below |
//! | 0x0016 | InitialAck | T | required | generation, below |
//! | 0x0017 | Credit | T | required | none |
//! | 0x0020 | ChannelEnd | S T | none | none |
//! | 0x0021–0x002f | *channels* | | | kept |
//! | 0x0100 | Region | S | required | below |
//! | 0x0101–0x01ff | *RAM* | | | kept: the guest's memory |
//! | 0x8000–0xffff | *private* | | | for parties that agreed on a feature bit |
//!
//! Numbers not listed are free for later versions. New kinds need no new version: a feature bit announces them, or
//! the frame is skippable.
//!
//! ## Hello, 64 bytes
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 2 | lowest version, at least 1 |
//! | 2 | 2 | highest version |
//! | 4 | 1 | role: 1 source, 2 target, 3 file |
//! | 5 | 3 | zero |
//! | 8 | 2 | channel index, below the count |
//! | 10 | 2 | channel count, at least 1 |
//! | 12 | 4 | device count: devices have the numbers 0 to one less |
//! | 16 | 8 | offered features, one bit each: bit 0 credit, bit 1 Data without checksums, bit 2 guest memory, bit 3 acknowledged initial bytes, bit 4 memory without a digest |
//! | 24 | 8 | required features, a subset of the offered ones |
//! | 32 | 16 | session nonce: random, chosen by the source, repeated by the target |
//! | 48 | 4 | largest Data payload the sender of the Hello takes, zero for none |
//! | 52 | 12 | zero |
//!
//! Bytes after these are allowed only if the highest version is above 1, and are ignored by version 1.
//! The version spoken is the highest both know; the features used are those both offer.
//!
//! ## DeviceOpen, 24 bytes and two texts
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | migration flags, as `VFIO_DEVICE_FEATURE_MIGRATION` gives them |
//! | 8 | 8 | stop-copy size in bytes, an estimate |
//! | 16 | 2 | length of the name, 1 to 255 |
//! | 18 | 2 | length of the identity, may be 0 |
//! | 20 | 4 | zero |
//! | 24 | | name: UTF-8 without control characters or `/`; not `.` or `..` |
//! | | | identity: UTF-8 without control characters |
//!
//! ## Region, 24 bytes and a text
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | size of the region in bytes |
//! | 8 | 8 | size of its pages in bytes, as the source keeps account of them |
//! | 16 | 2 | length of the name |
//! | 18 | 6 | zero |
//! | 24 | | name, as a device's |
//!
//! ## Data of guest memory
//!
//! A row of records, each in a later region than the one before or behind its last byte.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | offset in the region, in bytes |
//! | 8 | 4 | length in bytes, at least 1 |
//! | 12 | 2 | region: its place among the Region frames, from 0 |
//! | 14 | 2 | flags: bit 0, all of these bytes are zero and none of them follows. Bits 1 to 15 are zero |
//! | 16 | | the bytes |
//!
//! ## DeviceEnd and Loaded, 16 bytes and a digest
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | bytes of state of this device in all |
//! | 8 | 2 | digest algorithm: 0 none, 1 CRC-64/NVME, 2 SHA-256, 3 BLAKE3 |
//! | 10 | 2 | digest length: 0, 8, 32, 32 for these; 1 to 32 for any other |
//! | 12 | 4 | zero |
//! | 16 | | digest |
//!
//! ## InitialDone and InitialAck, 8 bytes
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | generation, at least 1 |
//! | 4 | 4 | zero |
//!
//! ## Abort, 8 bytes and a text
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 2 | [code](AbortCode): 1 cancelled, 2 device, 3 incompatible, 4 protocol, 5 integrity, 6 resources, 7 timeout, 8 other |
//! | 2 | 2 | length of the reason |
//! | 4 | 4 | zero |
//! | 8 | | reason: UTF-8 without control characters |
//!
//! # Order
//!
//! ```text
//! source                                   target
//!   Hello ─────────────────────────────────► │
//!   │ ◄───────────────────────────────── Hello      same nonce, channel and device count
//!   DeviceOpen, once per device ───────────► │
//!   │ ◄──────────────────── DeviceAccept, each      or Abort: incompatible
//!   Data… ─────────────────────────────────► │      pre-copy, guest running
//!   InitialDone, per device ───────────────► │
//!   │ ◄──────────────────────── InitialAck, each
//!   Switchover ────────────────────────────► │      guest stopped
//!   Data…, DeviceEnd per device ───────────► │
//!   │ ◄────────────────────────── Loaded, each      counts and digests equal
//!   Commit ────────────────────────────────► │      point of no return
//!   │ ◄────────────────────────────── Complete
//! ```
//!
//! [`Session`] enforces this on either side. Abort may come at any time before Commit from either side, and after it
//! from the target only: it then says that the target does not run the guest. A file is what a source would send to a
//! target that agrees with everything: it may send Data right after DeviceOpen, and ends after Commit.
//!
//! # Channels and credit
//!
//! A session may have several channels, each with a prologue and a Hello in both directions: the first one's but for the
//! channel index. Only Data, Switchover, ChannelEnd and Abort go on channels above 0. Frames of different channels may overtake each
//! other, so a target puts the Data frames of a device in order by their numbers, and DeviceEnd may come before the last
//! of them. Switchover goes on each channel, so that it is known of each frame whether the guest still ran when its data were
//! read; the first channel's begins the phase. Once every device has ended, the source ends each channel above 0 with ChannelEnd and the target answers with
//! one; Commit comes after that.
//!
//! With feature bit 0, which more than one channel requires, the target grants credit: a Credit says how many Data frames
//! of a device it takes in all. It keeps a buffer of its largest payload for each frame that it has granted and not yet
//! written to the device, so its memory is the sum of what it grants, the next frame in order always has a place, and no
//! device waits for another. A frame beyond the credit is a violation. A credit is above the one before and at most 128
//! frames ahead of the first frame that has not come.
//!
//! # Guest memory
//!
//! With feature bit 2 one device may stand for guest memory. Its Region frames come before its DeviceOpen, in the order in which
//! Data names them; a device without any is a device. All else is as for a device: credit, the order of its frames, count and digest, which are over the
//! payloads. Here a credit says more: a target raises it only by frames that it has written to its memory, in their order. So all of them
//! have arrived but as many as the first credit allowed, and the source need not send those pages again.
//!
//! With feature bit 4 besides, but not in a file, memory has no digest: its DeviceEnd and Loaded say the count of bytes, and digest algorithm 0. A target may then have
//! the bytes go to their places unseen. Devices have their digests.
//!
//! # Initial bytes
//!
//! Some drivers have bytes that must be loaded early, because the target's device works on them for long. With feature bit 3 the
//! source says, while the guest runs, when it has sent all of those of a device: InitialDone, on the first channel, with the
//! number of Data frames of the device that have them. The target answers with InitialAck once it has written these frames to its device, and the
//! source does not switch over before, unless it has lost its patience.
//!
//! A driver may begin anew. Then the source counts a new generation and says InitialDone for it in its turn: generations of a
//! device rise, and none need be said. The target answers the last one it has heard of; it may leave out any before it. An InitialAck of a
//! generation that was not said, or was answered before, is a violation, as is one after the device's Loaded.
//!
//! # Using it
//!
//! * Pure functions: [`Header::encode`], [`Header::decode`], [`encode_control`], [`data_header`], [`parse_control`].
//! * Bytes in pieces, without I/O: [`FrameDecoder`]. **Its data pieces are not verified until
//!   [`Event::DataEnd`]**, for it holds no payload back.
//! * Blocking, verified before handed out, one buffer: `io::FrameReader` and `io::FrameWriter` (feature `std`).

mod decoder;
mod digest;
mod encode;
mod error;
mod header;
mod hello;
#[cfg(feature = "std")]
pub mod io;
mod kind;
mod limits;
mod message;
mod pages;
mod parse;
mod prologue;
mod session;
mod text;

pub use self::decoder::{DataPiece, Event, FrameDecoder};
pub use self::digest::{Digest, DigestAlgorithm};
pub use self::encode::{data_header, encode_control, unchecked_data_header};
pub use self::error::{Error, Reason};
pub use self::header::{HEADER_BYTES, Header};
pub use self::hello::{Agreement, Channel, Hello, Refusal, Role, Support, VERSION};
pub use self::kind::{FLAG_SKIPPABLE, FLAG_UNCHECKED, Kind, NO_DEVICE};
pub use self::limits::Limits;
pub use self::message::{Abort, AbortCode, DeviceEnd, DeviceOpen, InitialDone, Loaded, Message, Region};
pub use self::pages::{
    Content, Pages, PagesError, PagesWriter, RECORD_BYTES, Record, RecordFault, RecordHead, RecordHeads,
};
pub use self::parse::{parse_control, verify_payload};
pub use self::prologue::{FRAMING_VERSION, MAGIC, PROLOGUE_BYTES, decode_prologue, encode_prologue};
pub use self::session::{CHANNELS_MAX, CREDIT_FRAMES_MAX, DevicePhase, Phase, Session, SessionError, Violation};
pub use self::text::{TextFault, printable};

/// Longest name of a device, in bytes.
pub const NAME_BYTES_MAX: u16 = 255;

/// Longest digest, in bytes.
pub const DIGEST_BYTES_MAX: usize = 32;
