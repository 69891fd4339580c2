// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A source whose memory goes from the socket straight to the target's file, past every buffer that could be looked at:
//! what it says wrong is refused like anything else.

use core::time::Duration;
use std::thread;
use std::time::Instant;

use savevm_core::{Channel, load, sim::SimPort};
use stream_codec::frame::{
    DeviceEnd, DeviceOpen, Digest, FLAG_UNCHECKED, Header, Kind, Message, Region as RegionFrame, Support,
};

use crate::common::{load_options, tcp_connection};
use crate::guest::{PAGE, memory, region};
use crate::peer::{Offering, Peer, header, hello};

/// What both sides have agreed on before anything of the memory comes.
const UNSEEN: u64 = Support::UNCHECKED | Support::MEMORY | Support::MEMORY_UNDIGESTED;

/// A target with 64 pages of memory against a source that opens it honestly and then does what `act` says.
fn refused(act: impl FnOnce(&mut Peer) + Send) -> String {
    refused_with(None, act)
}

/// The same with a socket whose reads end after a while.
fn refused_with(read_timeout: Option<Duration>, act: impl FnOnce(&mut Peer) + Send) -> String {
    let theirs = memory(&[region("ram", 64, PAGE)]);
    let (left, right) = tcp_connection();
    right.set_read_timeout(read_timeout).unwrap();
    let began = Instant::now();
    let error = thread::scope(|scope| {
        let victim = scope.spawn(|| {
            let mut options = load_options();
            (options.limits.payload_checksums, options.limits.memory_digest) = (false, false);
            options.limits.chunk_bytes_max = 1 << 20;
            options.limits.silence_max = Duration::from_millis(300);
            let mut none: [SimPort; 0] = [];
            let right = Channel::tcp(right).unwrap();
            load::load_with_memory(&mut none, &theirs, right, &mut (), &options).and_then(load::Loaded::run)
        });
        let mut peer = Peer::over_tcp(left);
        peer.say(&Message::Hello(hello(0, 1).offering(UNSEEN)));
        peer.hear(Kind::Hello);
        let region = RegionFrame { device: 0, bytes: 64 * PAGE, page_bytes: PAGE, name: "ram" };
        peer.say(&Message::Region(region));
        let open = DeviceOpen { device: 0, name: "guest memory", identity: "", migration_flags: 2, stop_copy_bytes: 0 };
        peer.say(&Message::DeviceOpen(open));
        peer.hear(Kind::DeviceAccept);
        peer.hear(Kind::Credit);
        peer.out.set_unchecked(true);
        act(&mut peer);
        victim.join().unwrap().map(drop).unwrap_err()
    });
    assert!(began.elapsed() < Duration::from_secs(3), "{error}");
    error.to_string()
}

fn record(offset: u64, length: u32, flags: u16) -> Vec<u8> {
    [&offset.to_le_bytes()[..], &length.to_le_bytes(), &[0, 0], &flags.to_le_bytes()].concat()
}

/// Enough to be worth the way.
const LONG: u32 = 100_000;
const LONG_PAYLOAD: u64 = 16 + 100_000;

/// One long record, and what follows it.
fn payload(offset: u64, behind: &[u8]) -> Vec<u8> {
    [&record(offset, LONG, 0)[..], &[7; 100_000], behind].concat()
}

#[test]
fn records_that_make_no_sense_are_refused() {
    let has = |payload: &[u8], said: &str| {
        let error = refused(|peer| peer.data(0, 0, payload));
        assert!(error.contains(said), "'{said}' is not in: {error}");
    };
    has(&payload(60 * PAGE, &[]), "where there is none");
    has(&payload(u64::MAX - 4, &[]), "goes beyond 64 bits");
    has(&payload(0, &record(0, 4096, 1)), "is not behind the one before it");
    has(&payload(0, &record(40 * PAGE, 25 * 4096, 1)), "where there is none");
    has(&payload(0, &[1, 2, 3]), "is cut off");
    has(&payload(0, &record(50 * PAGE, 4096, 0)), "is cut off");
    has(&payload(0, &record(50 * PAGE, 0, 0)), "has no bytes");
    has(&record(0, 4096, 9), "reserved flags");
    has(&[1; 9], "is cut off");
}

#[test]
fn a_stream_that_ends_or_stops_inside_a_record_is_noticed() {
    let header = |sequence| {
        let header = header(0x12, 16 + LONG, 0);
        Header { flags: FLAG_UNCHECKED, sequence, ..header }
    };
    let begun = |count: usize| payload(0, &[])[..count].to_vec();
    for count in [0, 5, 16, 17, 70_000] {
        let closed = refused(|peer| {
            peer.frame(header(0), &begun(count));
            peer.raw.shutdown(std::net::Shutdown::Both).unwrap();
        });
        assert!(closed.contains("the payload of a Data frame") || closed.contains("closed"), "{count}: {closed}");
        let silent = refused(|peer| peer.frame(header(0), &begun(count)));
        assert!(silent.contains("silent"), "{count}: {silent}");
    }
    let beyond = refused(|peer| peer.frame(header(1000), &payload(0, &[])));
    assert!(beyond.contains("frame 1000 of device 0 where frame 0 is next"), "{beyond}");
    let twice = refused(|peer| {
        peer.data(0, 0, &payload(0, &[]));
        peer.data(0, 0, &payload(0, &[]));
    });
    assert!(twice.contains("frame 0 of device 0 where frame 1 is next"), "{twice}");
}

#[test]
fn a_frame_may_be_one_head_and_no_more() {
    let closed = refused(|peer| {
        peer.data(0, 0, &record(0, 64 * 4096, 1));
        peer.say(&Message::Switchover);
        peer.say(&Message::DeviceEnd(DeviceEnd { device: 0, frames: 1, bytes: 16, digest: Digest::NONE }));
        peer.hear(Kind::Loaded);
        peer.raw.shutdown(std::net::Shutdown::Both).unwrap();
    });
    assert!(closed.contains("closed"), "{closed}");
}

#[test]
fn a_read_that_ends_inside_a_record_is_repeated() {
    let closed = refused_with(Some(Duration::from_millis(2)), |peer| {
        let whole = payload(0, &[]);
        let head = header(0x12, 16 + LONG, 0);
        peer.bytes(&Header { flags: FLAG_UNCHECKED, ..head }.encode());
        for piece in [&whole[..9], &whole[9..16], &whole[16..40_000], &whole[40_000..]] {
            thread::sleep(Duration::from_millis(12));
            peer.bytes(piece);
        }
        peer.say(&Message::Switchover);
        let end = DeviceEnd { device: 0, frames: 1, bytes: LONG_PAYLOAD, digest: Digest::NONE };
        peer.say(&Message::DeviceEnd(end));
        peer.hear(Kind::Loaded);
        peer.raw.shutdown(std::net::Shutdown::Both).unwrap();
    });
    assert!(closed.contains("closed"), "{closed}");
}

#[test]
fn the_end_must_have_the_proof_that_was_agreed_on() {
    let end = |bytes, digest| {
        refused(move |peer| {
            peer.data(0, 0, &payload(0, &[]));
            peer.say(&Message::Switchover);
            peer.say(&Message::DeviceEnd(DeviceEnd { device: 0, frames: 1, bytes, digest }));
        })
    };
    let error = end(LONG_PAYLOAD, Digest::crc64_nvme(1));
    assert!(error.contains("for memory that both sides agreed to count only"), "{error}");
    let error = refused(|peer| {
        peer.say(&Message::DeviceEnd(DeviceEnd { device: 0, frames: 0, bytes: 0, digest: Digest::crc64_nvme(0) }))
    });
    assert!(error.contains("a DeviceEnd in the pre-copy phase"), "{error}");
    let error = end(LONG_PAYLOAD + 1, Digest::NONE);
    assert!(error.contains(&format!("{LONG_PAYLOAD}")), "{error}");
}
