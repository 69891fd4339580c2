// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use core::time::Duration;
use std::fs::{self, File};
use std::io::{IoSlice, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Command;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc::EAGAIN;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::receive_fds;
use crate::Error;

/// Sends `byte` and these fds with it.
fn send(socket: &UnixStream, bytes: &[u8], files: &[File]) {
    let numbers: Vec<_> = files.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control = if numbers.is_empty() { &[][..] } else { &rights };
    let sent = sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::empty(), None);
    assert_eq!(sent, Ok(bytes.len()));
}

/// Files that tell which is which.
fn files(count: u8) -> Vec<File> {
    let file = |content: u8| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[content]).unwrap();
        file
    };
    (0..count).map(file).collect()
}

fn contents(fds: Vec<OwnedFd>) -> Vec<u8> {
    let content = |fd: OwnedFd| {
        let (mut file, mut content) = (File::from(fd), [0]);
        file.rewind().unwrap();
        file.read_exact(&mut content).unwrap();
        content[0]
    };
    fds.into_iter().map(content).collect()
}

/// Whether somebody has the other end of this pipe's writer.
fn is_open(reader: &mut UnixStream) -> bool {
    reader.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    reader.read(&mut [0]).is_err_and(|error| error.raw_os_error() == Some(EAGAIN))
}

/// The ends of connections to send, and what tells whether any is still open.
fn witnessed(count: usize) -> (Vec<File>, Vec<UnixStream>) {
    let pairs = (0..count).map(|_| UnixStream::pair().unwrap());
    pairs.map(|(end, witness)| (File::from(OwnedFd::from(end)), witness)).unzip()
}

fn answer(error: &Error) -> &'static str {
    let Error::Answer { what, .. } = error else { panic!("{error}") };
    what
}

#[test]
fn fds_come_in_their_order_and_close_on_exec() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    for count in [1, 2, 3, 7] {
        send(&theirs, b"x", &files(count));
        let fds = receive_fds(&ours, 7).unwrap();
        for fd in &fds {
            let flags = FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD).unwrap());
            assert!(flags.contains(FdFlag::FD_CLOEXEC));
        }
        assert_eq!(contents(fds), (0..count).collect::<Vec<_>>());
    }
}

#[test]
fn one_byte_is_taken_and_no_fds_of_the_next() {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    send(&theirs, b"abc", &files(1));
    send(&theirs, b"d", &files(2));
    assert_eq!(contents(receive_fds(&ours, 3).unwrap()), [0]);
    let mut rest = [0; 2];
    ours.read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"bc");
    assert_eq!(contents(receive_fds(&ours, 3).unwrap()), [0, 1]);
}

#[test]
fn too_many_are_refused_and_closed() {
    for (sent, limit) in [(3, 2), (2, 1), (1, 0), (253, 16)] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (ends, mut witnesses) = witnessed(sent);
        send(&theirs, b"x", &ends);
        drop(ends);
        let error = receive_fds(&ours, limit).unwrap_err();
        assert!(answer(&error).contains("more fds were sent than are expected"), "{error}");
        assert!(!witnesses.iter_mut().any(is_open), "{sent} for {limit}");
    }
}

#[test]
fn as_many_as_the_kernel_sends_come() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    send(&theirs, b"x", &files(253));
    assert_eq!(contents(receive_fds(&ours, usize::MAX).unwrap()), (0..253).collect::<Vec<u8>>());
}

#[test]
fn a_byte_alone_and_the_end_are_no_fds() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    send(&theirs, b"x", &[]);
    let error = receive_fds(&ours, 4).unwrap_err();
    assert!(answer(&error).contains("no fd with it"), "{error}");
    drop(theirs);
    let error = receive_fds(&ours, 4).unwrap_err();
    assert_eq!(error.to_string(), "unix socket: recvmsg of fds: the peer has closed the connection");
}

#[test]
fn a_peer_that_says_nothing_is_waited_for_as_long_as_the_socket_says() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    let error = receive_fds(&ours, 4).unwrap_err();
    assert_eq!(error.errno(), Some(EAGAIN));
    assert!(error.to_string().contains("nothing came in the time the socket waits"), "{error}");
}

/// Limits are those of a whole process: the tests beside this one must not have these.
const ALONE: &str = "VFIO_UAPI_TEST_ALONE";

#[test]
fn those_without_a_number_left_are_refused_and_the_others_closed() {
    let name = "open::handed_test::those_without_a_number_left_are_refused_and_the_others_closed";
    if std::env::var_os(ALONE).is_none() {
        let mut again = Command::new(std::env::current_exe().unwrap());
        let output = again.args([name, "--exact", "--test-threads", "1"]).env(ALONE, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (ends, mut witnesses) = witnessed(3);
    send(&theirs, b"x", &ends);
    drop(ends);
    // All lower numbers are taken, but for two.
    let mut taken: Vec<File> = Vec::new();
    let highest = fs::read_dir("/proc/self/fd").unwrap().count() as u64 + 16;
    setrlimit(Resource::RLIMIT_NOFILE, highest, highest).unwrap();
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
    taken.truncate(taken.len() - 2);
    let error = receive_fds(&ours, 4).unwrap_err();
    assert!(answer(&error).contains("no numbers left"), "{error}");
    assert!(!witnesses.iter_mut().any(is_open));
    assert!(File::open("/dev/null").is_ok_and(|_first| File::open("/dev/null").is_ok()), "two are free again");
}
