// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Initial bytes: what may be announced, what may be acknowledged, and who need not know any of it.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod common;

use common::{LIMITS, end, hello, loaded, open};
use stream_codec::frame::{
    Channel, DevicePhase, Hello, InitialDone, Kind, Message, Phase, Role, Session, SessionError, Support, Violation,
};

const OFFERED: u64 = Support::CREDIT | Support::INITIAL_ACK;

/// Source and target, told of the same frames.
struct Pair {
    source: Session,
    target: Session,
}

impl Pair {
    /// Over `count` channels, with an accepted device that has credit for eight frames.
    fn new(count: u16, ours: u64, theirs: u64) -> Self {
        let support = |offered| Support { offered, ..Support::CURRENT };
        let session = |role, offered| Session::new(role, support(offered), LIMITS);
        let mut pair = Self { source: session(Role::Source, ours), target: session(Role::Target, theirs) };
        for index in 0..count {
            let channel = Channel { index, count };
            let offer = Hello { support: support(ours), channel, ..hello(Role::Source, 1) };
            Self::agree(
                pair.source.sent_on(index, &Message::Hello(offer)),
                pair.target.received_on(index, &Message::Hello(offer)),
            )
            .unwrap();
            let reply = Message::Hello(offer.reply(support(theirs), 100));
            Self::agree(pair.target.sent_on(index, &reply), pair.source.received_on(index, &reply)).unwrap();
        }
        pair.source_says(&open(0, "vf")).unwrap();
        pair.target_says(&Message::DeviceAccept { device: 0 }).unwrap();
        pair.target_says(&Message::Credit { device: 0, frames: 8 }).unwrap();
        pair
    }

    fn agree(sent: Result<(), SessionError>, received: Result<(), SessionError>) -> Result<(), Violation> {
        let violations = (sent.map_err(|error| error.violation), received.map_err(|error| error.violation));
        assert_eq!(violations.0, violations.1, "the sides differ");
        violations.0
    }

    fn source_says(&mut self, message: &Message<'_>) -> Result<(), Violation> {
        Self::agree(self.source.sent(message), self.target.received(message))
    }

    fn target_says(&mut self, message: &Message<'_>) -> Result<(), Violation> {
        Self::agree(self.target.sent(message), self.source.received(message))
    }

    fn data(&mut self, sequence: u64) {
        let sent = self.source.sent_data(0, sequence, 10);
        Self::agree(sent, self.target.received_data(0, sequence, 10)).unwrap();
    }

    fn done(&mut self, generation: u32, frames: u64) -> Result<(), Violation> {
        self.source_says(&Message::InitialDone(InitialDone { device: 0, generation, frames }))
    }

    fn ack(&mut self, generation: u32) -> Result<(), Violation> {
        self.target_says(&Message::InitialAck { device: 0, generation })
    }
}

fn pair() -> Pair {
    let mut pair = Pair::new(1, OFFERED, OFFERED);
    (0..3).for_each(|sequence| pair.data(sequence));
    pair
}

fn wrong(generation: u32, announced: u32, acknowledged: u32) -> Result<(), Violation> {
    Err(Violation::Acknowledgement { device: 0, generation, announced, acknowledged })
}

#[test]
fn each_generation_is_announced_and_acknowledged() {
    let mut pair = pair();
    pair.done(1, 3).unwrap();
    pair.ack(1).unwrap();
    pair.data(3);
    // The second began and was over before the source could say so; the fourth is answered with the third left out.
    pair.done(3, 4).unwrap();
    pair.done(4, 4).unwrap();
    pair.ack(4).unwrap();
    pair.source_says(&Message::Switchover).unwrap();
    pair.source_says(&end(0, 4, 40)).unwrap();
    pair.target_says(&loaded(0, 40)).unwrap();
    pair.source_says(&Message::Commit).unwrap();
}

#[test]
fn what_was_never_announced_cannot_be_acknowledged() {
    assert_eq!(pair().ack(1), wrong(1, 0, 0));
    let mut early = pair();
    early.done(1, 3).unwrap();
    assert_eq!(early.ack(2), wrong(2, 1, 0));
    let mut twice = pair();
    twice.done(1, 3).unwrap();
    twice.ack(1).unwrap();
    assert_eq!(twice.ack(1), wrong(1, 1, 1));
    let unknown = pair().target_says(&Message::InitialAck { device: 1, generation: 1 });
    assert_eq!(unknown, Err(Violation::UnknownDevice { kind: Kind::InitialAck, device: 1, count: 1 }));
}

#[test]
fn what_has_not_come_cannot_be_written() {
    let mut target = Pair::new(2, OFFERED, OFFERED).target;
    let done = |frames| Message::InitialDone(InitialDone { device: 0, generation: 1, frames });
    target.received(&done(2)).unwrap();
    target.received_data_on(1, 0, 1, 10).unwrap();
    let ack = Message::InitialAck { device: 0, generation: 1 };
    let early = target.sent(&ack).map_err(|error| error.violation);
    assert_eq!(early, wrong(1, 1, 0), "frame 0 is still under way");
    target.received_data_on(0, 0, 0, 10).unwrap();
    target.sent(&ack).unwrap();
}

#[test]
fn an_announcement_says_something_new_about_frames_there_can_be() {
    let (device, least) = (0, 2);
    let mut again = pair();
    again.done(1, 3).unwrap();
    assert_eq!(again.done(1, 3), Err(Violation::Announcement { device, generation: 1, least }));
    assert_eq!(pair().done(1, 4), Err(Violation::InitialFrames { device, stated: 4, most: 3 }));
    assert_eq!(pair().done(1, 0), Ok(()), "a device may have no initial bytes");
    let beyond = Pair::new(2, OFFERED, OFFERED).done(1, 9);
    assert_eq!(beyond, Err(Violation::InitialFrames { device, stated: 9, most: 8 }), "beyond its credit");
    assert_eq!(Pair::new(2, OFFERED, OFFERED).done(1, 8), Ok(()), "under way on another channel");
}

#[test]
fn both_have_their_time_and_their_sender() {
    let phase = Phase::StopCopy;
    let mut late = pair();
    late.source_says(&Message::Switchover).unwrap();
    assert_eq!(late.done(1, 3), Err(Violation::Phase { kind: Kind::InitialDone, phase }));
    // The source may have lost its patience while the answer was under way.
    let mut late = pair();
    late.done(1, 3).unwrap();
    late.source_says(&Message::Switchover).unwrap();
    late.source_says(&end(0, 3, 30)).unwrap();
    assert_eq!(late.ack(1), Ok(()));
    late.target_says(&loaded(0, 30)).unwrap();
    let kind = Kind::InitialAck;
    assert_eq!(late.ack(1), Err(Violation::Device { kind, device: 0, phase: DevicePhase::Loaded }));
    let done = Message::InitialDone(InitialDone { device: 0, generation: 1, frames: 0 });
    assert_eq!(pair().target_says(&done), Err(Violation::WrongSender { kind: Kind::InitialDone }));
    let ack = Message::InitialAck { device: 0, generation: 1 };
    assert_eq!(pair().source_says(&ack), Err(Violation::WrongSender { kind }));
    let mut two = Pair::new(2, OFFERED, OFFERED);
    let elsewhere = Pair::agree(two.source.sent_on(1, &done), two.target.received_on(1, &done));
    assert_eq!(elsewhere, Err(Violation::WrongChannel { kind: Kind::InitialDone, channel: 1 }));
}

#[test]
fn who_does_not_offer_it_is_not_asked() {
    for (ours, theirs) in [(OFFERED, Support::CREDIT), (Support::CREDIT, OFFERED)] {
        let mut pair = Pair::new(1, ours, theirs);
        assert_eq!(pair.done(1, 0), Err(Violation::NoFeature { kind: Kind::InitialDone, bit: 3 }));
        let mut pair = Pair::new(1, ours, theirs);
        assert_eq!(pair.ack(1), Err(Violation::NoFeature { kind: Kind::InitialAck, bit: 3 }));
    }
}

#[test]
fn a_file_has_nobody_to_answer() {
    let support = Support { offered: Support::INITIAL_ACK, ..Support::CURRENT };
    let mut reader = Session::new(Role::Target, support, LIMITS);
    reader.received(&Message::Hello(Hello { support, ..hello(Role::File, 1) })).unwrap();
    reader.received(&open(0, "vf")).unwrap();
    let done = Message::InitialDone(InitialDone { device: 0, generation: 1, frames: 0 });
    let judged = reader.received(&done).map_err(|error| error.violation);
    assert_eq!(judged, Err(Violation::NoFeature { kind: Kind::InitialDone, bit: 3 }));
}
