// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A network of the benchmarks' own, where TCP has the same congestion control on every machine.
//!
//! It decides what a connection within one machine carries: 2.0 GiB/s from QEMU to QEMU with CUBIC are 1.3 with BBR, which guesses at the
//! bandwidth of a link that has none. A stock QEMU takes what its system has, so all contenders get a system that has Reno: every kernel
//! has that one, and lets every network have it. Nothing outside changes, and what has to be fetched is fetched outside: only measuring
//! goes on in here. Other settings of TCP that are a network's own are the kernel's, too.

use core::marker::PhantomData;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::sync::OnceLock;
use std::thread;

use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};

/// What every kernel has.
const USUAL: &str = "reno";
/// Each network has a value of its own here.
const CONGESTION: &str = "/proc/sys/net/ipv4/tcp_congestion_control";
const THIS: &str = "/proc/thread-self/ns/net";

/// What is measured in; none where it is the system's own.
static CHOSEN: OnceLock<Option<Network>> = OnceLock::new();

#[derive(Debug)]
struct Network {
    inside: File,
    outside: File,
    congestion: String,
}

/// Chooses what TCP is measured with. Without a name it is the usual one where that is possible, and it is no failure where it is not.
pub(super) fn choose(wanted: Option<&str>) -> Result<(), String> {
    let name = wanted.unwrap_or(USUAL);
    let network = if system().as_deref() == Some(name) {
        None
    } else {
        match Network::new(name) {
            Ok(network) => Some(network),
            Err(reason) if wanted.is_some() => return Err(reason),
            Err(reason) => {
                let system = system().unwrap_or_else(|| "an unknown congestion control".to_owned());
                eprintln!("TCP is measured with {system}, as the system has it: {reason}");
                None
            }
        }
    };
    let _ = CHOSEN.set(network);
    Ok(())
}

/// The congestion control that is measured with, where it is known.
pub(super) fn congestion_control() -> Option<String> {
    chosen().map_or_else(system, |network| Some(network.congestion.clone()))
}

/// Puts this thread, and whom it starts, into the network that was chosen until the value is dropped. Not where it is in there already:
/// whoever leaves first leaves for both.
pub(super) fn enter() -> Result<Option<Inside<'static>>, String> {
    chosen().map(Network::enter).transpose()
}

fn chosen() -> Option<&'static Network> {
    CHOSEN.get().and_then(Option::as_ref)
}

fn system() -> Option<String> {
    Some(fs::read_to_string(CONGESTION).ok()?.trim().to_owned())
}

/// A thread inside.
#[derive(Debug)]
pub(super) struct Inside<'a> {
    network: &'a Network,
    /// It is this thread that has to go back.
    _thread: PhantomData<*const ()>,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        // It was tried before. Measuring goes on all the same; what has to be fetched will not be.
        if let Err(errno) = setns(&self.network.outside, CloneFlags::CLONE_NEWNET) {
            eprintln!("this thread stays in a network of its own: {errno}");
        }
    }
}

impl Network {
    fn new(congestion: &str) -> Result<Self, String> {
        let outside = File::open(THIS).map_err(|error| format!("cannot tell its network: {error}"))?;
        // On a thread of its own, which is in there from then on.
        let made = thread::scope(|scope| scope.spawn(|| make(congestion, &outside)).join());
        let made = made.unwrap_or_else(|_| Err("the thread that makes it ended early".to_owned()));
        let inside = made.map_err(|reason| format!("{congestion} takes a network of its own: {reason}"))?;
        Ok(Self { inside, outside, congestion: congestion.to_owned() })
    }

    fn enter(&self) -> Result<Inside<'_>, String> {
        let entered = setns(&self.inside, CloneFlags::CLONE_NEWNET);
        entered.map_err(|errno| format!("cannot enter a network of its own: {errno}"))?;
        Ok(Inside { network: self, _thread: PhantomData })
    }
}

/// Makes a network with a loopback and this congestion control, on a thread that has no other use.
fn make(congestion: &str, outside: &File) -> Result<File, String> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| format!("root may have one: {errno}"))?;
    raise_loopback().map_err(|errno| format!("cannot raise its loopback: {errno}"))?;
    fs::write(CONGESTION, congestion).map_err(|error| {
        format!("cannot set {congestion} in {CONGESTION}: {error}; is it among tcp_allowed_congestion_control?")
    })?;
    let inside = File::open(THIS).map_err(|error| format!("cannot keep it: {error}"))?;
    // Who is root only in a container may not come back to where it came from.
    setns(outside, CloneFlags::CLONE_NEWNET).map_err(|errno| format!("cannot leave it again: {errno}"))?;
    Ok(inside)
}

/// `rtnetlink(7)`: RTM_NEWLINK with IFF_UP for the first interface, which is the loopback of every network.
fn raise_loopback() -> nix::Result<()> {
    const LENGTH: u32 = 32;
    let up = u32::try_from(libc::IFF_UP).unwrap_or(1);
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_ACK).unwrap_or(5);
    let mut request = Vec::new();
    // struct nlmsghdr: length, type, flags, sequence, port.
    request.extend(LENGTH.to_ne_bytes());
    request.extend(libc::RTM_NEWLINK.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend([0; 8]);
    // struct ifinfomsg: family, padding, type, index, flags, which of them to change.
    request.extend([0; 4]);
    request.extend(1_i32.to_ne_bytes());
    request.extend(up.to_ne_bytes());
    request.extend(up.to_ne_bytes());

    let kernel = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    sendto(kernel.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0; 256];
    let length = recv(kernel.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    // struct nlmsgerr behind the header: 0, or what went wrong.
    match answer.get(16..20).filter(|_| length >= 20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(error) => Err(nix::Error::from_raw(error.saturating_neg())),
        None => Err(nix::Error::EBADMSG),
    }
}

#[cfg(test)]
mod test {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_network_of_its_own_has_a_loopback_and_the_congestion_control_it_was_given() {
        let before = system();
        let allowed = fs::read_to_string("/proc/sys/net/ipv4/tcp_allowed_congestion_control").unwrap();
        let Some(other) = allowed.split_whitespace().find(|name| before.as_deref() != Some(*name)) else {
            return eprintln!("not shown: this system has only {allowed}");
        };
        let network = match Network::new(other) {
            Ok(network) => network,
            // Root in a container may have none, or one without settings, or not be let out again. What is ours is the loopback.
            Err(reason) if !reason.contains("loopback") => return eprintln!("not shown: {reason}"),
            Err(reason) => panic!("{reason}"),
        };
        assert_eq!(system(), before, "nothing outside changes");
        let inside = network.enter().unwrap();
        assert_eq!(system().as_deref(), Some(other));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let child = thread::spawn(system);
        assert_eq!(child.join().unwrap().as_deref(), Some(other), "whom it starts is inside too");
        drop(inside);
        assert_eq!(system(), before);
    }

    #[test]
    fn a_congestion_control_that_is_not_there_is_named() {
        let reason = Network::new("no such").unwrap_err();
        assert!(reason.contains("no such"), "{reason}");
    }
}
