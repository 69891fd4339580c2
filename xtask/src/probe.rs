// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `probe`: what the devices of this machine can do, and in one sentence why one cannot migrate.

use std::os::fd::OwnedFd;
use std::process::ExitCode;

use serde::Serialize;
use vfio_mig_fsm::{Capabilities, State};
use vfio_uapi::open::{self, VfioDevice};
use vfio_uapi::{Device, FeatureOp, MigrationFlags};

use crate::device::Opener;
use crate::out::outln;
use crate::{cli, device, identity, soft};

/// Features asked about, by number (`vfio.h`).
const DMA_LOGGING_START: u16 = 6;
const DMA_LOGGING_STOP: u16 = 7;
const DMA_LOGGING_REPORT: u16 = 8;
const MIG_PRECOPY_INFO_V2: u16 = 12;

/// Show every VFIO device, what its driver can do, and why it cannot migrate when it cannot
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this device: PCI address, mdev UUID, or /dev/vfio/devices/vfioN
    #[arg(value_name = "DEVICE")]
    device: Option<String>,

    /// Print one JSON document on standard output
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    soft: soft::SoftArgs,
}

#[derive(Debug, Serialize)]
struct Found {
    name: String,
    bus: String,
    driver: Option<String>,
    #[serde(rename = "type")]
    mdev_type: Option<String>,
    /// `VENDOR:DEVICE`
    pci_id: Option<String>,
    group: Option<u32>,
    cdev: Option<String>,
    /// What a target compares; `cargo xtask compat` does it beforehand.
    identity: Option<String>,
    /// What the identity leaves out, or why there is none.
    identity_notes: Vec<String>,
    can_migrate: bool,
    /// Why not, in one sentence.
    reason: Option<String>,
    capabilities: Option<Capability>,
}

#[derive(Debug, Serialize)]
struct Capability {
    state: String,
    p2p: bool,
    pre_copy: bool,
    /// Flags this program does not know.
    unknown_flags: u64,
    /// Whether the kernel tells when a new initial phase begins.
    precopy_info_v2: bool,
    /// Whether the driver offers a log of the device's DMA writes.
    dma_logging: bool,
    /// The driver's own estimate; it often leaves out headers.
    stop_copy_bytes: Option<u64>,
}

/// Lists the devices. The exit status is 0 if they could be listed, and if the one asked for can migrate.
pub(crate) fn run(args: &Args) -> ExitCode {
    if let Some(status) = args.soft.run_again_if_asked() {
        return status;
    }
    let listed = match &args.device {
        Some(id) => device::find(id).map(|found| vec![found]).map_err(|error| error.to_string()),
        None => open::discover().map_err(|error| format!("cannot list the VFIO devices: {error}")),
    };
    let devices = match listed {
        Ok(devices) => devices,
        Err(error) => return cli::fail(args.json, &error),
    };
    let found: Vec<Found> = devices.iter().map(probe).collect();
    if args.json {
        cli::print_json(&found);
    } else {
        print(&found);
    }
    let wanted_cannot = args.device.is_some() && found.iter().any(|found| !found.can_migrate);
    if wanted_cannot { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn probe(found: &VfioDevice) -> Found {
    let (capabilities, reason) = match inspect(found) {
        Ok(capability) => (Some(capability), None),
        Err(reason) => (None, Some(reason)),
    };
    let (identity, identity_notes) = match identity::of_device(found) {
        Ok(stated) => (Some(stated.identity.to_string()), stated.notes),
        Err(reason) => (None, vec![reason]),
    };
    Found {
        name: found.name.clone(),
        bus: found.bus.to_string(),
        driver: found.driver.clone(),
        mdev_type: found.mdev_type.clone(),
        pci_id: found.vendor_id.zip(found.device_id).map(|(vendor, device)| format!("{vendor:04x}:{device:04x}")),
        group: found.group,
        cdev: found.cdev.as_ref().map(|cdev| cdev.display().to_string()),
        identity,
        identity_notes,
        can_migrate: reason.is_none(),
        reason,
        capabilities,
    }
}

fn inspect(found: &VfioDevice) -> Result<Capability, String> {
    if found.group_node.is_none() && found.cdev.is_none() {
        return Err("The kernel made no node for it under /dev/vfio, so no program can open it.".to_owned());
    }
    let device = Opener::default().open(found).map_err(|error| cannot_open(found, &error))?;
    let flags = device.migration_flags().map_err(|error| format!("It does not say what it can do: {error}."))?;
    let capabilities = flags.and_then(|flags| Capabilities::from_flags(flags.bits()));
    let (Some(flags), Some(capabilities)) = (flags, capabilities) else {
        return Err(no_migration(found, flags));
    };
    let supports = |op| device.probe(op).is_ok_and(vfio_uapi::Support::is_supported);
    Ok(Capability {
        state: state(&device),
        p2p: capabilities.has_p2p(),
        pre_copy: capabilities.has_pre_copy(),
        unknown_flags: flags.bits() & !Capabilities::P2pPreCopy.flags(),
        precopy_info_v2: capabilities.has_pre_copy() && supports(FeatureOp::set(MIG_PRECOPY_INFO_V2)),
        dma_logging: supports(FeatureOp::set(DMA_LOGGING_START))
            && supports(FeatureOp::set(DMA_LOGGING_STOP))
            && supports(FeatureOp::get(DMA_LOGGING_REPORT)),
        stop_copy_bytes: device.stop_copy_bytes().ok(),
    })
}

fn state(device: &Device<OwnedFd>) -> String {
    match device.device_state() {
        Ok(raw) => {
            State::from_raw(raw.raw()).map_or_else(|| format!("unknown state {}", raw.raw()), |state| state.to_string())
        }
        Err(error) => error.to_string(),
    }
}

fn cannot_open(found: &VfioDevice, error: &vfio_uapi::Error) -> String {
    use nix::errno::Errno;
    let node =
        found.cdev.as_ref().or(found.group_node.as_ref()).map(|node| node.display().to_string()).unwrap_or_default();
    match error.errno().map(Errno::from_raw) {
        Some(Errno::EBUSY) => format!("Another program has {node} open; stop that one to see more."),
        Some(Errno::EACCES | Errno::EPERM) => {
            format!("You may not open {node}: run as root, or give your user access to it.")
        }
        _ => format!("It cannot be opened: {error}."),
    }
}

fn no_migration(found: &VfioDevice, flags: Option<MigrationFlags>) -> String {
    match (flags, found.driver.as_deref()) {
        (Some(flags), _) => format!("Its driver offers migration flags {:#x} without STOP_COPY, which no version of the interface allows.", flags.bits()),
        (None, Some("vfio-pci")) => "It is bound to vfio-pci, the driver without migration; bind the variant driver of its vendor, such as mlx5_vfio_pci or hisi_acc_vfio_pci.".to_owned(),
        (None, Some(driver)) => format!("Its driver {driver} offers no migration for it; the device's firmware, or how its physical function is set up, may be the reason."),
        (None, None) => "No driver is bound to it.".to_owned(),
    }
}

fn print(all: &[Found]) {
    if all.is_empty() {
        outln!("No device of this machine is bound to a vfio driver.");
        outln!("To see simulated ones: cargo xtask probe --soft");
        return;
    }
    for found in all {
        let kind = found.mdev_type.as_ref().or(found.pci_id.as_ref()).map_or("", String::as_str);
        outln!("{}  {}  {}", found.name, kind, found.driver.as_deref().unwrap_or("no driver"));
        let group = found.group.map_or_else(|| "none".to_owned(), |group| group.to_string());
        outln!("    group {group}, character device {}", found.cdev.as_deref().unwrap_or("none"));
        outln!("    identity {}", found.identity.as_deref().unwrap_or("none"));
        found.identity_notes.iter().for_each(|note| outln!("    note: {note}"));
        match (&found.capabilities, &found.reason) {
            (Some(capability), _) => print_capability(capability),
            (None, reason) => outln!("    cannot migrate: {}", reason.as_deref().unwrap_or_default()),
        }
    }
}

fn print_capability(capability: &Capability) {
    let yes = |yes: bool| if yes { "yes" } else { "no" };
    outln!(
        "    can migrate: pre-copy {}, peer-to-peer barrier {}, DMA log {}, REINIT told {}",
        yes(capability.pre_copy),
        yes(capability.p2p),
        yes(capability.dma_logging),
        yes(capability.precopy_info_v2),
    );
    let size = capability.stop_copy_bytes.map_or_else(|| "unknown".to_owned(), |bytes| format!("about {bytes} bytes"));
    outln!("    state {}, stop-copy size {size}", capability.state);
    if capability.unknown_flags != 0 {
        outln!("    flags unknown to this program: {:#x}", capability.unknown_flags);
    }
}
