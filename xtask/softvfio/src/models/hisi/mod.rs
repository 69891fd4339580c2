// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `hisi`: a VF of a HiSilicon accelerator as `hisi_acc_vfio_pci` migrates it.

mod config;
#[cfg(test)]
mod test;
mod vf;

use core::time::Duration;

use device_hisi::model::{Effect, Refusal, Resuming, Vf};
use device_hisi::{MATCH_BYTES, STATE_BYTES, VF_READY};
use savevm_core::digest::Digest;
use savevm_core::sim::{ConfigError, ConfigSpace, Errno, Facts, Failure, Model, Options, PrecopySizes, Region, Step};
use vfio_mig_fsm::{Capabilities, State};

use self::config::Config;
use self::vf::{Hardware, head};
use super::account::{self, Account, BAR_BYTES, PAGE_BYTES};
use crate::config::Kernel;

const CONFIG_REGION: u32 = 7;
const VENDOR_ID: u16 = 0x19e5;
/// "Processing accelerator".
const CLASS: u32 = 0x12_0000;

/// The `hisi` model. Its words in BAR0: a CRC-64/NVME over the registers and queues as the hardware uses them, and
/// `vf_qm_state`. The scratch bytes are bytes 56 to 119 of the structure; writing them is the guest setting its queues up.
#[derive(Debug)]
pub(super) struct Hisi {
    config: Config,
    hardware: Hardware,
    account: Account,
    space: ConfigSpace,
    /// The driver's view of the VF, with the mark that outlives sessions.
    vf: Vf,
    saving: Option<Saving>,
    resuming: Option<Load>,
}

#[derive(Debug)]
struct Saving {
    bytes: Vec<u8>,
    position: usize,
    digest: Digest,
}

#[derive(Debug)]
struct Load {
    session: Resuming<Vf>,
    digest: Digest,
}

impl Hisi {
    pub(super) fn from_options(options: &mut Options, kernel: Kernel) -> Result<Self, ConfigError> {
        let config = Config::take(options, kernel)?;
        let hardware = Hardware::new(&config).ok_or_else(|| ConfigError::new(1, "model=hisi", "a valid state"))?;
        let bars = [u32::try_from(BAR_BYTES).unwrap_or(0), 0, 0, 0, 0, 0];
        Ok(Self {
            config,
            hardware,
            account: Account::default(),
            space: ConfigSpace::new(VENDOR_ID, config.dev_id, CLASS, bars),
            vf: Vf::new(config.target()),
            saving: None,
            resuming: None,
        })
    }

    /// Enters STOP_COPY. What was read of the match part before stays as it was read.
    fn stop(&mut self) {
        let bytes = self.hardware.save(&self.config);
        match &mut self.saving {
            Some(saving) => saving.bytes = bytes,
            None => self.saving = Some(Saving::new(bytes)),
        }
    }

    fn load(&mut self) -> Result<(), Errno> {
        let Some(load) = &mut self.resuming else { return Ok(()) };
        match load.session.stop().map_err(errno)? {
            Effect::Loaded(bytes) => self.hardware.load(&bytes).ok_or(Errno::EINVAL)?,
            Effect::NoAddress => self.hardware.is_ready = false,
            _ => {}
        }
        self.account.count_load(load.digest.sum());
        Ok(())
    }

    fn drop_images(&mut self) {
        if let Some(saving) = self.saving.take() {
            self.account.saved = saving.digest.sum();
        }
        if let Some(load) = self.resuming.take() {
            self.vf = load.session.into_vf();
        }
    }

    fn page(&self) -> [u8; PAGE_BYTES] {
        let mut account = self.account;
        if let Some(saving) = &self.saving {
            account.saved = saving.digest.sum();
        }
        account.page(self.hardware.words(), &self.hardware.scratch())
    }
}

impl Saving {
    fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, position: 0, digest: Digest::new() }
    }

    fn left(&self) -> &[u8] {
        self.bytes.get(self.position..).unwrap_or_default()
    }
}

impl Model for Hisi {
    fn facts(&self) -> Facts {
        let mut facts = Facts::new("hisi_acc_vfio_pci", Some(Capabilities::PreCopy.flags()));
        facts.vendor_id = VENDOR_ID;
        facts.device_id = self.config.dev_id;
        facts.class = CLASS;
        facts.regions =
            [Region { index: 0, size: BAR_BYTES }, Region { index: CONFIG_REGION, size: ConfigSpace::BYTES }].into();
        facts
    }

    fn step(&mut self, step: Step, _now: Duration) -> Result<(), Errno> {
        match (step.from, step.to) {
            (State::Running, State::PreCopy) => {
                self.saving = Some(Saving::new(head(&self.config, VF_READY).encode().into()));
            }
            (_, State::StopCopy) => self.stop(),
            (State::Stop, State::Resuming) => {
                self.resuming = Some(Load { session: self.vf.clone().into_resuming(), digest: Digest::new() });
            }
            (State::Resuming, _) => {
                self.load()?;
                self.drop_images();
            }
            (from, to) if from.is_saving() && !to.is_saving() => self.drop_images(),
            _ => {}
        }
        Ok(())
    }

    /// 0 where nothing is left, in PRE_COPY as in STOP_COPY.
    fn read(&mut self, _state: State, _now: Duration, buffer: &mut [u8]) -> Result<usize, Failure> {
        let saving = self.saving.as_mut().ok_or(Errno::ENODEV)?;
        let len = saving.left().len().min(buffer.len());
        account::copy(buffer, saving.left().iter().copied());
        saving.digest.update(buffer.get(..len).unwrap_or_default());
        saving.position = saving.position.saturating_add(len);
        Ok(len)
    }

    fn check_write(&self, len: u64) -> Result<(), Errno> {
        let room = self.resuming.as_ref().map_or(STATE_BYTES, |load| load.session.room_bytes());
        let fits = usize::try_from(len).is_ok_and(|len| len <= room);
        if fits { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    fn write(&mut self, data: &[u8], _now: Duration) -> Result<usize, Failure> {
        let load = self.resuming.as_mut().ok_or(Errno::ENODEV)?;
        let written = load.session.write(data);
        // Refused bytes are stored, too, unless they were too many.
        if written.is_ok() || written == Err(Refusal::Mismatch) {
            load.digest.update(data);
        }
        Ok(written.map_err(errno)?)
    }

    fn precopy_sizes(&mut self, _state: State, _version2: bool, _now: Duration) -> Result<PrecopySizes, Failure> {
        let saving = self.saving.as_ref().ok_or(Errno::ENODEV)?;
        let left = MATCH_BYTES.saturating_sub(saving.position);
        Ok(PrecopySizes { initial_bytes: u64::try_from(left).unwrap_or(u64::MAX), ..PrecopySizes::default() })
    }

    fn stop_copy_bytes(&mut self, _state: State, _now: Duration) -> Result<u64, Errno> {
        Ok(u64::try_from(STATE_BYTES).unwrap_or(u64::MAX))
    }

    /// The mark stays, and so do registers and queues.
    fn reset(&mut self) {
        self.drop_images();
    }

    fn closed(&mut self) {
        self.drop_images();
        if self.config.open_clears_mark {
            self.vf.open();
        }
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
            return;
        }
        let mut scratch = self.hardware.scratch();
        if account::write(&mut scratch, offset, data) {
            self.hardware.set_scratch(&scratch);
        }
    }

    /// BAR0, the structure, and two marks.
    fn export(&self) -> Vec<u8> {
        let marks = [u8::from(self.hardware.is_ready), u8::from(self.vf.is_match_done())];
        [self.page().as_slice(), &self.hardware.bytes(), &marks].concat()
    }

    fn import(&mut self, contents: &[u8]) -> Result<(), Errno> {
        let (account, hardware, is_match_done) = parse(&self.hardware, contents).ok_or(Errno::EINVAL)?;
        (self.account, self.hardware) = (account, hardware);
        self.vf = self.vf.clone().with_match_done(is_match_done);
        Ok(())
    }
}

fn parse(own: &Hardware, contents: &[u8]) -> Option<(Account, Hardware, bool)> {
    let (page, rest) = contents.split_first_chunk()?;
    let (structure, marks) = rest.split_first_chunk()?;
    let &[is_ready, is_match_done] = marks else { return None };
    let (account, ..) = Account::parse(page)?;
    let mut hardware = *own;
    hardware.load(structure)?;
    hardware.is_ready = is_ready == 1;
    Some((account, hardware, is_match_done == 1))
}

fn errno(refusal: Refusal) -> Errno {
    Errno::from_raw(refusal.errno())
}
