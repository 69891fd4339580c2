// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the fuzz targets of QEMU's streams share: items made of arbitrary input (`parts`), whole streams made of it
//! (`written`), and the checks that hold for every stream, good or bad (`check`).

pub mod check;
pub mod parts;
pub mod written;
