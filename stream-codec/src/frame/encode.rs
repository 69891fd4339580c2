// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Messages into bytes.

use alloc::vec::Vec;

use super::digest::Digest;
use super::error::Reason;
use super::header::{HEADER_BYTES, Header};
use super::hello::Hello;
use super::kind::{DeviceField, Kind, NO_DEVICE};
use super::limits::Limits;
use super::message::{Abort, DeviceOpen, InitialDone, Message, Region};
use super::text;

/// The header of a Data frame. The caller writes it and the payload behind it, in one vectored write.
///
/// ```
/// use stream_codec::frame::{Header, Limits, data_header};
///
/// let header = data_header(3, 7, b"state")?;
/// let read = Header::decode(&header, &Limits::DEFAULT, 0).unwrap();
/// assert_eq!((read.device, read.sequence, read.payload_length), (3, 7, 5));
/// # Ok::<(), stream_codec::frame::Reason>(())
/// ```
///
/// # Errors
/// [`Reason::EmptyData`], [`Reason::PayloadLength`] for a payload of 4 GiB or more, [`Reason::DeviceField`] for
/// [`NO_DEVICE`].
pub fn data_header(device: u32, sequence: u64, payload: &[u8]) -> Result<[u8; HEADER_BYTES], Reason> {
    if payload.is_empty() {
        return Err(Reason::EmptyData);
    }
    check_device(Kind::Data, device)?;
    Header::new(Kind::Data, device, sequence, payload).map(|header| header.encode())
}

/// The header of a Data frame without a checksum of its payload, for sides that agreed on
/// [`Support::UNCHECKED`](super::Support::UNCHECKED).
///
/// # Errors
/// As [`data_header`].
pub fn unchecked_data_header(device: u32, sequence: u64, payload: &[u8]) -> Result<[u8; HEADER_BYTES], Reason> {
    if payload.is_empty() {
        return Err(Reason::EmptyData);
    }
    check_device(Kind::Data, device)?;
    Header::unchecked(device, sequence, payload.len()).map(|header| header.encode())
}

/// Appends a whole control frame to `out`. What this writes, the decoder accepts, if its limits allow.
///
/// # Errors
/// The [`Reason`] for which a reader would refuse the message. `out` is as before then.
pub fn encode_control(message: &Message<'_>, out: &mut Vec<u8>) -> Result<(), Reason> {
    let start = out.len();
    let result = append(message, out, start);
    if result.is_err() {
        out.truncate(start);
    }
    result
}

fn append(message: &Message<'_>, out: &mut Vec<u8>, start: usize) -> Result<(), Reason> {
    let kind = message.kind();
    let device = message.device_field();
    // `Some(NO_DEVICE)` would read as "no device" at the other end.
    if message.device() == Some(NO_DEVICE) {
        return Err(Reason::DeviceField { kind, device });
    }
    check_device(kind, device)?;
    out.extend_from_slice(&[0; HEADER_BYTES]);
    let payload_start = out.len();
    append_payload(message, out)?;
    let payload = out.get(payload_start..).unwrap_or_default();
    let header = Header::new(kind, device, message.sequence_field(), payload)?.encode();
    out.iter_mut().skip(start).zip(header).for_each(|(slot, byte)| *slot = byte);
    Ok(())
}

fn append_payload(message: &Message<'_>, out: &mut Vec<u8>) -> Result<(), Reason> {
    match message {
        Message::Hello(hello) => append_hello(hello, out),
        Message::DeviceOpen(open) => append_open(open, out),
        Message::Region(region) => append_region(region, out),
        Message::DeviceEnd(end) => append_total(end.bytes, &end.digest, out),
        Message::Loaded(loaded) => append_total(loaded.bytes, &loaded.digest, out),
        Message::InitialDone(InitialDone { generation, .. }) | Message::InitialAck { generation, .. } => {
            append_generation(*generation, out)
        }
        Message::Abort(abort) => append_abort(abort, out),
        Message::DeviceAccept { .. }
        | Message::Credit { .. }
        | Message::Switchover
        | Message::ChannelEnd
        | Message::Commit
        | Message::Complete => Ok(()),
    }
}

fn append_hello(hello: &Hello, out: &mut Vec<u8>) -> Result<(), Reason> {
    let Hello { support, role, nonce, channel, device_count, data_bytes_max } = hello;
    super::parse::check_hello(hello, &Limits::FORMAT)?;
    out.extend_from_slice(&support.version_min.to_le_bytes());
    out.extend_from_slice(&support.version_max.to_le_bytes());
    out.extend_from_slice(&[role.raw(), 0, 0, 0]);
    out.extend_from_slice(&channel.index.to_le_bytes());
    out.extend_from_slice(&channel.count.to_le_bytes());
    out.extend_from_slice(&device_count.to_le_bytes());
    out.extend_from_slice(&support.offered.to_le_bytes());
    out.extend_from_slice(&support.required.to_le_bytes());
    out.extend_from_slice(nonce);
    out.extend_from_slice(&data_bytes_max.to_le_bytes());
    out.extend_from_slice(&[0; 12]);
    Ok(())
}

fn append_open(open: &DeviceOpen<'_>, out: &mut Vec<u8>) -> Result<(), Reason> {
    let name = text::name(open.name.as_bytes(), u16::MAX)?;
    let identity = text::line("identity", open.identity.as_bytes(), u16::MAX)?;
    out.extend_from_slice(&open.migration_flags.to_le_bytes());
    out.extend_from_slice(&open.stop_copy_bytes.to_le_bytes());
    out.extend_from_slice(&length_field(name).to_le_bytes());
    out.extend_from_slice(&length_field(identity).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(identity.as_bytes());
    Ok(())
}

fn append_region(region: &Region<'_>, out: &mut Vec<u8>) -> Result<(), Reason> {
    let name = text::name(region.name.as_bytes(), u16::MAX)?;
    out.extend_from_slice(&region.bytes.to_le_bytes());
    out.extend_from_slice(&region.page_bytes.to_le_bytes());
    out.extend_from_slice(&length_field(name).to_le_bytes());
    out.extend_from_slice(&[0; 6]);
    out.extend_from_slice(name.as_bytes());
    Ok(())
}

fn append_total(bytes: u64, digest: &Digest, out: &mut Vec<u8>) -> Result<(), Reason> {
    let length = u16::try_from(digest.bytes().len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&bytes.to_le_bytes());
    out.extend_from_slice(&digest.algorithm().0.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(digest.bytes());
    Ok(())
}

fn append_generation(generation: u32, out: &mut Vec<u8>) -> Result<(), Reason> {
    if generation == 0 {
        return Err(Reason::Generation);
    }
    out.extend_from_slice(&generation.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    Ok(())
}

fn append_abort(abort: &Abort<'_>, out: &mut Vec<u8>) -> Result<(), Reason> {
    let reason = text::line("reason", abort.reason.as_bytes(), u16::MAX)?;
    out.extend_from_slice(&abort.code.0.to_le_bytes());
    out.extend_from_slice(&length_field(reason).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(reason.as_bytes());
    Ok(())
}

/// The length of a text that was checked to have at most `u16::MAX` bytes.
fn length_field(text: &str) -> u16 {
    u16::try_from(text.len()).unwrap_or(u16::MAX)
}

fn check_device(kind: Kind, device: u32) -> Result<(), Reason> {
    match (kind.device_field(), device) {
        (DeviceField::Required, NO_DEVICE) => Err(Reason::DeviceField { kind, device }),
        _ => Ok(()),
    }
}
