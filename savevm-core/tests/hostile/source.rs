// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A target that does what it must not, towards a source.

use core::time::Duration;
use std::thread;
use std::time::Instant;

use savevm_core::save::{self, SaveOptions};
use savevm_core::{Cause, Channel, Device, MigrationError};
use stream_codec::frame::{Digest, Kind, Message};
use vfio_mig_fsm::State;

use super::CONFIG;
use super::common::{connection, devices, ports, save_options};
use super::peer::{Offering, Peer, hello};

/// Runs a source against a target that accepts one device and then behaves as `act` says.
pub(crate) fn against_source(act: impl FnOnce(&mut Peer) + Send) -> MigrationError {
    against_source_with(CONFIG, 0, &save_options(), act)
}

/// The same with a device of this kind, features that the target offers beside credit, and the caller's wishes.
pub(crate) fn against_source_with(
    config: &str,
    features: u64,
    options: &SaveOptions,
    act: impl FnOnce(&mut Peer) + Send,
) -> MigrationError {
    let source = devices(&[config]);
    let (left, right) = connection();
    let mut ours = ports(&source);
    let began = Instant::now();
    let error = thread::scope(|scope| {
        scope.spawn(move || {
            let mut peer = Peer::new(right);
            peer.hear(Kind::Hello);
            peer.say(&Message::Hello(hello(0, 1).reply(hello(0, 1).offering(features).support, 4096)));
            peer.hear(Kind::DeviceOpen);
            peer.say(&Message::DeviceAccept { device: 0 });
            act(&mut peer);
            // Listens until the source has had enough.
            while let Ok(Some(_)) = peer.heard.read_frame() {}
        });
        let mut options = options.clone();
        options.nonce = [9; 16];
        options.limits.silence_max = Duration::from_millis(300);
        save::save(&mut ours, Channel::unix(left).unwrap(), &mut (), &options).map(|_| ()).unwrap_err()
    });
    assert!(began.elapsed() < Duration::from_secs(3), "{error}");
    assert!(!error.committed, "{error}");
    assert_eq!(ours[0].state(), Ok(State::Running), "{error}");
    error
}

#[test]
fn input_08_credit_that_cannot_be_meant() {
    for (device, frames, said) in [
        (0, u64::MAX, "a credit of 18446744073709551615 frames"),
        (0, 0, "a credit of 0 frames"),
        (1, 4, "device 1 of 1"),
        (1 << 30, 4, "devices"),
    ] {
        let error = against_source(|peer| peer.say(&Message::Credit { device, frames }));
        assert!(error.to_string().contains(said), "{error}");
    }
    let twice = against_source(|peer| {
        peer.say(&Message::Credit { device: 0, frames: 1 });
        peer.say(&Message::Credit { device: 0, frames: 1 });
    });
    assert!(twice.to_string().contains("a credit of 1 frames"), "{twice}");
    let never = against_source(|_| {});
    assert!(never.to_string().contains("silent"), "{never}");
}

#[test]
fn input_11_an_acknowledgement_that_lies() {
    for (bytes, digest) in [(1, Digest::crc64_nvme(1)), (0, Digest::NONE)] {
        let error = against_source(|peer| {
            peer.say(&Message::Credit { device: 0, frames: 64 });
            peer.hear(Kind::DeviceEnd);
            peer.say(&Message::Loaded(stream_codec::frame::Loaded { device: 0, bytes, digest }));
        });
        assert!(matches!(error.cause, Cause::Link { .. }), "{error}");
    }
    let early = against_source(|peer| {
        peer.say(&Message::Loaded(stream_codec::frame::Loaded { device: 0, bytes: 0, digest: Digest::NONE }));
    });
    assert!(early.to_string().contains("a Loaded"), "{early}");
    let data = against_source(|peer| peer.data(0, 0, b"data for a source"));
    assert!(matches!(data.cause, Cause::Link { .. }), "{data}");
    let complete = against_source(|peer| peer.say(&Message::Complete));
    assert!(complete.to_string().contains("a Complete"), "{complete}");
}
