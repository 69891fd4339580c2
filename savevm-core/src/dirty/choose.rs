// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! By which interface a device's writes are tracked, and why.

use alloc::string::String;
use core::fmt;

/// Who can report the pages a device writes.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Source {
    /// The device itself (`VFIO_DEVICE_FEATURE_DMA_LOGGING_*`).
    DeviceLog,
    /// The IOMMU, in the page table of iommufd that the device is attached to (`IOMMU_HWPT_GET_DIRTY_BITMAP`).
    PageTable,
    /// The type1 container, for devices that tell it which pages they use (`VFIO_IOMMU_DIRTY_PAGES`).
    Container,
    /// The VMM, which makes the device's writes itself or sees them.
    Host,
    /// Nobody: everything is dirty, and all of memory is copied while the guest stands. By explicit request only.
    StoppedCopy,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DeviceLog => "the DMA log of the device",
            Self::PageTable => "the page table of iommufd",
            Self::Container => "the type1 container",
            Self::Host => "the VMM's own log",
            Self::StoppedCopy => "no tracking, a copy while stopped",
        })
    }
}

/// What is known of one source for one device.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "it works, or there is a reason")]
pub enum Offer {
    /// It works for this device.
    Works,
    /// It does not, and why.
    Refused(String),
}

/// What is known of all sources for one device. Those nobody asked about are refused.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Offers {
    /// The device's name.
    pub device: String,
    /// Of [`Source::DeviceLog`]. A PROBE that succeeds is not enough: kernels without `CONFIG_IOMMUFD_DRIVER` refuse the reports.
    pub device_log: Offer,
    /// Of [`Source::PageTable`].
    pub page_table: Offer,
    /// Of [`Source::Container`]. It works only where *all* of the container's devices pin what they use: one that does not makes all
    /// of memory dirty for good.
    pub container: Offer,
    /// Of [`Source::Host`]. Whether it sees what this device writes, the VMM alone can say.
    pub host: Offer,
}

impl Offers {
    /// Nothing is offered for the device yet.
    #[must_use]
    pub fn none(device: impl Into<String>) -> Self {
        let refused = || Offer::Refused(String::from("not asked"));
        Self {
            device: device.into(),
            device_log: refused(),
            page_table: refused(),
            container: refused(),
            host: refused(),
        }
    }

    fn in_order(&self) -> [(Source, &Offer); 4] {
        [
            (Source::DeviceLog, &self.device_log),
            (Source::PageTable, &self.page_table),
            (Source::Container, &self.container),
            (Source::Host, &self.host),
        ]
    }
}

/// What to do with a device that nothing tracks.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "the caller accepts the downtime or does not")]
pub enum Untracked {
    /// Refuse to migrate it.
    #[default]
    Refuse,
    /// Take all memory for dirty, and copy it while the guest stands.
    CopyWhileStopped,
}

/// The source for a device, and why it is that one.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Choice {
    /// By whom the device's writes are reported.
    pub source: Source,
    /// Why, for the record: what it is good for, and why the ones before it were passed over.
    pub reason: String,
}

/// A device whose writes nobody reports.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{device}: nobody can tell which memory it writes ({refusals}). One of three things helps: attach it by its character device \
     to a page table of iommufd with dirty tracking, on a host whose IOMMU has it; use a driver and firmware that log their \
     DMA, on a kernel with CONFIG_IOMMUFD_DRIVER; or ask for everything to count as dirty, which copies all of memory while \
     the guest stands"
)]
#[non_exhaustive]
pub struct NotTracked {
    /// Its name.
    pub device: String,
    /// Why each source was refused.
    pub refusals: String,
}

/// Chooses who reports a device's writes.
///
/// First the device's own log: it costs no other device anything and leaves the IOMMU's large pages whole. Then the IOMMU's
/// page table, then the container, then the VMM.
///
/// # Errors
/// When nobody can, unless the caller asked for the copy while stopped.
pub fn choose(offers: &Offers, untracked: Untracked) -> Result<Choice, NotTracked> {
    let mut refusals = String::new();
    for (source, offer) in offers.in_order() {
        match offer {
            Offer::Works => {
                let why = match source {
                    Source::DeviceLog => {
                        "it reports this device's writes alone and leaves the IOMMU's large pages whole"
                    }
                    Source::PageTable => "the IOMMU marks what the devices attached to it write",
                    Source::Container => "all of its devices pin the pages they use",
                    _ => "the VMM sees this device's writes",
                };
                let passed = if refusals.is_empty() { "" } else { "; passed over: " };
                return Ok(Choice { source, reason: alloc::format!("{source}: {why}{passed}{refusals}") });
            }
            Offer::Refused(why) => {
                let seam = if refusals.is_empty() { "" } else { "; " };
                refusals.push_str(&alloc::format!("{seam}{source}: {why}"));
            }
        }
    }
    match untracked {
        Untracked::Refuse => Err(NotTracked { device: offers.device.clone(), refusals }),
        Untracked::CopyWhileStopped => {
            let source = Source::StoppedCopy;
            Ok(Choice { source, reason: alloc::format!("{source}, as was asked for; passed over: {refusals}") })
        }
    }
}
