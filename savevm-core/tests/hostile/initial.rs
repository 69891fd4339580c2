// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Acknowledgements of initial bytes: with a peer that keeps to them, one that knows nothing of them, and one that lies.

use core::time::Duration;

use savevm_core::Cause;
use savevm_core::sched::Verdict;
use stream_codec::frame::{Header, InitialDone, Kind, Message, Support};

use super::common::save_options;
use super::peer::{Peer, crc32, header};
use super::source::{against_source, against_source_with};
use super::{CONFIG, against_target, open_offering, refused};

const ACK: u64 = Support::INITIAL_ACK;

fn done(generation: u32, frames: u64) -> Message<'static> {
    Message::InitialDone(InitialDone { device: 0, generation, frames })
}

fn ack(generation: u32) -> Message<'static> {
    Message::InitialAck { device: 0, generation }
}

#[test]
fn the_switchover_waits_for_the_acknowledgement() {
    let error = against_source_with(CONFIG, ACK, &save_options(), |peer| {
        peer.say(&Message::Credit { device: 0, frames: 64 });
        peer.hear(Kind::InitialDone);
        let waiting = peer.kinds_until(None);
        assert!(!waiting.contains(&Kind::Switchover), "it did not wait: {waiting:?}");
        peer.say(&ack(1));
        peer.kinds_until(Some(Kind::Switchover));
    });
    assert!(error.to_string().contains("silent"), "the peer went no further: {error}");
}

#[test]
fn a_device_that_begins_anew_is_acknowledged_anew() {
    let config = format!("{CONFIG} reinit-after=4");
    let error = against_source_with(&config, ACK, &save_options(), |peer| {
        peer.say(&Message::Credit { device: 0, frames: 64 });
        peer.hear(Kind::InitialDone);
        // The second generation; the first has had no answer, and one that comes now is worth nothing.
        peer.hear(Kind::InitialDone);
        peer.say(&ack(1));
        let waiting = peer.kinds_until(None);
        assert!(!waiting.contains(&Kind::Switchover), "the first generation counted: {waiting:?}");
        peer.say(&ack(2));
        peer.kinds_until(Some(Kind::Switchover));
    });
    assert!(error.to_string().contains("silent"), "the peer went no further: {error}");
}

#[test]
fn a_target_of_before_is_not_asked() {
    let _silent = against_source(|peer| {
        peer.say(&Message::Credit { device: 0, frames: 64 });
        let heard = peer.kinds_until(Some(Kind::Switchover));
        assert!(!heard.contains(&Kind::InitialDone), "{heard:?}");
    });
}

#[test]
fn the_callers_patience_with_an_acknowledgement_has_an_end() {
    let mut options = save_options();
    let rule = options.precopy.as_mut().unwrap();
    (rule.duration_max, rule.late) = (Duration::from_millis(150), Verdict::Abort);
    let error = against_source_with(CONFIG, ACK, &options, |peer| {
        peer.say(&Message::Credit { device: 0, frames: 64 });
        peer.hear(Kind::InitialDone);
    });
    assert!(matches!(error.cause, Cause::GivenUp { .. }), "{error}");
    options.precopy.as_mut().unwrap().late = Verdict::Switch;
    let _silent = against_source_with(CONFIG, ACK, &options, |peer| {
        peer.say(&Message::Credit { device: 0, frames: 64 });
        peer.kinds_until(Some(Kind::Switchover));
        // It may still come, and changes nothing any more.
        peer.say(&ack(1));
        peer.kinds_until(Some(Kind::DeviceEnd));
    });
}

#[test]
fn what_is_acknowledged_is_written() {
    let act = |peers: &mut [Peer]| {
        peers[0].data(0, 0, b"first");
        peers[0].say(&done(1, 2));
        let early = peers[0].kinds_until(None);
        assert!(!early.contains(&Kind::InitialAck), "frame 1 has not come: {early:?}");
        peers[1].data(0, 1, b"second");
        peers[0].kinds_until(Some(Kind::InitialAck));
        // Nothing new in it: everything is written already.
        peers[0].say(&done(2, 2));
        peers[0].kinds_until(Some(Kind::InitialAck));
    };
    let error = against_target(2, |peers| open_offering(ACK, peers), act);
    assert!(error.to_string().contains("silent"), "the peer went no further: {error}");
}

#[test]
fn input_18_an_acknowledgement_of_what_was_never_sent() {
    let lies = |act: fn(&mut Peer)| against_source_with(CONFIG, ACK, &save_options(), act).to_string();
    // Without credit nothing can have been sent.
    let never = lies(|peer| peer.say(&ack(1)));
    assert!(never.contains("generation 1 of device 0, where 0 was announced"), "{never}");
    let later = lies(|peer| {
        peer.say(&Message::Credit { device: 0, frames: 64 });
        peer.hear(Kind::InitialDone);
        peer.say(&ack(2));
    });
    assert!(later.contains("generation 2 of device 0, where 1 was announced"), "{later}");
    let twice = lies(|peer| {
        peer.say(&Message::Credit { device: 0, frames: 64 });
        peer.hear(Kind::InitialDone);
        peer.say(&ack(1));
        peer.say(&ack(1));
    });
    assert!(twice.contains("where 1 was announced and 1 acknowledged"), "{twice}");
    let nobody = lies(|peer| peer.say(&Message::InitialAck { device: 1, generation: 1 }));
    assert!(nobody.contains("device 1 of 1"), "{nobody}");
    let unasked = against_source(|peer| peer.say(&ack(1)));
    assert!(unasked.to_string().contains("without feature bit 3"), "{unasked}");
}

#[test]
fn input_18_an_announcement_that_cannot_be() {
    let lies = |channels: usize, said: &str, act: fn(&mut [Peer])| {
        let error = against_target(channels, |peers| open_offering(ACK, peers), act);
        assert!(error.to_string().contains(said), "'{said}' is not in: {error}");
    };
    lies(1, "in 1 frames, of which there are at most 0", |peers| peers[0].say(&done(1, 1)));
    lies(2, "in 18446744073709551615 frames, of which there are at most 8", |peers| peers[0].say(&done(1, u64::MAX)));
    lies(1, "generation 1 of device 0, where 2 is the least", |peers| {
        peers[0].data(0, 0, b"state");
        peers[0].say(&done(1, 1));
        peers[0].say(&done(1, 1));
    });
    lies(1, "a InitialDone in the stop-copy phase", |peers| {
        peers[0].say(&Message::Switchover);
        peers[0].say(&done(1, 0));
    });
    lies(1, "generation 0", |peers| {
        peers[0].frame(Header { payload_crc: crc32(&[0; 8]), ..header(0x15, 8, 0) }, &[0; 8]);
    });
    lies(1, "a InitialAck, which belongs to the other side", |peers| peers[0].say(&ack(1)));
    lies(2, "a InitialDone on channel 1", |peers| peers[1].say(&done(1, 0)));
    refused(1, "without feature bit 3", |peers| peers[0].say(&done(1, 0)));
}
