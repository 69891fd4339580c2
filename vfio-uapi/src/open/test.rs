// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::fs;
use std::os::unix::fs::symlink;

use nix::libc::{EINVAL, ENOENT, ENOTTY};
use tempfile::TempDir;

use super::group::device_request;
use super::*;

const UUID: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";

/// A sysfs and a directory of device nodes, both plain files.
struct Tree {
    directory: TempDir,
}

impl Tree {
    fn new() -> Self {
        let tree = Self { directory: tempfile::tempdir().unwrap() };
        for part in ["sys", "dev/vfio/devices"] {
            fs::create_dir_all(tree.path(part)).unwrap();
        }
        tree
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.directory.path().join(relative)
    }

    fn roots(&self) -> Roots {
        Roots { sysfs: self.path("sys"), dev: self.path("dev") }
    }

    fn file(&self, relative: &str, content: &str) {
        fs::create_dir_all(self.path(relative).parent().unwrap()).unwrap();
        fs::write(self.path(relative), content).unwrap();
    }

    fn link(&self, relative: &str, target: &str) {
        fs::create_dir_all(self.path(relative).parent().unwrap()).unwrap();
        symlink(target, self.path(relative)).unwrap();
    }

    /// A PCI device below its bridge, with the links sysfs has.
    fn pci(&self, address: &str, driver: Option<&str>, group: u32) -> String {
        let device = format!("sys/devices/pci0000:00/{address}");
        self.file(&format!("{device}/vendor"), "0x15b3\n");
        self.file(&format!("{device}/device"), "0x101e\n");
        self.link(&format!("{device}/iommu_group"), &format!("../../../kernel/iommu_groups/{group}"));
        if let Some(driver) = driver {
            self.link(&format!("{device}/driver"), &format!("../../../bus/pci/drivers/{driver}"));
        }
        self.link(&format!("sys/bus/pci/devices/{address}"), &format!("../../../devices/pci0000:00/{address}"));
        device
    }

    fn mdev(&self, uuid: &str) -> String {
        let device = format!("sys/devices/virtual/mtty/mtty/{uuid}");
        fs::create_dir_all(self.path(&device)).unwrap();
        self.link(&format!("{device}/iommu_group"), "../../../../../kernel/iommu_groups/3");
        self.link(&format!("{device}/mdev_type"), "../mdev_supported_types/mtty-2");
        self.link(&format!("{device}/driver"), "../../../../../bus/mdev/drivers/mtty");
        self.link(&format!("sys/bus/mdev/devices/{uuid}"), &format!("../../../devices/virtual/mtty/mtty/{uuid}"));
        device
    }

    fn names(&self) -> Vec<String> {
        discover_in(&self.roots()).unwrap().into_iter().map(|device| device.name).collect()
    }
}

#[test]
fn a_machine_without_vfio_has_no_devices() {
    let tree = Tree::new();
    assert_eq!(discover_in(&tree.roots()), Ok(vec![]));
    assert_eq!(find(&tree.roots(), UUID), Ok(None));
}

#[test]
fn a_mediated_device_is_found_with_all_its_parts() {
    let tree = Tree::new();
    let device = tree.mdev(UUID);
    tree.file("dev/vfio/3", "");
    let found = find(&tree.roots(), &UUID.to_uppercase()).unwrap().unwrap();
    assert_eq!(found.name, UUID);
    assert_eq!(found.bus, Bus::Mdev);
    assert_eq!(found.sysfs, tree.path(&device).canonicalize().unwrap());
    assert_eq!(found.driver.as_deref(), Some("mtty"));
    assert_eq!(found.mdev_type.as_deref(), Some("mtty-2"));
    assert_eq!(found.mdev_parent.as_deref(), Some("mtty"));
    assert_eq!((found.vendor_id, found.device_id), (None, None));
    assert_eq!((found.group, found.group_node), (Some(3), Some(tree.path("dev/vfio/3"))));
    assert_eq!(found.cdev, None);
}

#[test]
fn a_pci_device_counts_if_a_vfio_driver_has_it() {
    let tree = Tree::new();
    tree.pci("0000:06:00.0", Some("mlx5_core"), 10);
    tree.pci("0000:06:00.1", None, 11);
    let device = tree.pci("0000:06:00.2", Some("mlx5_vfio_pci"), 12);
    let other = tree.pci("0000:06:00.3", Some("a_driver_of_another_name"), 13);
    for (device, class) in [(&device, "vfio0"), (&other, "vfio1")] {
        fs::create_dir_all(tree.path(&format!("{device}/vfio-dev/{class}"))).unwrap();
    }
    tree.file("dev/vfio/devices/vfio0", "");
    tree.file("dev/vfio/noiommu-12", "");
    assert_eq!(tree.names(), ["0000:06:00.2", "0000:06:00.3"]);
    let found = find(&tree.roots(), "06:00.2").unwrap().unwrap();
    assert_eq!((found.bus, found.driver.as_deref()), (Bus::Pci, Some("mlx5_vfio_pci")));
    assert_eq!((found.vendor_id, found.device_id), (Some(0x15b3), Some(0x101e)));
    assert_eq!((found.mdev_type, found.mdev_parent), (None, None));
    assert_eq!((found.group, found.group_node), (Some(12), Some(tree.path("dev/vfio/noiommu-12"))));
    assert_eq!(found.cdev, Some(tree.path("dev/vfio/devices/vfio0")));
    // A class device without a node: the kernel has no character devices.
    assert_eq!(find(&tree.roots(), "0000:06:00.3").unwrap().unwrap().cdev, None);
}

#[test]
fn other_buses_are_found_by_their_class_device_and_nothing_twice() {
    let tree = Tree::new();
    let pci = tree.pci("0000:06:00.2", Some("vfio-pci"), 12);
    let platform = "sys/devices/platform/fff51000.ethernet";
    for (device, class) in [(pci.as_str(), "vfio0"), (platform, "noiommu-vfio1")] {
        fs::create_dir_all(tree.path(&format!("{device}/vfio-dev/{class}"))).unwrap();
        let target = device.strip_prefix("sys").unwrap();
        tree.link(&format!("sys/class/vfio-dev/{class}"), &format!("../..{target}/vfio-dev/{class}"));
    }
    tree.file("dev/vfio/devices/noiommu-vfio1", "");
    assert_eq!(tree.names(), ["0000:06:00.2", "fff51000.ethernet"]);
    let found = find(&tree.roots(), "fff51000.ethernet").unwrap().unwrap();
    assert_eq!((found.bus, found.group), (Bus::Other, None));
    assert_eq!(found.cdev, Some(tree.path("dev/vfio/devices/noiommu-vfio1")));
}

#[test]
fn nonsense_in_sysfs_is_not_fatal() {
    let tree = Tree::new();
    let device = tree.pci("0000:06:00.2", Some("vfio-pci"), 12);
    tree.file(&format!("{device}/vendor"), &"9".repeat(100_000));
    fs::write(tree.path(&format!("{device}/device")), [0xff, 0xfe]).unwrap();
    tree.link("sys/bus/pci/devices/0000:07:00.0", "../../../devices/gone");
    let found = discover_in(&tree.roots()).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].vendor_id, found[0].device_id), (None, None));
}

#[test]
fn a_name_reaches_the_kernel_as_it_is_or_not_at_all() {
    let request = |name, token| device_request(name, token).map(|request| request.into_string().unwrap());
    assert_eq!(request(UUID, None).as_deref(), Some(UUID));
    assert_eq!(request("0000:06:00.2", Some("t")).as_deref(), Some("0000:06:00.2 vf_token=t"));
    for (name, token) in [("", None), ("a b", None), ("a\0", None), ("a", Some("")), ("a", Some("t u")), ("a\n", None)]
    {
        assert_eq!(request(name, token), None, "{name:?} {token:?}");
    }
}

#[test]
fn a_node_that_is_not_there_is_named() {
    let tree = Tree::new();
    let error = Group::open(&tree.path("dev/vfio/3")).unwrap_err();
    assert_eq!((error.errno(), error.call()), (Some(ENOENT), Call::Open));
    assert!(error.device().ends_with("dev/vfio/3"), "{error}");
    tree.mdev(UUID);
    let found = find(&tree.roots(), UUID).unwrap().unwrap();
    for error in [open_by_group(&tree.roots(), &found).unwrap_err(), open_by_cdev(&tree.roots(), &found).unwrap_err()] {
        assert!(matches!(error, Error::Refused { reason: Refusal::NotFound(_), .. }), "{error}");
        assert_eq!(error.device(), UUID);
    }
}

#[test]
fn files_in_the_place_of_nodes_are_told_for_what_they_are() {
    let tree = Tree::new();
    let device = tree.mdev(UUID);
    fs::create_dir_all(tree.path(&format!("{device}/vfio-dev/vfio0"))).unwrap();
    for node in ["dev/vfio/3", "dev/vfio/vfio", "dev/iommu", "dev/vfio/devices/vfio0"] {
        tree.file(node, "");
    }
    let found = find(&tree.roots(), UUID).unwrap().unwrap();
    let error = open_by_group(&tree.roots(), &found).unwrap_err();
    assert_eq!((error.errno(), error.call()), (Some(ENOTTY), Call::ApiVersion));
    let error = open_by_cdev(&tree.roots(), &found).unwrap_err();
    assert_eq!((error.errno(), error.call()), (Some(ENOTTY), Call::IoasAlloc));

    let group = Group::open(&found.group_node.unwrap()).unwrap();
    assert_eq!(group.status().unwrap_err().errno(), Some(ENOTTY));
    assert_eq!(group.device(UUID, None).unwrap_err().errno(), Some(ENOTTY));
    assert_eq!(group.unset_container().unwrap_err().call(), Call::UnsetContainer);
    let iommufd = Iommufd::open(&tree.roots().iommufd()).unwrap();
    assert_eq!(iommufd.unmap(&Ioas::from_id(1), 0, 4096).unwrap_err().call(), Call::IoasUnmap);
    let failed = Cdev::open(&found.cdev.unwrap(), UUID).unwrap().bind(&iommufd).unwrap_err();
    assert_eq!((failed.error.errno(), failed.error.device()), (Some(ENOTTY), UUID));
    let failed = failed.cdev.bind_with_token(&iommufd, &[0; 16]).unwrap_err();
    assert_eq!(failed.error.call(), Call::BindIommufd);
    let container = Container::new(failed.cdev.into_inner());
    assert_eq!(container.unmap_dma(0, 4096).unwrap_err().call(), Call::UnmapDma);
    assert_ne!(container.set_type1v2().unwrap_err().errno(), Some(EINVAL));
}
