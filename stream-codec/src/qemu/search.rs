// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Finding the end of a payload that says nothing about its length.
//!
//! The end is where a footer with the section's id is followed by what can follow a section: the header of another
//! one, a command, or the end of the stream. Data that looks like that by chance is as good as impossible (the footer
//! alone has 40 bits); data made to look like that can deceive, which is why the vmdesc is preferred.

use super::command::{self, COMMAND};
use super::engine::Stop;
use super::error::Reason;
use super::section::{SectionKind, Table};
use super::text;
use crate::cursor::Cursor;

/// Type byte of the end of a stream or package.
pub(super) const EOF: u8 = 0;

/// Type byte of the vmdesc.
pub(super) const VMDESC: u8 = 6;

/// What is known around a payload.
pub(super) struct Surroundings<'a> {
    pub(super) table: &'a Table,
    /// Where the package ends that holds the section.
    pub(super) package_end: Option<u64>,
    /// Whether a vmdesc follows the end of the stream.
    pub(super) vmdesc_follows: bool,
}

/// Length of the payload at the cursor, which ends where `end` follows and what comes after it can follow a section.
/// `from` remembers how far earlier calls have searched.
///
/// It never asks for more than a footer and the header that must follow it, for what is asked for cannot be given back.
pub(super) fn payload_length(
    cursor: &Cursor<'_>,
    from: &mut usize,
    end: &[u8],
    limit_bytes: usize,
    around: &Surroundings<'_>,
    accepts: impl Fn(&[u8]) -> bool,
) -> Result<usize, Stop> {
    let view = cursor.peek();
    loop {
        if *from > limit_bytes {
            let wide = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
            let (value, limit) = (wide(*from), wide(limit_bytes));
            return Err(Reason::Limit { what: "bytes of a section of unknown length", value, limit }.into());
        }
        let mut ahead = cursor.clone();
        ahead.take(*from, "payload of a section")?;
        if starts_with(ahead.peek(), end)? {
            ahead.take(end.len(), "footer")?;
            let follows = follows_section(&mut ahead, around)?;
            if follows && accepts(view.get(..*from).unwrap_or_default()) {
                return Ok(*from);
            }
        }
        *from = from.saturating_add(1);
    }
}

/// Whether `bytes` start with `end`, as soon as that is certain.
fn starts_with(bytes: &[u8], end: &[u8]) -> Result<bool, Stop> {
    let common = bytes.len().min(end.len());
    if bytes.get(..common) != end.get(..common) {
        return Ok(false);
    }
    if common < end.len() {
        let least = end.len().saturating_sub(common);
        return Err(Stop::More { what: "footer", least });
    }
    Ok(true)
}

/// Whether the bytes at the cursor can follow a section.
fn follows_section(cursor: &mut Cursor<'_>, around: &Surroundings<'_>) -> Result<bool, Stop> {
    if around.package_end == Some(cursor.offset()) {
        return Ok(true);
    }
    let raw = cursor.u8("type of the next item")?;
    match raw {
        EOF if around.package_end.is_some() || !around.vmdesc_follows => Ok(true),
        EOF => {
            let is_vmdesc = cursor.u8("type of the vmdesc")? == VMDESC;
            Ok(is_vmdesc && (cursor.u32_be("length of the vmdesc")? == 0 || cursor.u8("vmdesc")? == b'{'))
        }
        COMMAND => {
            let number = cursor.u16_be("command number")?;
            Ok(command::length_fits(number, cursor.u16_be("command length")?))
        }
        _ => match SectionKind::from_raw(raw) {
            None => Ok(false),
            Some(kind) if kind.is_named() => is_named_header(cursor, around.table),
            Some(_) => Ok(around.table.get(cursor.u32_be("section id")?).is_some()),
        },
    }
}

fn is_named_header(cursor: &mut Cursor<'_>, table: &Table) -> Result<bool, Stop> {
    let id = cursor.u32_be("section id")?;
    let length = cursor.u8("idstr")?;
    let idstr = text::line(cursor.take(length.into(), "idstr")?, "idstr").unwrap_or_default();
    let instance_id = cursor.u32_be("instance id")?;
    cursor.u32_be("version id")?;
    Ok(!idstr.is_empty() && table.check(id, idstr, instance_id).is_ok())
}

#[cfg(test)]
mod test {
    use alloc::vec::Vec;

    use super::*;

    const FOOTER: [u8; 5] = [0x7e, 0, 0, 0, 9];

    fn search(bytes: &[u8], limit_bytes: usize) -> Result<usize, Stop> {
        let table = Table::default();
        let around = Surroundings { table: &table, package_end: None, vmdesc_follows: true };
        payload_length(&Cursor::new(bytes), &mut 0, &FOOTER, limit_bytes, &around, |_| true)
    }

    #[test]
    fn a_footer_counts_only_if_something_can_follow_it() {
        let after: [(&[u8], bool); 8] = [
            (&[0, 6, 0, 0, 0, 2, b'{', b'}'], true),
            (&[0, 6, 0, 0, 0, 2, b'[', b']'], false),
            (&[8, 0, 11, 0, 0], true),
            (&[8, 0, 11, 0, 1, 7], false),
            (&[8, 0, 12, 0, 0], false),
            (b"\x04\0\0\0\x01\x03cpu\0\0\0\0\0\0\0\x01", true),
            (b"\x04\0\0\0\x01\x03c\0u\0\0\0\0\0\0\0\x01", false),
            (&[2, 0, 0, 0, 9], false),
        ];
        for (after, is_end) in after {
            let real = [&FOOTER[..], &[8, 0, 11, 0, 0]].concat();
            let bytes = [b"abc", &FOOTER[..], after, &real].concat();
            let expected = if is_end { 3 } else { 3 + 5 + after.len() };
            assert_eq!(search(&bytes, 100).unwrap(), expected, "{after:02x?}");
        }
    }

    #[test]
    fn the_search_is_bounded() {
        let bytes = [&[0xaa; 40][..], &FOOTER, &[8, 0, 11, 0, 0]].concat();
        assert_eq!(search(&bytes, 40).unwrap(), 40);
        assert!(matches!(search(&bytes, 39), Err(Stop::Refused(Reason::Limit { value: 40, limit: 39, .. }))));
    }

    #[test]
    fn every_prefix_wants_more() {
        let bytes = [b"abc", &FOOTER[..], b"\x04\0\0\0\x01\x03cpu\0\0\0\0\0\0\0\x01"].concat();
        let wanted = (0..bytes.len()).map(|end| match search(&bytes[..end], 100) {
            Err(Stop::More { least, .. }) => least,
            other => panic!("{end}: {other:?}"),
        });
        assert!(wanted.collect::<Vec<_>>().iter().all(|&least| least > 0));
    }
}
