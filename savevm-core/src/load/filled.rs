// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is filled at the target: a device, or guest memory.

use std::format;

use vfio_mig_fsm::{Capabilities, State};

use crate::device::{Call, Device, DeviceError};
use crate::engine::board::Board;
use crate::error::Cause;
use crate::ram::{self, Sink};

pub(super) enum Filled<'d, D> {
    Device(&'d mut D),
    Memory(Sink<'d>),
}

impl<D: Device> Filled<'_, D> {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Device(device) => device.name(),
            Self::Memory(_) => ram::NAME,
        }
    }

    pub(super) fn capabilities(&self) -> Capabilities {
        match self {
            Self::Device(device) => device.capabilities(),
            Self::Memory(_) => Capabilities::PreCopy,
        }
    }

    /// Gets ready to be written.
    pub(super) fn begin(&mut self, board: &Board) -> Result<(), Cause> {
        match self {
            Self::Device(device) => Ok(board.in_device(|| device.transition(State::Resuming))?),
            Self::Memory(_) => Ok(()),
        }
    }

    pub(super) fn write(&mut self, board: &Board, bytes: &[u8]) -> Result<(), Cause> {
        match self {
            Self::Device(device) => Ok(board.in_device(|| device.write(bytes))?),
            Self::Memory(sink) => board.in_device(|| sink.write(bytes)),
        }
    }

    /// Everything is written and compared: loads it.
    pub(super) fn load(&mut self, board: &Board) -> Result<(), Cause> {
        let Self::Device(device) = self else { return Ok(()) };
        board.in_device(|| device.transition(State::Stop))?;
        match board.in_device(|| device.state())? {
            State::Stop => Ok(()),
            other => {
                let detail = format!("it says it stopped, and is in {other}");
                Err(DeviceError::contract(device.name(), Call::SetState(State::Stop), detail).into())
            }
        }
    }
}
