// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;

use nix::libc::{EAGAIN, EINVAL, ENODEV, ENOMSG, ENOTTY, EPIPE};

use super::save::interpret;
use super::*;
use crate::{Call, Error, Refusal};

fn bytes(count: usize) -> Read {
    Read::Bytes(count.try_into().unwrap())
}

#[test]
fn nothing_now_and_the_end_are_told_apart_by_the_phase() {
    use SavePhase::{PreCopy, StopCopy};
    for (result, phase, expected) in [
        (Ok(7), PreCopy, Ok(bytes(7))),
        (Ok(7), StopCopy, Ok(bytes(7))),
        (Ok(0), PreCopy, Ok(Read::Drained)),
        (Ok(0), StopCopy, Ok(Read::End)),
        (Err(ENOMSG), PreCopy, Ok(Read::Drained)),
        (Err(ENOMSG), StopCopy, Err(ENOMSG)),
        (Err(ENODEV), PreCopy, Err(ENODEV)),
        (Err(EINVAL), StopCopy, Err(EINVAL)),
    ] {
        assert_eq!(interpret(result, phase), expected, "{result:?} in {phase:?}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "sockets")]
fn reading_yields_what_is_there() {
    let (mut driver, fd) = UnixStream::pair().unwrap();
    let save = SaveFd::with_label(fd.into(), "0000:06:0d.0", PrecopyInfoVersion::V1);
    driver.write_all(b"state").unwrap();
    let mut buffer = [0; 3];
    assert_eq!(save.read(&mut buffer, SavePhase::PreCopy), Ok(bytes(3)));
    assert_eq!(&buffer, b"sta");
    assert_eq!(save.read(&mut buffer, SavePhase::StopCopy), Ok(bytes(2)));
    assert_eq!(&buffer[..2], b"te");
    drop(driver);
    assert_eq!(save.read(&mut buffer, SavePhase::PreCopy), Ok(Read::Drained));
    assert_eq!(save.read(&mut buffer, SavePhase::StopCopy), Ok(Read::End));
}

#[test]
#[cfg_attr(miri, ignore = "sockets")]
fn an_empty_buffer_is_no_end() {
    let (_driver, fd) = UnixStream::pair().unwrap();
    let error = SaveFd::from(OwnedFd::from(fd)).read(&mut [], SavePhase::StopCopy).unwrap_err();
    assert!(matches!(error, Error::Refused { reason: Refusal::EmptyBuffer, .. }), "{error}");
}

#[test]
#[cfg_attr(miri, ignore = "sockets")]
fn a_non_blocking_fd_says_so() {
    let (_driver, fd) = UnixStream::pair().unwrap();
    fd.set_nonblocking(true).unwrap();
    let save = SaveFd::with_label(fd.into(), "vf1", PrecopyInfoVersion::V1);
    let error = save.read(&mut [0; 8], SavePhase::PreCopy).unwrap_err();
    assert_eq!((error.errno(), error.device(), error.call()), (Some(EAGAIN), "vf1", Call::ReadPreCopy));
}

#[test]
#[cfg_attr(miri, ignore = "sockets")]
fn precopy_info_of_something_else_is_an_error() {
    let (_driver, fd) = UnixStream::pair().unwrap();
    let error = SaveFd::from(OwnedFd::from(fd)).precopy_info().unwrap_err();
    assert_eq!((error.errno(), error.call()), (Some(ENOTTY), Call::PrecopyInfo));
    assert!(error.is_unsupported());
}

#[test]
#[cfg_attr(miri, ignore = "sockets")]
fn writing_delivers_every_byte() {
    let (mut driver, fd) = UnixStream::pair().unwrap();
    let mut load = LoadFd::from(OwnedFd::from(fd));
    let stream: Vec<u8> = (0..1_000_000_u32).map(|index| (index % 251).try_into().unwrap()).collect();
    let reader = std::thread::spawn(move || {
        let mut received = Vec::new();
        driver.read_to_end(&mut received).unwrap();
        received
    });
    for chunk in stream.chunks(70_001) {
        load.write_all(chunk).unwrap();
    }
    load.write_all(&[]).unwrap();
    drop(load);
    assert!(reader.join().unwrap() == stream);
}

#[test]
#[cfg_attr(miri, ignore = "sockets")]
fn the_first_failed_write_is_the_last() {
    let (mut driver, fd) = UnixStream::pair().unwrap();
    fd.set_nonblocking(true).unwrap();
    driver.set_nonblocking(true).unwrap();
    let mut load = LoadFd::with_label(fd.into(), "vf1");
    let error = load.write_all(&vec![1; 4 << 20]).unwrap_err();
    assert_eq!((error.errno(), error.device(), error.call()), (Some(EAGAIN), "vf1", Call::Write));

    // The kernel would take data again, and must not be asked.
    let mut taken = vec![0; 4 << 20];
    while driver.read(&mut taken).is_ok() {}
    let error = load.write_all(&[2]).unwrap_err();
    assert!(matches!(error, Error::Refused { reason: Refusal::AfterFailedWrite { errno: EAGAIN }, .. }), "{error}");
    assert_eq!(error.errno(), Some(EAGAIN));
    assert_eq!(driver.read(&mut taken).unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
#[cfg_attr(miri, ignore = "sockets")]
fn a_failed_write_names_its_errno() {
    let (driver, fd) = UnixStream::pair().unwrap();
    drop(driver);
    let error = LoadFd::with_label(fd.into(), "vf1").write_all(&[0]).unwrap_err();
    assert_eq!(error.errno(), Some(EPIPE));
    assert!(error.to_string().starts_with("vf1: write to the resuming fd: "), "{error}");
}

#[test]
#[cfg_attr(miri, ignore = "sockets")]
fn nothing_is_written_after_the_session() {
    let (mut driver, fd) = UnixStream::pair().unwrap();
    driver.set_nonblocking(true).unwrap();
    let epoch = Epoch::default();
    epoch.advance();
    let mut load = LoadFd::of_session(fd.into(), "vf1".into(), &epoch);
    load.write_all(b"a").unwrap();
    epoch.advance();
    let error = load.write_all(b"b").unwrap_err();
    assert!(matches!(error, Error::Refused { reason: Refusal::SessionEnded, .. }), "{error}");
    let mut received = [0; 8];
    assert_eq!(driver.read(&mut received).unwrap(), 1);
    assert_eq!(driver.read(&mut received).unwrap_err().kind(), ErrorKind::WouldBlock);
}
