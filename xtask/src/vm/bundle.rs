// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A QEMU inside a guest: what of the component an emulator needs that has neither screen nor network, and where the guest
//! has it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::vm::error::ProvisionError;
use crate::vm::host;
use crate::vm::qemu::Qemu;

/// Where a guest has it.
const FOLDER: &str = "/qemu";
const BINARY: &str = "/qemu/qemu-system-x86_64";
const LOADER: &str = "/qemu/lib/ld-linux-x86-64.so.2";
const LIBRARIES: &str = "/qemu/lib";
const FIRMWARE: &str = "/qemu/firmware";
/// What a q35 loads that is told to have no other devices.
const IMAGES: [&str; 2] = ["bios-256k.bin", "kvmvapic.bin"];

impl Qemu {
    /// The files of it that a guest needs, each behind its place there: 60 MB.
    pub(crate) fn bundle(&self) -> Result<Vec<(String, PathBuf)>, ProvisionError> {
        let missing = |wanted: &str| ProvisionError::Layout {
            package: format!("QEMU {}", self.version),
            wanted: wanted.to_owned(),
        };
        let mut files = vec![(BINARY.to_owned(), self.binary.clone()), (LOADER.to_owned(), self.loader.clone())];
        let listed = host::run(&mut self.list())?;
        let libraries = libraries(&listed);
        if libraries.is_empty() {
            return Err(missing("libraries"));
        }
        files.extend(libraries.into_iter().map(|(name, path)| (format!("{LIBRARIES}/{name}"), path)));
        for image in IMAGES {
            let mut found = self.firmware.iter().map(|folder| folder.join(image));
            let path = found.find(|path| path.is_file()).ok_or_else(|| missing(image))?;
            files.push((format!("{FIRMWARE}/{image}"), path));
        }
        Ok(files)
    }

    /// The one that a guest has which was given the [`bundle`](Self::bundle) of this version.
    pub(crate) fn bundled(version: String) -> Self {
        Self {
            binary: BINARY.into(),
            loader: LOADER.into(),
            library_path: vec![LIBRARIES.into()],
            // Nothing that is used here is a module.
            module_dir: FOLDER.into(),
            firmware: vec![FIRMWARE.into()],
            version,
        }
    }

    /// ld.so(8): names every library that the program would be loaded with.
    fn list(&self) -> Command {
        let folders: Vec<_> = self.library_path.iter().map(|path| path.to_string_lossy()).collect();
        let mut command = Command::new(&self.loader);
        command.arg("--library-path").arg(folders.join(":")).arg("--list").arg(&self.binary);
        command
    }
}

/// Name and file of every library in what the loader lists. The kernel's own has no file, and the loader's name is a path.
fn libraries(listed: &str) -> Vec<(&str, PathBuf)> {
    let pairs = listed.lines().filter_map(|line| line.trim().split_once(" => "));
    let found = pairs.filter_map(|(name, rest)| Some((name, rest.rsplit_once(" (")?.0)));
    found.filter(|(name, _)| !name.contains('/')).map(|(name, path)| (name, Path::new(path).to_owned())).collect()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn libraries_are_what_has_a_name_and_a_file() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibz.so.1 => /c d/lib (x)/libz.so.1 (0x00007f01)\n\
                      \tlibm.so.6 => /c/libm.so.6 (0x00007f02)\n\t/lib64/ld-linux-x86-64.so.2 => /c/ld.so (0x00007f03)\n";
        let found = libraries(listed);
        assert_eq!(found, [("libz.so.1", "/c d/lib (x)/libz.so.1".into()), ("libm.so.6", "/c/libm.so.6".into())]);
        assert!(libraries("\tstatically linked\n").is_empty());
    }

    #[test]
    fn a_bundled_emulator_starts_from_its_own_folder() {
        let command = Qemu::bundled("10.0.2".into()).command_tied_to_thread();
        let words: Vec<_> = core::iter::once(command.get_program()).chain(command.get_args()).collect();
        let expected = [LOADER, "--library-path", LIBRARIES, BINARY, "-L", FIRMWARE];
        assert!(words.ends_with(&expected.map(std::ffi::OsStr::new)), "{words:?}");
    }
}
