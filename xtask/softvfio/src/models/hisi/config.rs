// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The options of `model=hisi`.

use device_hisi::Version;
use device_hisi::compatible::Target;
use savevm_core::sim::{ConfigError, Options};

use crate::config::Kernel;

/// What a simulated VF is like.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Config {
    pub(super) dev_id: u16,
    pub(super) queues: u32,
    pub(super) queue_base: u32,
    pub(super) isolation: u32,
    pub(super) version: Version,
    /// Version 1 of the kernels of about 6.8 to 6.15, which compose the queue addresses from the wrong words.
    pub(super) has_faulty_addresses: bool,
    /// The guest driver is loaded.
    pub(super) is_ready: bool,
    /// The mark that the match part was compared is cleared when the device is opened (7.3), or never (6.12).
    pub(super) open_clears_mark: bool,
    pub(super) seed: u64,
}

impl Config {
    pub(super) fn take(options: &mut Options, kernel: Kernel) -> Result<Self, ConfigError> {
        // hisi.md section 1, "Device ids": id and default queues.
        let accelerator = options.take("accelerator", "zip, sec or hpre", |text| match text {
            "zip" => Some((0xa251, 64)),
            "sec" => Some((0xa256, 256)),
            "hpre" => Some((0xa259, 64)),
            _ => None,
        })?;
        let (dev_id, default_queues) = accelerator.unwrap_or((0xa251, 64));
        let number = |text: &str| text.parse::<u32>().ok();
        let queues = options.take("queues", "1 to 1024", |text| number(text).filter(|n| (1..=1024).contains(n)))?;
        let queues = queues.unwrap_or(default_queues);
        let base = options.take("queue-base", "0 to 65535", |text| number(text).filter(|n| *n <= 0xffff))?;
        let isolation = options.take("isolation", "a 32-bit number", number)?;
        let version = options.take("version", "1, 1-faulty or 2", |text| match text {
            "1" => Some((Version::V1 { reserved: 0 }, false)),
            "1-faulty" => Some((Version::V1 { reserved: 0 }, true)),
            "2" => Some((Version::CURRENT, false)),
            _ => None,
        })?;
        let (version, has_faulty_addresses) = version.unwrap_or((Version::CURRENT, false));
        let open_clears_mark = options.take("compares", "per-binding or per-open", |text| match text {
            "per-binding" => Some(false),
            "per-open" => Some(true),
            _ => None,
        })?;
        Ok(Self {
            dev_id,
            queues,
            queue_base: base.unwrap_or(queues),
            isolation: isolation.unwrap_or(0),
            version,
            has_faulty_addresses,
            is_ready: options.take_bool("ready")?.unwrap_or(true),
            open_clears_mark: open_clears_mark.unwrap_or(kernel.has_drivers_of_7),
            seed: options.take_number("seed")?.unwrap_or(0),
        })
    }

    /// What the kernel compares a stream with.
    pub(super) fn target(&self) -> Target {
        let Self { dev_id, queues, isolation, version, .. } = *self;
        Target { dev_id: dev_id.into(), qp_num: queues, que_iso_cfg: isolation, reads_v2: !version.is_v1() }
    }
}
