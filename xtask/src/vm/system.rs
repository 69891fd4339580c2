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

/// Which release of the distribution packages are taken from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Release {
    /// The one that is installed.
    Installed,
    /// The one with this code name, whatever is installed. Only for what is unpacked with all its libraries.
    Named(&'static str),
}

impl Release {
    /// The system as if it were of this release, and that release's archive.
    pub(crate) fn of(self, system: &System) -> Result<(System, Vec<Source>), ProvisionError> {
        let archive = system.archive()?;
        let Self::Named(codename) = self else {
            return Ok((system.clone(), archive));
        };
        // A derivative's mirror has releases of its own only.
        if system.distribution.families.first().is_none_or(|id| id != "debian") {
            return Err(ProvisionError::OtherDistribution { codename, found: system.distribution.pretty_name.clone() });
        }
        let archive = sources::of_release(&archive, &system.distribution, codename);
        let mut system = system.clone();
        codename.clone_into(&mut system.distribution.codename);
        Ok((system, archive))
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

    #[test]
    fn another_release_comes_from_the_same_mirror() {
        let (_root, system) = system(
            "ID=debian\nVERSION_CODENAME=bookworm\n",
            "deb [signed-by=/k.gpg] http://m.example/debian bookworm main contrib\n\
             deb http://m.example/debian-security bookworm-security main\n\
             deb http://m.example/debian bookworm-backports main\n",
        );
        let (system, archive) = Release::Named("trixie").of(&system.unwrap()).unwrap();
        assert_eq!(system.distribution.codename, "trixie");
        let suites: Vec<&[String]> = archive.iter().map(|source| source.suites.as_slice()).collect();
        // What the configured backports hold is for bookworm; trixie's are added when asked for.
        assert_eq!(suites, [["trixie-security"]], "signed by another key than the archive's: not the archive");
    }

    #[test]
    fn a_derivative_has_no_releases_of_debian() {
        let (_root, system) = system(
            "ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\n",
            "deb http://m.example/ubuntu noble main universe\n",
        );
        let error = Release::Named("trixie").of(&system.unwrap()).unwrap_err().to_string();
        assert!(error.contains("trixie") && error.contains("--cache DIR"), "{error}");
    }
}
