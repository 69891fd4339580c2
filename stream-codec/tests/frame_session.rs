// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The order of a conversation, seen from both sides at once.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod common;

use std::collections::BTreeSet;

use common::{LIMITS, abort, end, hello, loaded, open};
use stream_codec::decode::{Blame, Fault};
use stream_codec::frame::{
    Abort, AbortCode, Agreement, DevicePhase, Hello, Kind, Limits, Message, Phase, Refusal, Role, Session,
    SessionError, Support, Violation,
};
use stream_codec::testkit::Random;

/// Source and target, told of the same frames.
struct Pair {
    source: Session,
    target: Session,
}

impl Pair {
    fn new() -> Self {
        Self {
            source: Session::new(Role::Source, Support::CURRENT, LIMITS),
            target: Session::new(Role::Target, Support::CURRENT, LIMITS),
        }
    }

    /// A pair in the pre-copy phase, every device accepted.
    fn accepted(device_count: u32) -> Self {
        let mut pair = Self::new();
        let ours = hello(Role::Source, device_count);
        pair.source_says(&Message::Hello(ours)).unwrap();
        pair.target_says(&Message::Hello(ours.reply(Support::CURRENT, 100))).unwrap();
        for device in 0..device_count {
            pair.source_says(&open(device, &format!("vf-{device}"))).unwrap();
            pair.target_says(&Message::DeviceAccept { device }).unwrap();
        }
        pair
    }

    /// A pair whose devices are all loaded.
    fn loaded(device_count: u32) -> Self {
        let mut pair = Self::accepted(device_count);
        pair.source_says(&Message::Switchover).unwrap();
        for device in 0..device_count {
            pair.data(device, 0, 10).unwrap();
            pair.source_says(&end(device, 1, 10)).unwrap();
            pair.target_says(&loaded(device, 10)).unwrap();
        }
        pair
    }

    /// Both sides must judge the frame alike; each blames whom it should.
    fn agree(sent: Result<(), SessionError>, received: Result<(), SessionError>) -> Result<(), Violation> {
        let violations = (sent.map_err(|error| error.violation), received.map_err(|error| error.violation));
        assert_eq!(violations.0, violations.1, "the sides differ");
        if let (Err(sent), Err(received)) = (sent, received) {
            assert!(sent.is_ours && !received.is_ours);
            assert_ne!(received.fault(), Fault::Caller);
        }
        violations.0
    }

    fn source_says(&mut self, message: &Message<'_>) -> Result<(), Violation> {
        Self::agree(self.source.sent(message), self.target.received(message))
    }

    fn target_says(&mut self, message: &Message<'_>) -> Result<(), Violation> {
        Self::agree(self.target.sent(message), self.source.received(message))
    }

    fn data(&mut self, device: u32, sequence: u64, length: u32) -> Result<(), Violation> {
        let sent = self.source.sent_data(device, sequence, length);
        Self::agree(sent, self.target.received_data(device, sequence, length))
    }

    fn assert_phase(&self, phase: Phase) {
        assert_eq!((self.source.phase(), self.target.phase()), (phase, phase));
    }
}

#[test]
fn a_whole_conversation() {
    let mut pair = Pair::new();
    let ours = hello(Role::Source, 2);
    pair.assert_phase(Phase::Greeting);
    pair.source_says(&Message::Hello(ours)).unwrap();
    pair.target_says(&Message::Hello(ours.reply(Support::CURRENT, 100))).unwrap();
    pair.assert_phase(Phase::PreCopy);
    assert_eq!(pair.source.agreement(), Some(Agreement { version: 1, features: 0 }));
    pair.source_says(&open(1, "vf-1")).unwrap();
    pair.source_says(&open(0, "vf-0")).unwrap();
    pair.target_says(&Message::DeviceAccept { device: 1 }).unwrap();
    pair.data(1, 0, 10).unwrap();
    pair.target_says(&Message::DeviceAccept { device: 0 }).unwrap();
    pair.data(0, 0, 20).unwrap();
    pair.data(1, 1, 30).unwrap();
    pair.source_says(&Message::Switchover).unwrap();
    pair.assert_phase(Phase::StopCopy);
    pair.data(1, 2, 2).unwrap();
    assert_eq!((pair.target.device_bytes(1), pair.target.next_sequence(1)), (Some(42), Some(3)));
    pair.source_says(&end(1, 3, 42)).unwrap();
    pair.target_says(&loaded(1, 42)).unwrap();
    pair.data(0, 1, 1).unwrap();
    pair.source_says(&end(0, 2, 21)).unwrap();
    pair.target_says(&loaded(0, 21)).unwrap();
    assert_eq!(pair.source.device_phase(0), Some(DevicePhase::Loaded));
    assert!(pair.target.finish().is_err(), "the Commit is missing");
    pair.source_says(&Message::Commit).unwrap();
    pair.assert_phase(Phase::Committed);
    assert_eq!(pair.target.finish(), Ok(()), "the source has said its last word");
    let early = pair.source.finish().unwrap_err();
    assert_eq!(early.violation, Violation::EndedEarly { phase: Phase::Committed });
    pair.target_says(&Message::Complete).unwrap();
    pair.assert_phase(Phase::Complete);
    assert_eq!(pair.source.finish(), Ok(()));
}

#[test]
fn nothing_before_both_hellos() {
    let greeting = |kind| Err(Violation::Phase { kind, phase: Phase::Greeting });
    assert_eq!(Pair::new().source_says(&open(0, "vf")), greeting(Kind::DeviceOpen));
    assert_eq!(Pair::new().data(0, 0, 1), greeting(Kind::Data));
    let ours = hello(Role::Source, 1);
    assert_eq!(Pair::new().target_says(&Message::Hello(ours.reply(Support::CURRENT, 1))), greeting(Kind::Hello));
    let mut pair = Pair::new();
    pair.source_says(&Message::Hello(ours)).unwrap();
    let again = Violation::Channel { kind: Kind::Hello, channel: 0 };
    assert_eq!(pair.source_says(&Message::Hello(ours)), Err(again));
    let mut pair = Pair::new();
    pair.source_says(&Message::Hello(ours)).unwrap();
    assert_eq!(pair.source_says(&Message::Switchover), greeting(Kind::Switchover));
    let again = Pair::accepted(1).source_says(&Message::Hello(ours));
    assert_eq!(again, Err(Violation::Phase { kind: Kind::Hello, phase: Phase::PreCopy }));
}

#[test]
fn the_targets_hello_must_repeat_the_sources() {
    let answered = |change: fn(&mut Hello)| {
        let mut pair = Pair::new();
        let ours = hello(Role::Source, 1);
        pair.source_says(&Message::Hello(ours)).unwrap();
        let mut answer = ours.reply(Support::CURRENT, 100);
        change(&mut answer);
        pair.target_says(&Message::Hello(answer))
    };
    assert_eq!(answered(|_| ()), Ok(()));
    assert_eq!(answered(|hello| hello.nonce[15] ^= 1), Err(Violation::Echo { what: "session nonce" }));
    assert_eq!(answered(|hello| hello.channel.count = 2), Err(Violation::Echo { what: "channel" }));
    assert_eq!(answered(|hello| hello.device_count = 2), Err(Violation::Echo { what: "device count" }));
    assert_eq!(answered(|hello| hello.role = Role::Source), Err(Violation::Role { role: Role::Source }));
}

#[test]
fn roles_and_versions_that_do_not_fit() {
    let mut target = Session::new(Role::Target, Support::CURRENT, LIMITS);
    let error = target.received(&Message::Hello(hello(Role::Target, 1))).unwrap_err();
    assert_eq!((error.violation, error.fault()), (Violation::Role { role: Role::Target }, Fault::Sender));

    let support = Support { offered: 0b110, required: 0b100, ..Support::CURRENT };
    let mut target = Session::new(Role::Target, Support::CURRENT, LIMITS);
    let error = target.received(&Message::Hello(Hello { support, ..hello(Role::Source, 1) })).unwrap_err();
    assert_eq!(error.violation, Violation::Refused(Refusal::PeerRequires { bit: 2 }));
    assert_eq!(error.fault(), Fault::Versions);

    // The source hears from the target only that it requires what we do not offer.
    let mut source = Session::new(Role::Source, Support::CURRENT, LIMITS);
    source.sent(&Message::Hello(hello(Role::Source, 1))).unwrap();
    let error = source.received(&Message::Hello(hello(Role::Source, 1).reply(support, 0))).unwrap_err();
    assert_eq!(error.violation, Violation::Refused(Refusal::PeerRequires { bit: 2 }));

    // A Hello of ours must say what the session was created with.
    let mut source = Session::new(Role::Source, support, LIMITS);
    let error = source.sent(&Message::Hello(hello(Role::Source, 1))).unwrap_err();
    assert_eq!((error.violation, error.fault()), (Violation::Role { role: Role::Source }, Fault::Caller));
}

#[test]
fn devices_are_opened_and_accepted_once_before_data() {
    let device = |kind, phase| Err(Violation::Device { kind, device: 0, phase });
    let mut opened = Pair::new();
    let ours = hello(Role::Source, 1);
    opened.source_says(&Message::Hello(ours)).unwrap();
    opened.target_says(&Message::Hello(ours.reply(Support::CURRENT, 100))).unwrap();
    let mut unopened = opened.source.clone();
    let error = unopened.received(&Message::DeviceAccept { device: 0 }).unwrap_err();
    assert_eq!(Err(error.violation), device(Kind::DeviceAccept, DevicePhase::Unopened));
    opened.source_says(&open(0, "vf")).unwrap();
    assert_eq!(opened.data(0, 0, 1), device(Kind::Data, DevicePhase::Opened));

    assert_eq!(Pair::accepted(1).source_says(&open(0, "vf")), device(Kind::DeviceOpen, DevicePhase::Accepted));
    let again = Pair::accepted(1).target_says(&Message::DeviceAccept { device: 0 });
    assert_eq!(again, device(Kind::DeviceAccept, DevicePhase::Accepted));
    let none = Pair::accepted(1).target_says(&Message::DeviceAccept { device: 1 });
    assert_eq!(none, Err(Violation::UnknownDevice { kind: Kind::DeviceAccept, device: 1, count: 1 }));
}

#[test]
fn switchover_and_commit_wait_for_every_device() {
    let not_all = |kind, needed, missing| Err(Violation::NotAll { kind, needed, missing });
    let mut pair = Pair::new();
    let ours = hello(Role::Source, 3);
    pair.source_says(&Message::Hello(ours)).unwrap();
    pair.target_says(&Message::Hello(ours.reply(Support::CURRENT, 100))).unwrap();
    pair.source_says(&open(0, "vf")).unwrap();
    pair.target_says(&Message::DeviceAccept { device: 0 }).unwrap();
    assert_eq!(pair.source_says(&Message::Switchover), not_all(Kind::Switchover, DevicePhase::Accepted, 2));

    let mut pair = Pair::accepted(2);
    pair.source_says(&Message::Switchover).unwrap();
    pair.source_says(&end(0, 0, 0)).unwrap();
    pair.source_says(&end(1, 0, 0)).unwrap();
    pair.target_says(&loaded(1, 0)).unwrap();
    assert_eq!(pair.source_says(&Message::Commit), not_all(Kind::Commit, DevicePhase::Loaded, 1));
}

#[test]
fn phases_admit_their_frames_only() {
    let phase = |kind, phase| Err(Violation::Phase { kind, phase });
    assert_eq!(Pair::accepted(1).source_says(&end(0, 0, 0)), phase(Kind::DeviceEnd, Phase::PreCopy));
    assert_eq!(Pair::accepted(1).source_says(&Message::Commit), phase(Kind::Commit, Phase::PreCopy));
    assert_eq!(Pair::loaded(1).source_says(&Message::Switchover), phase(Kind::Switchover, Phase::StopCopy));
    assert_eq!(Pair::loaded(1).target_says(&Message::Complete), phase(Kind::Complete, Phase::StopCopy));
    let committed = || {
        let mut pair = Pair::loaded(1);
        pair.source_says(&Message::Commit).unwrap();
        pair
    };
    assert_eq!(committed().data(0, 1, 1), phase(Kind::Data, Phase::Committed));
    assert_eq!(committed().source_says(&Message::Commit), phase(Kind::Commit, Phase::Committed));
    assert_eq!(committed().source_says(&abort("no")), phase(Kind::Abort, Phase::Committed));
    let mut complete = committed();
    complete.target_says(&Message::Complete).unwrap();
    assert_eq!(complete.target_says(&abort("no")), phase(Kind::Abort, Phase::Complete));
}

#[test]
fn loaded_must_repeat_the_count() {
    let mut pair = Pair::accepted(1);
    pair.data(0, 0, 10).unwrap();
    pair.source_says(&Message::Switchover).unwrap();
    pair.source_says(&end(0, 1, 10)).unwrap();
    let short = Violation::ByteCount { device: 0, stated: 9, counted: 10 };
    assert_eq!(pair.target_says(&loaded(0, 9)), Err(short));
}

#[test]
fn data_stay_within_what_the_reader_takes() {
    let mut source = Session::new(Role::Source, Support::CURRENT, LIMITS);
    let ours = hello(Role::Source, 1);
    source.sent(&Message::Hello(ours)).unwrap();
    source.received(&Message::Hello(ours.reply(Support::CURRENT, 64))).unwrap();
    source.sent(&open(0, "vf")).unwrap();
    source.received(&Message::DeviceAccept { device: 0 }).unwrap();
    let error = source.sent_data(0, 0, 65).unwrap_err();
    assert_eq!(error.violation, Violation::DataLength { device: 0, length: 65, limit: 64 });
    assert_eq!(error.fault(), Fault::Caller);
    source.sent_data(0, 0, 64).unwrap();

    let mut target = Pair::accepted(1).target;
    let error = target.received_data(0, 0, 101).unwrap_err();
    assert_eq!(error.violation, Violation::DataLength { device: 0, length: 101, limit: 100 });
    assert_eq!(error.fault(), Fault::Limits);
}

#[test]
fn an_abort_ends_everything_from_either_side_at_any_time() {
    for stage in [Pair::new, || Pair::accepted(1), || Pair::loaded(2)] {
        for by in [Role::Source, Role::Target] {
            let mut pair = stage();
            let aborted =
                if by == Role::Source { pair.source_says(&abort("x")) } else { pair.target_says(&abort("x")) };
            assert_eq!(aborted, Ok(()));
            pair.assert_phase(Phase::Aborted { by, committed: false });
            assert_eq!((pair.source.finish(), pair.target.finish()), (Ok(()), Ok(())));
            assert_eq!(
                pair.source.sent_data(0, 0, 1).unwrap_err().violation,
                Violation::AfterAbort { kind: Kind::Data }
            );
        }
    }
}

#[test]
fn frames_that_cross_our_abort_are_ignored_and_frames_after_the_peers_are_not() {
    let mut target = Pair::accepted(1).target;
    target.sent(&abort("x")).unwrap();
    assert_eq!(target.received_data(0, 0, 10), Ok(()));
    assert_eq!(target.received(&Message::Commit), Ok(()));
    assert_eq!(target.received(&abort("me too")), Ok(()));
    assert_eq!(target.device_bytes(0), Some(0), "ignored, not counted");

    let mut target = Pair::accepted(1).target;
    target.received(&abort("x")).unwrap();
    assert_eq!(target.sent(&abort("me too")), Ok(()), "both may give up at once");
    let after = target.received_data(0, 0, 10).unwrap_err();
    assert_eq!(after.violation, Violation::AfterAbort { kind: Kind::Data });
}

#[test]
fn a_target_may_abort_after_the_commit_and_both_know() {
    let mut pair = Pair::loaded(1);
    pair.source_says(&Message::Commit).unwrap();
    pair.target_says(&abort("RESUMING -> RUNNING failed")).unwrap();
    pair.assert_phase(Phase::Aborted { by: Role::Target, committed: true });
}

#[test]
fn after_a_violation_of_the_peer_only_an_abort_may_be_sent() {
    let mut target = Pair::accepted(1).target;
    let first = target.received_data(0, 5, 1).unwrap_err();
    assert_eq!(target.received_data(0, 0, 1), Err(first), "the first violation is final");
    assert_eq!(target.finish(), Err(first));
    assert_eq!(target.sent(&loaded(0, 0)).unwrap_err().violation, first.violation);
    let message = Message::Abort(Abort { code: AbortCode::PROTOCOL, device: Some(0), reason: "frame 5" });
    assert_eq!(target.sent(&message), Ok(()));
    assert_eq!(target.phase(), Phase::Aborted { by: Role::Target, committed: false });
    assert_eq!(target.received_data(0, 6, 1), Ok(()), "what was under way is ignored");
}

#[test]
fn a_refused_frame_of_ours_changes_nothing() {
    let mut source = Pair::accepted(1).source;
    assert!(source.sent_data(0, 1, 1).is_err());
    assert!(source.sent(&Message::Commit).is_err());
    assert_eq!((source.phase(), source.next_sequence(0), source.device_bytes(0)), (Phase::PreCopy, Some(0), Some(0)));
    assert_eq!(source.sent_data(0, 0, 1), Ok(()));
}

#[test]
fn a_file_needs_no_answers_and_takes_none() {
    let mut writer = Session::new(Role::File, Support::CURRENT, LIMITS);
    let mut reader = Session::new(Role::Target, Support::CURRENT, LIMITS);
    let messages =
        [Message::Hello(hello(Role::File, 1)), open(0, "vf"), Message::Switchover, end(0, 0, 0), Message::Commit];
    for message in &messages {
        assert!(reader.finish().is_err(), "a file without a Commit is cut");
        assert_eq!((writer.sent(message), reader.received(message)), (Ok(()), Ok(())), "{message:?}");
        let answer = reader.sent(&Message::Complete).unwrap_err();
        assert_eq!(answer.violation, Violation::FileAnswered { kind: Kind::Complete });
    }
    assert!(reader.is_file());
    assert_eq!((reader.phase(), reader.finish()), (Phase::Committed, Ok(())));
    assert_eq!(reader.device_phase(0), Some(DevicePhase::Loaded));
    let answered = writer.received(&Message::DeviceAccept { device: 0 }).unwrap_err();
    assert_eq!(answered.violation, Violation::FileAnswered { kind: Kind::DeviceAccept });
}

#[test]
fn a_file_aborted_by_its_writer_may_end() {
    let mut reader = Session::new(Role::Target, Support::CURRENT, Limits::DEFAULT);
    reader.received(&Message::Hello(hello(Role::File, 1))).unwrap();
    reader.received(&abort("cancelled")).unwrap();
    assert_eq!(reader.phase(), Phase::Aborted { by: Role::File, committed: false });
    assert_eq!(reader.finish(), Ok(()));
}

/// One random frame, mostly from the right side, about one of two devices.
fn random_step(random: &mut Random, pair: &mut Pair) -> Result<(), Violation> {
    let device = random.up_to(1) as u32;
    let ours = hello(Role::Source, 2);
    let name = format!("vf-{device}");
    let bytes = pair.source.device_bytes(device).unwrap_or(0);
    let frames = pair.source.next_sequence(device).unwrap_or(0);
    let (by_source, message) = match random.up_to(160) {
        0 => (random.up_to(1) == 0, abort("enough")),
        1..=8 => (true, Message::Hello(ours)),
        9..=16 => (false, Message::Hello(ours.reply(Support::CURRENT, 100))),
        17..=32 => (true, open(device, &name)),
        33..=48 => (false, Message::DeviceAccept { device }),
        49..=64 => (true, Message::Switchover),
        65..=80 => (true, end(device, frames, bytes)),
        81..=96 => (false, loaded(device, bytes)),
        97..=112 => (true, Message::Commit),
        113..=128 => (false, Message::Complete),
        _ => return pair.data(device, random.up_to(3) as u64, 10),
    };
    let any_side = random.up_to(20) == 0;
    if by_source != any_side { pair.source_says(&message) } else { pair.target_says(&message) }
}

/// Whatever is said, both sides judge it alike, and no device is left behind by a Commit.
#[test]
fn both_sides_agree_on_random_conversations() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let mut pair = Pair::new();
        for _ in 0..400 {
            let (source, target) = (pair.source.clone(), pair.target.clone());
            // A refused frame ends a conversation, so it is taken back: the next one may fit.
            if random_step(&mut random, &mut pair).is_err() {
                pair = Pair { source, target };
            }
            pair.assert_phase(pair.source.phase());
            for device in 0..2 {
                assert_eq!(pair.source.device_phase(device), pair.target.device_phase(device), "seed {seed}");
                assert_eq!(pair.source.device_bytes(device), pair.target.device_bytes(device), "seed {seed}");
                if matches!(pair.source.phase(), Phase::Committed | Phase::Complete) {
                    assert_eq!(pair.source.device_phase(device), Some(DevicePhase::Loaded), "seed {seed}");
                }
            }
            if matches!(pair.source.phase(), Phase::Aborted { .. }) {
                break;
            }
        }
        outcomes.insert(pair.source.phase().to_string());
    }
    let reached = outcomes.iter().map(String::as_str).collect::<Vec<_>>();
    for outcome in ["aborted by the source", "aborted by the target", "complete"] {
        assert!(reached.contains(&outcome), "no conversation ended {outcome}: {reached:?}");
    }
}
