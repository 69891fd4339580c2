// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `mlx5`: a ConnectX VF as `mlx5_vfio_pci` migrates it.

mod config;
mod dirty;
mod image;
mod save;
#[cfg(test)]
mod test;

use core::time::Duration;

use device_mlx5::model::Resuming;
use savevm_core::digest::Digest;
use savevm_core::sim::{ConfigError, ConfigSpace, Errno, Facts, Failure, Model, Options, PrecopySizes, Region, Step};
use vfio_mig_fsm::{Capabilities, State};

use self::config::Config;
use self::image::{Contents, Loader};
use self::save::Save;
use super::account::{self, Account, BAR_BYTES, PAGE_BYTES, SCRATCH_BYTES};
use crate::config::Kernel;

const CONFIG_REGION: u32 = 7;
const VENDOR_ID: u16 = 0x15b3;
const DEVICE_ID: u16 = 0x101e;
/// Ethernet controller.
const CLASS: u32 = 0x02_0000;

/// The `mlx5` model. Its words in BAR0: the seed that contents derive from, and the generation, which counts writes to the
/// scratch bytes.
#[derive(Debug)]
pub(super) struct Mlx5 {
    config: Config,
    contents: Contents,
    account: Account,
    space: ConfigSpace,
    saving: Option<Save>,
    resuming: Option<Load>,
}

#[derive(Debug)]
struct Load {
    session: Resuming,
    firmware: Loader,
    digest: Digest,
}

impl Mlx5 {
    pub(super) fn from_options(options: &mut Options, kernel: Kernel) -> Result<Self, ConfigError> {
        let config = Config::take(options, kernel)?;
        let bars = [u32::try_from(BAR_BYTES).unwrap_or(0), 0, 0, 0, 0, 0];
        Ok(Self {
            config,
            contents: Contents { seed: config.seed, generation: 0, scratch: [0; SCRATCH_BYTES] },
            account: Account::default(),
            space: ConfigSpace::new(VENDOR_ID, DEVICE_ID, CLASS, bars),
            saving: None,
            resuming: None,
        })
    }

    fn drop_images(&mut self) {
        if let Some(saving) = self.saving.take() {
            self.account.saved = saving.sum();
        }
        self.resuming = None;
    }

    fn page(&self) -> [u8; PAGE_BYTES] {
        let mut account = self.account;
        if let Some(saving) = &self.saving {
            account.saved = saving.sum();
        }
        account.page([self.contents.seed, self.contents.generation], &self.contents.scratch)
    }

    /// A save that fails kills the session, except for what the driver tolerates.
    fn fail<T>(&mut self, result: Result<T, Errno>) -> Result<T, Failure> {
        result.map_err(|errno| match errno {
            Errno::ENOMSG => errno.into(),
            _ => {
                self.session_failed();
                Failure::sticky(errno)
            }
        })
    }

    fn require_session(&self) -> Result<(), Errno> {
        let is_dead = self.saving.as_ref().is_none_or(|saving| saving.is_dead);
        if is_dead { Err(Errno::ENODEV) } else { Ok(()) }
    }
}

impl Model for Mlx5 {
    fn facts(&self) -> Facts {
        let mut facts = Facts::new("mlx5_vfio_pci", Some(Capabilities::P2pPreCopy.flags()));
        facts.dirty_logging = self.config.logging;
        facts.write_holds_state = true;
        facts.vendor_id = VENDOR_ID;
        facts.device_id = DEVICE_ID;
        facts.class = CLASS;
        facts.regions =
            [Region { index: 0, size: BAR_BYTES }, Region { index: CONFIG_REGION, size: ConfigSpace::BYTES }].into();
        facts
    }

    fn step(&mut self, step: Step, now: Duration) -> Result<(), Errno> {
        let (config, contents) = (self.config, self.contents);
        match (step.from, step.to) {
            (State::Running, State::PreCopy) | (State::RunningP2p, State::PreCopyP2p) => {
                self.saving = Some(Save::precopy(config, contents, now)?);
            }
            (State::Stop, State::StopCopy) => self.saving = Some(Save::whole(config, contents, now)?),
            (State::PreCopyP2p, State::StopCopy) => {
                self.require_session()?;
                self.saving.as_mut().ok_or(Errno::ENODEV)?.stop(contents, now)?;
            }
            // The cleanup of tracking asks the session, which answers nothing any more once it has failed.
            (State::PreCopy, State::Running) | (State::PreCopyP2p, State::RunningP2p) => {
                self.require_session()?;
                self.drop_images();
            }
            (State::StopCopy, _) => self.drop_images(),
            (State::Stop, State::Resuming) => {
                let session = Resuming::new(config.memory_bytes);
                self.resuming = Some(Load { session, firmware: Loader::new(), digest: Digest::new() });
            }
            // Nobody checks what has come.
            (State::Resuming, _) => {
                if let Some(mut load) = self.resuming.take() {
                    load.session.stop();
                    self.account.count_load(load.digest.sum());
                }
            }
            _ => {}
        }
        if let Some(saving) = &mut self.saving {
            saving.enter(step.to, now);
        }
        Ok(())
    }

    fn busy_until(&self) -> Option<Duration> {
        self.saving.as_ref()?.busy_until()
    }

    fn read_blocks_until(&self) -> Option<Duration> {
        self.saving.as_ref()?.read_blocks_until()
    }

    fn session_failed(&mut self) {
        if let Some(saving) = &mut self.saving {
            saving.is_dead = true;
        }
    }

    fn read(&mut self, state: State, now: Duration, buffer: &mut [u8]) -> Result<usize, Failure> {
        let read = self.saving.as_mut().ok_or(Errno::ENODEV)?.read(state, now, buffer);
        self.fail(read)
    }

    fn write(&mut self, data: &[u8], _now: Duration) -> Result<usize, Failure> {
        let load = self.resuming.as_mut().ok_or(Errno::ENODEV)?;
        let written = load.session.write_to(data, &mut load.firmware);
        // Images before the refused one are in the device.
        self.contents = load.firmware.loaded().unwrap_or(self.contents);
        match written {
            Ok(written) => {
                load.digest.update(data);
                Ok(written)
            }
            Err(refusal) => Err(Failure::sticky(Errno::from_raw(refusal.errno()))),
        }
    }

    fn write_unreadable(&mut self) -> Failure {
        Failure::sticky(Errno::EFAULT)
    }

    fn precopy_sizes(&mut self, state: State, version2: bool, now: Duration) -> Result<PrecopySizes, Failure> {
        let contents = self.contents;
        let sizes = self.saving.as_mut().ok_or(Errno::ENODEV)?.query(state, version2, contents, now);
        self.fail(sizes)
    }

    /// What the firmware says of a full image, without headers.
    fn stop_copy_bytes(&mut self, _state: State, _now: Duration) -> Result<u64, Errno> {
        Ok(self.config.full_bytes)
    }

    /// The contents stay: only sessions end.
    fn reset(&mut self) {
        self.drop_images();
    }

    fn closed(&mut self) {
        self.drop_images();
    }

    fn region_read(&mut self, index: u32, offset: u64, buffer: &mut [u8]) {
        if index == CONFIG_REGION {
            self.space.read(offset, buffer);
        } else {
            account::read(&self.page(), offset, buffer);
        }
    }

    fn region_write(&mut self, index: u32, offset: u64, data: &[u8]) {
        if index == CONFIG_REGION {
            self.space.write(offset, data);
        } else if account::write(&mut self.contents.scratch, offset, data) {
            self.contents.generation = self.contents.generation.wrapping_add(1);
        }
    }

    fn export(&self) -> Vec<u8> {
        self.page().into()
    }

    fn import(&mut self, contents: &[u8]) -> Result<(), Errno> {
        let page = contents.try_into().map_err(|_| Errno::EINVAL)?;
        let (account, [seed, generation], scratch) = Account::parse(page).ok_or(Errno::EINVAL)?;
        self.account = account;
        self.contents = Contents { seed, generation, scratch };
        Ok(())
    }
}
