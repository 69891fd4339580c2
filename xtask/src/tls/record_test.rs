// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Records behind the handshake: ours against those of another implementation, worn keys, and what no peer should send.
#![allow(clippy::arithmetic_side_effects)]

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;

use rustls::{ConnectionTrafficSecrets, ContentType, ServerConnection, Stream};
use savevm_core::Cancel;

use super::Secured;
use super::record::{self, Protection};
use super::test::{friendly_pair, friends, patience, pattern};
use crate::migrate::Transport;

const DATA: ContentType = ContentType::ApplicationData;
const ALERT: ContentType = ContentType::Alert;
const HANDSHAKE: ContentType = ContentType::Handshake;

/// A pair that waits for nothing for long: where something is missing, a test is to fail.
fn hasty_pair() -> (Secured, Secured) {
    let pair = friendly_pair();
    pair.0.transport().set_timeouts(Some(patience())).unwrap();
    pair.1.transport().set_timeouts(Some(patience())).unwrap();
    pair
}

/// What reading comes to, whatever signals other tests send meanwhile.
fn failure(mut reader: impl Read) -> String {
    reader.read_to_end(&mut Vec::new()).unwrap_err().to_string()
}

/// Both sides take new keys all the time, one because its own wear out, the other because it is told to.
#[test]
fn another_implementation_understands_our_records_and_keys() {
    const ROUNDS: u64 = 4;
    const BYTES: usize = 100_001;
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = friends(folder.path());
    let (left, mut right) = UnixStream::pair().unwrap();
    right.set_read_timeout(Some(patience())).unwrap();
    let mut peer = ServerConnection::new(theirs.server().unwrap().unwrap().0).unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let client = ours.client(None).unwrap().unwrap();
            let secured = client.connect(Transport::Unix(left), patience(), &Cancel::new()).unwrap();
            secured.transport().set_timeouts(Some(patience())).unwrap();
            secured.wear_key(3);
            let (mut reader, mut writer, _) = secured.split();
            let mut received = vec![0; BYTES];
            for round in 0..ROUNDS {
                writer.write_all(&pattern(BYTES, round)).unwrap();
                reader.read_exact(&mut received).unwrap();
                assert!(received == pattern(BYTES, 100 + round), "round {round}");
            }
            drop(writer);
            assert_eq!(reader.read_to_end(&mut received).unwrap(), 0, "an end in good order");
        });
        let mut stream = Stream::new(&mut peer, &mut right);
        let mut received = vec![0; BYTES];
        for round in 0..ROUNDS {
            stream.read_exact(&mut received).unwrap();
            assert!(received == pattern(BYTES, round), "round {round}");
            stream.conn.refresh_traffic_keys().unwrap();
            stream.write_all(&pattern(BYTES, 100 + round)).unwrap();
        }
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        assert_eq!(stream.read_to_end(&mut received).unwrap(), 0, "an end in good order");
    });
}

#[test]
fn a_worn_key_is_followed_by_the_next() {
    let (client, server) = hasty_pair();
    client.wear_key(2);
    let (_reader, mut writer, _) = client.split();
    let (mut reader, _writer, _) = server.split();
    let sent = pattern(1 << 20, 1);
    thread::scope(|scope| {
        scope.spawn(|| {
            writer.write_all(&sent[..20_000]).unwrap();
            writer.write_all(&sent[20_000..]).unwrap();
            drop(writer);
        });
        let mut received = Vec::new();
        reader.read_to_end(&mut received).unwrap();
        assert!(received == sent, "{} of {} bytes, or other ones", received.len(), sent.len());
    });
}

#[test]
fn who_is_asked_for_a_new_key_takes_one_before_it_sends_more() {
    let (client, server) = hasty_pair();
    client.send_record(HANDSHAKE, &[24, 0, 0, 1, 1], |_| ());
    let (mut reader, mut writer, _) = server.split();
    reader.transport().set_timeouts(Some(core::time::Duration::from_millis(10))).unwrap();
    while reader.read(&mut [0]).unwrap_err().kind() != ErrorKind::WouldBlock {}
    writer.write_all(b"x").unwrap();
    writer.write_all(b"y").unwrap();
    // KeyUpdate, once, and the two bytes: each with a header, a type and a tag (RFC 8446, section 5.2).
    let expected = [5 + 22, 1 + 22, 1 + 22];
    let mut sent = vec![0; expected.iter().sum()];
    (&mut client.transport()).read_exact(&mut sent).unwrap();
    let mut rest = &sent[..];
    for length in expected {
        assert_eq!(record::length(rest).unwrap(), Some(length));
        rest = &rest[length..];
    }
}

/// One record, what one side says of it, and what the other hears.
type Offence = (&'static str, ContentType, &'static [u8], fn(&mut Vec<u8>), &'static str, &'static str);

const OFFENCES: [Offence; 13] = [
    ("a bit", DATA, b"state", |record| record[9] ^= 1, "a record is damaged", "BadRecordMac"),
    ("the tag", DATA, b"state", |record| *record.last_mut().unwrap() ^= 128, "a record is damaged", "BadRecordMac"),
    ("no tag", DATA, b"", |record| drop(record.splice(3.., [0, 0])), "a record is damaged", "BadRecordMac"),
    ("a length", DATA, b"state", |record| record[4] -= 1, "a record is damaged", "BadRecordMac"),
    ("too long", DATA, b"state", |record| record[3] = 0x42, "excess record size", "RecordOverflow"),
    ("not sealed", DATA, b"state", |record| record[0] = 0x16, "unexpected message", "UnexpectedMessage"),
    ("no such type", ContentType::Unknown(99), b"state", |_| (), "unexpected message", "UnexpectedMessage"),
    ("only padding", ContentType::Unknown(0), b"", |_| (), "IllegalTlsInnerPlaintext", "UnexpectedMessage"),
    ("half an alert", ALERT, &[2], |_| (), "Alert", "DecodeError"),
    ("a handshake", HANDSHAKE, &[1, 0, 0, 0], |_| (), "unexpected handshake message", "UnexpectedMessage"),
    ("half a handshake", HANDSHAKE, &[24, 0, 0, 1], |_| (), "MessageTooShort", "DecodeError"),
    ("no key update", HANDSHAKE, &[24, 0, 0, 1, 2], |_| (), "InvalidKeyUpdate", "DecodeError"),
    ("more than a key", HANDSHAKE, &[24, 0, 0, 1, 0, 24], |_| (), "KeyEpochWithPendingFragment", "UnexpectedMessage"),
];

#[test]
fn what_no_peer_should_send_is_final_and_both_know_why() {
    for (what, kind, content, change, says, hears) in OFFENCES {
        let (client, server) = hasty_pair();
        client.send_record(DATA, b"before", |_| ());
        client.send_record(kind, content, change);
        client.send_record(DATA, b"behind", |_| ());
        let (mut reader, mut writer, _) = server.split();
        let mut received = Vec::new();
        let error = reader.read_to_end(&mut received).unwrap_err().to_string();
        assert!(error.contains(says), "{what}: {error}");
        assert_eq!(received, b"before", "{what}");
        assert_eq!(failure(&mut reader), error, "{what}: it stays so");
        assert_eq!(writer.write(b"answer").unwrap_err().to_string(), error, "{what}: for both halves");
        let (reader, _writer, _) = client.split();
        let heard = failure(reader);
        assert!(heard.contains(hears), "{what}: {heard}");
    }
}

/// A ticket is for who connects again; only a server has any.
#[test]
fn a_ticket_is_passed_over_where_one_may_come() {
    let ticket = [4, 0, 0, 2, 7, 7];
    let (client, server) = hasty_pair();
    server.send_record(HANDSHAKE, &ticket, |_| ());
    server.send_record(DATA, b"state", |_| ());
    let (mut reader, _writer, _) = client.split();
    let mut received = [0; 5];
    reader.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"state");

    let (client, server) = hasty_pair();
    client.send_record(HANDSHAKE, &ticket, |_| ());
    let (reader, _writer, _) = server.split();
    assert!(failure(reader).contains("unexpected handshake message"));
}

#[test]
fn records_without_content_are_passed_over_up_to_a_number() {
    for (count, is_taken) in [(32, true), (33, false)] {
        let (client, server) = hasty_pair();
        let (mut reader, _writer, _) = server.split();
        for _ in 0..count {
            client.send_record(DATA, b"", |_| ());
        }
        client.send_record(DATA, b"state", |_| ());
        let mut received = [0; 5];
        let read = reader.read_exact(&mut received);
        assert_eq!(read.is_ok() && received == *b"state", is_taken, "{count}: {read:?}");
    }
}

#[test]
fn after_the_end_nothing_is_read_and_nothing_sent() {
    let (client, server) = hasty_pair();
    client.send_record(ALERT, &[1, 90], |_| ());
    client.send_record(ALERT, &[1, 0], |_| ());
    client.send_record(DATA, b"behind", |_| ());
    let (mut reader, mut writer, cut) = server.split();
    let mut received = Vec::new();
    assert_eq!(reader.read_to_end(&mut received).unwrap(), 0, "{received:?}");
    // The other direction goes on until this side ends it.
    writer.write_all(b"answer").unwrap();
    cut(std::net::Shutdown::Write);
    let refused = writer.write(b"more").unwrap_err().to_string();
    assert!(refused.contains("this side has said that it ends"), "{refused}");
    let (mut reader, _writer, _) = client.split();
    reader.read_to_end(&mut received).unwrap();
    assert_eq!(received, b"answer");
}

/// What fails halfway leaves a part of a record behind, at which whatever follows would be taken for a damaged one.
#[test]
fn a_write_that_fails_is_the_last() {
    let (client, server) = hasty_pair();
    client.transport().set_timeouts(Some(core::time::Duration::from_millis(50))).unwrap();
    let client_end = client.transport().try_clone().unwrap();
    let (_reader, mut writer, _) = client.split();
    let chunk = vec![7; 8 << 20];
    assert!(writer.write_all(&chunk).is_err());
    assert_eq!(writer.write(b"more").unwrap_err().kind(), ErrorKind::BrokenPipe);
    drop(writer);
    client_end.shutdown(std::net::Shutdown::Both).unwrap();
    let (mut reader, _writer, _) = server.split();
    let mut received = Vec::new();
    let error = reader.read_to_end(&mut received).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{error}");
    assert!(chunk.starts_with(&received), "{} bytes, or other ones", received.len());
}

/// Of one key alone: the longest record, and how often it may be used.
#[test]
fn records_are_opened_by_who_has_the_key_and_in_their_order() {
    let protection = || {
        let secrets = ConnectionTrafficSecrets::Chacha20Poly1305 { key: [7; 32].into(), iv: [9; 12].into() };
        Protection::new(secrets, 5, 9).unwrap()
    };
    let (mut sealing, mut first, mut second) = (protection(), Vec::new(), Vec::new());
    sealing.seal(DATA, &[0; record::CONTENT_MAX], &mut first).unwrap();
    sealing.seal(ALERT, &[1, 0], &mut second).unwrap();
    assert!(protection().open(&mut second.clone()).is_err(), "out of its order");
    let mut opening = protection();
    assert_eq!(opening.open(&mut first).unwrap(), (DATA, record::CONTENT_MAX));
    assert_eq!(opening.open(&mut second).unwrap(), (ALERT, 2));
    assert_eq!(second[record::HEADER_BYTES..][..2], [1, 0]);
    assert!(sealing.seal(DATA, &[0; record::CONTENT_MAX + 1], &mut first).is_err(), "too long");
    sealing.seal(DATA, b"", &mut first).unwrap();
    assert!(sealing.is_worn());
    sealing.seal(HANDSHAKE, b"", &mut first).unwrap();
    assert!(sealing.seal(DATA, b"", &mut first).is_err(), "worn");
}
