// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::*;

/// An ELF file with a section of names and a `.modinfo` section.
fn elf(info: &[u8]) -> Vec<u8> {
    let names = b"\0.shstrtab\0.modinfo\0";
    let mut file = vec![0; 64];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    let names_at = file.len();
    file.extend_from_slice(names);
    let info_at = file.len();
    file.extend_from_slice(info);
    let table = file.len();
    for (name, offset, bytes) in [
        (0, 0, 0),
        (1u32, names_at, names.len()),
        (11, info_at, info.len()),
    ] {
        let mut header = [0; 64];
        header[..4].copy_from_slice(&name.to_le_bytes());
        header[24..32].copy_from_slice(&u64::try_from(offset).unwrap().to_le_bytes());
        header[32..40].copy_from_slice(&u64::try_from(bytes).unwrap().to_le_bytes());
        file.extend_from_slice(&header);
    }
    file[40..48].copy_from_slice(&u64::try_from(table).unwrap().to_le_bytes());
    file[58..64].copy_from_slice(&[64, 0, 3, 0, 1, 0]);
    file
}

fn order(wanted: &[&str], graph: &[(&str, &[&str])]) -> Vec<String> {
    let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
    load_order(&wanted, |name, _| {
        let needs = graph
            .iter()
            .find(|(module, _)| *module == name)
            .ok_or(())?
            .1;
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
    assert_eq!(
        order(&["vfio_iommu_type1", "mtty"], graph),
        ["irqbypass", "vfio", "vfio_iommu_type1", "mdev", "mtty"]
    );
    assert_eq!(
        order(&["mtty", "mtty"], graph),
        ["irqbypass", "vfio", "mdev", "mtty"]
    );
}

#[test]
fn a_cycle_ends() {
    assert_eq!(order(&["a"], &[("a", &["b"]), ("b", &["a"])]), ["b", "a"]);
}

#[test]
fn who_needs_a_missing_module_is_told() {
    let mut collection = Collection {
        release: "6.1".into(),
        files: BTreeMap::new(),
        builtin: BTreeSet::new(),
        loaded: BTreeMap::new(),
    };
    let text = collection
        .dependencies("vfio", Some("mtty"))
        .unwrap_err()
        .to_string();
    assert!(text.contains("no module vfio, which mtty needs"), "{text}");
    collection.builtin.insert("vfio".into());
    assert!(
        collection
            .dependencies("vfio", Some("mtty"))
            .unwrap()
            .is_empty()
    );
}

#[test]
fn modinfo_is_read_from_its_section() {
    let file = elf(b"license=GPL\0depends=vfio,irq-bypass\0name=x\0");
    assert_eq!(depends(modinfo(&file).unwrap()), ["vfio", "irq_bypass"]);
    assert!(depends(modinfo(&elf(b"license=GPL\0depends=\0")).unwrap()).is_empty());
}

#[test]
fn damaged_modules_are_refused_not_feared() {
    let file = elf(b"depends=vfio\0");
    for length in 0..file.len() {
        let _ = modinfo(&file[..length]);
    }
    assert_eq!(modinfo(b""), None);
    assert_eq!(modinfo(b"\x7fELF\x02\x01"), None);
    let mut huge = file.clone();
    huge[40..48].fill(0xff);
    assert_eq!(modinfo(&huge), None);
}

#[test]
fn names_are_the_kernel_s() {
    for (path, name) in [
        ("a/vfio-pci.ko.xz", "vfio_pci"),
        ("kernel/x/mdev.ko", "mdev"),
        ("m.ko.zst", "m"),
    ] {
        assert_eq!(module_name(Path::new(path)), name);
    }
}
