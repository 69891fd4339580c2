// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A stock QEMU as a peer: [`machine`] runs one with [`devices`], [`qmp`] commands it, [`proxy`] records what two of
//! them say to each other, [`capture`] reads the recording, [`device_log`] what the devices saw of it, and [`threads`] what its threads are at. [`peer`] is a side of our own, which
//! [`side`] runs.
//!
//! **Invariant:** nothing here waits without a limit, and no emulator outlives its [`machine::Machine`].

pub(crate) mod capture;
pub(crate) mod device_log;
pub(crate) mod devices;
pub(crate) mod machine;
pub(crate) mod peer;
pub(crate) mod proxy;
pub(crate) mod qmp;
pub(crate) mod side;
pub(crate) mod terms;
pub(crate) mod threads;
