// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The configuration of a whole machine: kernel flavour and devices.

use savevm_core::sim::{ConfigError, Options, SimConfig};

use crate::bugs::{DeviceBugs, KernelBugs};

/// What a kernel offers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Kernel {
    /// `/dev/iommu` and `/dev/vfio/devices`, and with them the driver side of iommufd (dirty log reports).
    pub(crate) iommufd: bool,
    /// Feature 12.
    pub(crate) precopy_info_v2: bool,
    /// The structures of 7.x: BIND with a token and a checked tail, ATTACH with a PASID.
    pub(crate) extended_bind: bool,
    /// Drivers behave as in 7.3 where that differs from 6.12.
    pub(crate) has_drivers_of_7: bool,
    /// What is wrong with its iommufd.
    pub(crate) bugs: KernelBugs,
}

impl Kernel {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let bugs = KernelBugs::default();
        let (iommufd, new) = match name {
            "6.12" => (false, false),
            "6.12-iommufd" => (true, false),
            "7.3" => (true, true),
            _ => return None,
        };
        Some(Self { iommufd, precopy_info_v2: new, extended_bind: new, has_drivers_of_7: new, bugs })
    }
}

/// Where a device sits.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Address {
    /// `0000:aa:00.0`
    Pci(String),
    /// The UUID of a mediated device.
    Mdev(String),
}

impl Address {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if shaped(text, "hhhh:hh:hh.o") {
            Some(Self::Pci(text.to_owned()))
        } else if shaped(text, "hhhhhhhh-hhhh-hhhh-hhhh-hhhhhhhhhhhh") {
            Some(Self::Mdev(text.to_owned()))
        } else {
            None
        }
    }

    /// As GROUP_GET_DEVICE_FD and sysfs name it.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Pci(name) | Self::Mdev(name) => name,
        }
    }
}

/// `h`: a lower-case hexadecimal digit; `o`: an octal one; anything else stands for itself.
fn shaped(text: &str, shape: &str) -> bool {
    text.len() == shape.len()
        && text.chars().zip(shape.chars()).all(|(found, wanted)| match wanted {
            'h' => matches!(found, '0'..='9' | 'a'..='f'),
            'o' => matches!(found, '0'..='7'),
            _ => found == wanted,
        })
}

/// One device.
#[derive(Clone, Debug)]
pub(crate) struct DeviceConfig {
    /// The name in logs and in `SOFTVFIO_FDS`.
    pub(crate) name: String,
    pub(crate) address: Address,
    pub(crate) group: u32,
    pub(crate) cdev: u32,
    /// The number of the device that its DMA reaches besides memory.
    pub(crate) peer: Option<usize>,
    /// What is wrong with its driver.
    pub(crate) bugs: DeviceBugs,
    pub(crate) sim: SimConfig,
}

/// Everything.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) kernel: Kernel,
    pub(crate) devices: Vec<DeviceConfig>,
}

impl Config {
    /// Parses the text of a configuration; `;` is as good as a line end.
    pub(crate) fn parse(text: &str) -> Result<Self, ConfigError> {
        let mut kernel = Kernel {
            iommufd: false,
            precopy_info_v2: false,
            extended_bind: false,
            has_drivers_of_7: false,
            bugs: KernelBugs::default(),
        };
        let (mut devices, mut peers) = (Vec::new(), Vec::new());
        for (line, text) in statements(text) {
            let text = text.trim();
            match text.split_once(char::is_whitespace) {
                Some(("device", rest)) => {
                    let (device, peer) = device(rest, line, devices.len())?;
                    unique(&devices, &device, line)?;
                    peers.push((peer, line));
                    devices.push(device);
                }
                _ => {
                    let mut options = Options::parse_from(text, line)?;
                    let found = options.take("kernel", "6.12, 6.12-iommufd or 7.3", Kernel::parse)?;
                    kernel = found.unwrap_or(kernel);
                    let offered =
                        if kernel.iommufd { KernelBugs::NAMES } else { "a kernel with iommufd, whose bugs these are" };
                    let bugs =
                        options.take("bug", offered, |names| KernelBugs::parse(names).filter(|_| kernel.iommufd))?;
                    kernel.bugs = bugs.unwrap_or(kernel.bugs);
                    options.finish("kernel=… or device NAME …")?;
                }
            }
        }
        for (index, (peer, line)) in peers.into_iter().enumerate() {
            let Some(peer) = peer else { continue };
            let found = devices.iter().position(|device| device.name == peer).filter(|found| *found != index);
            let found = found.ok_or_else(|| error(line, &format!("dma-peer={peer}"), "the name of another device"))?;
            if let Some(device) = devices.get_mut(index) {
                device.peer = Some(found);
            }
        }
        Ok(Self { kernel, devices })
    }
}

/// Statements with the line they begin on. A line that begins with a space continues the one before, unless it
/// begins a statement by its first word.
fn statements(text: &str) -> Vec<(u32, String)> {
    let mut statements: Vec<(u32, String)> = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let begins = text.trim_start();
        let begins = begins.starts_with("device ") || begins.starts_with("kernel=");
        let continues = text.starts_with(char::is_whitespace) && !begins;
        let text = text.split_once('#').map_or(text, |(text, _)| text);
        for (index, part) in text.split(';').enumerate() {
            match statements.last_mut().filter(|_| continues && index == 0) {
                // The line end stays, so that errors in a continuation name its own line.
                Some((_, statement)) => {
                    statement.push('\n');
                    statement.push_str(part);
                }
                None => statements.push((line, part.to_owned())),
            }
        }
    }
    statements.retain(|(_, statement)| !statement.trim().is_empty());
    statements
}

/// A device, and the name of its peer.
fn device(text: &str, line: u32, index: usize) -> Result<(DeviceConfig, Option<String>), ConfigError> {
    let text = text.trim_start();
    // A line end right after the name stays with the rest: it counts lines.
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let (name, rest) = text.split_at_checked(end).unwrap_or((text, ""));
    let plain_name = name.len() <= 64
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if !plain_name {
        return Err(error(line, name, "a device name of letters, digits, '-', '_' and '.'"));
    }
    let mut options = Options::parse_from(rest, line)?;
    let address = options.take("address", "0000:aa:00.0 or a UUID, in lower case", Address::parse)?;
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    let number = |text: &str| text.parse::<u32>().ok();
    let group = options.take("group", "a group number", number)?.unwrap_or(index.saturating_add(1));
    let cdev = options.take("cdev", "the X of /dev/vfio/devices/vfioX", number)?.unwrap_or(index);
    let peer = options.take("dma-peer", "the name of another device", |text| Some(text.to_owned()))?;
    let bugs = options.take("bug", DeviceBugs::NAMES, DeviceBugs::parse)?.unwrap_or_default();
    let sim = SimConfig::from_options(options)?;
    let address = address.unwrap_or_else(|| default_address(sim.model(), index));
    Ok((DeviceConfig { name: name.to_owned(), address, group, cdev, peer: None, bugs, sim }, peer))
}

fn default_address(model: &str, index: u32) -> Address {
    if model == "mtty" {
        Address::Mdev(format!("50f7f10c-0000-4000-8000-{index:012x}"))
    } else {
        Address::Pci(format!("0000:{:02x}:00.0", index.saturating_add(0xa0) & 0xff))
    }
}

fn unique(devices: &[DeviceConfig], new: &DeviceConfig, line: u32) -> Result<(), ConfigError> {
    for device in devices {
        if device.name == new.name {
            return Err(error(line, &new.name, "a name of its own"));
        }
        if device.address == new.address {
            return Err(error(line, new.address.name(), "an address of its own"));
        }
        if device.cdev == new.cdev {
            return Err(error(line, &format!("cdev={}", new.cdev), "a cdev number of its own"));
        }
    }
    Ok(())
}

fn error(line: u32, key: &str, expected: &str) -> ConfigError {
    ConfigError::new(line, key, expected)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn devices_get_what_they_say_and_defaults() {
        let text = "kernel=7.3\n    device a model=mtty ports=2 # a comment\n\
                    device nic address=0000:03:00.1 group=9 cdev=4\n  model=plain\n  seed=1; device b\n    model=plain";
        let config = Config::parse(text).unwrap();
        assert!(config.kernel.iommufd && config.kernel.precopy_info_v2);
        let summary: Vec<_> = config
            .devices
            .iter()
            .map(|d| (d.name.as_str(), d.address.name(), d.group, d.cdev, d.sim.model()))
            .collect();
        assert_eq!(
            summary,
            [
                ("a", "50f7f10c-0000-4000-8000-000000000000", 1, 0, "mtty"),
                ("nic", "0000:03:00.1", 9, 4, "plain"),
                ("b", "0000:a2:00.0", 3, 2, "plain"),
            ]
        );
    }

    #[test]
    fn errors_name_the_line() {
        for (text, expected) in [
            ("kernel=5.4", "line 1: kernel=5.4: expected 6.12, 6.12-iommufd or 7.3"),
            ("\ndevice ! model=mtty", "line 2: !: expected a device name of letters, digits, '-', '_' and '.'"),
            ("device a model=mtty\ndevice a model=mtty", "line 2: a: expected a name of its own"),
            (
                "device a model=mtty address=00:1",
                "line 1: address=00:1: expected 0000:aa:00.0 or a UUID, in lower case",
            ),
            ("device a\n  model=mtty\n  group=x", "line 3: group=x: expected a group number"),
            ("device a", "line 1: model: expected model=plain or model=mtty"),
            ("device a model=plain dma-peer=b", "line 1: dma-peer=b: expected the name of another device"),
            ("device a model=plain dma-peer=a", "line 1: dma-peer=a: expected the name of another device"),
            (
                "kernel=7.3 bug=zero-length,zero",
                "line 1: bug=zero-length,zero: expected zero-length or untracked-is-clean, separated by commas",
            ),
            (
                "kernel=6.12 bug=zero-length",
                "line 1: bug=zero-length: expected a kernel with iommufd, whose bugs these are",
            ),
            (
                "device a model=plain bug=zero-length",
                "line 1: bug=zero-length: expected pds-shifted-report or pds-stop-ends-log, separated by commas",
            ),
            ("devise a", "line 1: devise: expected key=value"),
        ] {
            assert_eq!(Config::parse(text).map(|_| ()).unwrap_err().to_string(), expected, "{text}");
        }
    }
}
