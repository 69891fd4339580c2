// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a file can be, and how that is told from its first bytes.

use core::fmt;
use core::str::FromStr;

use device_mlx5::Form;
use device_mlx5::record::HEADER_BYTES;
use stream_codec::decode::{Decoder, Step};
use stream_codec::frame::MAGIC;
use stream_codec::qemu::{ChannelKind, ReturnPathDecoder};

use super::state::mtty;
use super::words::hex;

/// A stream that carries the state of devices, or answers to one that does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Carrier {
    /// Our own frames.
    Native,
    /// QEMU's main stream.
    QemuMain,
    /// A multifd channel of QEMU's.
    QemuMultifd,
    /// QEMU's answers.
    QemuReturnPath,
}

/// The state of one device, as its driver gave it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum StateFormat {
    Hisi,
    Mlx5,
    Virtio,
    Mtty,
    /// Not known: bytes.
    Opaque,
}

/// What a file is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Carrier(Carrier),
    State(StateFormat),
    /// No bytes: nothing was sent.
    Empty,
}

impl Carrier {
    const ALL: [Self; 4] = [Self::Native, Self::QemuMain, Self::QemuMultifd, Self::QemuReturnPath];

    /// The name for `--format` and in JSON.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::QemuMain => "qemu",
            Self::QemuMultifd => "multifd",
            Self::QemuReturnPath => "return-path",
        }
    }
}

impl StateFormat {
    const ALL: [Self; 5] = [Self::Hisi, Self::Mlx5, Self::Virtio, Self::Mtty, Self::Opaque];

    /// The name for `--format` and in JSON.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Hisi => "hisi",
            Self::Mlx5 => "mlx5",
            Self::Virtio => "virtio",
            Self::Mtty => "mtty",
            Self::Opaque => "opaque",
        }
    }

    /// The format that a migration identity names.
    pub(super) fn of_identity(format: &str) -> Option<Self> {
        Some(match format {
            "hisi_acc" => Self::Hisi,
            "mlx5" => Self::Mlx5,
            "virtio" => Self::Virtio,
            "mtty" => Self::Mtty,
            _ => return None,
        })
    }

    /// By what cannot be there by chance: a magic, or a whole record header of one value. The records of virtio, and of
    /// mlx5 in kernel 6.2, start with nothing of the kind.
    pub(super) fn of_content(head: &[u8]) -> Option<Self> {
        let magic = head.first_chunk().map(|magic: &[u8; 8]| u64::from_le_bytes(*magic));
        if magic.is_some_and(|magic| magic == device_hisi::MAGIC_V1 || magic == device_hisi::MAGIC_V2) {
            return Some(Self::Hisi);
        }
        if magic == Some(mtty::MAGIC) {
            return Some(Self::Mtty);
        }
        let header: &[u8; HEADER_BYTES] = head.first_chunk()?;
        let is_size = header == &device_mlx5::record::Header { record_bytes: 8, flags: 1, tag: 1 }.encode();
        (is_size && Form::of(header) == Form::Current).then_some(Self::Mlx5)
    }

    /// How many bytes [`of_content`](Self::of_content) needs to be sure.
    pub(super) const HEAD_BYTES: usize = HEADER_BYTES;
}

impl Kind {
    /// Recognises a stream by its first bytes.
    ///
    /// # Errors
    /// A sentence that says what the bytes are, as far as that is known, and what to do.
    pub(super) fn of(head: &[u8]) -> Result<Self, String> {
        let carrier = |carrier| Ok(Self::Carrier(carrier));
        if head.is_empty() {
            return Ok(Self::Empty);
        }
        if head.starts_with(&MAGIC) {
            return carrier(Carrier::Native);
        }
        match head.first_chunk().and_then(|first: &[u8; 4]| ChannelKind::from_first_bytes(*first)) {
            Some(ChannelKind::Main) => return carrier(Carrier::QemuMain),
            Some(ChannelKind::Multifd) => return carrier(Carrier::QemuMultifd),
            _ => {}
        }
        if let Some(format) = StateFormat::of_content(head) {
            return Ok(Self::State(format));
        }
        if let Some((name, program)) = compression(head) {
            return Err(format!("it is compressed with {name}: run `{program} FILE | cargo xtask inspect -`"));
        }
        if is_return_path(head) {
            return carrier(Carrier::QemuReturnPath);
        }
        let start = hex(head, 16);
        Err(format!(
            "it starts with {start}, by which no stream is known. If you know what it is, say so with --format: the \
             records of virtio devices, old mlx5 streams and damaged streams cannot be recognised"
        ))
    }
}

fn compression(head: &[u8]) -> Option<(&'static str, &'static str)> {
    const KNOWN: [(&[u8], &str, &str); 4] = [
        (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz", "xz -dc"),
        (&[0x1f, 0x8b], "gzip", "gzip -dc"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "zstd", "zstd -dc"),
        (b"BZh", "bzip2", "bzip2 -dc"),
    ];
    KNOWN.iter().find(|(magic, ..)| head.starts_with(magic)).map(|(_, name, program)| (*name, *program))
}

/// Whether all of the first bytes are messages of a return path, which has no magic.
fn is_return_path(head: &[u8]) -> bool {
    let mut decoder = ReturnPathDecoder::new();
    let (mut rest, mut messages) = (head.get(..1024).unwrap_or(head), 0_u32);
    loop {
        match decoder.decode(rest) {
            Ok(Step { consumed, event: Some(_) }) => {
                messages = messages.saturating_add(1);
                rest = rest.get(consumed..).unwrap_or_default();
            }
            Ok(Step { event: None, .. }) => return messages > 0,
            Err(_) => return false,
        }
    }
}

/// What `--format` says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Forced {
    /// Every FILE is this.
    Carrier(Carrier),
    /// The state of every device is this, or of the one with this name.
    State(Option<String>, StateFormat),
}

impl FromStr for Forced {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (device, name) = match text.rsplit_once('=') {
            Some((device, name)) => (Some(device.to_owned()), name),
            None => (None, text),
        };
        if let Some(format) = StateFormat::ALL.into_iter().find(|format| format.name() == name) {
            return Ok(Self::State(device, format));
        }
        let carrier = Carrier::ALL.into_iter().find(|carrier| carrier.name() == name).filter(|_| device.is_none());
        carrier.map(Self::Carrier).ok_or_else(|| {
            let names = |names: Vec<&str>| names.join(", ");
            format!(
                "'{text}' is none of {}, nor [DEVICE=] one of {}",
                names(Carrier::ALL.map(Carrier::name).to_vec()),
                names(StateFormat::ALL.map(Self::state_name).to_vec())
            )
        })
    }
}

impl Forced {
    const fn state_name(format: StateFormat) -> &'static str {
        format.name()
    }
}

impl fmt::Display for Carrier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Native => "stream of this program",
            Self::QemuMain => "main stream of QEMU",
            Self::QemuMultifd => "multifd channel of QEMU",
            Self::QemuReturnPath => "return path of QEMU",
        })
    }
}

impl fmt::Display for StateFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Hisi => "HiSilicon accelerator (hisi_acc)",
            Self::Mlx5 => "ConnectX VF (mlx5)",
            Self::Virtio => "virtio VF",
            Self::Mtty => "mtty",
            Self::Opaque => "format not known",
        })
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn every_kind_is_told_by_its_first_bytes() {
        let known: [(&[u8], Kind); 8] = [
            (b"", Kind::Empty),
            (b"\x89SAVEVM\n", Kind::Carrier(Carrier::Native)),
            (b"QEVM\0\0\0\x03", Kind::Carrier(Carrier::QemuMain)),
            (b"\x11\x22\x33\x44\0\0\0\x01", Kind::Carrier(Carrier::QemuMultifd)),
            (b"\0\x02\0\x04\0\0\0\x01\0\x01\0\x04\0\0\0\0", Kind::Carrier(Carrier::QemuReturnPath)),
            (b"\xde\xde\xca\xde\xed\xfe\xcc\xaa", Kind::State(StateFormat::Hisi)),
            (b"\x4e\x2c\x3e\x8c\x89\x09\x9d\x7e", Kind::State(StateFormat::Mtty)),
            (b"\x08\0\0\0\0\0\0\0\x01\0\0\0\x01\0\0\0", Kind::State(StateFormat::Mlx5)),
        ];
        for (head, kind) in known {
            assert_eq!(Kind::of(head), Ok(kind), "{head:02x?}");
        }
    }

    #[test]
    fn what_is_not_known_is_said_to_be_so() {
        let xz = Kind::of(b"\xfd7zXZ\0\0\x04").unwrap_err();
        assert!(xz.contains("xz -dc FILE | cargo xtask inspect -"), "{xz}");
        // A record of 0x4000100 bytes starts like a SHUT message, but goes on like no message.
        let record = [0, 1, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(Kind::of(&record).unwrap_err().contains("--format"));
    }

    #[test]
    fn a_format_is_forced_for_files_or_devices() {
        assert_eq!("qemu".parse(), Ok(Forced::Carrier(Carrier::QemuMain)));
        assert_eq!("virtio".parse(), Ok(Forced::State(None, StateFormat::Virtio)));
        let named = Forced::State(Some("a=b".to_owned()), StateFormat::Mlx5);
        assert_eq!("a=b=mlx5".parse(), Ok(named));
        assert!("nic=qemu".parse::<Forced>().unwrap_err().contains("return-path"));
    }
}
