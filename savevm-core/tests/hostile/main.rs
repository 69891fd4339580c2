// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A peer that does what it must not: the inputs of `spec/perf/reliability.md` section 3 that concern a conversation.
//! Each is refused with a named error, in time and in bounded memory, and leaves the device reset or running.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

#[path = "../common/mod.rs"]
mod common;
mod early;
mod ending;
#[path = "../common/guest.rs"]
#[allow(clippy::as_conversions, dead_code, reason = "each test file uses a part of it")]
mod guest;
mod initial;
mod peer;
mod source;
#[cfg(target_os = "linux")]
mod straight;

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::io::Write;
use std::sync::Arc;

use std::thread;
use std::time::Instant;

use common::{connection, devices, load_options, ports, save_options};
use peer::{Offering, Peer, crc32, header, hello};
use savevm_core::{Cause, Channel, Device, MigrationError, load, save};
use stream_codec::frame::io::FrameWriter;
use stream_codec::frame::{
    DeviceEnd, DeviceOpen, Digest, Header, Hello, Kind, Limits, Message, NO_DEVICE, Role, Support, encode_prologue,
};
use vfio_mig_fsm::State;

const CONFIG: &str = "model=plain caps=7 initial=1KiB dirty=1KiB stop=1KiB seed=1";
const CHUNK: usize = 4096;
/// Eight pieces.
const MEMORY: u64 = 32 << 10;
/// With room for what is read before it is known what it is.
const MUCH_MEMORY: u64 = 160 << 10;

/// Runs a target against a source that behaves as `act` says after `prepare`. Gives how the target ended.
fn against_target(
    channels: usize,
    prepare: impl FnOnce(&mut [Peer]),
    act: impl FnOnce(&mut [Peer]) + Send,
) -> MigrationError {
    against_target_with(CONFIG, channels, prepare, act)
}

/// The same with a device of this kind.
fn against_target_with(
    config: &str,
    channels: usize,
    prepare: impl FnOnce(&mut [Peer]),
    act: impl FnOnce(&mut [Peer]) + Send,
) -> MigrationError {
    let ends = (0..channels).map(|_| connection());
    let ends = ends.map(|(peer, ours)| (Peer::new(peer), Channel::unix(ours).unwrap())).unzip();
    against_target_over(ends, config, MEMORY, prepare, act)
}

/// The same over these connections, with so much memory for buffers.
fn against_target_over(
    (mut peers, channels): (Vec<Peer>, Vec<Channel<'_>>),
    config: &str,
    memory_bytes: u64,
    prepare: impl FnOnce(&mut [Peer]),
    act: impl FnOnce(&mut [Peer]) + Send,
) -> MigrationError {
    let target = devices(&[config]);
    let began = Instant::now();
    let mut theirs = ports(&target);
    let (error, failed) = thread::scope(|scope| {
        let victim = scope.spawn(|| {
            let mut options = load_options();
            options.limits.silence_max = Duration::from_millis(300);
            options.limits.chunk_bytes_max = u32::try_from(CHUNK).unwrap();
            options.limits.buffer_bytes_max = memory_bytes;
            load::load(&mut theirs, channels, &mut (), &options).and_then(load::Loaded::run).unwrap_err()
        });
        prepare(&mut peers);
        act(&mut peers);
        (victim.join().unwrap(), began.elapsed())
    });
    assert!(failed < Duration::from_secs(3), "it took {failed:?}: {error}");
    assert!(!error.committed, "{error}");
    assert_eq!(theirs[0].state(), Ok(State::Running), "untouched or reset: {error}");
    error
}

/// Up to the first credit, as an honest source does.
fn open(peers: &mut [Peer]) {
    open_offering(0, peers);
}

/// With these features beside credit.
fn open_offering(features: u64, peers: &mut [Peer]) {
    let count = u16::try_from(peers.len()).unwrap();
    for (peer, index) in peers.iter_mut().zip(0..) {
        peer.say(&Message::Hello(hello(index, count).offering(features)));
    }
    for peer in peers.iter_mut() {
        peer.hear(Kind::Hello);
    }
    let target = ports(&devices(&[CONFIG]));
    let identity = target[0].identity();
    let open = DeviceOpen { device: 0, name: "d0", identity, migration_flags: 7, stop_copy_bytes: 0 };
    peers[0].say(&Message::DeviceOpen(open));
    peers[0].hear(Kind::DeviceAccept);
    peers[0].hear(Kind::Credit);
}

/// After an honest opening over `channels` channels the target refuses what `act` does, saying `said`.
fn refused(channels: usize, said: &str, act: impl FnOnce(&mut [Peer]) + Send) {
    let error = against_target(channels, open, act);
    assert!(error.to_string().contains(said), "'{said}' is not in: {error}");
}

const END: fn(u64, u64) -> Message<'static> =
    |frames, bytes| Message::DeviceEnd(DeviceEnd { device: 0, frames, bytes, digest: Digest::crc64_nvme(1) });

#[test]
fn input_01_lengths_beyond_the_limit() {
    for length in [u32::MAX, u32::try_from(CHUNK).unwrap() + 1] {
        refused(1, "the limit is", |peers| peers[0].frame(header(0x12, length, 0), &[]));
        refused(1, "the limit is 4096", |peers| peers[0].frame(header(0x10, length, 0), &[]));
    }
}

#[test]
fn input_02_data_without_bytes() {
    refused(1, "without payload", |peers| peers[0].frame(header(0x12, 0, 0), &[]));
}

#[test]
fn input_02_messages_without_bytes() {
    // Hello, Abort, DeviceOpen, DeviceEnd, Loaded, Credit: none is empty.
    for kind in [0x01, 0x02, 0x10, 0x13, 0x14, 0x17] {
        let error = against_target(1, open, |peers| peers[0].frame(header(kind, 0, 0), &[]));
        assert!(matches!(error.cause, Cause::Link { .. }), "kind {kind:#x}: {error}");
        assert!(!error.to_string().contains("silent"), "kind {kind:#x} is taken: {error}");
    }
}

#[test]
fn input_03_the_end_at_any_point_of_a_conversation() {
    refused(1, "closed the connection", |peers| peers[0].raw.shutdown(std::net::Shutdown::Write).unwrap());
    refused(1, "the stream ends", |peers| {
        peers[0].bytes(&header(0x12, 100, 0).encode()[..31]);
        peers[0].raw.shutdown(std::net::Shutdown::Write).unwrap();
    });
    refused(2, "channel 1", |peers| peers[1].raw.shutdown(std::net::Shutdown::Write).unwrap());
}

#[test]
fn input_04_sequence_numbers_far_away() {
    for sequence in [u64::from(u32::MAX) - 1, 1 << 31, u64::MAX] {
        refused(2, "credit for frames below 8", |peers| peers[1].data(0, sequence, b"state"));
    }
    refused(1, "where frame 0 is next", |peers| peers[0].data(0, 1, b"state"));
}

#[test]
fn input_05_a_frame_that_comes_twice() {
    refused(2, "frame 1 of device 0 for the second time", |peers| {
        peers[1].data(0, 1, b"parked");
        peers[1].data(0, 1, b"parked");
    });
    refused(2, "frame 0 of device 0 for the second time", |peers| {
        peers[1].data(0, 0, b"written");
        thread::sleep(Duration::from_millis(50));
        peers[1].data(0, 0, b"other!!");
    });
}

#[test]
fn input_06_a_frame_below_the_window() {
    refused(2, "frame 0 of device 0 for the second time", |peers| {
        for sequence in 0..6 {
            peers[0].data(0, sequence, b"state");
        }
        peers[1].data(0, 0, b"late!");
    });
}

#[test]
fn input_07_more_than_the_credit() {
    // Frame 0 is missing, so nothing is written and nothing more is granted.
    refused(2, "frame 8 of device 0, which has credit for frames below 8", |peers| {
        for sequence in 1..=8 {
            peers[0].data(0, sequence, &[7; CHUNK]);
        }
    });
}

#[test]
fn input_09_totals_at_the_edges_of_their_types() {
    for (frames, bytes) in [(1, 1 << 63), (1, u64::MAX), (1 << 63, 5), (u64::MAX, u64::MAX), (u64::MAX, 5)] {
        refused(2, "device 0", |peers| {
            peers[0].data(0, 0, b"state");
            peers[0].say(&Message::Switchover);
            peers[0].say(&END(frames, bytes));
        });
    }
    refused(2, "credit for frames below 8", |peers| peers[1].data(0, 1 << 63, b"state"));
}

#[test]
fn input_10_a_device_that_ends_twice() {
    refused(1, "device 0", |peers| {
        peers[0].data(0, 0, b"state");
        peers[0].say(&Message::Switchover);
        peers[0].say(&END(2, 6));
        peers[0].say(&END(2, 6));
    });
}

#[test]
fn input_10_devices_that_are_not_there_or_over() {
    refused(1, "device 1 of 1", |peers| peers[0].data(1, 0, b"state"));
    refused(1, "devices", |peers| peers[0].data(1 << 20, 0, b"state"));
    refused(2, "ends after 2 frames, there were 3", |peers| {
        peers[0].data(0, 0, b"state");
        peers[0].say(&Message::Switchover);
        peers[0].say(&END(2, 6));
        thread::sleep(Duration::from_millis(50));
        peers[1].data(0, 2, b"after the last");
    });
}

#[test]
fn input_11_totals_that_do_not_add_up() {
    let after = |frames, bytes| {
        move |peers: &mut [Peer]| {
            peers[0].data(0, 0, b"state");
            peers[0].say(&Message::Switchover);
            peers[0].say(&END(frames, bytes));
        }
    };
    refused(1, "with 4 bytes, there were 5", after(1, 4));
    refused(1, "with 6 bytes, there were 5", after(1, 6));
    refused(1, "ends after 2 frames, there were 1", after(2, 5));
    refused(1, "ends after 0 frames, there were 1", after(0, 5));
    refused(1, "bytes were lost or damaged", after(1, 5));
    refused(2, "ends after 9 frames", after(9, 5));
    // Announced, within the credit, and never sent.
    refused(2, "silent", after(2, 6));
}

#[test]
fn input_12_channels_that_do_not_belong_together() {
    let greeted = |second: Hello| {
        against_target(
            2,
            |_| {},
            move |peers| {
                peers[0].say(&Message::Hello(hello(0, 2)));
                peers[1].say(&Message::Hello(second));
            },
        )
    };
    let error = greeted(Hello { nonce: [8; 16], ..hello(1, 2) });
    assert!(error.to_string().contains("another session nonce"), "{error}");
    let error = greeted(hello(0, 2));
    assert!(error.to_string().contains("out of place on channel 0"), "{error}");
    let error = greeted(hello(1, 3));
    assert!(error.to_string().contains("3 channels"), "{error}");
    let error = greeted(Hello { device_count: 2, ..hello(1, 2) });
    assert!(error.to_string().contains("another device count"), "{error}");
    let error = greeted(Hello { role: Role::File, ..hello(1, 2) });
    assert!(error.to_string().contains("a file"), "{error}");
    let error = against_target(2, |_| {}, |peers| peers[0].say(&Message::Hello(hello(0, 2))));
    assert!(error.to_string().contains("silent"), "a channel that never says hello: {error}");
    refused(2, "frame 0 of device 0 for the second time", |peers| {
        peers[0].data(0, 0, b"state");
        peers[1].data(0, 0, b"state");
    });
}

#[test]
fn input_12_a_channel_beyond_the_last() {
    for (index, count) in [(2, 2), (u16::MAX, 2), (0, 0), (64, u16::MAX)] {
        let error = against_target(
            2,
            |_| {},
            |peers| {
                peers[0].say(&Message::Hello(hello(0, 2)));
                let mut bytes = Vec::new();
                FrameWriter::new(&mut bytes, Limits::DEFAULT).write_control(&Message::Hello(hello(1, 2))).unwrap();
                let (payload, index_at, count_at) = (16 + 32, 16 + 32 + 8, 16 + 32 + 10);
                bytes[index_at..count_at].copy_from_slice(&index.to_le_bytes());
                bytes[count_at..count_at + 2].copy_from_slice(&count.to_le_bytes());
                let length = u32::try_from(bytes.len() - payload).unwrap();
                let payload_crc = crc32(&bytes[payload..]);
                peers[1].bytes(&encode_prologue());
                peers[1].frame(Header { payload_crc, ..header(0x01, length, NO_DEVICE) }, &bytes[payload..]);
            },
        );
        assert!(error.to_string().contains("channel"), "{index} of {count}: {error}");
        assert!(!error.to_string().contains("silent"), "{index} of {count}: {error}");
    }
}

#[test]
fn input_13_control_where_it_does_not_belong() {
    refused(2, "a Switchover out of place on channel 1", |peers| {
        peers[1].say(&Message::Switchover);
        peers[1].say(&Message::Switchover);
    });
    refused(2, "a ChannelEnd out of place on channel 1", |peers| peers[1].say(&Message::ChannelEnd));
    refused(1, "a Loaded", |peers| {
        peers[0].say(&Message::Loaded(stream_codec::frame::Loaded { device: 0, bytes: 0, digest: Digest::NONE }));
    });
    refused(1, "a Commit in the pre-copy phase", |peers| peers[0].say(&Message::Commit));
    refused(1, "unknown kind 0x0099", |peers| peers[0].frame(header(0x99, 0, NO_DEVICE), &[]));
    refused(1, "reserved flags", |peers| peers[0].frame(Header { flags: 4, ..header(0x12, 1, 0) }, &[0]));
    refused(1, "reserved flags", |peers| {
        // Unchecked data that nobody agreed on.
        peers[0].frame(Header { flags: 2, ..header(0x12, 1, 0) }, &[0]);
    });
    refused(1, "a ChannelEnd on channel 0", |peers| peers[0].say(&Message::ChannelEnd));
    let error = against_target(
        1,
        |_| {},
        |peers| {
            let support = Support { version_min: 7, version_max: 9, ..hello(0, 1).support };
            peers[0].say(&Message::Hello(Hello { support, ..hello(0, 1) }));
        },
    );
    assert!(error.to_string().contains("versions"), "{error}");
}

#[test]
fn input_14_flipped_bits() {
    let mut frame = Vec::new();
    let mut writer = FrameWriter::new(&mut frame, Limits::DEFAULT);
    writer.write_data(0, 0, b"state").unwrap();
    let frame = frame[encode_prologue().len()..].to_vec();
    for (byte, said) in [(3, "header"), (20, "header"), (33, "payload's CRC-32")] {
        let mut damaged = frame.clone();
        damaged[byte] ^= 0x10;
        let error = against_target(1, open, |peers| peers[0].bytes(&damaged));
        assert!(error.to_string().contains(said), "byte {byte}: {error}");
    }
    // In both consistently: input 11, the digest.
}

#[test]
fn input_15_a_header_and_then_silence() {
    refused(1, "silent", |peers| peers[0].frame(header(0x12, 100, 0), b"a beginning"));
    let error = against_target(1, |_| {}, |_| {});
    assert!(error.to_string().contains("silent"), "{error}");
}

#[test]
fn input_15_a_byte_at_a_time_gains_no_time() {
    for channel in [0, 1] {
        refused(2, "silent", |peers| {
            let mut slow = header(0x12, 100, 0).encode().to_vec();
            slow.resize(40, 7);
            for byte in slow {
                if peers[channel].raw.write_all(&[byte]).is_err() {
                    return;
                }
                thread::sleep(Duration::from_millis(200));
            }
            panic!("the victim listened to the end");
        });
    }
}

#[test]
fn input_16_a_peer_that_stops_reading() {
    let source = devices(&["model=plain caps=1 stop=4MiB seed=1"]);
    let (left, right) = connection();
    let mut ours = ports(&source);
    let done = Arc::new(AtomicBool::new(false));
    let error = thread::scope(|scope| {
        let peer_done = Arc::clone(&done);
        scope.spawn(move || {
            let mut peer = Peer::new(right);
            peer.hear(Kind::Hello);
            peer.say(&Message::Hello(Hello { device_count: 1, ..hello(0, 1) }.reply(hello(0, 1).support, 64 << 10)));
            while !peer_done.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(5));
            }
        });
        let mut options = save_options();
        options.nonce = [9; 16];
        options.limits.silence_max = Duration::from_millis(300);
        let error = save::save(&mut ours, Channel::unix(left).unwrap(), &mut (), &options).map(|_| ()).unwrap_err();
        done.store(true, Ordering::Relaxed);
        error
    });
    assert!(error.to_string().contains("silent"), "{error}");
    assert_eq!(ours[0].state(), Ok(State::Running));
}

#[test]
fn input_17_names_that_are_no_names() {
    for name in ["../d0", "d0\u{0}", "..", "d\n0"] {
        let error = against_target(
            1,
            |_| {},
            |peers| {
                peers[0].say(&Message::Hello(hello(0, 1)));
                peers[0].hear(Kind::Hello);
                let mut payload = vec![0; 24];
                payload[16] = u8::try_from(name.len()).unwrap();
                payload.extend_from_slice(name.as_bytes());
                let length = u32::try_from(payload.len()).unwrap();
                let payload_crc = crc32(&payload);
                peers[0].frame(Header { payload_crc, ..header(0x10, length, 0) }, &payload);
            },
        );
        assert!(matches!(error.cause, Cause::Link { .. }), "{error}");
        assert!(error.to_string().contains("name"), "{name:?}: {error}");
    }
}

#[test]
fn input_17_a_name_as_long_as_can_be_and_one_that_is_no_text() {
    for (name, said) in
        [(vec![b'n'; 255], "the source offers device"), (vec![0xff, 0xfe], "name"), (Vec::new(), "name")]
    {
        let error = against_target(
            1,
            |_| {},
            |peers| {
                peers[0].say(&Message::Hello(hello(0, 1)));
                peers[0].hear(Kind::Hello);
                let mut payload = vec![0; 24];
                payload[16] = u8::try_from(name.len()).unwrap();
                payload.extend_from_slice(&name);
                let length = u32::try_from(payload.len()).unwrap();
                let payload_crc = crc32(&payload);
                peers[0].frame(Header { payload_crc, ..header(0x10, length, 0) }, &payload);
            },
        );
        assert!(error.to_string().contains(said), "{} bytes: {error}", name.len());
    }
}
