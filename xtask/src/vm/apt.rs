// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A private apt: the system's mirror, keys and proxy, but state, cache and package database of its own.
//!
//! Nothing of the system is changed and no privilege is needed. Signatures and checksums are verified by apt, whatever
//! the system's configuration allows; the empty package database makes apt name everything a package needs down to
//! the C library, so what is unpacked runs on any machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use core::time::Duration;

use crate::vm::control;
use crate::vm::error::ProvisionError;
use crate::vm::host::{self, Guarded};
use crate::vm::progress::Progress;
use crate::vm::sources::{self, Source};
use crate::vm::system::{Release, System};

/// Settings of the system that are needed to reach its mirror.
const INHERITED: [&str; 7] = [
    "Acquire::http::",
    "Acquire::https::",
    "Acquire::ForceIPv",
    "Acquire::socks::",
    "Acquire::Check-Date",
    "Acquire::Check-Valid-Until",
    "Acquire::Max-FutureTime",
];
/// Phrases in apt's complaints that mean that a mirror was not reached.
const UNREACHABLE: [&str; 8] = [
    "Temporary failure resolving",
    "Could not resolve",
    "Could not connect",
    "Cannot initiate the connection",
    "Connection failed",
    "Connection timed out",
    "Network is unreachable",
    "Unable to connect",
];
const POLL: Duration = Duration::from_millis(100);

/// One version of one package on the mirror.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Package {
    /// Name.
    pub(crate) name: String,
    /// Full version, with epoch.
    pub(crate) version: String,
    /// Bytes to download.
    pub(crate) bytes: u64,
    /// Names in `Depends`, the first alternative of each.
    pub(crate) depends: Vec<String>,
}

/// The private apt.
#[derive(Debug)]
pub(crate) struct Apt {
    root: PathBuf,
    archive: Vec<Source>,
    system: System,
}

impl Apt {
    /// Sets up the private folders in `root` and fetches the release's indexes from the system's mirror.
    pub(crate) fn prepare(root: &Path, system: &System, release: Release) -> Result<Self, ProvisionError> {
        let (system, archive) = release.of(system)?;
        for folder in ["state/lists/partial", "cache/archives/partial", "parts", "sources"] {
            let folder = root.join(folder);
            fs::create_dir_all(&folder).map_err(ProvisionError::io("create", &folder))?;
        }
        write(&root.join("status"), "")?;
        let inherited = host::run(Command::new("apt-config").arg("dump"))?;
        write(&root.join("apt.conf"), &configuration(root, &inherited))?;
        let apt = Self { root: root.to_owned(), archive, system };
        apt.update()?;
        Ok(apt)
    }

    /// Adds the release's backports from the same mirror. `Ok(false)` if the release or the mirror has none.
    pub(crate) fn add_backports(&mut self) -> Result<bool, ProvisionError> {
        let Some(backports) = sources::backports(&self.archive, &self.system.distribution) else {
            return Ok(self.backports_suite().is_some());
        };
        self.archive.push(backports);
        match self.update() {
            Ok(()) => Ok(true),
            Err(ProvisionError::Command { .. }) => {
                self.archive.pop();
                self.update().map(|()| false)
            }
            Err(error) => Err(error),
        }
    }

    /// The mirror's addresses, for messages.
    pub(crate) fn mirrors(&self) -> String {
        let mut uris: Vec<&str> = self.archive.iter().flat_map(|source| &source.uris).map(String::as_str).collect();
        uris.sort_unstable();
        uris.dedup();
        uris.join(", ")
    }

    fn backports_suite(&self) -> Option<&str> {
        sources::backports_suite(&self.archive, &self.system.distribution)
    }

    fn update(&self) -> Result<(), ProvisionError> {
        let text = sources::to_deb822(&self.archive, self.system.keyring.as_deref());
        write(&self.root.join("sources/system.sources"), &text)?;
        host::run(self.command("apt-get").args(["-q", "update"])).map(drop).map_err(|error| self.explain(error))
    }

    /// Tells a mirror that cannot be reached from other failures.
    fn explain(&self, error: ProvisionError) -> ProvisionError {
        let ProvisionError::Command { output, .. } = &error else {
            return error;
        };
        let unreachable = |line: &&str| UNREACHABLE.iter().any(|phrase| line.contains(phrase));
        match output.lines().find(unreachable) {
            Some(line) => ProvisionError::Network { mirrors: self.mirrors(), said: line.trim().to_owned() },
            None => error,
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.root.join("apt.conf"));
        command
    }

    /// Names of packages that begin with `prefix`.
    pub(crate) fn names(&self, prefix: &str) -> Result<Vec<String>, ProvisionError> {
        let names = host::run(self.command("apt-cache").args(["pkgnames", prefix]))?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// Every version of the named packages; names that the mirror does not know give nothing.
    pub(crate) fn versions(&self, names: &[String]) -> Result<Vec<Package>, ProvisionError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        match host::run(self.command("apt-cache").args(["show", "--all-versions"]).args(names)) {
            Ok(text) => Ok(control::parse(&text).iter().filter_map(package).collect()),
            Err(ProvisionError::Command { output, .. }) if output.contains("No packages found") => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// A package and everything it depends on.
    pub(crate) fn closure(&self, root: &Package) -> Result<Vec<Package>, ProvisionError> {
        let mut command = self.command("apt-get");
        command.args(["install", "--print-uris", "-qq", "-y", "--no-install-recommends"]);
        if let Some(suite) = self.backports_suite().filter(|_| super::version::is_backport(&root.version)) {
            command.args(["--target-release", suite]);
        }
        let text = host::run(command.arg(format!("{}={}", root.name, root.version)))?;
        Ok(text.lines().filter_map(from_uri_line).collect())
    }

    /// Downloads packages into the empty folder `into`; the files are named as apt names them.
    pub(crate) fn download(
        &self,
        packages: &[Package],
        into: &Path,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), ProvisionError> {
        fs::create_dir_all(into).map_err(ProvisionError::io("create", into))?;
        let log = self.root.join("download.log");
        let output = fs::File::create(&log).map_err(ProvisionError::io("create", &log))?;
        let errors = output.try_clone().map_err(ProvisionError::io("share", &log))?;
        let mut command = self.command("apt-get");
        command.args(["-q", "download"]).args(packages.iter().map(|p| format!("{}={}", p.name, p.version)));
        command.env("LC_ALL", "C").current_dir(into).stdin(Stdio::null()).stdout(output).stderr(errors);
        let mut child = Guarded::spawn(&mut command).map_err(|error| host::not_started(&command, error))?;
        let total_bytes = packages.iter().fold(0u64, |sum, package| sum.saturating_add(package.bytes));
        let packages_total = packages.len();
        let status = loop {
            let ended = child.child().try_wait().map_err(ProvisionError::io("wait for", Path::new("apt-get")))?;
            let (packages, bytes) = arrived(into);
            progress(Progress::Download { packages, packages_total, bytes, total_bytes });
            match ended {
                Some(status) => break status,
                None => thread::sleep(POLL),
            }
        };
        if status.success() {
            return Ok(());
        }
        let said = fs::read_to_string(&log).unwrap_or_default();
        Err(self.explain(host::failed(&command, status, &said)))
    }
}

/// Files in a folder and their bytes together.
fn arrived(folder: &Path) -> (usize, u64) {
    let lengths = fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|entry| entry.metadata().ok());
    lengths.fold((0, 0), |(files, bytes), found| (files.saturating_add(1), bytes.saturating_add(found.len())))
}

/// apt's configuration; `Dir::Etc::parts` empty keeps the system's hooks and pins out.
fn configuration(root: &Path, system: &str) -> String {
    let root = root.display();
    let inherited: String = system
        .lines()
        .filter(|line| INHERITED.iter().any(|prefix| line.starts_with(prefix)))
        .map(|line| format!("{line}\n"))
        .collect();
    format!(
        "{inherited}\
         Dir::Etc::main \"/dev/null\";\n\
         Dir::Etc::parts \"{root}/parts\";\n\
         Dir::Etc::preferences \"/dev/null\";\n\
         Dir::Etc::preferencesparts \"{root}/parts\";\n\
         Dir::Etc::sourcelist \"/dev/null\";\n\
         Dir::Etc::sourceparts \"{root}/sources\";\n\
         Dir::State \"{root}/state\";\n\
         Dir::State::status \"{root}/status\";\n\
         Dir::Cache \"{root}/cache\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::Retries \"2\";\n\
         Acquire::http::Timeout \"20\";\n\
         Acquire::https::Timeout \"20\";\n\
         Acquire::AllowInsecureRepositories \"false\";\n\
         Acquire::AllowWeakRepositories \"false\";\n\
         Acquire::AllowDowngradeToInsecureRepositories \"false\";\n\
         APT::Architecture \"amd64\";\n\
         APT::Architectures {{ \"amd64\"; }};\n\
         APT::Get::AllowUnauthenticated \"false\";\n\
         APT::Install-Recommends \"false\";\n\
         APT::Sandbox::User \"\";\n\
         APT::Update::Error-Mode \"any\";\n"
    )
}

fn package(paragraph: &control::Paragraph) -> Option<Package> {
    let depends = paragraph.get("Depends").unwrap_or_default();
    Some(Package {
        name: paragraph.get("Package")?.to_owned(),
        version: paragraph.get("Version")?.to_owned(),
        bytes: paragraph.get("Size")?.parse().ok()?,
        depends: depends
            .split(',')
            .filter_map(|one| one.split(['|', '(', ':']).next())
            .map(|name| name.trim().to_owned())
            .filter(|name| !name.is_empty())
            .collect(),
    })
}

/// `'URI' NAME_VERSION_ARCHITECTURE.deb BYTES HASH`, with the version's colon written as `%3a`.
fn from_uri_line(line: &str) -> Option<Package> {
    let mut words = line.split_whitespace().skip(1);
    let (file, bytes) = (words.next()?, words.next()?.parse().ok()?);
    let mut parts = file.strip_suffix(".deb")?.split('_');
    let (name, version) = (parts.next()?.to_owned(), parts.next()?);
    let version = version.replace("%3a", ":").replace("%7e", "~").replace("%2b", "+");
    Some(Package { name, version, bytes, depends: Vec::new() })
}

fn write(path: &Path, text: &str) -> Result<(), ProvisionError> {
    fs::write(path, text).map_err(ProvisionError::io("write", path))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn only_what_reaches_the_mirror_is_inherited() {
        let system = "\
Acquire::http::Proxy \"http://proxy.example:3128\";
Acquire::AllowInsecureRepositories \"true\";
APT::Update::Post-Invoke:: \"rm -rf /\";
Acquire::Check-Valid-Until \"false\";
Dir::State \"var/lib/apt\";
";
        let text = configuration(Path::new("/c"), system);
        assert!(text.contains("Proxy \"http://proxy.example:3128\""));
        assert!(text.contains("Check-Valid-Until \"false\""));
        assert!(!text.contains("Post-Invoke") && !text.contains("\"true\"") && !text.contains("var/lib"));
        assert!(text.contains("Dir::State::status \"/c/status\""));
    }

    #[test]
    fn what_apt_prints_is_read() {
        let line = "'http://m.example/q.deb' qemu-system-x86_1%3a10.0.2+ds-2~bpo12+1_amd64.deb 10176912 SHA256:00";
        let package = from_uri_line(line).unwrap();
        assert_eq!((package.name.as_str(), package.bytes), ("qemu-system-x86", 10_176_912));
        assert_eq!(package.version, "1:10.0.2+ds-2~bpo12+1");
        assert_eq!(from_uri_line("Reading package lists..."), None);
    }

    #[test]
    fn dependencies_are_reduced_to_names() {
        let text = "Package: h\nVersion: 1\nSize: 5\nDepends: a (= 1), b:any | c, linux-kbuild-6 (>= 2) [amd64]\n";
        let package = package(&control::parse(text)[0]).unwrap();
        assert_eq!(package.depends, ["a", "b", "linux-kbuild-6"]);
    }
}
