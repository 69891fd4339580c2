// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A listening target is found by others than its source. They cost the good migration nothing.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use stream_codec::frame::io::FrameWriter;
use stream_codec::frame::{Channel, Hello, Limits, Message, Role, Support, encode_prologue};

use super::check::{Checked, ensure, failed, must};
use super::context::Ctx;
use super::migrate::{SILENCE_S, expect_moved, expect_target_reset, open_all, prepare, start_source, start_target};
use super::process::Side;
use super::{Need, Test, test};
use crate::hw_test::event::Group;

/// Migrations among strangers.
pub(super) const TESTS: &[Test] = &[
    test(Group::Migrate, "strangers of every kind connect first", &[Need::SecondDevice], every_kind),
    test(Group::Migrate, "a crowd of strangers connects first", &[Need::SecondDevice], crowd),
    test(Group::Migrate, "nobody but strangers connects", &[Need::SecondDevice], nobody_else),
];

const TWO_CHANNELS: &[&str] = &["--channels", "2"];

fn connect(target: &Side) -> Checked<TcpStream> {
    let address = target.address();
    let at = address.strip_prefix("tcp:").ok_or_else(|| failed(format!("{address} is no TCP address")))?;
    must(&format!("connect to {address}"), TcpStream::connect(at))
}

/// The Hello of a source whose nonce nobody else has.
fn hello(index: u16, count: u16) -> Checked<Vec<u8>> {
    let support = Support { offered: Support::CREDIT, required: Support::CREDIT, ..Support::CURRENT };
    let channel = Channel { index, count };
    let hello = Hello { support, role: Role::Source, nonce: [0x5a; 16], channel, device_count: 1, data_bytes_max: 0 };
    let mut bytes = Vec::new();
    must("encode", FrameWriter::new(&mut bytes, Limits::DEFAULT).write_control(&Message::Hello(hello)))?;
    Ok(bytes)
}

/// Strangers that stay until they are dropped.
struct Strangers {
    connections: Vec<TcpStream>,
    dripping: Option<thread::JoinHandle<usize>>,
    done: Arc<AtomicBool>,
}

impl Strangers {
    /// One that is silent, one that says a byte at a time, one that speaks another protocol, one that hangs up, a channel of
    /// another session, and one of a session with another number of channels.
    fn of_every_kind(target: &Side) -> Checked<Self> {
        let said = [
            Vec::new(),
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            [&encode_prologue()[..], &[0xff; 96]].concat(),
            hello(1, 2)?,
            hello(2, 3)?,
        ];
        let mut connections = Vec::new();
        for said in said {
            let mut stranger = connect(target)?;
            must("say something", stranger.write_all(&said))?;
            connections.push(stranger);
        }
        drop(connect(target)?);
        let done = Arc::new(AtomicBool::new(false));
        let (mut slow, stop, bytes) = (connect(target)?, Arc::clone(&done), hello(0, 2)?);
        let drip = move || {
            let said = |byte: &&u8| !stop.load(Ordering::Relaxed) && slow.write_all(&[**byte]).is_ok();
            let pause = |_: &&u8| thread::sleep(Duration::from_millis(300));
            bytes.iter().take_while(said).inspect(pause).count()
        };
        Ok(Self { connections, dripping: Some(thread::spawn(drip)), done })
    }
}

impl Drop for Strangers {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        let _ = self.dripping.take().map(thread::JoinHandle::join);
    }
}

fn every_kind(ctx: &mut Ctx) -> Checked {
    prepare(ctx)?;
    let target = start_target(ctx, "tcp:127.0.0.1:0", (TWO_CHANNELS, &[]), SILENCE_S)?;
    let strangers = Strangers::of_every_kind(&target)?;
    let pause = [TWO_CHANNELS, &["--pause-at", "pre-copy"]].concat();
    let mut source = start_source(ctx, target.address(), (&pause, &[]), SILENCE_S)?;
    source.pauses_at("pre-copy")?;
    ensure(connect(&target).is_err(), || "one more is let in although the session is complete".into())?;
    source.goes_on();
    let moved = source.ends().and_then(|source| expect_moved(ctx, source, target.ends()?));
    ctx.note(format!("{} strangers", strangers.connections.len().saturating_add(2)));
    open_all(ctx)?;
    moved.map(|_| ())
}

/// More than a target keeps.
fn crowd(ctx: &mut Ctx) -> Checked {
    prepare(ctx)?;
    let target = start_target(ctx, "tcp:127.0.0.1:0", (TWO_CHANNELS, &[]), SILENCE_S)?;
    let strangers: Vec<TcpStream> = (0..100).map(|_| connect(&target)).collect::<Checked<_>>()?;
    let source = start_source(ctx, target.address(), (TWO_CHANNELS, &[]), SILENCE_S)?;
    let moved = source.ends().and_then(|source| expect_moved(ctx, source, target.ends()?));
    drop(strangers);
    open_all(ctx)?;
    moved.map(|_| ())
}

/// A target that was told how long to wait ends then, whatever the strangers do.
fn nobody_else(ctx: &mut Ctx) -> Checked {
    prepare(ctx)?;
    let arguments = [TWO_CHANNELS, &["--wait", "1.5"]].concat();
    let mut target = start_target(ctx, "tcp:127.0.0.1:0", (&arguments, &[]), "1")?;
    let began = Instant::now();
    let strangers = Strangers::of_every_kind(&target)?;
    for reason in ["in 1 s", "did not come within 1 s"] {
        target.hears(reason, |line| line.contains(reason).then_some(()))?;
    }
    let report = target.ends()?;
    let took = began.elapsed();
    drop(strangers);
    open_all(ctx)?;
    expect_target_reset(&report)?;
    let error = report.error.unwrap_or_default();
    ensure(error.contains("not within 1.5 s"), || format!("it must say that no source came, and says: {error}"))?;
    ctx.note(error);
    ensure(took < Duration::from_secs(6), || format!("it waited {took:?}"))
}
