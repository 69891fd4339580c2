// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::*;

const DEB822: &str = "\
Types: deb deb-src
# a comment inside a paragraph
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates bookworm-proposed-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Enabled: no
Types: deb
URIs: http://mirror.example/debian
Suites: bookworm-backports
Components: main

Types: deb-src
URIs: http://mirror.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://vendor.example/node
Suites: bookworm
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abcd
 -----END PGP PUBLIC KEY BLOCK-----
";

fn debian(codename: &str) -> Distribution {
    Distribution::parse(&format!("ID=debian\nVERSION_CODENAME={codename}\nPRETTY_NAME=\"Debian\"\n"))
}

fn suites(sources: &[Source]) -> Vec<&str> {
    sources.iter().flat_map(|source| &source.suites).map(String::as_str).collect()
}

#[test]
fn os_release_names_the_release_a_derivative_is_built_on() {
    let mint =
        Distribution::parse("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\nVERSION_CODENAME=wilma\nUBUNTU_CODENAME=noble\n");
    assert_eq!(mint.codename, "noble");
    assert!(mint.is("linuxmint") && mint.is("ubuntu") && mint.is("debian") && !mint.is("fedora"));
    let fedora = Distribution::parse("ID=fedora\nPRETTY_NAME='Fedora Linux 43'\nVERSION_CODENAME=\"\"\n");
    assert_eq!((fedora.pretty_name.as_str(), fedora.codename.as_str()), ("Fedora Linux 43", ""));
}

#[test]
fn one_line_entries() {
    let text = "\
# deb http://commented.example/debian bookworm main
deb http://mirror.example/debian/ bookworm main contrib # trailing
deb-src http://mirror.example/debian bookworm main
deb [ arch=amd64 signed-by=/k.gpg  check-valid-until=no ] http://snap.example/debian bookworm-security main
deb\t[signed-by=/x.gpg]http://tab.example/debian\tbookworm\tmain
deb cdrom:[Debian GNU/Linux 12]/ bookworm main
debug http://no.example/debian bookworm main
deb http://short.example/debian
";
    let sources = parse_lines(text);
    assert_eq!(
        sources.iter().map(|source| source.uris[0].as_str()).collect::<Vec<_>>(),
        ["http://mirror.example/debian/", "http://snap.example/debian", "http://tab.example/debian",]
    );
    assert_eq!(sources[0].components, ["main", "contrib"]);
    assert_eq!(sources[0].signed_by, None);
    assert_eq!(sources[1].signed_by.as_deref(), Some("/k.gpg"));
    assert_eq!(sources[1].check_valid_until.as_deref(), Some("no"));
    assert_eq!(sources[2].signed_by.as_deref(), Some("/x.gpg"));
}

#[test]
fn deb822_entries() {
    let sources = parse_deb822(DEB822);
    assert_eq!(sources.len(), 3, "disabled and source-only entries are left out");
    assert_eq!(sources[0].suites, ["bookworm", "bookworm-updates", "bookworm-proposed-updates"]);
    assert!(sources[2].signed_by.as_ref().unwrap().contains("\n.\nabcd\n"), "an inline key keeps its lines");
}

#[test]
fn only_the_archive_of_this_release_is_used() {
    let archive = distribution_archive(&parse_deb822(DEB822), &debian("bookworm"));
    assert_eq!(suites(&archive), ["bookworm", "bookworm-updates", "bookworm-security"]);
    assert!(archive.iter().all(|source| source.components == ["main"]));
    assert!(distribution_archive(&parse_deb822(DEB822), &debian("trixie")).is_empty());
}

#[test]
fn third_parties_without_a_key_are_told_by_their_address() {
    let text = "\
deb http://browser.example/linux/browser/deb/ stable main
deb http://mirror.example/debian stable main
deb http://containers.example/linux/debian bookworm stable
";
    let archive = distribution_archive(&parse_lines(text), &debian("bookworm"));
    assert_eq!(archive.len(), 1);
    assert_eq!(archive[0].uris, ["http://mirror.example/debian"]);
}

#[test]
fn a_company_mirror_with_its_own_key_is_accepted_when_nothing_else_is_there() {
    let text = "\
deb [signed-by=/etc/keys/company.gpg] https://packages.example/os/debian-12 bookworm main
deb [signed-by=/etc/keys/other.gpg] https://other.example/apt stable main
";
    let archive = distribution_archive(&parse_lines(text), &debian("bookworm"));
    assert_eq!(archive.len(), 1);
    assert_eq!(archive[0].signed_by.as_deref(), Some("/etc/keys/company.gpg"));
}

#[test]
fn ubuntu_keeps_universe() {
    let text = "Types: deb\nURIs: mirror+file:/etc/apt/mirrors.txt\nSuites: noble noble-updates noble-backports\n\
                Components: main universe restricted multiverse\nSigned-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg\n";
    let noble = Distribution::parse("ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\n");
    let archive = distribution_archive(&parse_deb822(text), &noble);
    assert_eq!(archive[0].components, ["main", "universe"]);
    assert_eq!(backports(&archive, &noble), None, "already configured");
    assert_eq!(backports_suite(&archive, &noble), Some("noble-backports"));
}

#[test]
fn backports_come_from_the_same_mirror_with_the_same_key() {
    let bookworm = debian("bookworm");
    let archive = distribution_archive(&parse_deb822(DEB822), &bookworm);
    let added = backports(&archive, &bookworm).unwrap();
    assert_eq!(added, Source { suites: vec!["bookworm-backports".into()], ..archive[0].clone() });
    let alias = parse_lines("deb http://mirror.example/debian stable main\n");
    assert_eq!(backports(&alias, &bookworm).unwrap().suites, ["stable-backports"]);
    let rolling = parse_lines("deb http://mirror.example/debian sid main\n");
    assert_eq!(backports(&rolling, &debian("forky")), None);
}

#[test]
fn what_is_written_reads_back_the_same() {
    let sources = parse_deb822(DEB822);
    assert_eq!(parse_deb822(&to_deb822(&sources, None)), sources);
    let unsigned = parse_lines("deb http://mirror.example/debian bookworm main\n");
    let written = parse_deb822(&to_deb822(&unsigned, Some(Path::new("/k.gpg"))));
    assert_eq!(written[0].signed_by.as_deref(), Some("/k.gpg"));
}
