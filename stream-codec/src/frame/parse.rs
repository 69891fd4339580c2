// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Bytes into messages.

use super::digest::{Digest, DigestAlgorithm};
use super::error::{Error, Reason};
use super::header::{HEADER_BYTES, Header};
use super::hello::{Channel, Hello, Role, Support, VERSION};
use super::kind::{Kind, NO_DEVICE};
use super::limits::Limits;
use super::message::{Abort, AbortCode, DeviceEnd, DeviceOpen, InitialDone, Loaded, Message, Region};
use super::text;
use crate::cursor::{Cursor, CursorError};
use crate::decode::Located;

/// Compares a payload with the checksum in its header, which stands at `offset` of the stream, if it has one.
///
/// # Errors
/// [`Reason::PayloadChecksum`].
pub fn verify_payload(header: &Header, payload: &[u8], offset: u64) -> Result<(), Error> {
    if header.is_unchecked() {
        return Ok(());
    }
    compare_crc(header, crc32fast::hash(payload)).map_err(|reason| Located::new(offset, reason))
}

pub(super) fn compare_crc(header: &Header, computed: u32) -> Result<(), Reason> {
    let stated = header.payload_crc;
    if stated == computed { Ok(()) } else { Err(Reason::PayloadChecksum { stated, computed }) }
}

/// Reads the payload of a control frame whose header stands at `offset` of the stream. `None` for a Data frame and
/// for kinds that are skipped. The checksum is not compared here.
///
/// # Errors
/// The [`Reason`] at `offset`.
pub fn parse_control<'a>(
    header: &Header,
    payload: &'a [u8],
    limits: &Limits,
    offset: u64,
) -> Result<Option<Message<'a>>, Error> {
    let Some(kind) = header.kind() else {
        return Ok(None);
    };
    let payload_offset = offset.saturating_add(u64::try_from(HEADER_BYTES).unwrap_or(0));
    let mut cursor = Cursor::at(payload, payload_offset);
    let message = match kind {
        Kind::Data => return Ok(None),
        Kind::Hello => hello(&mut cursor, limits).map(Message::Hello),
        Kind::DeviceOpen => device_open(&mut cursor, header.device, limits).map(Message::DeviceOpen),
        Kind::Region => region(&mut cursor, header.device, limits).map(Message::Region),
        Kind::DeviceAccept => Ok(Message::DeviceAccept { device: header.device }),
        Kind::DeviceEnd => total(&mut cursor, kind).map(|(bytes, digest)| {
            Message::DeviceEnd(DeviceEnd { device: header.device, frames: header.sequence, bytes, digest })
        }),
        Kind::Loaded => total(&mut cursor, kind)
            .map(|(bytes, digest)| Message::Loaded(Loaded { device: header.device, bytes, digest })),
        Kind::InitialDone => generation(&mut cursor, kind).map(|generation| {
            Message::InitialDone(InitialDone { device: header.device, generation, frames: header.sequence })
        }),
        Kind::InitialAck => {
            generation(&mut cursor, kind).map(|generation| Message::InitialAck { device: header.device, generation })
        }
        Kind::Credit => Ok(Message::Credit { device: header.device, frames: header.sequence }),
        Kind::ChannelEnd => Ok(Message::ChannelEnd),
        Kind::Abort => abort(&mut cursor, header.device, limits).map(Message::Abort),
        Kind::Switchover => Ok(Message::Switchover),
        Kind::Commit => Ok(Message::Commit),
        Kind::Complete => Ok(Message::Complete),
    };
    let message = message.and_then(|message| {
        cursor.finish(kind.name()).map_err(malformed(kind))?;
        Ok(Some(message))
    });
    message.map_err(|reason| Located::new(offset, reason))
}

fn malformed(kind: Kind) -> impl Fn(CursorError) -> Reason {
    move |error| Reason::Malformed { kind, error }
}

fn hello(cursor: &mut Cursor<'_>, limits: &Limits) -> Result<Hello, Reason> {
    let mut fields = || {
        let (version_min, version_max) = (cursor.u16_le("lowest version")?, cursor.u16_le("highest version")?);
        let role = cursor.u8("role")?;
        cursor.zeros(3, "reserved bytes after the role")?;
        let channel = Channel { index: cursor.u16_le("channel index")?, count: cursor.u16_le("channel count")? };
        let device_count = cursor.u32_le("device count")?;
        let (offered, required) = (cursor.u64_le("offered features")?, cursor.u64_le("required features")?);
        let nonce = cursor.take_array("session nonce")?;
        let data_bytes_max = cursor.u32_le("largest data payload")?;
        cursor.zeros(12, "reserved bytes at the end")?;
        let support = Support { version_min, version_max, offered, required };
        // A later version may say more in its Hello, and must be able to before it knows whom it talks to.
        if version_max > VERSION {
            let _later_fields = cursor.rest();
        }
        Ok((support, role, nonce, channel, device_count, data_bytes_max))
    };
    let (support, role, nonce, channel, device_count, data_bytes_max) = fields().map_err(malformed(Kind::Hello))?;
    let role = Role::from_raw(role).ok_or(Reason::Role { role })?;
    let hello = Hello { support, role, nonce, channel, device_count, data_bytes_max };
    check_hello(&hello, limits)?;
    Ok(hello)
}

/// The rules of a Hello's fields, the same for writing and reading.
pub(super) fn check_hello(hello: &Hello, limits: &Limits) -> Result<(), Reason> {
    hello.support.check()?;
    let Channel { index, count } = hello.channel;
    if index >= count {
        return Err(Reason::Channel { index, count });
    }
    if hello.device_count > limits.devices {
        return Err(Reason::Devices { count: hello.device_count, limit: limits.devices });
    }
    Ok(())
}

fn device_open<'a>(cursor: &mut Cursor<'a>, device: u32, limits: &Limits) -> Result<DeviceOpen<'a>, Reason> {
    let mut fields = || {
        let migration_flags = cursor.u64_le("migration flags")?;
        let stop_copy_bytes = cursor.u64_le("stop-copy size")?;
        let (name_bytes, identity_bytes) = (cursor.u16_le("name length")?, cursor.u16_le("identity length")?);
        cursor.zeros(4, "reserved bytes before the name")?;
        let name = cursor.take(name_bytes.into(), "name")?;
        let identity = cursor.take(identity_bytes.into(), "identity")?;
        Ok((migration_flags, stop_copy_bytes, name, identity))
    };
    let (migration_flags, stop_copy_bytes, name, identity) = fields().map_err(malformed(Kind::DeviceOpen))?;
    let name = text::name(name, limits.name_bytes)?;
    let identity = text::line("identity", identity, limits.identity_bytes)?;
    Ok(DeviceOpen { device, name, identity, migration_flags, stop_copy_bytes })
}

fn region<'a>(cursor: &mut Cursor<'a>, device: u32, limits: &Limits) -> Result<Region<'a>, Reason> {
    let mut fields = || {
        let (bytes, page_bytes) = (cursor.u64_le("size")?, cursor.u64_le("page size")?);
        let name_bytes = cursor.u16_le("name length")?;
        cursor.zeros(6, "reserved bytes before the name")?;
        Ok((bytes, page_bytes, cursor.take(name_bytes.into(), "name")?))
    };
    let (bytes, page_bytes, name) = fields().map_err(malformed(Kind::Region))?;
    let name = text::name(name, limits.name_bytes)?;
    Ok(Region { device, name, bytes, page_bytes })
}

/// Byte count and digest, as DeviceEnd and Loaded carry them.
fn total(cursor: &mut Cursor<'_>, kind: Kind) -> Result<(u64, Digest), Reason> {
    let mut fields = || {
        let bytes = cursor.u64_le("byte count")?;
        let (algorithm, length) = (cursor.u16_le("digest algorithm")?, cursor.u16_le("digest length")?);
        cursor.zeros(4, "reserved bytes before the digest")?;
        let digest = cursor.take(length.into(), "digest")?;
        Ok((bytes, DigestAlgorithm(algorithm), digest))
    };
    let (bytes, algorithm, digest) = fields().map_err(malformed(kind))?;
    Ok((bytes, Digest::new(algorithm, digest)?))
}

/// Which initial phase of a device InitialDone and InitialAck are about.
fn generation(cursor: &mut Cursor<'_>, kind: Kind) -> Result<u32, Reason> {
    let mut fields = || {
        let generation = cursor.u32_le("generation")?;
        cursor.zeros(4, "reserved bytes after the generation")?;
        Ok(generation)
    };
    match fields().map_err(malformed(kind))? {
        0 => Err(Reason::Generation),
        generation => Ok(generation),
    }
}

fn abort<'a>(cursor: &mut Cursor<'a>, device: u32, limits: &Limits) -> Result<Abort<'a>, Reason> {
    let mut fields = || {
        let (code, length) = (cursor.u16_le("code")?, cursor.u16_le("reason length")?);
        cursor.zeros(4, "reserved bytes before the reason")?;
        Ok((AbortCode(code), cursor.take(length.into(), "reason")?))
    };
    let (code, reason) = fields().map_err(malformed(Kind::Abort))?;
    let reason = text::line("reason", reason, limits.reason_bytes)?;
    Ok(Abort { code, device: (device != NO_DEVICE).then_some(device), reason })
}
