// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Writer for the `newc` cpio format, the one the kernel unpacks as its initial file system
//! (`Documentation/driver-api/early-userspace/buffer-format.rst`).
//!
//! A record is 110 bytes of ASCII (magic `070701` and thirteen fields of eight hexadecimal digits), the name with a
//! terminating NUL padded to a multiple of four counted from the record's start, then the data padded likewise.

use std::io::{self, Write};

/// Bytes of the fixed part of a record.
const HEADER_BYTES: u64 = 110;
const TRAILER: &str = "TRAILER!!!";

/// An archive being written. Every file belongs to root and has no time stamp, so equal input gives equal bytes.
#[derive(Debug)]
pub(crate) struct Archive<W> {
    out: W,
    inode: u32,
}

impl<W: Write> Archive<W> {
    /// Starts an archive.
    pub(crate) fn new(out: W) -> Self {
        Self { out, inode: 0 }
    }

    /// Adds a directory; parents must have been added before.
    pub(crate) fn directory(&mut self, name: &str) -> io::Result<()> {
        self.record(name, 0o040_755, (0, 0), b"")
    }

    /// Adds a regular file with permission bits `mode`.
    pub(crate) fn file(&mut self, name: &str, mode: u32, data: &[u8]) -> io::Result<()> {
        self.record(name, 0o100_000 | (mode & 0o7777), (0, 0), data)
    }

    /// Adds a symbolic link.
    pub(crate) fn symlink(&mut self, name: &str, target: &str) -> io::Result<()> {
        self.record(name, 0o120_777, (0, 0), target.as_bytes())
    }

    /// Adds a character device.
    pub(crate) fn character_device(&mut self, name: &str, mode: u32, major: u32, minor: u32) -> io::Result<()> {
        self.record(name, 0o020_000 | (mode & 0o7777), (major, minor), b"")
    }

    /// Writes the trailer and gives the writer back.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.inode = 0;
        self.write_record(0, TRAILER, 0, (0, 0), b"")?;
        Ok(self.out)
    }

    fn record(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) -> io::Result<()> {
        self.inode = self.inode.checked_add(1).ok_or_else(|| invalid("too many files"))?;
        self.write_record(self.inode, name, mode, device, data)
    }

    fn write_record(
        &mut self,
        inode: u32,
        name: &str,
        mode: u32,
        (major, minor): (u32, u32),
        data: &[u8],
    ) -> io::Result<()> {
        if name.is_empty() || name.contains('\0') {
            return Err(invalid("a file name is empty or contains NUL"));
        }
        let data_bytes = u32::try_from(data.len()).map_err(|_| invalid("a file of 4 GiB or more does not fit"))?;
        let name_bytes = u32::try_from(name.len()).ok().and_then(|bytes| bytes.checked_add(1));
        let name_bytes = name_bytes.ok_or_else(|| invalid("a file name is too long"))?;
        let fields = [inode, mode, 1, 0, 0, 0, data_bytes, 0, 0, major, minor, name_bytes, 0]
            .map(|field| format!("{field:08x}"));
        write!(self.out, "070701{}", fields.concat())?;
        self.out.write_all(name.as_bytes())?;
        self.out.write_all(&[0])?;
        self.pad(HEADER_BYTES.saturating_add(u64::from(name_bytes)))?;
        self.out.write_all(data)?;
        self.pad(u64::from(data_bytes))
    }

    /// Pads to a multiple of four after `written` bytes.
    fn pad(&mut self, written: u64) -> io::Result<()> {
        let zeros: &[u8] = match written % 4 {
            0 => &[],
            1 => &[0; 3],
            2 => &[0; 2],
            _ => &[0; 1],
        };
        self.out.write_all(zeros)
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

#[cfg(test)]
mod test {
    use std::process::{Command, Stdio};

    use super::*;

    fn sample() -> Vec<u8> {
        let mut archive = Archive::new(Vec::new());
        archive.directory("dev").unwrap();
        archive.character_device("dev/console", 0o600, 5, 1).unwrap();
        archive.file("init", 0o755, b"hello").unwrap();
        archive.symlink("sh", "init").unwrap();
        archive.finish().unwrap()
    }

    #[test]
    fn a_record_has_the_bytes_of_the_format() {
        let mut archive = Archive::new(Vec::new());
        archive.file("init", 0o755, b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        let expected = concat!(
            "070701",
            "00000001", // inode
            "000081ed", // regular file, 0755
            "00000001", // links
            "00000000", // uid
            "00000000", // gid
            "00000000", // mtime
            "00000005", // data bytes
            "00000000", // device major
            "00000000", // device minor
            "00000000", // node major
            "00000000", // node minor
            "00000005", // name bytes with NUL
            "00000000", // check
            "init\0\0", // 110 + 5, padded to 116
            "hello\0\0\0",
            "070701",
            "00000000000000000000000100000000000000000000000000000000",
            "000000000000000000000000000000000000000b00000000",
            "TRAILER!!!\0\0\0\0", // 110 + 11, padded to 124
        );
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn modes_and_device_numbers_are_those_of_stat() {
        let text = String::from_utf8(sample()).unwrap();
        assert!(text.contains("070701000000010000"), "inodes count from one");
        assert!(text.contains("000041ed"), "directory 0755");
        assert!(text.contains("00002180"), "character device 0600");
        assert!(text.contains("0000000500000001"), "major 5, minor 1");
        assert!(text.contains("0000a1ff"), "symbolic link 0777");
    }

    #[test]
    fn names_that_would_break_the_archive_are_refused() {
        let mut archive = Archive::new(Vec::new());
        assert!(archive.directory("").is_err());
        assert!(archive.directory("a\0b").is_err());
    }

    #[test]
    fn an_independent_reader_lists_the_same_files() {
        for reader in [["cpio", "-t"].as_slice(), &["busybox", "cpio", "-t"], &["bsdtar", "-tf", "-"]] {
            let Ok(mut child) = Command::new(reader[0])
                .args(&reader[1..])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
            else {
                continue;
            };
            child.stdin.take().unwrap().write_all(&sample()).unwrap();
            let listed = child.wait_with_output().unwrap();
            assert!(listed.status.success());
            let names: Vec<_> =
                core::str::from_utf8(&listed.stdout).unwrap().lines().map(|l| l.trim_end_matches('/')).collect();
            assert_eq!(names, ["dev", "dev/console", "init", "sh"]);
            return;
        }
        println!("skipped: none of cpio, busybox, bsdtar is installed");
    }
}
