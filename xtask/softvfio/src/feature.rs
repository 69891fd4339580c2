// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! VFIO_DEVICE_FEATURE: the header, the order of its checks, and the migration features.

use std::sync::Arc;

use savevm_core::sim::{Direction, DirtyLogging, Errno};

use crate::abi::{Argument, field};
use crate::config::Kernel;
use crate::dirty_log;
use crate::machine::{Access, File, Node, Process, Session};

const GET: u32 = 1 << 16;
const SET: u32 = 1 << 17;
const PROBE: u32 = 1 << 18;
const INDEX: u32 = 0xffff;
const HEADER_BYTES: u32 = 8;

const MIGRATION: u32 = 1;
const MIG_DEVICE_STATE: u32 = 2;
const DMA_LOGGING_START: u32 = 6;
const DMA_LOGGING_STOP: u32 = 7;
const DMA_LOGGING_REPORT: u32 = 8;
const MIG_DATA_SIZE: u32 = 9;
const MIG_PRECOPY_INFO_V2: u32 = 12;

/// One request, header checked.
struct Feature {
    flags: u32,
    payload_bytes: u32,
}

pub(crate) fn feature(node: &Node, kernel: Kernel, process: &dyn Process, address: u64) -> Result<i64, Errno> {
    let header = Argument::<8>::read(process, address)?;
    let flags = header.u32(4);
    if flags & !(INDEX | GET | SET | PROBE) != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & PROBE == 0 && flags & GET != 0 && flags & SET != 0 {
        return Err(Errno::EINVAL);
    }
    let request = Feature { flags, payload_bytes: header.u32(0).saturating_sub(HEADER_BYTES) };
    let payload = field(address, u64::from(HEADER_BYTES))?;
    dispatch(node, kernel, process, &request, payload)?;
    Ok(0)
}

fn dispatch(node: &Node, kernel: Kernel, process: &dyn Process, request: &Feature, payload: u64) -> Result<(), Errno> {
    // Whether a feature is offered is decided before the operation is looked at.
    let migrates = || node.sim.migration_flags().ok_or(Errno::ENOTTY);
    let logs = || match node.sim.facts().dirty_logging {
        DirtyLogging::Absent => Err(Errno::ENOTTY),
        _ => Ok(()),
    };
    match request.flags & INDEX {
        MIGRATION => {
            let flags = migrates()?;
            if request.check(GET, 8)? {
                process.copy_out(payload, &flags.to_ne_bytes())?;
            }
        }
        MIG_DEVICE_STATE => {
            migrates()?;
            if request.check(GET | SET, 8)? {
                device_state(node, process, request, payload)?;
            }
        }
        MIG_DATA_SIZE => {
            migrates()?;
            if request.check(GET, 8)? {
                process.copy_out(payload, &node.sim.mig_data_size()?.to_ne_bytes())?;
            }
        }
        MIG_PRECOPY_INFO_V2 if kernel.precopy_info_v2 => {
            // EINVAL, even for a device without any migration.
            if !node.sim.has_pre_copy() {
                return Err(Errno::EINVAL);
            }
            if request.check(SET, 0)? {
                node.sim.enable_precopy_info_v2()?;
            }
        }
        DMA_LOGGING_START => {
            logs()?;
            if request.check(SET, 24)? {
                dirty_log::start(node, process, payload)?;
            }
        }
        DMA_LOGGING_STOP => {
            logs()?;
            if request.check(SET, 0)? {
                dirty_log::stop(node)?;
            }
        }
        DMA_LOGGING_REPORT => {
            logs()?;
            if request.check(GET, 32)? {
                dirty_log::report(node, kernel, process, payload)?;
            }
        }
        _ => return Err(Errno::ENOTTY),
    }
    Ok(())
}

impl Feature {
    /// The checks common to all features, in the kernel's order; `false`: it was only a probe.
    fn check(&self, offered: u32, payload_bytes: u32) -> Result<bool, Errno> {
        if self.flags & (GET | SET) & !offered != 0 {
            return Err(Errno::EINVAL);
        }
        if self.flags & PROBE != 0 {
            return Ok(false);
        }
        if self.flags & (GET | SET) == 0 || self.payload_bytes < payload_bytes {
            return Err(Errno::EINVAL);
        }
        Ok(true)
    }
}

fn device_state(node: &Node, process: &dyn Process, request: &Feature, payload: u64) -> Result<(), Errno> {
    let mut state = Argument::<8>::read_unchecked(process, payload)?;
    if request.flags & GET != 0 {
        state.set_u32(0, node.sim.get_state()?);
        state.set_i32(4, -1);
        return state.write(process, payload);
    }
    let ends_log = dirty_log::ends_with_state(node);
    let answer = node.sim.set_state(state.u32(0));
    if ends_log && !dirty_log::ends_with_state(node) {
        // Only a device without a log cannot stop it.
        let _ = dirty_log::stop(node);
    }
    node.state_changed();
    let session = match answer {
        Ok(Some(session)) => session,
        other => {
            state.set_i32(4, -1);
            // Also on failure, and a fault here hides the real error.
            state.write(process, payload)?;
            return other.map(|_| ());
        }
    };
    let access = match session.direction() {
        Direction::Saving => Access::ReadOnly,
        Direction::Resuming => Access::WriteOnly,
    };
    // Without a descriptor the device stays in its new state, and the payload is left alone.
    let fd = process.install(Arc::new(File::Session(Session { session })), access)?;
    state.set_i32(4, fd);
    state.write(process, payload).inspect_err(|_| process.discard(fd))
}
