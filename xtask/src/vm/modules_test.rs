// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::*;

fn order(wanted: &[&str], graph: &[(&str, &[&str])]) -> Vec<String> {
    let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
    load_order(&wanted, |name, _| {
        let needs = graph.iter().find(|(module, _)| *module == name).ok_or(())?.1;
        Ok::<_, ()>(needs.iter().map(|need| (*need).to_owned()).collect())
    })
    .unwrap()
}

#[test]
fn dependencies_load_first_and_once() {
    let graph: &[(&str, &[&str])] = &[
        ("mtty", &["mdev", "vfio"]),
        ("vfio_iommu_type1", &["vfio"]),
        ("mdev", &["vfio"]),
        ("vfio", &["irqbypass"]),
        ("irqbypass", &[]),
    ];
    assert_eq!(order(&["vfio_iommu_type1", "mtty"], graph), ["irqbypass", "vfio", "vfio_iommu_type1", "mdev", "mtty"]);
    assert_eq!(order(&["mtty", "mtty"], graph), ["irqbypass", "vfio", "mdev", "mtty"]);
}

#[test]
fn a_cycle_ends() {
    assert_eq!(order(&["a"], &[("a", &["b"]), ("b", &["a"])]), ["b", "a"]);
}

#[test]
fn who_needs_a_missing_module_is_told() {
    let mut collection =
        Collection { release: "6.1".into(), files: BTreeMap::new(), builtin: BTreeSet::new(), loaded: BTreeMap::new() };
    let text = collection.dependencies("vfio", Some("mtty")).unwrap_err().to_string();
    assert!(text.contains("no module vfio, which mtty needs"), "{text}");
    collection.builtin.insert("vfio".into());
    assert!(collection.dependencies("vfio", Some("mtty")).unwrap().is_empty());
}

#[test]
fn dependencies_are_read_from_modinfo() {
    let names = |info: &[u8]| {
        let file = elf::test::module(info);
        depends(elf::section(&file, ".modinfo").unwrap())
    };
    assert_eq!(names(b"license=GPL\0depends=vfio,irq-bypass\0name=x\0"), ["vfio", "irq_bypass"]);
    assert!(names(b"license=GPL\0depends=\0").is_empty());
    assert!(names(b"xdepends=vfio\0").is_empty());
}

#[test]
fn names_are_the_kernel_s() {
    for (path, name) in [("a/vfio-pci.ko.xz", "vfio_pci"), ("kernel/x/mdev.ko", "mdev"), ("m.ko.zst", "m")] {
        assert_eq!(module_name(Path::new(path)), name);
    }
}
