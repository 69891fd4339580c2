// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Which package mirror this machine uses, read from its apt source lists.
//!
//! Nothing here names a mirror: addresses, suites and keys are those the machine's owner configured. Lists of third
//! parties that use the distribution's code name as a suite are left out, because their packages are not wanted and their
//! failures would be ours.

use std::fs;
use std::path::{Path, PathBuf};

use crate::vm::control::{self, Paragraph};

/// Components that hold what is needed: Debian has all in `main`, Ubuntu some libraries in `universe`.
const COMPONENTS: [&str; 2] = ["main", "universe"];
/// Endings of a suite's name besides the bare code name.
const SUITE_SUFFIXES: [&str; 4] = ["", "-updates", "-security", "/updates"];
const BACKPORTS: &str = "-backports";
/// Suite names that stand for a release without naming it.
const ALIASES: [&str; 6] = ["oldoldstable", "oldstable", "stable", "testing", "unstable", "sid"];

/// The distribution, from `os-release`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Distribution {
    /// `ID` and `ID_LIKE`.
    pub(crate) families: Vec<String>,
    /// `PRETTY_NAME`, for messages.
    pub(crate) pretty_name: String,
    /// The release's code name: Debian's or Ubuntu's where a derivative names it, else its own.
    pub(crate) codename: String,
}

/// One entry of a source list.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Source {
    /// Addresses of the mirror.
    pub(crate) uris: Vec<String>,
    /// Releases.
    pub(crate) suites: Vec<String>,
    /// Parts of the archive.
    pub(crate) components: Vec<String>,
    /// Key ring file, key id or, over several lines, the key itself.
    pub(crate) signed_by: Option<String>,
    /// The owner's wish about outdated indexes (snapshots need `no`).
    pub(crate) check_valid_until: Option<String>,
}

impl Distribution {
    /// Reads the text of an `os-release` file.
    pub(crate) fn parse(text: &str) -> Self {
        let value = |name: &str| {
            text.lines()
                .filter_map(|line| line.trim().split_once('='))
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.trim_matches(['"', '\'']).to_owned())
                .filter(|value| !value.is_empty())
        };
        let families = [value("ID"), value("ID_LIKE")].into_iter().flatten();
        Self {
            families: families.flat_map(|ids| ids.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect(),
            pretty_name: value("PRETTY_NAME").unwrap_or_else(|| "an unnamed system".to_owned()),
            codename: ["UBUNTU_CODENAME", "DEBIAN_CODENAME", "VERSION_CODENAME"]
                .into_iter()
                .find_map(value)
                .unwrap_or_default(),
        }
    }

    /// True for `ID` or a member of `ID_LIKE`.
    pub(crate) fn is(&self, family: &str) -> bool {
        self.families.iter().any(|id| id == family)
    }
}

/// All enabled binary package entries of the lists under `etc_apt` (`sources.list` and `sources.list.d`).
/// Files that cannot be read are passed over: they are not readable for apt run by this user either.
pub(crate) fn read_all(etc_apt: &Path) -> Vec<Source> {
    let mut files: Vec<PathBuf> = fs::read_dir(etc_apt.join("sources.list.d"))
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.sort();
    files.insert(0, etc_apt.join("sources.list"));
    let mut sources = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => sources.extend(parse_lines(&text)),
            Some("sources") => sources.extend(parse_deb822(&text)),
            _ => {}
        }
    }
    sources
}

/// Entries of the one-line style: `deb [option=value …] uri suite component…`.
pub(crate) fn parse_lines(text: &str) -> Vec<Source> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Source> {
    let line = line.split_once('#').map_or(line, |(before, _)| before).trim();
    let rest = line.strip_prefix("deb").filter(|rest| rest.starts_with([' ', '\t', '[']))?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let option = |name: &str| {
        options
            .split_whitespace()
            .filter_map(|option| option.split_once('='))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.to_owned())
    };
    let mut words = rest.split_whitespace().map(str::to_owned);
    let uri = words.next().filter(|uri| !uri.starts_with("cdrom:"))?;
    Some(Source {
        uris: vec![uri],
        suites: vec![words.next()?],
        components: words.collect(),
        signed_by: option("signed-by"),
        check_valid_until: option("check-valid-until"),
    })
}

/// Entries of the deb822 style.
pub(crate) fn parse_deb822(text: &str) -> Vec<Source> {
    control::parse(text).iter().filter_map(from_paragraph).collect()
}

fn from_paragraph(paragraph: &Paragraph) -> Option<Source> {
    let words = |name| -> Vec<String> {
        paragraph.get(name).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    };
    let off = |value: &str| ["no", "false", "0", "off", "disable"].contains(&value.to_ascii_lowercase().as_str());
    if paragraph.get("Enabled").is_some_and(off) || !words("Types").iter().any(|kind| kind == "deb") {
        return None;
    }
    let uris: Vec<_> = words("URIs").into_iter().filter(|uri| !uri.starts_with("cdrom:")).collect();
    (!uris.is_empty()).then(|| Source {
        uris,
        suites: words("Suites"),
        components: words("Components"),
        signed_by: paragraph.get("Signed-By").map(str::to_owned),
        check_valid_until: paragraph.get("Check-Valid-Until").map(str::to_owned),
    })
}

/// The entries that are the distribution's own archive, reduced to its release, updates and security suites (and
/// backports where configured) and to the components that are needed.
///
/// An entry counts if its suite is of this release, and it is signed by the archive's key ring or, without a key named, its
/// address ends like an archive's (`…/debian`). If no entry is so clear (a company's mirror with a key of its own),
/// every entry for the release with a `main` component counts.
pub(crate) fn distribution_archive(all: &[Source], distribution: &Distribution) -> Vec<Source> {
    let reduced: Vec<Source> = all.iter().filter_map(|source| reduce(source, distribution)).collect();
    let clear: Vec<Source> = reduced.iter().filter(|source| is_archive(source)).cloned().collect();
    if !clear.is_empty() {
        return clear;
    }
    let by_codename = |source: &Source| source.suites.iter().all(|suite| suite.starts_with(&distribution.codename));
    reduced.into_iter().filter(by_codename).collect()
}

fn reduce(source: &Source, distribution: &Distribution) -> Option<Source> {
    let wanted = |suite: &&String| {
        release_of(suite, distribution).is_some_and(|suffix| SUITE_SUFFIXES.contains(&suffix) || suffix == BACKPORTS)
    };
    let suites: Vec<String> = source.suites.iter().filter(wanted).cloned().collect();
    let components: Vec<String> =
        source.components.iter().filter(|name| COMPONENTS.contains(&name.as_str())).cloned().collect();
    let useful = !suites.is_empty() && components.iter().any(|name| name == "main");
    useful.then(|| Source { suites, components, ..source.clone() })
}

/// What follows the release's name in a suite's name, if the suite is of this release.
fn release_of<'a>(suite: &'a str, distribution: &Distribution) -> Option<&'a str> {
    let codename = Some(distribution.codename.as_str()).filter(|name| !name.is_empty());
    ALIASES
        .into_iter()
        .chain(codename)
        .find_map(|name| suite.strip_prefix(name).filter(|suffix| suffix.is_empty() || suffix.starts_with(['-', '/'])))
}

fn is_archive(source: &Source) -> bool {
    match &source.signed_by {
        Some(key) => ["debian-archive", "ubuntu-archive"].iter().any(|name| key.contains(name)),
        None => source.uris.iter().all(|uri| {
            let last = uri.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            ["debian", "debian-security", "ubuntu"].contains(&last) || uri.starts_with("mirror+file:")
        }),
    }
}

/// The same mirror's backports, if no entry has them yet: `None` for releases that have no backports.
pub(crate) fn backports(archive: &[Source], distribution: &Distribution) -> Option<Source> {
    let has = |suite: &String| release_of(suite, distribution) == Some(BACKPORTS);
    if archive.iter().any(|source| source.suites.iter().any(has)) {
        return None;
    }
    archive.iter().find_map(|source| {
        let base = source.suites.iter().find(|suite| release_of(suite, distribution) == Some(""))?;
        let rolling = ["testing", "unstable", "sid"].contains(&base.as_str());
        (!rolling).then(|| Source { suites: vec![format!("{base}{BACKPORTS}")], ..source.clone() })
    })
}

/// The archive as another release of the same distribution has it: release, updates and security, from the same mirrors
/// with the same keys. Backports are left out, as the caller adds them.
pub(crate) fn of_release(archive: &[Source], distribution: &Distribution, codename: &str) -> Vec<Source> {
    let renamed = |suite: &String| match release_of(suite, distribution) {
        None | Some(BACKPORTS) => None,
        // Old releases called their security suite so.
        Some("/updates") => Some(format!("{codename}-security")),
        Some(suffix) => Some(format!("{codename}{suffix}")),
    };
    let moved = archive
        .iter()
        .map(|source| Source { suites: source.suites.iter().filter_map(renamed).collect(), ..source.clone() });
    moved.filter(|source| !source.suites.is_empty()).collect()
}

/// The suite that holds backports, for apt's `--target-release`.
pub(crate) fn backports_suite<'a>(archive: &'a [Source], distribution: &Distribution) -> Option<&'a str> {
    let suites = archive.iter().flat_map(|source| &source.suites);
    suites.map(String::as_str).find(|suite| release_of(suite, distribution) == Some(BACKPORTS))
}

/// Writes entries in deb822 style. `default_keyring` signs what names no key.
pub(crate) fn to_deb822(sources: &[Source], default_keyring: Option<&Path>) -> String {
    let mut text = String::new();
    for source in sources {
        let mut field = |name: &str, value: &str| {
            let value: String = value.split('\n').map(|line| format!(" {line}\n")).collect();
            text.push_str(&format!("{name}:{value}"));
        };
        field("Types", "deb");
        field("URIs", &source.uris.join(" "));
        field("Suites", &source.suites.join(" "));
        field("Components", &source.components.join(" "));
        let default = default_keyring.map(|path| path.display().to_string());
        if let Some(key) = source.signed_by.as_ref().or(default.as_ref()) {
            field("Signed-By", key);
        }
        if let Some(check) = &source.check_valid_until {
            field("Check-Valid-Until", check);
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
#[path = "sources_test.rs"]
mod test;
