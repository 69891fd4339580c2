// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#![allow(clippy::arithmetic_side_effects)]

use core::time::Duration;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use rcgen::CertificateParams;
use rustls::{ClientConfig, ContentType, RootCertStore};
use savevm_core::Cancel;

use super::session::{Conn, Session};
use super::throwaway::{Authority, Files};
use super::{Args, Client, Secured, certificates, name, provider};
use crate::migrate::Transport;

const SOURCE: &str = "source.test";
const TARGET: &str = "target.test";

/// Options of a side with these files, that expects this name.
fn args(files: &Files, peer: Option<&str>) -> Args {
    Args {
        tls_cert: Some(files.cert.clone()),
        tls_key: Some(files.key.clone()),
        tls_ca: Some(files.ca.clone()),
        tls_name: peer.map(str::to_owned),
    }
}

pub(super) fn patience() -> Duration {
    Duration::from_secs(5)
}

/// How a handshake came out on either side, in words where it failed.
type Hands = (Result<Secured, String>, Result<Secured, String>);

fn shake(client: Client, server: &Args, (left, right): (UnixStream, UnixStream)) -> Hands {
    let server = server.server().unwrap().unwrap();
    thread::scope(|scope| {
        let accepted = scope.spawn(move || server.accept(Transport::Unix(right), patience(), &Cancel::new()));
        let connected = client.connect(Transport::Unix(left), patience(), &Cancel::new());
        let words = |outcome: std::io::Result<Secured>| outcome.map_err(|error| error.to_string());
        // A client knows only by reading whether its certificate is accepted.
        let connected = words(connected).and_then(accepted_soon);
        (connected, words(accepted.join().unwrap()))
    })
}

/// Waits a moment for the server's objections.
fn accepted_soon(secured: Secured) -> Result<Secured, String> {
    secured.transport().set_timeouts(Some(Duration::from_millis(300))).unwrap();
    let mut byte = [0];
    let (mut reader, writer, _) = secured.split();
    // A read with a time limit is not taken up again after a signal, which other tests send.
    let answer = loop {
        match reader.read(&mut byte) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            answer => break answer,
        }
    };
    match answer {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Secured::join(reader, writer)),
        Err(error) => Err(error.to_string()),
        Ok(_) => panic!("the server says something"),
    }
}

/// A handshake of two sides with these files.
fn hands(ours: &Args, theirs: &Args) -> Hands {
    shake(ours.client(None).unwrap().unwrap(), theirs, UnixStream::pair().unwrap())
}

/// A source and a target of the same authority.
pub(super) fn friends(folder: &Path) -> (Args, Args) {
    let authority = Authority::new().unwrap();
    let source = Files::write(&folder.join("source"), &authority, SOURCE).unwrap();
    let target = Files::write(&folder.join("target"), &authority, TARGET).unwrap();
    (args(&source, Some(TARGET)), args(&target, Some(SOURCE)))
}

pub(super) fn friendly_pair() -> (Secured, Secured) {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = friends(folder.path());
    let (client, server) = hands(&ours, &theirs);
    let pair = (client.unwrap(), server.unwrap());
    pair.0.transport().set_timeouts(None).unwrap();
    pair
}

/// Bytes that repeat nowhere soon.
pub(super) fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let next = |state: &mut u64| {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Some(state.to_be_bytes()[0])
    };
    core::iter::repeat_with({
        let mut state = seed;
        move || next(&mut state).unwrap()
    })
    .take(length)
    .collect()
}

#[test]
fn both_directions_flow_at_once_and_end_in_good_order() {
    let (client, server) = friendly_pair();
    let run = |secured: Secured, sent: Vec<u8>, expected: Vec<u8>| {
        let (mut reader, mut writer, _) = secured.split();
        thread::scope(|scope| {
            scope.spawn(move || {
                for chunk in sent.chunks(700_001) {
                    let (head, body) = chunk.split_at(32);
                    let written = writer.write_vectored(&[IoSlice::new(head), IoSlice::new(body)]).unwrap();
                    writer.write_all(&chunk[written..]).unwrap();
                }
            });
            let mut received = Vec::new();
            reader.read_to_end(&mut received).unwrap();
            assert!(received == expected, "{} of {} bytes, or other ones", received.len(), expected.len());
        });
    };
    let (there, back) = (pattern(3 << 20, 1), pattern(2 << 20, 2));
    thread::scope(|scope| {
        let (there_too, back_too) = (there.clone(), back.clone());
        scope.spawn(move || run(client, there_too, back_too));
        run(server, back, there);
    });
}

/// One way to be a peer that must not get in.
struct Stranger {
    what: &'static str,
    source_says: &'static str,
    target_says: &'static str,
}

fn assert_refused(stranger: &Stranger, (source, target): Hands) {
    let Stranger { what, source_says, target_says } = stranger;
    let source = source.err().unwrap_or_else(|| panic!("{what}: the source is content"));
    let target = target.err().unwrap_or_else(|| panic!("{what}: the target lets it in"));
    assert!(source.contains(source_says), "{what}: source: {source}");
    assert!(target.contains(target_says), "{what}: target: {target}");
}

#[test]
fn strangers_are_refused_and_told_why() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, others) = (Authority::new().unwrap(), Authority::new().unwrap());
    let write = |place: &str, by: &Authority, trusts: &Authority, name: &str, change: fn(&mut CertificateParams)| {
        Files::write_changed(&folder.path().join(place), by, trusts, name, change).unwrap()
    };
    let old = |params: &mut CertificateParams| params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    let early = |params: &mut CertificateParams| params.not_before = rcgen::date_time_ymd(2999, 1, 1);
    let plain = |_: &mut CertificateParams| ();
    let target = write("target", &ours, &ours, TARGET, plain);
    let source = write("source", &ours, &ours, SOURCE, plain);

    let foreign = write("foreign", &others, &ours, SOURCE, plain);
    let what = Stranger {
        what: "a source of another authority",
        source_says: "no authority that it trusts has signed it",
        target_says: "no authority of --tls-ca has signed it",
    };
    assert_refused(&what, hands(&args(&foreign, Some(TARGET)), &args(&target, None)));

    let impostor = write("impostor", &others, &ours, TARGET, plain);
    let what = Stranger {
        what: "a target of another authority",
        source_says: "no authority of --tls-ca has signed it",
        target_says: "no authority that it trusts has signed it",
    };
    assert_refused(&what, hands(&args(&source, Some(TARGET)), &args(&impostor, None)));

    let what = Stranger {
        what: "a target of another name",
        source_says: "it is for somebody else",
        target_says: "is it for the name that the peer expects?",
    };
    assert_refused(&what, hands(&args(&source, Some("elsewhere.test")), &args(&target, None)));

    let what = Stranger {
        what: "a source of another name",
        source_says: "is it for the name that the peer expects?",
        target_says: "it is for somebody else",
    };
    assert_refused(&what, hands(&args(&source, Some(TARGET)), &args(&target, Some("elsewhere.test"))));

    let expired = write("expired", &ours, &ours, SOURCE, old);
    let what = Stranger { what: "an expired source", source_says: "it has expired", target_says: "it has expired" };
    assert_refused(&what, hands(&args(&expired, Some(TARGET)), &args(&target, None)));

    let unborn = write("unborn", &ours, &ours, TARGET, early);
    let what = Stranger { what: "a target of tomorrow", source_says: "not valid yet", target_says: "expired" };
    assert_refused(&what, hands(&args(&source, Some(TARGET)), &args(&unborn, None)));
}

/// A client with a certificate is what the options make; others exist.
#[test]
fn a_source_without_a_certificate_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = friends(folder.path());
    let mut roots = RootCertStore::empty();
    certificates(ours.tls_ca.as_ref().unwrap()).unwrap().into_iter().for_each(|cert| roots.add(cert).unwrap());
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.enable_secret_extraction = true;
    let anonymous = Client { config: Arc::new(config), name: name(TARGET).unwrap() };
    let what = Stranger {
        what: "a source without a certificate",
        source_says: "this side has shown none",
        target_says: "the peer shows no certificate",
    };
    assert_refused(&what, shake(anonymous, &theirs, UnixStream::pair().unwrap()));
}

#[test]
fn what_is_not_tls_is_told_so_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = friends(folder.path());
    let started = Instant::now();

    let (mut plain, socket) = UnixStream::pair().unwrap();
    plain.write_all(b"SVMIGR and whatever a hello says behind it, in some ninety bytes").unwrap();
    let server = theirs.server().unwrap().unwrap();
    let refused = thread::scope(|scope| {
        let accepted = scope.spawn(move || server.accept(Transport::Unix(socket), patience(), &Cancel::new()).err());
        let mut answer = Vec::new();
        plain.read_to_end(&mut answer).unwrap();
        // By this a side without TLS knows (RFC 8446, section 5.1): an alert.
        assert_eq!(answer.first(), Some(&0x15), "{answer:?}");
        drop(plain);
        accepted.join().unwrap()
    });
    assert!(refused.unwrap().to_string().contains("does not speak TLS"));

    let (mut plain, socket) = UnixStream::pair().unwrap();
    plain.write_all(b"SVMIGR and an abort").unwrap();
    drop(plain.shutdown(Shutdown::Write));
    let client = ours.client(None).unwrap().unwrap();
    let refused = client.connect(Transport::Unix(socket), patience(), &Cancel::new()).err().unwrap();
    assert!(refused.to_string().contains("does not speak TLS"), "{refused}");
    assert!(started.elapsed() < patience(), "{:?}", started.elapsed());
}

#[test]
fn a_silent_peer_is_given_up_in_time_and_a_cancel_is_heard() {
    let folder = tempfile::tempdir().unwrap();
    let (_, theirs) = friends(folder.path());
    for (patience_ms, cancel_after_ms, kind) in
        [(200, None, ErrorKind::TimedOut), (60_000, Some(100), ErrorKind::Interrupted)]
    {
        let (_silent, socket) = UnixStream::pair().unwrap();
        let (server, cancel) = (theirs.server().unwrap().unwrap(), Cancel::new());
        let started = Instant::now();
        let refused = thread::scope(|scope| {
            if let Some(after) = cancel_after_ms {
                let cancel = cancel.clone();
                scope.spawn(move || {
                    thread::sleep(Duration::from_millis(after));
                    cancel.cancel();
                });
            }
            server.accept(Transport::Unix(socket), Duration::from_millis(patience_ms), &cancel).err().unwrap()
        });
        assert_eq!(refused.kind(), kind, "{refused}");
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    }
}

#[test]
fn a_stream_that_is_cut_off_is_no_end() {
    let (client, server) = friendly_pair();
    let (mut reader, _writer, _) = server.split();
    let (client_reader, mut writer, _) = client.split();
    writer.write_all(b"a word").unwrap();
    Secured::join(client_reader, writer).cut_without_a_word();
    let mut received = Vec::new();
    let error = reader.read_to_end(&mut received).unwrap_err();
    assert_eq!((received.as_slice(), error.kind()), (b"a word".as_slice(), ErrorKind::UnexpectedEof));
    assert!(error.to_string().contains("close_notify"), "{error}");
}

#[test]
fn a_changed_byte_is_noticed_before_it_is_read() {
    let (client, server) = friendly_pair();
    let (mut reader, _writer, _) = server.split();
    let (client_reader, writer, _) = client.split();
    let client = Secured::join(client_reader, writer);
    client.send_record(ContentType::ApplicationData, b"state of a device", |record| *record.last_mut().unwrap() ^= 1);
    let mut received = Vec::new();
    let error = reader.read_to_end(&mut received).unwrap_err();
    assert!(received.is_empty(), "{received:?}");
    assert!(error.to_string().contains("a record is damaged"), "{error}");
    // And it stays so.
    assert!(reader.read(&mut [0; 8]).is_err());
}

/// A reader that waits and a writer that is stuck both return when the connection is cut, and the cut does not wait.
#[test]
fn a_cut_ends_both_halves_at_once() {
    for how in [Shutdown::Both, Shutdown::Write] {
        let (client, _server) = friendly_pair();
        let (mut reader, mut writer, cut) = client.split();
        let (ended, ends) = mpsc::channel();
        thread::scope(|scope| {
            let ended_too = ended.clone();
            scope.spawn(move || ended_too.send(("read", reader.read(&mut [0; 64]).is_err())).unwrap());
            scope.spawn(move || {
                let chunk = vec![7; 1 << 20];
                let stuck = (0..64).find_map(|_| writer.write_all(&chunk).err());
                ended.send(("write", stuck.is_some())).unwrap();
            });
            // The writer is in the socket by now, which nobody reads.
            thread::sleep(Duration::from_millis(150));
            let began = Instant::now();
            cut(how);
            if how == Shutdown::Write {
                assert_eq!(ends.recv_timeout(Duration::from_secs(5)).unwrap(), ("write", true));
                cut(Shutdown::Both);
            }
            let wanted = if how == Shutdown::Write { 1 } else { 2 };
            for _ in 0..wanted {
                let (half, failed) = ends.recv_timeout(Duration::from_secs(5)).unwrap();
                assert!(failed, "{half}");
            }
            assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
        });
    }
}

#[test]
fn only_version_1_3_is_spoken() {
    let folder = tempfile::tempdir().unwrap();
    let (_, theirs) = friends(folder.path());
    // A client hello of TLS 1.2: version, random, no session id, one suite, no compression, no extensions.
    let mut hello = vec![0x03, 0x03];
    hello.extend([0x5a; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2f, 1, 0]);
    let length = u8::try_from(hello.len()).unwrap();
    let mut record = vec![0x16, 0x03, 0x01, 0, length + 4, 1, 0, 0, length];
    record.extend(hello);
    let server = theirs.server().unwrap().unwrap();
    let connection = rustls::server::UnbufferedServerConnection::new(Arc::clone(&server.0)).unwrap();
    let mut session = Session::new(Conn::Server(connection));
    assert!(session.feed(&record).is_err());
    assert!(!session.is_open());
}

#[test]
fn what_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, _) = friends(folder.path());
    let missing = Args { tls_ca: Some(folder.path().join("none.pem")), ..ours.clone() };
    assert!(missing.client(None).err().unwrap().contains("none.pem"));
    let swapped = Args { tls_cert: ours.tls_key.clone(), ..ours.clone() };
    assert!(swapped.client(None).err().unwrap().contains("there is no certificate in"));
    let swapped = Args { tls_key: ours.tls_cert.clone(), ..ours.clone() };
    assert!(swapped.client(None).err().unwrap().contains("cannot read a private key"));
    let nameless = Args { tls_name: None, ..ours };
    assert!(nameless.client(None).err().unwrap().contains("say --tls-name"));
    assert!(Args::default().client(None).unwrap().is_none());
}

/// Both ends of a connection without sockets. `change` sees each flight of the client, which is what a stranger can change.
fn converse(client: Session, server: Session, mut change: impl FnMut(&mut Vec<u8>)) -> bool {
    let (mut client, mut server) = (client, server);
    if client.feed(&[]).is_err() {
        return false;
    }
    for _ in 0..8 {
        let mut flight = client.take_pending();
        change(&mut flight);
        // Failures of a server are what this is about: they must not be more than that.
        let failed = server.feed(&flight).is_err();
        if failed || client.feed(&server.take_pending()).is_err() {
            return false;
        }
    }
    server.is_open() && client.is_open()
}

#[test]
fn a_handshake_with_any_byte_changed_or_missing_is_a_refusal_and_nothing_worse() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = friends(folder.path());
    let (client, server) = (ours.client(None).unwrap().unwrap(), theirs.server().unwrap().unwrap());
    let ends = || {
        let name = client.name.clone();
        let client = rustls::client::UnbufferedClientConnection::new(Arc::clone(&client.config), name).unwrap();
        let server = rustls::server::UnbufferedServerConnection::new(Arc::clone(&server.0)).unwrap();
        (Session::new(Conn::Client(client)), Session::new(Conn::Server(server)))
    };
    let (left, right) = ends();
    assert!(converse(left, right, |_| ()), "unchanged it works");
    for position in (0..1500).step_by(3) {
        for cut in [false, true] {
            let (left, right) = ends();
            let (mut offset, mut is_changed) = (0, false);
            let opened = converse(left, right, |flight| {
                let begin = offset;
                offset += flight.len();
                if (begin..offset).contains(&position) && !is_record_version(flight, position - begin) {
                    is_changed = true;
                    if cut { flight.truncate(position - begin) } else { flight[position - begin] ^= 0x41 }
                }
            });
            assert!(!opened || !is_changed, "byte {position}, cut: {cut}");
        }
    }
}

/// Whether this byte of a flight is the version of a record, which nobody looks at (RFC 8446, section 5.1).
fn is_record_version(flight: &[u8], position: usize) -> bool {
    let mut begin = 0;
    while begin + 5 <= position {
        let length = usize::from(u16::from_be_bytes([flight[begin + 3], flight[begin + 4]]));
        if position < begin + 5 + length {
            return false;
        }
        begin += 5 + length;
    }
    matches!(position - begin, 1 | 2)
}
