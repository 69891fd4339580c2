// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Migrations drawn at random: any capability sets, sizes and piece lengths, with a fault anywhere on either side, or
//! none. One side owns the guest, always; and without a fault the state arrives.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod common;

use common::{channels, devices, load_options, migrate_over, save_options, tcp_channels};
use proptest::prelude::*;
use savevm_core::sim::FaultRule;

/// One device of the set, as text that both sides read.
fn config() -> impl Strategy<Value = String> {
    let plain =
        (prop::sample::select(vec![1, 3, 5, 7]), 1..5000_u32, 0..5000_u32, 1..20_000_u32, any::<u16>(), any::<bool>())
            .prop_map(|(caps, initial, dirty, stop, seed, zero)| {
                let drained = if zero { "zero" } else { "nomsg" };
                format!(
                    "model=plain caps={caps} initial={initial} dirty={dirty} stop={stop} seed={seed} drained={drained}"
                )
            });
    prop_oneof![4 => plain, 1 => (1..=2).prop_map(|ports| format!("model=mtty ports={ports}"))]
}

/// A rule that hits one call of one device, counted from the first.
fn fault() -> impl Strategy<Value = String> {
    let call = prop::sample::select(vec![
        "get_state:EIO",
        "get_state:answer=42",
        "set_state:EIO",
        "set_state:error-state=EIO",
        "step:EINVAL",
        "step:error-state=EIO",
        "read:EIO",
        "read:dead=ENODEV",
        "read:short=1",
        "write:ENOMEM",
        "write:dead=ENODEV",
        "write:short=1",
        "precopy_info:EINVAL",
        "precopy_info:answer=0xffffffffffffffff/0xffffffffffffffff",
        "mig_data_size:answer=0xffffffffffffffea",
    ]);
    (call, 1..30_u32).prop_map(|(call, nth)| format!("{call}@{nth}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn one_side_owns_the_guest(
        set in prop::collection::vec(config(), 1..4),
        fault in prop::option::weighted(0.8, fault()),
        on_source in any::<bool>(),
        victim in any::<prop::sample::Index>(),
        pieces in (1..70_000_u32, 1..70_000_u32),
        is_tcp in any::<bool>(),
    ) {
        let set: Vec<&str> = set.iter().map(String::as_str).collect();
        let (source, target) = (devices(&set), devices(&set));
        if let Some(rule) = &fault {
            let side = if on_source { &source } else { &target };
            side[victim.index(side.len())].set_faults([FaultRule::parse(rule).unwrap()].into_iter().collect());
        }
        let (mut save, mut load) = (save_options(), load_options());
        (save.limits.chunk_bytes_max, load.limits.chunk_bytes_max) = pieces;
        let ends = if is_tcp { tcp_channels(1) } else { channels(1) };
        let both = migrate_over(&source, &target, ends, &mut (), &mut (), &save, &load);
        if fault.is_none() {
            both.assert_moved();
        }
        match (&both.source, &both.target) {
            // The target was told to run and could not: both know, and the source stays stopped.
            (Err(source), Err(target)) if source.committed && target.committed => {}
            _ => both.assert_one_owner(),
        }
    }
}
