// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sessions of several channels: who may join, what may overtake what, and how much may be under way.
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
use proptest::prelude::*;
use stream_codec::frame::{
    CREDIT_FRAMES_MAX, Channel, DevicePhase, Hello, Kind, Message, Phase, Role, Session, SessionError, Support,
    Violation,
};

const SUPPORT: Support = Support { offered: Support::CREDIT, required: Support::CREDIT, ..Support::CURRENT };

fn offer(index: u16, count: u16) -> Hello {
    Hello { support: SUPPORT, channel: Channel { index, count }, ..hello(Role::Source, 2) }
}

/// Source and target, told of the same frames on the same channels.
struct Pair {
    source: Session,
    target: Session,
}

impl Pair {
    fn new() -> Self {
        let session = |role| Session::new(role, SUPPORT, LIMITS);
        Self { source: session(Role::Source), target: session(Role::Target) }
    }

    /// A pair over `count` channels with two accepted devices, without any credit yet.
    fn accepted(count: u16) -> Self {
        let mut pair = Self::new();
        for index in 0..count {
            pair.source_says(index, &Message::Hello(offer(index, count))).unwrap();
            pair.target_says(index, &Message::Hello(offer(index, count).reply(SUPPORT, 100))).unwrap();
        }
        for device in 0..2 {
            pair.source_says(0, &open(device, &format!("vf-{device}"))).unwrap();
            pair.target_says(0, &Message::DeviceAccept { device }).unwrap();
        }
        pair
    }

    fn agree(sent: Result<(), SessionError>, received: Result<(), SessionError>) -> Result<(), Violation> {
        let violations = (sent.map_err(|error| error.violation), received.map_err(|error| error.violation));
        assert_eq!(violations.0, violations.1, "the sides differ");
        violations.0
    }

    fn source_says(&mut self, channel: u16, message: &Message<'_>) -> Result<(), Violation> {
        Self::agree(self.source.sent_on(channel, message), self.target.received_on(channel, message))
    }

    fn target_says(&mut self, channel: u16, message: &Message<'_>) -> Result<(), Violation> {
        Self::agree(self.target.sent_on(channel, message), self.source.received_on(channel, message))
    }

    fn data(&mut self, channel: u16, device: u32, sequence: u64, length: u32) -> Result<(), Violation> {
        let sent = self.source.sent_data_on(channel, device, sequence, length);
        Self::agree(sent, self.target.received_data_on(channel, device, sequence, length))
    }

    fn credit(&mut self, device: u32, frames: u64) -> Result<(), Violation> {
        self.target_says(0, &Message::Credit { device, frames })
    }
}

#[test]
fn a_whole_conversation_over_two_channels() {
    let mut pair = Pair::accepted(2);
    assert_eq!(pair.target.phase(), Phase::PreCopy);
    pair.credit(0, 4).unwrap();
    pair.credit(1, 2).unwrap();
    pair.data(0, 0, 0, 10).unwrap();
    pair.data(1, 1, 0, 20).unwrap();
    pair.source_says(1, &Message::Switchover).unwrap();
    assert_eq!(pair.target.phase(), Phase::PreCopy, "the first channel's begins the phase");
    pair.source_says(0, &Message::Switchover).unwrap();
    assert_eq!(pair.target.phase(), Phase::StopCopy);
    pair.source_says(0, &end(1, 1, 20)).unwrap();
    // The target hears of the end of device 0 before two of its frames.
    assert_eq!(pair.source.sent_data_on(1, 0, 1, 5), Ok(()));
    assert_eq!(pair.source.sent_data_on(0, 0, 2, 7), Ok(()));
    assert_eq!(pair.source.sent_on(0, &end(0, 3, 22)), Ok(()));
    assert_eq!(pair.target.received_data_on(0, 0, 2, 7), Ok(()));
    assert_eq!(pair.target.received_on(0, &end(0, 3, 22)), Ok(()));
    assert_eq!(pair.target.device_phase(0), Some(DevicePhase::Ending));
    assert!(pair.target.is_all_ended(), "every end is announced");
    assert_eq!(pair.target.received_data_on(1, 0, 1, 5), Ok(()));
    assert_eq!(pair.target.device_phase(0), Some(DevicePhase::Ended));
    for (device, bytes) in [(1, 20), (0, 22)] {
        pair.target_says(0, &loaded(device, bytes)).unwrap();
    }
    assert!(pair.source.is_all_loaded());
    let early = pair.source.sent(&Message::Commit).unwrap_err();
    assert_eq!(early.violation, Violation::OpenChannels { missing: 1 });
    pair.source_says(1, &Message::ChannelEnd).unwrap();
    pair.target_says(1, &Message::ChannelEnd).unwrap();
    pair.source_says(0, &Message::Commit).unwrap();
    pair.target_says(0, &Message::Complete).unwrap();
    assert_eq!((pair.source.finish(), pair.target.finish()), (Ok(()), Ok(())));
}

#[test]
fn every_channel_belongs_to_the_session_of_the_first() {
    let second = |change: fn(&mut Hello)| {
        let mut target = Session::new(Role::Target, SUPPORT, LIMITS);
        target.received_on(0, &Message::Hello(offer(0, 2))).unwrap();
        let mut hello = offer(1, 2);
        change(&mut hello);
        target.received_on(1, &Message::Hello(hello)).map_err(|error| error.violation)
    };
    assert_eq!(second(|_| {}), Ok(()));
    assert_eq!(second(|hello| hello.nonce[15] ^= 1), Err(Violation::Echo { what: "session nonce" }));
    assert_eq!(second(|hello| hello.device_count = 1), Err(Violation::Echo { what: "device count" }));
    assert_eq!(second(|hello| hello.channel.count = 3), Err(Violation::Echo { what: "channel" }));
    assert_eq!(second(|hello| hello.channel.index = 0), Err(Violation::Echo { what: "channel" }));
    assert_eq!(
        second(|hello| hello.support.required = 0),
        Err(Violation::Echo { what: "set of versions and features" })
    );
    assert_eq!(second(|hello| hello.role = Role::Target), Err(Violation::Role { role: Role::Target }));
}

#[test]
fn a_channel_joins_once_and_only_behind_the_first() {
    let kind = Kind::Hello;
    let mut pair = Pair::new();
    let late = pair.source_says(1, &Message::Hello(offer(1, 2)));
    assert_eq!(late, Err(Violation::Channel { kind, channel: 1 }), "the first channel comes first");
    let mut pair = Pair::new();
    pair.source_says(0, &Message::Hello(offer(0, 2))).unwrap();
    let early = pair.target_says(1, &Message::Hello(offer(1, 2).reply(SUPPORT, 100)));
    assert_eq!(early, Err(Violation::Channel { kind, channel: 1 }), "an answer to nothing");
    let mut pair = Pair::new();
    pair.source_says(0, &Message::Hello(offer(0, 2))).unwrap();
    pair.source_says(1, &Message::Hello(offer(1, 2))).unwrap();
    let twice = pair.source_says(1, &Message::Hello(offer(1, 2)));
    assert_eq!(twice, Err(Violation::Channel { kind, channel: 1 }));
    let mut pair = Pair::new();
    pair.source_says(0, &Message::Hello(offer(0, 2))).unwrap();
    pair.target_says(0, &Message::Hello(offer(0, 2).reply(SUPPORT, 100))).unwrap();
    let waiting = pair.source_says(0, &open(0, "vf"));
    assert_eq!(waiting, Err(Violation::Phase { kind: Kind::DeviceOpen, phase: Phase::Greeting }), "one is missing");
}

#[test]
fn several_channels_need_credit_and_a_limit() {
    let offered = |count, offered| {
        let support = Support { offered, required: 0, ..SUPPORT };
        let mut target = Session::new(Role::Target, support, LIMITS);
        target.received(&Message::Hello(Hello { support, ..offer(0, count) })).map_err(|error| error.violation)
    };
    assert_eq!(offered(4, Support::CREDIT), Ok(()));
    assert_eq!(offered(5, Support::CREDIT), Err(Violation::Channels { count: 5, limit: 4 }));
    assert_eq!(offered(1, 0), Ok(()));
    assert_eq!(offered(2, 0), Err(Violation::NoCredit { count: 2 }));
}

#[test]
fn nothing_beyond_the_credit() {
    let over = |sequence, credit| Err(Violation::Credit { device: 0, sequence, credit });
    assert_eq!(Pair::accepted(1).data(0, 0, 0, 1), over(0, 0));
    let mut pair = Pair::accepted(1);
    pair.credit(0, 1).unwrap();
    pair.data(0, 0, 0, 1).unwrap();
    assert_eq!(pair.data(0, 0, 1, 1), over(1, 1));
    // A jump costs nothing: it is refused by its number.
    let mut pair = Pair::accepted(2);
    pair.credit(0, 3).unwrap();
    assert_eq!(pair.data(1, 0, 1 << 31, 1), over(1 << 31, 3));
    let mut pair = Pair::accepted(2);
    pair.credit(0, 3).unwrap();
    assert_eq!(pair.data(1, 0, u64::MAX, 1), over(u64::MAX, 3));
}

#[test]
fn a_grant_grows_by_what_can_be_meant() {
    let grant = |frames, least, most| Err(Violation::Grant { device: 0, frames, least, most });
    let most = CREDIT_FRAMES_MAX;
    assert_eq!(Pair::accepted(1).credit(0, 0), grant(0, 1, most));
    assert_eq!(Pair::accepted(1).credit(0, u64::MAX), grant(u64::MAX, 1, most));
    assert_eq!(Pair::accepted(1).credit(0, most + 1), grant(most + 1, 1, most));
    assert_eq!(Pair::accepted(1).credit(0, most), Ok(()));
    let mut pair = Pair::accepted(1);
    pair.credit(0, 5).unwrap();
    assert_eq!(pair.credit(0, 5), grant(5, 6, most), "a credit that says nothing new");
    let mut pair = Pair::accepted(1);
    let unknown = pair.credit(7, 5);
    assert_eq!(unknown, Err(Violation::UnknownDevice { kind: Kind::Credit, device: 7, count: 2 }));
    let mut pair = Pair::accepted(1);
    let wrong = pair.source_says(0, &Message::Credit { device: 0, frames: 1 });
    assert_eq!(wrong, Err(Violation::WrongSender { kind: Kind::Credit }));
}

#[test]
fn frames_that_come_twice_are_refused_wherever_they_are() {
    let repeated = |sequence| Err(Violation::Repeated { device: 0, sequence });
    for sequence in [0, 1, 3] {
        let mut target = Pair::accepted(2);
        target.credit(0, 8).unwrap();
        for earlier in [1, 0, 3] {
            target.target.received_data_on(0, 0, earlier, 1).unwrap();
        }
        let error = target.target.received_data_on(1, 0, sequence, 1).map_err(|error| error.violation);
        assert_eq!(error, repeated(sequence));
    }
}

#[test]
fn an_end_that_does_not_add_up() {
    let ended = |frames, bytes, late: Option<(u64, u32)>| {
        let mut target = Pair::accepted(2).target;
        target.sent(&Message::Credit { device: 0, frames: 8 }).unwrap();
        target.received(&Message::Switchover).unwrap();
        target.received_data_on(1, 0, 0, 10).unwrap();
        target.received_data_on(1, 0, 2, 10).unwrap();
        let ending = target.received(&end(0, frames, bytes));
        let arrived = ending
            .and_then(|()| late.map_or(Ok(()), |(sequence, length)| target.received_data_on(0, 0, sequence, length)));
        (arrived.map_err(|error| error.violation), target.device_phase(0).unwrap())
    };
    let device = 0;
    assert_eq!(ended(3, 25, None), (Ok(()), DevicePhase::Ending));
    assert_eq!(ended(3, 25, Some((1, 5))), (Ok(()), DevicePhase::Ended));
    assert_eq!(ended(3, 25, Some((1, 6))).0, Err(Violation::ByteCount { device, stated: 25, counted: 26 }));
    assert_eq!(ended(3, 25, Some((3, 5))).0, Err(Violation::FrameCount { device, stated: 3, counted: 4 }));
    assert_eq!(ended(2, 25, None).0, Err(Violation::FrameCount { device, stated: 2, counted: 3 }));
    assert_eq!(ended(9, 25, None).0, Err(Violation::FrameCount { device, stated: 9, counted: 3 }), "beyond credit");
    assert_eq!(ended(3, 19, None).0, Err(Violation::ByteCount { device, stated: 19, counted: 20 }));
}

#[test]
fn control_has_its_channel() {
    for message in [open(1, "vf"), end(0, 0, 0)] {
        let kind = message.kind();
        let mut pair = Pair::accepted(2);
        if kind == Kind::DeviceEnd {
            pair.source_says(0, &Message::Switchover).unwrap();
        }
        assert_eq!(pair.source_says(1, &message), Err(Violation::WrongChannel { kind, channel: 1 }));
    }
    let credit = Message::Credit { device: 0, frames: 1 };
    let elsewhere = Pair::accepted(2).target_says(1, &credit);
    assert_eq!(elsewhere, Err(Violation::WrongChannel { kind: Kind::Credit, channel: 1 }));
    let mut pair = Pair::accepted(2);
    pair.credit(0, 1).unwrap();
    assert_eq!(pair.data(2, 0, 0, 1), Err(Violation::UnknownChannel { kind: Kind::Data, channel: 2, count: 2 }));
    assert_eq!(Pair::accepted(2).source_says(1, &common::abort("no")), Ok(()), "an Abort may come anywhere");
}

#[test]
fn the_switchover_comes_once_on_each_channel() {
    let (kind, switchover) = (Kind::Switchover, Message::Switchover);
    for order in [[0, 1], [1, 0]] {
        for channel in order {
            let mut pair = Pair::accepted(2);
            order.iter().for_each(|channel| pair.source_says(*channel, &switchover).unwrap());
            assert_eq!(pair.source_says(channel, &switchover), Err(Violation::Channel { kind, channel }));
        }
    }
    let beyond = Pair::accepted(2).source_says(2, &switchover);
    assert_eq!(beyond, Err(Violation::UnknownChannel { kind, channel: 2, count: 2 }));
    let wrong = Pair::accepted(2).target_says(1, &switchover);
    assert_eq!(wrong, Err(Violation::WrongSender { kind }));
    // Without it a channel cannot end, and so the source cannot commit.
    let mut pair = Pair::accepted(2);
    pair.source_says(0, &switchover).unwrap();
    assert_eq!(
        pair.source_says(1, &Message::ChannelEnd),
        Err(Violation::Channel { kind: Kind::ChannelEnd, channel: 1 })
    );
}

#[test]
fn a_channel_ends_once_and_the_source_ends_it_first() {
    let stopped = || {
        let mut pair = Pair::accepted(2);
        pair.credit(0, 9).unwrap();
        pair.source_says(0, &Message::Switchover).unwrap();
        pair.source_says(1, &Message::Switchover).unwrap();
        pair
    };
    let kind = Kind::ChannelEnd;
    let end = Message::ChannelEnd;
    let mut pair = Pair::accepted(2);
    pair.source_says(1, &Message::Switchover).unwrap();
    assert_eq!(pair.source_says(1, &end), Ok(()), "it may overtake the first channel's Switchover");
    let early = Pair::accepted(2).source_says(1, &end);
    assert_eq!(early, Err(Violation::Channel { kind, channel: 1 }), "and not its own");
    let mut greeting = Pair::new();
    greeting.source_says(0, &Message::Hello(offer(0, 2))).unwrap();
    assert_eq!(greeting.source_says(1, &end), Err(Violation::Phase { kind, phase: Phase::Greeting }));
    assert_eq!(stopped().source_says(0, &end), Err(Violation::WrongChannel { kind, channel: 0 }));
    assert_eq!(stopped().source_says(2, &end), Err(Violation::UnknownChannel { kind, channel: 2, count: 2 }));
    assert_eq!(stopped().target_says(1, &end), Err(Violation::Channel { kind, channel: 1 }));
    let mut pair = stopped();
    pair.source_says(1, &end).unwrap();
    assert_eq!(pair.data(1, 0, 0, 1), Err(Violation::Channel { kind: Kind::Data, channel: 1 }), "data after the end");
    let mut pair = stopped();
    pair.source_says(1, &end).unwrap();
    assert_eq!(pair.source_says(1, &end), Err(Violation::Channel { kind, channel: 1 }));
    let mut pair = stopped();
    pair.source_says(1, &end).unwrap();
    pair.target_says(1, &end).unwrap();
    pair.data(0, 0, 0, 1).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any order inside the credit is taken, and counts as if it had come in order.
    #[test]
    fn any_order_within_the_credit(order in Just((0..CREDIT_FRAMES_MAX).collect::<Vec<_>>()).prop_shuffle(), cut in 0..=128_usize) {
        let mut target = Pair::accepted(2).target;
        target.sent(&Message::Credit { device: 0, frames: CREDIT_FRAMES_MAX }).unwrap();
        for &sequence in &order[..cut] {
            target.received_data_on(u16::from(sequence % 2 == 0), 0, sequence, 3).unwrap();
        }
        let came = &order[..cut];
        let expected = (0..).find(|sequence| !came.contains(sequence));
        prop_assert_eq!(target.next_sequence(0), expected);
        prop_assert_eq!(target.device_bytes(0), Some(3 * cut as u64));
    }
}
