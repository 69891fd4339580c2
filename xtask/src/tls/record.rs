// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Records of TLS 1.3 under one key (RFC 8446, section 5): sealed in the buffer that is sent, opened in the one that was
//! received.
//!
//! rustls would do both, and allocate and copy for each record: that took longer than the cipher. What it gives here are the
//! keys, the nonces and what is authenticated beside a record; how it is framed is this file.

use aws_lc_rs::aead;
use rustls::crypto::cipher::{Iv, Nonce, make_tls13_aad};
use rustls::{ConnectionTrafficSecrets, ContentType, Error, PeerMisbehaved};

/// The most that a record carries (section 5.1).
pub(super) const CONTENT_MAX: usize = 1 << 14;
/// Before each record: its type, a version that means nothing, and its length.
pub(super) const HEADER_BYTES: usize = 5;
/// What is sealed of a record and is not its content: a type, padding, a tag (section 5.2).
const EXPANSION_MAX: usize = 256;
/// The longest record.
pub(super) const RECORD_MAX: usize = HEADER_BYTES + CONTENT_MAX + EXPANSION_MAX;
/// Of all ciphers of TLS 1.3.
const TAG_BYTES: usize = 16;
/// What a record of ours adds to its content.
pub(super) const OVERHEAD_BYTES: usize = HEADER_BYTES + 1 + TAG_BYTES;

/// A key of one direction, and how often it was used.
pub(super) struct Protection {
    /// Of half a kilobyte, with what is computed beforehand.
    key: Box<aead::LessSafeKey>,
    iv: Iv,
    sequence: u64,
    /// So many records may be sealed with it.
    records_max: u64,
}

impl Protection {
    /// A key that was used for so many records.
    pub(super) fn new(secrets: ConnectionTrafficSecrets, sequence: u64, records_max: u64) -> Result<Self, Error> {
        use ConnectionTrafficSecrets as Secrets;
        let (algorithm, key, iv) = match secrets {
            Secrets::Aes128Gcm { key, iv } => (&aead::AES_128_GCM, key, iv),
            Secrets::Aes256Gcm { key, iv } => (&aead::AES_256_GCM, key, iv),
            Secrets::Chacha20Poly1305 { key, iv } => (&aead::CHACHA20_POLY1305, key, iv),
            _ => return Err(Error::General("a cipher that this side does not know".into())),
        };
        let key = aead::UnboundKey::new(algorithm, key.as_ref()).map_err(|_| Error::General("not a key".into()))?;
        Ok(Self { key: Box::new(aead::LessSafeKey::new(key)), iv, sequence, records_max })
    }

    /// Whether all but one of the records are sealed: the last one is to name the key that follows.
    pub(super) const fn is_worn(&self) -> bool {
        self.sequence.saturating_add(1) >= self.records_max
    }

    #[cfg(test)]
    pub(super) const fn wear(&mut self, records_max: u64) {
        self.records_max = records_max;
    }

    /// A nonce that was not there before (section 5.3).
    fn nonce(&mut self) -> Option<aead::Nonce> {
        let nonce = aead::Nonce::assume_unique_for_key(Nonce::new(&self.iv, self.sequence).0);
        self.sequence = self.sequence.checked_add(1)?;
        Some(nonce)
    }

    /// Appends one record with this content, which is [`CONTENT_MAX`] at most.
    pub(super) fn seal(&mut self, kind: ContentType, content: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        if content.len() > CONTENT_MAX || self.sequence >= self.records_max {
            return Err(Error::EncryptError);
        }
        let nonce = self.nonce().ok_or(Error::EncryptError)?;
        let header = make_tls13_aad(content.len().saturating_add(1 + TAG_BYTES));
        out.extend_from_slice(&header);
        let begin = out.len();
        out.extend_from_slice(content);
        out.push(kind.into());
        let inner = out.get_mut(begin..).unwrap_or_default();
        let tag = self.key.seal_in_place_separate_tag(nonce, aead::Aad::from(header), inner);
        out.extend_from_slice(tag.map_err(|_| Error::EncryptError)?.as_ref());
        Ok(())
    }

    /// Opens one whole record in its place: what it is, and how much content follows its header.
    pub(super) fn open(&mut self, record: &mut [u8]) -> Result<(ContentType, usize), Error> {
        let sealed = record.get_mut(HEADER_BYTES..).unwrap_or_default();
        let nonce = self.nonce().ok_or(Error::DecryptError)?;
        let header = aead::Aad::from(make_tls13_aad(sealed.len()));
        let inner = self.key.open_in_place(nonce, header, sealed).map_err(|_| Error::DecryptError)?;
        // The type is behind the content and before the padding, which is of zeros (section 5.4).
        let padding = inner.iter().rev().take_while(|byte| **byte == 0).count();
        let inner = inner.get(..inner.len().saturating_sub(padding)).unwrap_or_default();
        let Some((kind, content)) = inner.split_last() else {
            return Err(PeerMisbehaved::IllegalTlsInnerPlaintext.into());
        };
        if content.len() > CONTENT_MAX {
            return Err(Error::PeerSentOversizedRecord);
        }
        Ok((ContentType::from(*kind), content.len()))
    }
}

/// How long the record is that begins here, with its header. `None` where that has not arrived.
pub(super) fn length(bytes: &[u8]) -> Result<Option<usize>, Error> {
    let Some([kind, _, _, high, low]) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    if ContentType::from(*kind) != ContentType::ApplicationData {
        return Err(misplaced(ContentType::from(*kind)));
    }
    match usize::from(u16::from_be_bytes([*high, *low])).saturating_add(HEADER_BYTES) {
        length if length > RECORD_MAX => Err(Error::PeerSentOversizedRecord),
        length => Ok(Some(length)),
    }
}

/// A record that has no business here.
pub(super) fn misplaced(kind: ContentType) -> Error {
    Error::InappropriateMessage { expect_types: vec![ContentType::ApplicationData], got_type: kind }
}
