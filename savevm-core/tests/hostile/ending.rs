// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a target does, and does not do yet, when a device's state has come to its end.

use savevm_core::digest::Digest as Running;
use savevm_core::save;
use stream_codec::frame::io::{Frame, FrameReader};
use stream_codec::frame::{DeviceEnd, Digest, Kind, Limits, Message};

use super::common::{devices, ports, save_options};
use super::peer::Peer;
use super::{CONFIG, against_target, against_target_with, open};

/// The state of a device as a source would read it, taken out of a file of frames.
pub(super) fn state(config: &str) -> Vec<u8> {
    let mut file = Vec::new();
    let source = devices(&[config]);
    save::save_to(&mut ports(&source), &mut file, &mut (), &save_options()).unwrap();
    let mut reader = FrameReader::new(&file[..], Limits { data_bytes: 1 << 20, ..Limits::DEFAULT });
    let mut state = Vec::new();
    while let Some(received) = reader.read_frame().unwrap() {
        if let Frame::Data { payload, .. } = received.frame {
            state.extend_from_slice(payload);
        }
    }
    state
}

/// Sends the whole state and says that it ends, with this digest or its own.
fn send(peer: &mut Peer, digest: Option<Digest>) {
    let state = state(CONFIG);
    let mut running = Running::new();
    running.update(&state);
    peer.data(0, 0, &state);
    peer.say(&Message::Switchover);
    let digest = digest.unwrap_or(Digest::crc64_nvme(running.sum().crc64_nvme));
    let bytes = u64::try_from(state.len()).unwrap();
    peer.say(&Message::DeviceEnd(DeviceEnd { device: 0, frames: 1, bytes, digest }));
}

#[test]
fn a_device_does_not_load_what_is_not_what_was_sent() {
    // It would fail if it were asked to.
    let config = format!("{CONFIG} fault=set_state:STOP:EIO");
    let error = against_target_with(&config, 1, open, |peers| send(&mut peers[0], Some(Digest::crc64_nvme(1))));
    assert!(error.to_string().contains("bytes were lost or damaged"), "{error}");
    let asked = against_target_with(&config, 1, open, |peers| send(&mut peers[0], None));
    assert!(asked.to_string().contains("EIO"), "the fault stands: {asked}");
}

#[test]
fn the_last_acknowledgement_waits_until_nothing_can_come_any_more() {
    let error = against_target(2, open, |peers| {
        peers[1].say(&Message::Switchover);
        send(&mut peers[0], None);
        let early = peers[0].kinds_until(None);
        assert!(!early.contains(&Kind::Loaded), "channel 1 has not ended: {early:?}");
        peers[1].say(&Message::ChannelEnd);
        peers[0].kinds_until(Some(Kind::Loaded));
    });
    assert!(error.to_string().contains("silent"), "the peer never commits: {error}");
}
