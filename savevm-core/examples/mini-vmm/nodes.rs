// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The open nodes of devices: opened here, or by a launcher that may, for a VMM that may not.

use core::time::Duration;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use vfio_uapi::open::{Roots, VfioDevice, find, receive_fds};

use crate::devices::again;
use crate::{Outcome, connected};

/// How long a launcher may take to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Open, and nothing done with them yet.
pub(crate) struct Nodes {
    /// The address space: of iommufd where all devices have character devices, otherwise a container.
    pub(crate) space: OwnedFd,
    /// For each device its character device, or its group, which may be another's too.
    pub(crate) devices: Vec<OwnedFd>,
}

impl Nodes {
    /// Opens those of devices by their PCI address or mdev UUID.
    pub(crate) fn open(ids: &[&str]) -> Outcome<Self> {
        let roots = Roots::default();
        let look_for = |id: &&str| find(&roots, id)?.ok_or_else(|| format!("there is no VFIO device {id}").into());
        let found = ids.iter().map(look_for).collect::<Outcome<Vec<VfioDevice>>>()?;
        let open = |path: PathBuf| {
            let file = File::options().read(true).write(true).open(&path);
            file.map(OwnedFd::from).map_err(|error| format!("cannot open {}: {error}", path.display()))
        };
        let by_cdev = found.iter().all(|device| device.cdev.is_some());
        let space = open(if by_cdev { roots.iommufd() } else { roots.container() })?;
        let mut devices = Vec::new();
        for (index, device) in found.iter().enumerate() {
            // A group can be opened once.
            let other = found[..index].iter().position(|other| !by_cdev && other.group == device.group);
            devices.push(match (other, if by_cdev { &device.cdev } else { &device.group_node }) {
                (Some(other), _) => again(&devices[other])?,
                (None, Some(node)) => open(node.clone())?,
                (None, None) => return Err(format!("{} has no node", device.name).into()),
            });
        }
        Ok(Self { space, devices })
    }

    /// Takes those of so many devices from a launcher.
    pub(crate) fn receive(socket: &str, devices: usize) -> Outcome<Self> {
        let launcher = connected(socket)?;
        launcher.set_read_timeout(Some(PATIENCE))?;
        let mut fds = receive_fds(&launcher, devices + 1)?;
        if fds.len() != devices + 1 {
            return Err(format!("the launcher sent {} fds for {devices} devices", fds.len()).into());
        }
        Ok(Self { space: fds.remove(0), devices: fds })
    }

    /// Gives them to the first who asks: who may is said by the permissions of the socket's folder.
    pub(crate) fn launch(&self, socket: &str) -> Outcome<()> {
        let listener = UnixListener::bind(socket)?;
        let (vmm, _) = listener.accept()?;
        std::fs::remove_file(socket)?;
        self.send(&vmm)?;
        println!("handed over {} fds", self.devices.len() + 1);
        Ok(())
    }

    fn send(&self, vmm: &UnixStream) -> io::Result<()> {
        let fds: Vec<_> = [&self.space].into_iter().chain(&self.devices).map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(vmm.as_raw_fd(), &[IoSlice::new(b"f")], &rights, MsgFlags::empty(), None)?;
        Ok(())
    }
}
