// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Devices of single vendors, for the simulator: `model=hisi` and `model=mlx5`.
//!
//! What a driver does with a stream that it is given is in the vendors' crates; here is the rest of a device around it.

mod account;
#[cfg(test)]
mod agreement_test;
mod hisi;
mod mlx5;

use std::sync::Arc;

use savevm_core::sim::{Clock, ConfigError, Model, Options, SimConfig, SimDevice};

use crate::config::Kernel;

/// Makes the device that `config` describes, with the drivers of `kernel`.
pub(crate) fn device(config: &SimConfig, kernel: Kernel, clock: Arc<dyn Clock>) -> Result<SimDevice, ConfigError> {
    let hisi = |options: &mut Options| hisi::Hisi::from_options(options, kernel).map(boxed);
    let mlx5 = |options: &mut Options| mlx5::Mlx5::from_options(options, kernel).map(boxed);
    config.device_with(&[("hisi", &hisi), ("mlx5", &mlx5)], clock)
}

fn boxed(model: impl Model + 'static) -> Box<dyn Model> {
    Box::new(model)
}
