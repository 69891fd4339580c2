// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The `device` target: real hardware, named by its owner and never chosen by itself.

use std::path::Path;

use super::super::progress::Progress;
use super::super::record::Run;
use super::super::supervise::supervise;
use super::super::{Missing, Plan};
use super::{suite_arguments, this_executable};

/// A real device, which will be reset again and again
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// PCI address (0000:06:00.1) or mdev UUID of a device bound to a VFIO driver.
    pub id: String,
    /// A second device of the same kind: states are then moved from one to the other.
    #[arg(long, value_name = "ID")]
    peer: Option<String>,
    /// Consent: the suite resets the device dozens of times, whoever uses it.
    #[arg(long)]
    yes_this_device_will_be_reset: bool,
    /// Expect what this driver does instead of guessing it from the PCI id.
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
}

/// Runs the suite on the named device.
pub(crate) fn run(args: &Args, plan: &Plan<'_>, progress: &mut Progress) -> Result<Vec<Run>, Missing> {
    if !args.yes_this_device_will_be_reset {
        return Err(Missing::new(
            format!("Device {} would be reset and its state lost again and again, so nothing was done.", args.id),
            "If nobody needs it, repeat with --yes-this-device-will-be-reset.",
        ));
    }
    let mut command = this_executable()?;
    command.args(suite_arguments(&args.id, plan));
    for id in [Some(&args.id), args.peer.as_ref()].into_iter().flatten() {
        exists(id)?;
        command.args(["--device", id]);
    }
    if let Some(profile) = &args.profile {
        command.args(["--profile", profile]);
    }
    let run = supervise(&args.id, &mut command, plan.limits(30, 600), progress);
    let run =
        run.map_err(|error| Missing::new(format!("The suite cannot be started: {error}."), "Check permissions."))?;
    Ok(vec![run])
}

fn exists(id: &str) -> Result<(), Missing> {
    let known = ["/sys/bus/pci/devices", "/sys/bus/mdev/devices"];
    let plain = !id.is_empty() && !id.contains('/') && !id.starts_with('.');
    if plain && known.iter().any(|bus| Path::new(bus).join(id).exists()) {
        return Ok(());
    }
    Err(Missing::new(
        format!("There is no PCI or mediated device {id} on this machine."),
        "Give a PCI address with its domain (0000:06:00.1) or an mdev UUID; `cargo xtask probe` lists the devices.",
    ))
}

#[cfg(test)]
mod test {
    use super::*;

    fn refusal(id: &str, consent: bool) -> String {
        let args = Args { id: id.into(), peer: None, yes_this_device_will_be_reset: consent, profile: None };
        let plan = Plan { filter: None, test_timeout: None, timeout: None, full: false };
        run(&args, &plan, &mut Progress::quiet()).unwrap_err().to_string()
    }

    #[test]
    fn nothing_happens_without_consent() {
        assert!(refusal("0000:00:00.0", false).contains("--yes-this-device-will-be-reset"));
    }

    #[test]
    fn only_names_of_devices_are_looked_up() {
        for id in ["..", "../../../etc", "0000:ff:1f.7", ""] {
            assert!(refusal(id, true).contains("no PCI or mediated device"), "{id}");
        }
    }
}
