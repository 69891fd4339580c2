// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::*;

fn package(name: &str, version: &str, bytes: u64, depends: &[&str]) -> Package {
    let depends = depends.iter().map(|name| (*name).to_owned()).collect();
    Package { name: name.into(), version: version.into(), bytes, depends }
}

/// A Debian kernel as the archive lists it.
fn debian(release: &str, version: &str) -> Vec<Package> {
    let common = format!("linux-headers-{release}-common");
    let kbuild = format!("linux-kbuild-{release}");
    vec![
        package(&format!("linux-image-{release}-amd64"), version, 100 << 20, &["kmod"]),
        package(&format!("linux-headers-{release}-amd64"), version, 3 << 20, &[&common, &kbuild, "gcc-12"]),
        package(&common, version, 11 << 20, &[]),
        package(&kbuild, version, 2 << 20, &[]),
    ]
}

fn names(packages: &[Package]) -> Vec<&str> {
    packages.iter().map(|package| package.name.as_str()).collect()
}

#[test]
fn the_newest_kernel_with_its_own_source_is_chosen() {
    let mut offered = debian("6.12.115+deb12", "6.12.115-2~deb12u1");
    offered.extend(debian("6.12.117+deb12", "6.12.117-1~deb12u1"));
    offered.extend(debian("6.12.118+deb12", "6.12.118-1~deb12u1"));
    for version in ["6.12.115-2~deb12u1", "6.12.117-1~deb12u1"] {
        offered.push(package("linux-source-6.12", version, 150 << 20, &[]));
    }
    let choice = select(&offered, |_| true).unwrap();
    assert_eq!(choice.release, "6.12.117+deb12-amd64", "6.12.118 has no source yet");
    assert_eq!(choice.source.version, "6.12.117-1~deb12u1");
    assert_eq!(names(&choice.images), ["linux-image-6.12.117+deb12-amd64"]);
    assert_eq!(
        names(&choice.headers),
        ["linux-headers-6.12.117+deb12-amd64", "linux-headers-6.12.117+deb12-common", "linux-kbuild-6.12.117+deb12",]
    );
}

#[test]
fn meta_packages_are_not_kernels() {
    let (release, version) = ("6.12.117+deb12-amd64", "6.12.117-1~deb12u1");
    let meta = |kind: &str| {
        let depends = format!("linux-{kind}-{release}");
        package(&format!("linux-{kind}-6.12-amd64"), version, 1400, &[&depends])
    };
    let mut offered = vec![meta("image"), meta("headers")];
    offered.extend(debian("6.12.117+deb12", version));
    offered.push(package("linux-source-6.12", version, 150 << 20, &[]));
    assert_eq!(select(&offered, |_| true).unwrap().release, release);
}

#[test]
fn kernels_whose_driver_cannot_migrate_are_not_chosen() {
    let mut offered = debian("6.1.0-56", "6.1.192-2");
    offered.push(package("linux-source-6.1", "6.1.192-2", 130 << 20, &[]));
    assert_eq!(select(&offered, |_| true), None);
}

#[test]
fn backports_count_only_when_allowed() {
    let mut offered = debian("6.12.95+deb12", "6.12.95-1~bpo12+1");
    offered.push(package("linux-source-6.12", "6.12.95-1~bpo12+1", 150 << 20, &[]));
    assert_eq!(select(&offered, |version| !version::is_backport(version)), None);
    assert_eq!(select(&offered, |_| true).unwrap().release, "6.12.95+deb12-amd64");
}

#[test]
fn ubuntu_kernels_bring_their_modules() {
    let (release, version) = ("6.8.0-101-generic", "6.8.0-101.101");
    let mut offered = vec![
        package("linux-image-6.8.0-101-generic", version, 14 << 20, &["kmod", "linux-modules-6.8.0-101-generic"]),
        package("linux-modules-6.8.0-101-generic", version, 40 << 20, &[]),
        package("linux-modules-extra-6.8.0-101-generic", version, 100 << 20, &[]),
        package("linux-headers-6.8.0-101-generic", version, 4 << 20, &["linux-headers-6.8.0-101", "libc6"]),
        package("linux-headers-6.8.0-101", version, 13 << 20, &[]),
    ];
    assert_eq!(select(&offered, |_| true), None, "no source");
    offered.push(package("linux-source-6.8.0", version, 140 << 20, &[]));
    let choice = select(&offered, |_| true).unwrap();
    assert_eq!(choice.release, release);
    assert_eq!(
        names(&choice.images),
        ["linux-image-6.8.0-101-generic", "linux-modules-6.8.0-101-generic", "linux-modules-extra-6.8.0-101-generic",]
    );
    assert_eq!(names(&choice.headers), ["linux-headers-6.8.0-101-generic", "linux-headers-6.8.0-101"]);
}

#[test]
fn other_flavours_are_not_looked_at() {
    let kept = |name| is_versioned(name, "linux-image-");
    assert!(kept("linux-image-6.12.117+deb12-amd64"));
    for name in [
        "linux-image-amd64",
        "linux-image-6.12.1-cloud-amd64",
        "linux-image-6.12.1-rt-amd64",
        "linux-image-6.1-amd64-dbg",
    ] {
        assert!(!kept(name), "{name}");
    }
    assert!(is_versioned("linux-modules-extra-6.8.0-101-generic", "linux-modules-"));
}
