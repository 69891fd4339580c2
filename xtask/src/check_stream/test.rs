// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The checks on streams made by the vendors' own crates.
#![allow(clippy::arithmetic_side_effects, clippy::as_conversions)]

use device_hisi::{Match, State, Version};
use device_mlx5::Encoder;
use device_mlx5::record::Header;
use savevm_core::Phase;

use super::*;
use savevm_core::tap::{Refusal, TapError};

/// Feeds what was read while the guest ran, then the rest, in pieces of `piece_bytes`, and ends.
fn run(mut tap: impl Tap, early: &[u8], late: &[u8], piece_bytes: usize) -> Result<(), TapError> {
    for (phase, bytes) in [(Phase::PreCopy, early), (Phase::StopCopy, late)] {
        for piece in bytes.chunks(piece_bytes) {
            tap.data(phase, piece)?;
        }
    }
    tap.end()
}

/// The same for every cut, which must not matter.
fn verdict<T: Tap>(tap: impl Fn() -> T, early: &[u8], late: &[u8]) -> Result<(), TapError> {
    let whole = run(tap(), early, late, usize::MAX);
    for piece_bytes in [1, 7, 16, 17, 40] {
        assert_eq!(run(tap(), early, late, piece_bytes), whole, "in pieces of {piece_bytes}");
    }
    whole
}

fn head() -> Match {
    Match {
        version: Version::CURRENT,
        qp_num: 64,
        dev_id: 0xa251,
        que_iso_cfg: 0,
        qp_base: 64,
        vf_qm_state: 0,
        qm_rsv_state: [0; 2],
    }
}

fn hisi_state() -> Vec<u8> {
    let queue = [0, 0x1000, 0, 0, 0, 0, 0];
    let state = State {
        head: head(),
        aeq_int_mask: 0,
        eq_int_mask: 0,
        ifc_int_source: 0,
        ifc_int_mask: 0,
        ifc_int_set: 0,
        page_size: 0,
        qm_eqc_dw: queue,
        qm_aeqc_dw: queue,
        qm_rsv_regs: [0; 5],
        padding: 0,
        eqe_dma: 0x1000,
        aeqe_dma: 0x1000,
        sqc_dma: 0x3000,
        cqc_dma: 0x4000,
    };
    state.encode().to_vec()
}

#[test]
fn an_accelerator_is_compared_with_the_target_and_checked_by_itself() {
    let own = Target::from(&head());
    let state = hisi_state();
    let (early, late) = state.split_at(40);
    for tap in [None, Some(own)].map(|own| move || HisiTap::new(own)) {
        assert_eq!(verdict(tap, early, late), Ok(()));
        assert_eq!(verdict(tap, &[], &state), Ok(()));
        assert_eq!(verdict(tap, early, &[]), Ok(()), "a VF without guest driver");
        for length in (0..40).chain(41..176) {
            let error = verdict(tap, early.get(..length).unwrap_or(early), state.get(40..length).unwrap_or_default());
            assert_eq!(error.unwrap_err().refusal, Refusal::Incomplete, "{length} bytes");
        }
        let mut longer = late.to_vec();
        longer.push(0);
        assert_eq!(verdict(tap, early, &longer).unwrap_err().refusal, Refusal::Damaged);
        // The kernel would say that all went well, and load nothing.
        let mut without_queue = state.clone();
        without_queue[160..168].fill(0);
        let error = verdict(tap, early, &without_queue[40..]).unwrap_err();
        assert_eq!((error.refusal, error.offset, &*error.reading), (Refusal::Damaged, 160, "sqc_dma"));
    }
}

/// The refusal comes with the 40th byte: before the source's guest is stopped.
#[test]
fn an_accelerator_that_does_not_fit_is_refused_at_its_head() {
    let other = Target { qp_num: 17, que_iso_cfg: 3, ..Target::from(&head()) };
    let state = hisi_state();
    let mut tap = HisiTap::new(Some(other));
    tap.data(Phase::PreCopy, &state[..39]).unwrap();
    let error = tap.data(Phase::PreCopy, &state[39..40]).unwrap_err();
    assert_eq!((error.refusal, error.offset, &*error.reading), (Refusal::Incompatible, 8, "qp_num"));
    let said = error.to_string();
    for part in [
        "64 queue pairs, the target 17",
        "que_iso_cfg at stream offset 16",
        "isolation 0x0, the target's 0x3",
        "as many queues",
    ] {
        assert!(said.contains(part), "{said}");
    }
}

fn record(optional: bool, tag: u32, payload: &[u8]) -> Vec<u8> {
    let header = Header { record_bytes: payload.len() as u64, flags: u32::from(optional), tag };
    [&header.encode(), payload].concat()
}

fn mlx5_stream() -> (Vec<u8>, Vec<u8>) {
    let mut encoder = Encoder::new();
    let mut early = encoder.stop_copy_size(4096).unwrap().to_vec();
    early.extend(record(false, 0, b"initial"));
    early.extend(record(true, 99, b"something new"));
    early.extend(record(false, 0, b"more"));
    (early, record(false, 0, b"final image"))
}

#[test]
fn a_stream_of_records_is_whole_only_with_its_final_image() {
    let (early, late) = mlx5_stream();
    let tap = || Mlx5Tap::new(1 << 20);
    assert_eq!(verdict(tap, &early, &late), Ok(()));
    assert_eq!(verdict(tap, &[], &[&early[..24], &late].concat()), Ok(()), "without pre-copy");
    // What the driver takes for whole, at every byte; the cut between two images included.
    for length in 0..early.len() + late.len() {
        let early_part = early.get(..length).unwrap_or(&early);
        let late_part = length.checked_sub(early.len()).map_or(&[][..], |length| &late[..length]);
        let error = verdict(tap, early_part, late_part).unwrap_err();
        assert_eq!(error.refusal, Refusal::Incomplete, "{length} bytes: {error}");
        assert_eq!(error.offset, length as u64, "{error}");
    }
    // An image that was begun before the stop and ended after it is not the final one; even if only its header was begun.
    for left in [2, 15] {
        let (begun, ended) = early.split_at(early.len() - left);
        assert_eq!(verdict(tap, begun, ended).unwrap_err().refusal, Refusal::Incomplete);
    }
}

#[test]
fn records_that_cannot_be_are_refused_where_they_begin() {
    let (early, late) = mlx5_stream();
    let at = early.len() as u64;
    let unknown = record(false, 7, b"?");
    let huge = Header { record_bytes: 1 << 21, flags: 0, tag: 0 }.encode();
    let impossible = Header { record_bytes: 1 << 40, flags: 0, tag: 0 }.encode();
    for (bytes, refusal) in
        [(&unknown[..], Refusal::Incompatible), (&huge[..], Refusal::TooLarge), (&impossible[..], Refusal::Damaged)]
    {
        let error = verdict(|| Mlx5Tap::new(1 << 20), &[&early, bytes].concat(), &late).unwrap_err();
        assert_eq!((error.refusal, error.offset), (refusal, at), "{error}");
    }
    let error = verdict(|| Mlx5Tap::new(1 << 20), &early, b"0123456789abcdef").unwrap_err();
    assert_eq!((error.refusal, error.offset), (Refusal::Damaged, at), "{error}");
}

#[test]
fn virtio_has_other_tags_and_the_same_end() {
    let (early, late) = (record(false, 0, b"all parts"), record(false, 0, b"all parts again"));
    let tap = || VirtioTap::new(1 << 20);
    assert_eq!(verdict(tap, &early, &late), Ok(()));
    assert_eq!(verdict(tap, &[], &late), Ok(()));
    assert_eq!(verdict(tap, &early, &[]).unwrap_err().refusal, Refusal::Incomplete);
    assert_eq!(verdict(tap, &early, &late[..20]).unwrap_err().refusal, Refusal::Incomplete);
    for begun in [20, 3] {
        let (begun, ended) = early.split_at(begun);
        assert_eq!(verdict(tap, begun, ended).unwrap_err().refusal, Refusal::Incomplete);
    }
    // A STOP_COPY_SIZE that must be understood is none of virtio's.
    assert_eq!(verdict(tap, &record(false, 1, &[0; 8]), &late).unwrap_err().refusal, Refusal::Incompatible);
}

#[test]
fn the_identity_says_what_can_be_checked() {
    let known = |identity: &str, capabilities| Known::of(identity, capabilities);
    let mlx5 = "mig1:pci-15b3/mlx5_vfio_pci/101e/mlx5@2.1(2.0..2.1)";
    assert_eq!(known(mlx5, Capabilities::P2pPreCopy), Some(Known::Mlx5));
    assert_eq!(known(mlx5, Capabilities::P2p), None, "a bare image");
    assert_eq!(known("mig1:pci-15b3/mlx5_vfio_pci/101e/mlx5@1.0", Capabilities::P2pPreCopy), None);
    let hisi = "mig1:pci-19e5/hisi_acc_vfio_pci/a256/hisi_acc@2.0(1.0..2.65535)";
    assert_eq!(known(hisi, Capabilities::PreCopy), Some(Known::Hisi));
    assert_eq!(known("mig1:pci-1af4/virtio_vfio_pci/1041/virtio@1.0", Capabilities::P2pPreCopy), Some(Known::Virtio));
    assert_eq!(known("mig1:mdev-mtty/mtty/mtty-1/mtty@1.0;!ports=1", Capabilities::P2pPreCopy), None);
    assert_eq!(known("any text", Capabilities::P2pPreCopy), None);
}
