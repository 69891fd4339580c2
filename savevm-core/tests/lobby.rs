// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A listening target among strangers: who is let in, who is turned away and why, and what that may cost.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod common;

use core::time::Duration;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Instant;

use common::{connection, devices, load_options, ports, save_options};
use savevm_core::lobby::{Greeted, Lobby};
use savevm_core::{Channel, Limits, load, save};
use stream_codec::frame::io::FrameWriter;
use stream_codec::frame::{Channel as Number, Hello, Limits as FrameLimits, Message, Role, Support, encode_prologue};

fn patience(milliseconds: u64) -> Limits {
    let mut limits = Limits::default();
    limits.silence_max = Duration::from_millis(milliseconds);
    limits
}

/// Lets a connection in and gives its other end.
fn enter(lobby: &mut Lobby<UnixStream>, now: Instant) -> UnixStream {
    let (near, far) = connection();
    near.set_nonblocking(true).unwrap();
    lobby.enter(near, now);
    far
}

fn hello(nonce: u8, index: u16, count: u16) -> Vec<u8> {
    let support = Support { offered: Support::CREDIT, required: Support::CREDIT, ..Support::CURRENT };
    let channel = Number { index, count };
    of(&Hello { support, role: Role::Source, nonce: [nonce; 16], channel, device_count: 1, data_bytes_max: 0 })
}

fn of(hello: &Hello) -> Vec<u8> {
    let mut bytes = Vec::new();
    FrameWriter::new(&mut bytes, FrameLimits::DEFAULT).write_control(&Message::Hello(*hello)).unwrap();
    bytes
}

fn reasons(lobby: &mut Lobby<UnixStream>, now: Instant) -> Vec<String> {
    let look = lobby.look(now);
    assert!(look.session.is_none());
    look.turned_away.iter().map(ToString::to_string).collect()
}

/// What the other end is told before the connection ends.
fn last_words(mut far: UnixStream) -> String {
    let mut told = Vec::new();
    far.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    // What it said and nobody read resets the connection, behind the last words.
    let _ = far.read_to_end(&mut told);
    String::from_utf8_lossy(&told).into_owned()
}

#[test]
fn a_migration_succeeds_among_strangers_of_every_kind() {
    let mut lobby = Lobby::new(2, &patience(5000));
    let now = Instant::now();
    let mut strangers: Vec<UnixStream> = (0..6).map(|_| enter(&mut lobby, now)).collect();
    strangers[0].write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n").unwrap();
    strangers[1].write_all(&encode_prologue()[..5]).unwrap();
    strangers[2].write_all(&hello(7, 1, 2)).unwrap();
    strangers[3].write_all(&[&encode_prologue()[..], &[0xff; 64]].concat()).unwrap();
    drop(strangers.remove(4));
    let far: Vec<UnixStream> = (0..2).map(|_| enter(&mut lobby, now)).collect();

    let config = "model=plain caps=7 initial=1MiB stop=1MiB seed=1";
    let (source, target) = (devices(&[config]), devices(&[config]));
    let (mut ours, mut theirs) = (ports(&source), ports(&target));
    thread::scope(|scope| {
        let source = scope.spawn(move || {
            let channels: Vec<_> = far.into_iter().map(|stream| Channel::unix(stream).unwrap()).collect();
            save::save(&mut ours, channels, &mut (), &save_options()).and_then(save::Ready::commit).unwrap()
        });
        let session = loop {
            if let Some(session) = lobby.look(Instant::now()).session {
                break session;
            }
            assert!(now.elapsed() < Duration::from_secs(4));
            thread::sleep(Duration::from_millis(1));
        };
        let channel = |greeted: Greeted<UnixStream>| {
            greeted.into_channel(|stream| stream.set_nonblocking(false).and_then(|()| Channel::unix(stream))).unwrap()
        };
        let channels: Vec<_> = session.into_iter().map(channel).collect();
        let running = load::load(&mut theirs, channels, &mut (), &load_options()).and_then(load::Loaded::run).unwrap();
        assert_eq!(source.join().unwrap().devices[0].sum, running.devices[0].sum);
    });
}

#[test]
fn who_says_no_hello_is_turned_away_with_the_reason() {
    let now = Instant::now();
    for (said, reason) in [
        (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), "it said no Hello: "),
        (vec![0; 4096], "it said no Hello: "),
        ([&encode_prologue()[..], &hello(1, 0, 1)[16..90]].concat(), "it said no Hello: "),
        (Vec::new(), "it closed the connection without a word"),
        (encode_prologue().to_vec(), "it closed the connection before its Hello"),
    ] {
        let mut lobby = Lobby::new(1, &patience(1000));
        let mut far = enter(&mut lobby, now);
        far.write_all(&said).unwrap();
        far.shutdown(std::net::Shutdown::Write).unwrap();
        let told = reasons(&mut lobby, now);
        assert!(told.len() == 1 && told[0].starts_with(reason), "{told:?} for {said:?}");
        assert_eq!(reasons(&mut lobby, now), [""; 0], "only once");
    }
}

#[test]
fn one_byte_at_a_time_gains_no_time() {
    let mut lobby = Lobby::new(1, &patience(1000));
    let began = Instant::now();
    let mut slow = enter(&mut lobby, began);
    for (step, byte) in hello(1, 0, 1).iter().take(9).enumerate() {
        slow.write_all(&[*byte]).unwrap();
        assert_eq!(reasons(&mut lobby, began + Duration::from_millis(100) * u32::try_from(step).unwrap()), [""; 0]);
    }
    assert_eq!(reasons(&mut lobby, began + Duration::from_secs(1)), ["it said 9 bytes of a Hello in 1 s"]);
}

#[test]
fn a_hello_that_does_not_fit_is_answered_with_the_reason() {
    let now = Instant::now();
    let source = |hello: &[u8]| {
        let mut lobby = Lobby::new(2, &patience(1000));
        let mut far = enter(&mut lobby, now);
        far.write_all(hello).unwrap();
        let told = reasons(&mut lobby, now).join("; ");
        assert!(last_words(far).contains(&told), "{told}");
        told
    };
    assert!(source(&hello(1, 0, 3)).contains("the source uses 3 channels, and this target 2"));
    let first = Hello {
        support: Support::CURRENT,
        role: Role::File,
        nonce: [1; 16],
        channel: Number { index: 0, count: 2 },
        device_count: 1,
        data_bytes_max: 0,
    };
    assert!(source(&of(&first)).contains("a file"));
}

#[test]
fn sessions_do_not_mix_and_the_first_whole_one_is_it() {
    let now = Instant::now();
    let mut lobby = Lobby::new(2, &patience(1000));
    let far: Vec<UnixStream> = [(1, 0), (2, 1), (1, 0)]
        .into_iter()
        .map(|(nonce, index)| {
            let mut far = enter(&mut lobby, now);
            far.write_all(&hello(nonce, index, 2)).unwrap();
            far.write_all(b"and more").unwrap();
            far
        })
        .collect();
    assert_eq!(reasons(&mut lobby, now), ["channel 0 of this session is here already"]);
    let mut other = enter(&mut lobby, now);
    other.write_all(&hello(2, 0, 2)).unwrap();
    let look = lobby.look(now);
    let session = look.session.unwrap();
    let said: Vec<&[u8]> = session.iter().map(Greeted::said).collect();
    assert_eq!(said, [hello(2, 0, 2), hello(2, 1, 2)], "in the order of the channels, and not a byte more");
    assert_eq!(look.turned_away.len(), 1);
    assert!(look.turned_away[0].to_string().contains("another source was here first"));
    assert!(last_words(far.into_iter().next().unwrap()).contains("another source was here first"));
}

#[test]
fn a_crowd_costs_no_more_than_its_bound_and_keeps_nobody_out() {
    let now = Instant::now();
    let mut lobby = Lobby::new(1, &patience(60_000));
    let crowd: Vec<UnixStream> = (0..200).map(|_| enter(&mut lobby, now)).collect();
    let turned_away = reasons(&mut lobby, now);
    assert_eq!(turned_away.len(), 200 - 17);
    assert!(turned_away.iter().all(|reason| reason.contains("too many connections")));
    let mut good = enter(&mut lobby, now);
    good.write_all(&hello(1, 0, 1)).unwrap();
    assert_eq!(lobby.look(now).session.map(|session| session.len()), Some(1));
    drop(crowd);
}
