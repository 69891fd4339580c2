// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The little of ELF that is needed: one section's contents, and whether a program needs a dynamic loader.
//! Offsets are those of `Elf64_Ehdr`, `Elf64_Shdr` and `Elf64_Phdr`.

/// `p_type` of the segment that names the dynamic loader.
const PT_INTERP: usize = 3;

/// The contents of the first section called `name` in a 64-bit little-endian file; `None` if there is none or the
/// file is damaged.
pub(crate) fn section<'a>(file: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let headers = table(file, 40, 58, 60)?;
    let contents = |header: &[u8]| {
        let offset = number(header, 24, 8)?;
        file.get(offset..offset.checked_add(number(header, 32, 8)?)?)
    };
    let names = contents(headers.get(number(file, 62, 2)?)?)?;
    headers.iter().find_map(|header| {
        let found = names.get(number(header, 0, 4)?..)?.split(|byte| *byte == 0).next()?;
        if found == name.as_bytes() { contents(header) } else { None }
    })
}

/// True for a 64-bit program that names a dynamic loader, that is, one that is not statically linked.
pub(crate) fn needs_loader(file: &[u8]) -> bool {
    let headers = table(file, 32, 54, 56).unwrap_or_default();
    headers.iter().any(|header| number(header, 0, 4) == Some(PT_INTERP))
}

/// The entries of a header table whose offset, entry size and count are in the fields at the given offsets.
/// Entries beyond the end of the file are left out.
fn table(file: &[u8], at: usize, entry_bytes_at: usize, count_at: usize) -> Option<Vec<&[u8]>> {
    if !file.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let entry_bytes = number(file, entry_bytes_at, 2).filter(|bytes| *bytes > 0)?;
    let entries = file.get(number(file, at, 8)?..)?.chunks_exact(entry_bytes);
    Some(entries.take(number(file, count_at, 2)?).collect())
}

fn number(bytes: &[u8], offset: usize, length: usize) -> Option<usize> {
    let field = bytes.get(offset..offset.checked_add(length)?)?;
    let mut whole = [0; 8];
    whole.get_mut(..length)?.copy_from_slice(field);
    usize::try_from(u64::from_le_bytes(whole)).ok()
}

#[cfg(test)]
pub(crate) mod test {
    use std::fs;

    use super::*;

    /// An ELF file with a section of names and a `.modinfo` section.
    pub(crate) fn module(info: &[u8]) -> Vec<u8> {
        let names = b"\0.shstrtab\0.modinfo\0";
        let mut file = vec![0; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let names_at = file.len();
        file.extend_from_slice(names);
        let info_at = file.len();
        file.extend_from_slice(info);
        let table = file.len();
        for (name, offset, bytes) in [(0, 0, 0), (1u32, names_at, names.len()), (11, info_at, info.len())] {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[24..32].copy_from_slice(&u64::try_from(offset).unwrap().to_le_bytes());
            header[32..40].copy_from_slice(&u64::try_from(bytes).unwrap().to_le_bytes());
            file.extend_from_slice(&header);
        }
        file[40..48].copy_from_slice(&u64::try_from(table).unwrap().to_le_bytes());
        file[58..64].copy_from_slice(&[64, 0, 3, 0, 1, 0]);
        file
    }

    #[test]
    fn a_section_is_found_by_its_whole_name() {
        let file = module(b"abc\0");
        assert_eq!(section(&file, ".modinfo"), Some(b"abc\0".as_slice()));
        assert_eq!(section(&file, ".mod"), None);
        assert_eq!(section(&file, ".data"), None);
    }

    #[test]
    fn damaged_files_are_refused_not_feared() {
        let file = module(b"depends=vfio\0");
        for length in 0..file.len() {
            assert_eq!(section(&file[..length], ".modinfo"), None, "cut to {length}");
            needs_loader(&file[..length]);
        }
        let mut huge = file.clone();
        huge[40..48].fill(0xff);
        assert_eq!(section(&huge, ".modinfo"), None);
        assert!(!needs_loader(b"#!/bin/sh\n"));
    }

    #[test]
    fn only_the_segment_of_a_loader_counts() {
        let program = |kinds: &[u8]| {
            let mut file = vec![0; 64];
            file[..6].copy_from_slice(b"\x7fELF\x02\x01");
            file[32] = 64;
            file[54] = 56;
            file[56] = u8::try_from(kinds.len()).unwrap();
            for kind in kinds {
                file.push(*kind);
                file.extend_from_slice(&[0; 55]);
            }
            needs_loader(&file)
        };
        assert!(program(&[6, 3, 1]), "PT_PHDR, PT_INTERP, PT_LOAD");
        assert!(!program(&[1, 2, 4, 7]), "PT_LOAD, PT_DYNAMIC, PT_NOTE, PT_TLS");
    }

    #[test]
    fn this_test_needs_a_loader_unless_built_static() {
        let this = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(needs_loader(&this), !cfg!(target_feature = "crt-static"));
    }
}
