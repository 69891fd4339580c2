// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the kernel's drivers write and read, as far as the driver and the kernel's release tell.
//!
//! Few of the formats carry a version. Where one carries none, the numbers here count the forms that streams have had.

use core::ops::Range;

use savevm_core::identity::Version;

use crate::hw_test::KernelVersion;

/// A driver's stream format in some kernels.
pub(super) struct Row {
    driver: &'static str,
    /// From the first release that has it to the first that has not.
    kernels: Range<&'static str>,
    pub(super) name: &'static str,
    pub(super) writes: Version,
    pub(super) reads: (Version, Version),
    pub(super) note: Option<&'static str>,
}

/// Before and after every release.
const EVER: Range<&str> = "0".."4294967295";

const fn v(major: u16, minor: u16) -> Version {
    Version::new(major, minor)
}

const HISI: Row = Row {
    driver: "hisi_acc_vfio_pci",
    kernels: EVER,
    name: "hisi_acc",
    // hisi.md section 1: V1 and V2 are told apart by the magic. V2 carries major 1 and a minor, which is ignored.
    writes: v(2, 0),
    reads: (v(1, 0), v(2, u16::MAX)),
    // hisi.md section 4, checks 6c and 6d.
    note: Some(
        "The driver also compares the number of queues and the PF's queue isolation, which sysfs does not show; make \
         them equal on both sides.",
    ),
};

const MLX5: Row = Row {
    driver: "mlx5_vfio_pci",
    kernels: EVER,
    name: "mlx5",
    // mlx5.md section 2, legacy forms: 1.0 bare image, 2.0 records, 2.1 records with STOP_COPY_SIZE first.
    writes: v(2, 1),
    reads: (v(2, 0), v(2, 1)),
    note: None,
};

/// In the order of `others.md`; of one driver, the first row that has the kernel counts.
static ROWS: &[Row] = &[
    // mtty.md sections 2 and 4: major 1 and minor 0, both compared for equality.
    one("mtty", "mtty", v(1, 0), None),
    // hisi.md section 1: "mainline 6.16+, and stable trees with the fix of mid-2025 (6.12.117 writes V2)".
    Row { kernels: "6.16"..EVER.end, ..HISI },
    Row { kernels: "6.12.117".."6.13", ..HISI },
    Row {
        writes: v(1, 0),
        reads: (v(1, 0), v(1, 0)),
        note: Some(
            "Kernels like this one may write V1 or, with a fix of 2025, V2; it is taken for one that knows V1 only. The \
             driver also compares the number of queues and the PF's queue isolation, which sysfs does not show; make \
             them equal on both sides.",
        ),
        ..HISI
    },
    // mlx5.md section 2, legacy forms: "≥ 6.9: headers always".
    Row { kernels: "6.9"..EVER.end, ..MLX5 },
    // "6.3–6.8: as today if the firmware supports PRE_COPY; else bare image without header".
    Row {
        kernels: "6.3".."6.9",
        note: Some("With firmware that has no pre-copy, kernels like this one write and read a bare image instead."),
        ..MLX5
    },
    // "A 6.2 target rejects tag 1 records."
    Row {
        kernels: "6.2".."6.3",
        writes: v(2, 0),
        reads: (v(2, 0), v(2, 0)),
        note: Some("With firmware that has no pre-copy, kernels like this one write and read a bare image instead."),
        ..MLX5
    },
    Row { writes: v(1, 0), reads: (v(1, 0), v(1, 0)), ..MLX5 },
    // others.md, virtio: records like those of mlx5, with device parts of the virtio specification in them.
    one("virtio_vfio_pci", "virtio", v(1, 0), None),
    // others.md, pds: no framing and no version.
    one(
        "pds_vfio_pci",
        "pds",
        v(1, 0),
        Some(
            "The device's firmware defines the stream, and nobody compares the firmware; keep it equal on both sides.",
        ),
    ),
    // others.md, qat: preamble version 1; capabilities are in the CONFIG section.
    one(
        "qat_vfio_pci",
        "qat",
        v(1, 0),
        Some("The driver also compares the capabilities of the device, which sysfs does not show."),
    ),
    // others.md, xe: packet version 1.
    one("xe_vfio_pci", "xe", v(1, 0), None),
];

/// One format in all kernels, of which a single version is written and read.
const fn one(driver: &'static str, name: &'static str, version: Version, note: Option<&'static str>) -> Row {
    Row { driver, kernels: EVER, name, writes: version, reads: (version, version), note }
}

/// The stream format of a driver in a kernel; `None` if the driver is not known here.
pub(super) fn find(driver: &str, kernel: KernelVersion) -> Option<&'static Row> {
    let within = |row: &&Row| {
        KernelVersion::parse(row.kernels.start) <= kernel && kernel < KernelVersion::parse(row.kernels.end)
    };
    ROWS.iter().filter(|row| is_same(row.driver, driver)).find(within)
}

/// Whether the stream names the PCI revision and the target compares it (others.md, xe).
pub(super) fn checks_revision(driver: &str) -> bool {
    is_same("xe_vfio_pci", driver)
}

/// The number of ports, which the stream names and the target compares (mtty.md sections 1 and 2).
pub(super) fn ports(driver: &str, kind: &str) -> Option<&'static str> {
    match (driver, kind) {
        ("mtty", "mtty-1") => Some("1"),
        ("mtty", "mtty-2") => Some("2"),
        _ => None,
    }
}

/// Some drivers are called by their module's name, in which `-` and `_` are the same.
fn is_same(known: &str, driver: &str) -> bool {
    known.len() == driver.len() && known.chars().zip(driver.chars()).all(|(a, b)| a == b || (a == '_' && b == '-'))
}
