// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `sim` and `replay`: whole migrations in virtual time, as many as one likes.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    reason = "a simulation of physical quantities: sizes and times are drawn from known ranges, and a bad index is a bug to stop at"
)]

mod check;
mod experiment;
mod fault;
mod fleet;
mod link;
mod replay;
mod rng;
mod rule;
mod run;
mod scenario;
mod source_side;
mod target_side;
mod truth;
mod world;

pub(crate) use experiment::{Line, downtime};
pub(crate) use replay::{ReplayArgs, write as write_log};
pub(crate) use rng::Rng;
pub(crate) use run::Args;
pub(crate) use {replay::replay, run::run};

/// Nanoseconds of virtual time.
type Ns = u64;
