// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! VFIO answered in user space, for `LD_PRELOAD`.
//!
//! A program that runs with this library sees the VFIO devices that `SOFTVFIO` describes: their entries in sysfs and
//! `/dev`, groups, containers, cdevs and iommufds, registers, and migration data fds, with the errnos of the kernel.
//! See the README for the configuration, the environment and the limits.
//!
//! Two halves: everything that knows what an ioctl means is safe code over byte buffers; everything that touches the
//! process (symbols, pointers, descriptors) is in `shim`.

mod abi;
mod bugs;
mod cdev;
mod config;
mod container;
mod data;
mod device;
mod dirty_log;
mod dispatch;
mod dma;
#[cfg(test)]
mod fake;
mod feature;
mod group;
mod iommufd;
mod log;
mod machine;
mod mappings;
mod models;
mod page_tables;
mod shim;
mod store;
mod tree;
mod type1_dirty;
