// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The half that touches the process: libc's symbols, user memory, descriptors.
// UNSAFETY: interposing C functions, reaching memory by address and making raw system calls have no safe form.
#![allow(unsafe_code)]

mod descriptors;
mod engine;
mod guard;
mod memory;
mod next;
mod paths;
mod symbols_files;
mod symbols_paths;
mod transfer;
