// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A reader that takes along what comes behind a header reads the same as one that does not.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]
#![cfg(feature = "std")]

mod common;

use std::io::{self, ErrorKind, IoSliceMut, Read};

use common::{LIMITS, abort, control, data, every_frame, header, raw, stream};
use stream_codec::frame::io::{Error, Frame, FrameReader};
use stream_codec::frame::{FLAG_UNCHECKED, Header, Kind, Limits, Message, Reason};

/// A transport that gives a few bytes in a call, and sometimes none for now.
struct Restless<'a> {
    bytes: &'a [u8],
    most: usize,
    state: u64,
    calls: usize,
}

impl<'a> Restless<'a> {
    fn new(bytes: &'a [u8], most: usize, seed: u64) -> Self {
        Self { bytes, most, state: seed | 1, calls: 0 }
    }

    fn random(&mut self) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 20) as usize
    }
}

impl Read for Restless<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_vectored(&mut [IoSliceMut::new(buffer)])
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.calls += 1;
        let mut left = usize::MAX;
        if self.most < usize::MAX {
            if self.random() % 4 == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
            left = 1 + self.random() % self.most;
        }
        let mut total = 0;
        for buffer in buffers {
            let count = buffer.len().min(left).min(self.bytes.len());
            let (now, later) = self.bytes.split_at(count);
            buffer[..count].copy_from_slice(now);
            self.bytes = later;
            (left, total) = (left - count, total + count);
        }
        Ok(total)
    }
}

fn waited<T>(mut call: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    loop {
        match call() {
            Err(Error::Read { source, .. }) if source.kind() == ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
}

/// What is read in the usual way, up to the end or what is wrong.
fn plainly(bytes: &[u8], limits: Limits) -> (Vec<String>, String) {
    let mut reader = FrameReader::new(bytes, limits);
    let mut frames = Vec::new();
    loop {
        match reader.read_frame() {
            Ok(Some(received)) => frames.push(format!("{received:?}")),
            Ok(None) => return (frames, format!("the end at {}", reader.offset())),
            Err(error) => return (frames, error.to_string()),
        }
    }
}

/// The same by a caller that expects payloads of these lengths, in turn.
fn ahead(transport: Restless<'_>, limits: Limits, expected: &[usize]) -> (Vec<String>, String) {
    let whole = transport.bytes.len();
    let mut expected = expected.iter().copied().cycle();
    let mut reader = FrameReader::unbuffered(transport, limits);
    let (mut frames, mut buffer, mut scratch) = (Vec::new(), vec![0; 2048], vec![0; 2048]);
    loop {
        let expected = expected.next().unwrap();
        let header = match waited(|| reader.next_header_with(&mut buffer[..expected])) {
            Ok(Some(header)) => header,
            Ok(None) => return (frames, format!("the end at {}", reader.offset())),
            Err(error) => return (frames, error.to_string()),
        };
        assert_eq!(reader.offset(), (whole - reader.get_ref().bytes.len()) as u64);
        assert_eq!(waited(|| reader.next_header_with(&mut [])).unwrap(), Some(header), "asked again");
        let is_data = header.kind() == Some(Kind::Data) && header.payload_size() <= expected;
        let into = if is_data { &mut buffer } else { &mut scratch };
        // The same buffer as often as it takes, and then what is in it is handed out.
        let read = loop {
            match reader.read_frame_into(into) {
                Err(Error::Read { source, .. }) if source.kind() == ErrorKind::WouldBlock => {}
                Err(error) => break Err(error),
                Ok(received) => break Ok(format!("{:?}", received.unwrap())),
            }
        };
        match read {
            Ok(frame) => frames.push(frame),
            Err(error) => return (frames, error.to_string()),
        }
    }
}

/// Frames of every kind, and pieces of many sizes that are expected or are not.
fn mixed(seed: u64) -> Vec<u8> {
    let mut random = Restless::new(&[], 1, seed);
    let frames: Vec<Vec<u8>> = (0..60)
        .map(|sequence| match random.random() % 8 {
            0 => control(&Message::Switchover),
            1 => control(&abort("a reason of some length")),
            2 => raw(Header { flags: 1, ..header(0x8123, 77) }, &[0xee; 77]),
            3 => data(0, sequence, &vec![sequence as u8; 1 + random.random() % 100]),
            _ => data(0, sequence, &[sequence as u8; 64]),
        })
        .collect();
    stream(&frames)
}

#[test]
fn it_reads_what_the_other_one_reads() {
    for seed in 1..200 {
        let bytes = mixed(seed);
        let expected = plainly(&bytes, LIMITS);
        assert!(expected.1.starts_with("the end"), "{}", expected.1);
        for most in [7, 100, 1000, usize::MAX] {
            for room in [&[0][..], &[1], &[63], &[64], &[65], &[500], &[2000], &[2000, 64, 100, 64, 0], &[90, 64, 20]] {
                let read = ahead(Restless::new(&bytes, most, seed), LIMITS, room);
                assert_eq!(read, expected, "seed {seed}, {most} bytes in a call, room for {room:?}");
            }
        }
    }
    let all = every_frame();
    for room in [0, 40, 2000] {
        assert_eq!(ahead(Restless::new(&all, usize::MAX, 1), LIMITS, &[room]), plainly(&all, LIMITS));
    }
}

#[test]
fn and_finds_the_same_faults_at_the_same_places() {
    let whole = mixed(7);
    for length in 0..whole.len() {
        let (cut, mut damaged) = (&whole[..length], whole.clone());
        damaged[length] ^= 0x10;
        for bytes in [cut, &damaged] {
            let expected = plainly(bytes, LIMITS);
            for (most, room) in [(usize::MAX, 64), (100, 64), (usize::MAX, 2000)] {
                assert_eq!(
                    ahead(Restless::new(bytes, most, 5), LIMITS, &[room]),
                    expected,
                    "byte {length}, room {room}"
                );
            }
        }
    }
}

#[test]
fn an_expected_payload_comes_with_its_header_in_one_call() {
    let frames: Vec<_> = (0..50).map(|sequence| data(0, sequence, &[1; 90])).collect();
    let bytes = stream(&frames);
    let mut reader = FrameReader::unbuffered(Restless::new(&bytes, usize::MAX, 1), LIMITS);
    let mut buffer = [0; 90];
    while reader.next_header_with(&mut buffer).unwrap().is_some() {
        reader.read_frame_into(&mut buffer).unwrap();
    }
    // One for the prologue and the first header, one for the payload behind it, and one for the end.
    assert_eq!(reader.get_ref().calls, 2 + 49 + 1);
}

fn unchecked(sequence: u64) -> Vec<u8> {
    let header = Header { flags: FLAG_UNCHECKED, device: 0, sequence, ..header(0x12, 8) };
    [&header.encode()[..], &[7; 8]].concat()
}

const UNCHECKED: Limits = Limits { unchecked_data: true, ..LIMITS };

/// Gives as many bytes in a call as it is told for it, and then all.
struct Told<'a>(&'a [u8], Vec<usize>);

impl Read for Told<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_vectored(&mut [IoSliceMut::new(buffer)])
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let most = if self.1.is_empty() { usize::MAX } else { self.1.remove(0) };
        let mut restless = Restless::new(&self.0[..most.min(self.0.len())], usize::MAX, 1);
        let count = restless.read_vectored(buffers)?;
        self.0 = &self.0[count..];
        Ok(count)
    }
}

fn taken(reader: &mut FrameReader<impl Read>) -> Option<usize> {
    reader.take_payload(|transport, left| transport.read(&mut vec![0; left])).unwrap()
}

#[test]
fn what_was_read_early_is_not_taken_from_the_transport() {
    let bytes = stream(&[unchecked(0), unchecked(1), unchecked(2)]);
    let mut reader = FrameReader::unbuffered(&bytes[..], UNCHECKED);
    let mut buffer = [0; 20];
    reader.next_header_with(&mut buffer).unwrap();
    assert_eq!(taken(&mut reader), Some(8), "the first header came with the prologue, without its payload");
    assert_eq!(reader.next_header_with(&mut buffer).unwrap().unwrap().sequence, 1);
    assert_eq!(taken(&mut reader), None, "it is in the buffer, and what is behind it is kept");
    reader.read_frame_into(&mut buffer).unwrap().unwrap();
    assert_eq!(reader.next_header().unwrap().unwrap().sequence, 2);
    assert_eq!(reader.offset(), bytes.len() as u64 - 8);
    assert_eq!(taken(&mut reader), Some(8));
    assert!(reader.next_header().unwrap().is_none());
}

#[test]
fn a_payload_that_is_partly_in_a_buffer_goes_on_there() {
    let bytes = stream(&[unchecked(0), unchecked(1)]);
    // The prologue and the first header; its payload; the second header and half of what is behind it.
    let mut reader = FrameReader::new(Told(&bytes, vec![48, 8, 36]), UNCHECKED);
    let mut buffer = [0; 8];
    reader.next_header().unwrap();
    assert_eq!(taken(&mut reader), Some(8));
    reader.next_header_with(&mut buffer).unwrap().unwrap();
    assert_eq!(taken(&mut reader), None, "half of it is in the buffer");
    let Err(Error::Format(refused)) = reader.read_frame() else { panic!("its own buffer has not that half") };
    assert!(matches!(refused.reason, Reason::Buffer { length: 8, .. }));
    let received = reader.read_frame_into(&mut buffer).unwrap().unwrap();
    assert!(matches!(received.frame, Frame::Data { sequence: 1, payload: [7, 7, 7, 7, 7, 7, 7, 7], .. }));
    assert!(reader.read_frame().unwrap().is_none());
}

/// Each of many small frames is read again once, and not all of those behind it with it.
#[test]
fn what_was_kept_costs_no_more_than_its_length() {
    const FRAMES: usize = 1 << 15;
    let skipped = raw(Header { flags: 1, ..header(0x8123, 0) }, &[]);
    let bytes = stream(&[data(0, 0, &[1; 64]), skipped.repeat(FRAMES), control(&Message::Commit)]);
    let mut reader = FrameReader::unbuffered(&bytes[..], LIMITS);
    let mut buffer = vec![0; bytes.len()];
    reader.next_header_with(&mut buffer).unwrap();
    reader.read_frame_into(&mut buffer).unwrap();
    let began = std::time::Instant::now();
    assert_eq!(reader.next_header_with(&mut buffer).unwrap().unwrap().kind(), Some(Kind::Commit));
    // Copied with each of them, it would be 16 GiB, and nobody could cancel it.
    assert!(began.elapsed().as_secs() < 3, "{:?}", began.elapsed());
}

#[test]
fn a_payload_that_does_not_fit_where_it_was_expected_is_kept() {
    let bytes = stream(&[data(0, 0, &[1; 10]), data(0, 1, &[2; 50])]);
    let mut reader = FrameReader::unbuffered(&bytes[..], LIMITS);
    let mut buffer = [0; 50];
    reader.next_header().unwrap();
    reader.read_frame_into(&mut buffer).unwrap();
    let mut small = [0; 20];
    assert_eq!(reader.next_header_with(&mut small).unwrap().unwrap().payload_length, 50);
    let Err(Error::Format(refused)) = reader.read_frame_into(&mut small) else { panic!("it does not fit") };
    assert!(matches!(refused.reason, Reason::Buffer { length: 50, buffer: 20 }));
    let received = format!("{:?}", reader.read_frame_into(&mut buffer).unwrap().unwrap());
    assert!(received.contains(&format!("{:?}", [2; 50])), "{received}");
}
