// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is known of the machine that provisions.

use std::fs;
use std::path::{Path, PathBuf};

use crate::vm::error::ProvisionError;
use crate::vm::sources::{self, Distribution, Source};

/// The distribution and its package archive.
#[derive(Clone, Debug)]
pub(crate) struct System {
    /// From `os-release`.
    pub(crate) distribution: Distribution,
    /// The archive's key ring, for entries that name no key.
    pub(crate) keyring: Option<PathBuf>,
    etc_apt: PathBuf,
}

impl System {
    /// Reads the system installed under `root` (`/`, except in tests).
    pub(crate) fn read(root: &Path) -> Result<Self, ProvisionError> {
        let text = ["etc/os-release", "usr/lib/os-release"]
            .into_iter()
            .find_map(|path| fs::read_to_string(root.join(path)).ok())
            .unwrap_or_default();
        let distribution = Distribution::parse(&text);
        let family = ["ubuntu", "debian"].into_iter().find(|family| distribution.is(family));
        let (Some(family), "x86_64") = (family, std::env::consts::ARCH) else {
            let found = format!("{} on {}", distribution.pretty_name, std::env::consts::ARCH);
            return Err(ProvisionError::UnsupportedHost { found });
        };
        let keyring = root.join(format!("usr/share/keyrings/{family}-archive-keyring.gpg"));
        Ok(Self { distribution, keyring: Some(keyring).filter(|path| path.is_file()), etc_apt: root.join("etc/apt") })
    }

    /// The distribution's own entries among the source lists.
    pub(crate) fn archive(&self) -> Result<Vec<Source>, ProvisionError> {
        let archive = sources::distribution_archive(&sources::read_all(&self.etc_apt), &self.distribution);
        if archive.is_empty() {
            return Err(ProvisionError::NoMirror {
                lists: self.etc_apt.clone(),
                codename: self.distribution.codename.clone(),
            });
        }
        Ok(archive)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn system(os_release: &str, list: &str) -> (tempfile::TempDir, Result<System, ProvisionError>) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc/apt")).unwrap();
        fs::write(root.path().join("etc/os-release"), os_release).unwrap();
        fs::write(root.path().join("etc/apt/sources.list"), list).unwrap();
        let system = System::read(root.path());
        (root, system)
    }

    #[test]
    fn other_systems_are_told_what_is_supported() {
        let (_root, system) = system("ID=fedora\nPRETTY_NAME=\"Fedora 43\"\n", "");
        let text = system.unwrap_err().to_string();
        assert!(text.contains("Fedora 43") && text.contains("--cache DIR"), "{text}");
    }

    #[test]
    fn a_system_without_an_archive_is_told_so() {
        let (_root, system) = system("ID=debian\nVERSION_CODENAME=bookworm\n", "deb http://x.example/ y main\n");
        assert!(matches!(system.unwrap().archive(), Err(ProvisionError::NoMirror { .. })));
    }

    #[test]
    fn the_archive_is_read_from_the_lists() {
        let (_root, system) =
            system("ID=debian\nVERSION_CODENAME=bookworm\n", "deb http://m.example/debian bookworm main\n");
        assert_eq!(system.unwrap().archive().unwrap()[0].uris, ["http://m.example/debian"]);
    }
}
