// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One test for each rule, named after it. Without the rule it fails.

extern crate std;

mod acknowledge;
mod decide;
mod fair;
mod in_turn;
mod order;
mod rig;
mod target;
mod turns;
mod unknown;
mod written;
