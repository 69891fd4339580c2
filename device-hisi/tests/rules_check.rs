// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The limits of the format, one by one: the value at each limit passes, the value beyond is found.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod common;

use common::{HEAD, STATE, full_v1, full_v1_wrong};
use device_hisi::check::Severity::{Error, Warning};
use device_hisi::check::{Finding, Severity};
use device_hisi::{Match, State, Stream, Version};

/// What is found in a stream: severity and field.
fn found(stream: &Stream) -> Vec<(Severity, &'static str)> {
    let findings = stream.check();
    let found = findings.iter().map(|finding| (finding.severity(), finding.field())).collect::<Vec<_>>();
    assert_eq!(findings.is_loadable(), found.iter().all(|(severity, _)| *severity != Error));
    assert_eq!(findings.errors().count(), found.iter().filter(|(severity, _)| *severity == Error).count());
    found
}

fn head(head: Match) -> Vec<(Severity, &'static str)> {
    found(&Stream::MatchOnly(head))
}

fn full(state: State) -> Vec<(Severity, &'static str)> {
    found(&Stream::Full(state))
}

#[test]
fn nothing_is_found_in_what_kernels_write() {
    assert_eq!(head(HEAD), []);
    assert_eq!(head(Match { vf_qm_state: 1, ..HEAD }), []);
    assert_eq!(full(STATE), []);
    assert_eq!(found(&Stream::decode(&full_v1()).unwrap()), []);
}

#[test]
fn queue_count() {
    for (qp_num, expected) in [
        (0, vec![(Error, "qp_num")]),
        (1, vec![]),
        (1024, vec![]),
        (1025, vec![(Error, "qp_num"), (Warning, "qp_base")]),
        (u32::MAX, vec![(Error, "qp_num"), (Warning, "qp_base")]),
    ] {
        assert_eq!(head(Match { qp_num, qp_base: 0, ..HEAD }), expected, "{qp_num}");
    }
}

#[test]
fn queue_range() {
    for (qp_base, expected) in [
        (1008, vec![]),
        (1009, vec![(Warning, "qp_base")]),
        (0xffff, vec![(Warning, "qp_base")]),
        (0x1_0000, vec![(Error, "qp_base")]),
        (u32::MAX, vec![(Error, "qp_base")]),
    ] {
        assert_eq!(head(Match { qp_base, ..HEAD }), expected, "{qp_base}");
    }
}

#[test]
fn device_id() {
    for (dev_id, is_known) in [
        (0xa251, true),
        (0xa256, true),
        (0xa259, true),
        (0xa250, false),
        (0xa25a, false),
        (0x1_a251, false),
        (0, false),
    ] {
        let expected = if is_known { vec![] } else { vec![(Error, "dev_id")] };
        assert_eq!(head(Match { dev_id, ..HEAD }), expected, "{dev_id:#x}");
    }
}

#[test]
fn guest_driver() {
    assert_eq!(head(Match { vf_qm_state: 2, ..HEAD }), [(Error, "vf_qm_state")]);
    assert_eq!(head(Match { vf_qm_state: u32::MAX, ..HEAD }), [(Error, "vf_qm_state")]);
    // Not ready and complete contradict each other.
    let not_ready = State { head: Match { vf_qm_state: 1, ..HEAD }, ..STATE };
    assert_eq!(full(not_ready), [(Error, "vf_qm_state")]);
    assert!(Stream::Full(not_ready).check().iter().any(|finding| *finding == Finding::NotReadyButComplete));
}

#[test]
fn unusual_is_not_wrong() {
    assert_eq!(head(Match { version: Version::V2 { minor: u16::MAX }, ..HEAD }), [(Warning, "minor_ver")]);
    assert_eq!(head(Match { version: Version::V1 { reserved: 1 }, ..HEAD }), [(Warning, "major_ver")]);
    assert_eq!(head(Match { qm_rsv_state: [0, 1], ..HEAD }), [(Warning, "qm_rsv_state")]);
    assert_eq!(full(State { qm_rsv_regs: [0, 0, 0, 0, 1], ..STATE }), [(Warning, "qm_rsv_regs")]);
    assert_eq!(full(State { padding: 1, ..STATE }), [(Warning, "padding")]);
}

#[test]
fn addresses_of_version_2_must_be_those_of_the_contexts() {
    assert_eq!(full(State { eqe_dma: STATE.eqe_dma ^ 0x1000, ..STATE }), [(Error, "eqe_dma")]);
    assert_eq!(full(State { aeqe_dma: STATE.aeqe_dma ^ 0x1000, ..STATE }), [(Error, "aeqe_dma")]);
    // The fault of the old kernels is one here: nobody repairs version 2.
    let Stream::Full(wrong) = Stream::decode(&full_v1_wrong()).unwrap() else { panic!("a match part") };
    assert_eq!(full(State { head: HEAD, ..wrong }), [(Error, "eqe_dma"), (Error, "aeqe_dma")]);
}

#[test]
fn the_known_fault_of_version_1_is_a_warning_and_damage_is_not() {
    let Stream::Full(wrong) = Stream::decode(&full_v1_wrong()).unwrap() else { panic!("a match part") };
    assert_eq!(full(wrong), [(Warning, "eqe_dma"), (Warning, "aeqe_dma")]);
    assert_eq!(full(State { eqe_dma: 5, ..wrong }), [(Error, "eqe_dma"), (Warning, "aeqe_dma")]);
}

#[test]
fn a_queue_without_address_is_reported() {
    assert_eq!(full(State { sqc_dma: 0, ..STATE }), [(Error, "sqc_dma")]);
    assert_eq!(full(State { cqc_dma: 0, ..STATE }), [(Error, "cqc_dma")]);
    let (mut qm_eqc_dw, mut qm_aeqc_dw) = (STATE.qm_eqc_dw, STATE.qm_aeqc_dw);
    (qm_eqc_dw[1], qm_eqc_dw[2], qm_aeqc_dw[1], qm_aeqc_dw[2]) = (0, 0, 0, 0);
    assert_eq!(full(State { eqe_dma: 0, qm_eqc_dw, ..STATE }), [(Error, "eqe_dma")]);
    assert_eq!(full(State { aeqe_dma: 0, qm_aeqc_dw, ..STATE }), [(Error, "aeqe_dma")]);
    // In version 1 the kernel looks at the address it has repaired.
    let head = Match { version: Version::V1 { reserved: 0 }, ..HEAD };
    let faulty = State { head, eqe_dma: u64::from(qm_eqc_dw[0]), qm_eqc_dw, ..STATE };
    assert_eq!(full(faulty), [(Warning, "eqe_dma"), (Error, "eqe_dma")]);
}
