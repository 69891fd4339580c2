// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Identities from directories that look like sysfs, and from kernels of every age.

use std::os::unix::fs::symlink;

use savevm_core::identity::compatible_by_type;
use tempfile::TempDir;

use super::*;

fn of_pci(driver: &str, kernel: &str) -> Stated {
    physical(0x15b3, 0x101e, driver, Some("00"), KernelVersion::parse(kernel)).unwrap()
}

#[test]
fn every_kernel_writes_what_it_reads_and_the_next_one_reads_it_where_the_pages_say_so() {
    for (driver, kernel, format) in [
        ("mlx5_vfio_pci", "6.12.117-amd64", "mlx5@2.1(2.0..2.1)"),
        ("mlx5_vfio_pci", "6.9.0", "mlx5@2.1(2.0..2.1)"),
        ("mlx5_vfio_pci", "6.8.12", "mlx5@2.1(2.0..2.1)"),
        ("mlx5_vfio_pci", "6.2.0", "mlx5@2.0"),
        ("mlx5_vfio_pci", "6.1.0-18-amd64", "mlx5@1.0"),
        ("hisi_acc_vfio_pci", "7.3.4", "hisi_acc@2.0(1.0..2.65535)"),
        ("hisi_acc_vfio_pci", "6.16", "hisi_acc@2.0(1.0..2.65535)"),
        ("hisi_acc_vfio_pci", "6.12.117", "hisi_acc@2.0(1.0..2.65535)"),
        ("hisi_acc_vfio_pci", "6.13.0", "hisi_acc@1.0"),
        ("hisi_acc_vfio_pci", "6.6.80", "hisi_acc@1.0"),
        ("virtio_vfio_pci", "7.3", "virtio@1.0"),
        ("qat_vfio_pci", "7.3", "qat@1.0"),
        ("pds_vfio_pci", "7.3", "pds@1.0"),
        ("xe-vfio-pci", "7.3", "xe@1.0"),
        ("some_vfio_pci", "7.3", "some_vfio_pci@0.0"),
    ] {
        let stated = of_pci(driver, kernel);
        assert_eq!(stated.identity.format().to_string(), format, "{driver} in {kernel}");
        assert_eq!((stated.identity.driver(), stated.identity.kind()), (driver, "101e"));
    }
    let verdict = |source, target| {
        compatible_by_type(&of_pci("mlx5_vfio_pci", source).identity, &of_pci("mlx5_vfio_pci", target).identity)
    };
    assert!(verdict("6.2.0", "7.3.4").is_compatible());
    assert!(!verdict("7.3.4", "6.2.0").is_compatible() && !verdict("6.1.0", "7.3.4").is_compatible());
}

#[test]
fn what_cannot_be_told_is_noted() {
    for (driver, kernel, note) in [
        ("some_vfio_pci", "7.3", Some("not known to this program")),
        ("hisi_acc_vfio_pci", "7.3", Some("number of queues")),
        ("hisi_acc_vfio_pci", "6.6", Some("V1 or")),
        ("mlx5_vfio_pci", "6.5", Some("bare image")),
        ("mlx5_vfio_pci", "7.3", None),
        ("pds_vfio_pci", "7.3", Some("firmware")),
    ] {
        let notes = of_pci(driver, kernel).notes;
        match note {
            Some(note) => assert!(notes.iter().any(|said| said.contains(note)), "{driver}: {notes:?}"),
            None => assert!(notes.is_empty(), "{driver}: {notes:?}"),
        }
    }
}

#[test]
fn the_revision_counts_where_the_driver_compares_it() {
    assert_eq!(of_pci("mlx5_vfio_pci", "7.3").identity.to_string().rsplit_once(';').unwrap().1, "revision=00");
    assert_eq!(of_pci("xe-vfio-pci", "7.3").identity.to_string().rsplit_once(';').unwrap().1, "!revision=00");
    let reason = physical(1, 1, "vfio-pci", None, KernelVersion::parse("7.3")).unwrap_err();
    assert!(reason.contains("without migration"), "{reason}");
}

/// A sysfs with mtty's type and, if wanted, a device of it.
struct Tree(TempDir);

impl Tree {
    fn new(drivers: &[&str], bound: Option<&str>) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        tree.folder("sys/devices/virtual/card/card/mdev_supported_types/card-big/devices");
        tree.file("sys/devices/virtual/card/card/mdev_supported_types/card-big/available_instances", "3\n");
        tree.link("sys/class/mdev_bus/card", "../../devices/virtual/card/card");
        for driver in drivers {
            tree.folder(&format!("sys/bus/mdev/drivers/{driver}"));
        }
        if let Some(driver) = bound {
            tree.folder("sys/devices/virtual/card/card/uuid");
            tree.link("sys/devices/virtual/card/card/mdev_supported_types/card-big/devices/uuid", "../../../uuid");
            tree.link("sys/devices/virtual/card/card/uuid/driver", &format!("../../bus/mdev/drivers/{driver}"));
        }
        tree
    }

    fn folder(&self, path: &str) {
        fs::create_dir_all(self.0.path().join(path)).unwrap();
    }

    fn file(&self, path: &str, text: &str) {
        fs::write(self.0.path().join(path), text).unwrap();
    }

    fn link(&self, path: &str, target: &str) {
        fs::create_dir_all(self.0.path().join(path).parent().unwrap()).unwrap();
        symlink(target, self.0.path().join(path)).unwrap();
    }

    fn ask(&self, kind: &str) -> Result<String, String> {
        let roots = Roots { sysfs: self.0.path().join("sys"), dev: self.0.path().join("dev") };
        of_mdev_type(&roots, kind).map(|stated| stated.identity.to_string())
    }
}

#[test]
fn a_type_has_the_driver_its_devices_will_have() {
    for (drivers, bound, driver) in
        [(&["a", "card", "b"][..], Some("b"), "b"), (&["a", "card", "b"], None, "card"), (&["a"], None, "a")]
    {
        let identity = Tree::new(drivers, bound).ask("card-big").unwrap();
        assert_eq!(identity, format!("mig1:mdev-card/{driver}/card-big/{driver}@0.0"));
    }
    let unknown = Tree::new(&["a", "b"], None).ask("card-big").unwrap_err();
    assert!(unknown.contains("not in sysfs until there is one"), "{unknown}");
}

#[test]
fn a_parent_is_named_as_the_kernel_names_it() {
    let tree = Tree::new(&["a"], None);
    tree.link("sys/devices/virtual/card/card/subsystem", "../../../../class/the-class");
    assert!(tree.ask("card-big").unwrap().starts_with("mig1:mdev-the-class/"));
    tree.link("sys/devices/virtual/card/card/driver", "../../../../bus/pci/drivers/i915");
    assert!(tree.ask("card-big").unwrap().starts_with("mig1:mdev-i915/"));
}

#[test]
fn a_type_that_is_not_there_is_named_with_those_that_are() {
    let tree = Tree::new(&["a"], None);
    let reason = tree.ask("card-small").unwrap_err();
    assert_eq!(reason, "there is no type 'card-small' of mediated devices; there is card-big");
    assert!(tree.ask("../card").unwrap_err().contains("names no type"));
    tree.file("sys/devices/virtual/card/card/mdev_supported_types/card-big/available_instances", "0\n");
    let roots = Roots { sysfs: tree.0.path().join("sys"), dev: tree.0.path().join("dev") };
    let notes = of_mdev_type(&roots, "card-big").unwrap().notes;
    assert!(notes.iter().any(|note| note.contains("available_instances is 0")), "{notes:?}");
}
