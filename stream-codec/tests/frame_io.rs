// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The blocking reader and writer over transports that do everything a transport may do.
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

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};

use common::{LIMITS, control, data, every_frame, every_message, header, hello, raw, stream};
use stream_codec::decode::{Blame, Fault};
use stream_codec::frame::io::{Error, Frame, FrameReader, FrameWriter, Received};
use stream_codec::frame::{Header, Kind, Limits, Message, Reason, Role};
use stream_codec::testkit::prefixes;

/// A transport that answers each call with the next of these.
enum Answer {
    Bytes(usize),
    Fails(ErrorKind),
}

/// Reads from a slice as the script says; once that is used up, as much as is asked for.
struct Scripted<'a> {
    bytes: &'a [u8],
    script: VecDeque<Answer>,
    calls: usize,
}

impl<'a> Scripted<'a> {
    fn new(bytes: &'a [u8], script: impl IntoIterator<Item = Answer>) -> Self {
        Self { bytes, script: script.into_iter().collect(), calls: 0 }
    }
}

impl Read for Scripted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_vectored(&mut [IoSliceMut::new(buffer)])
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.calls += 1;
        let mut left = match self.script.pop_front() {
            Some(Answer::Fails(kind)) => return Err(kind.into()),
            Some(Answer::Bytes(count)) => count,
            None => usize::MAX,
        };
        let mut total = 0;
        for buffer in buffers {
            let count = buffer.len().min(left).min(self.bytes.len());
            let (now, later) = self.bytes.split_at(count);
            buffer[..count].copy_from_slice(now);
            self.bytes = later;
            left -= count;
            total += count;
        }
        Ok(total)
    }
}

/// Everything a reader hands out, as text.
fn read_all(reader: &mut FrameReader<impl Read>) -> Result<Vec<String>, Error> {
    let mut frames = Vec::new();
    while let Some(received) = reader.read_frame()? {
        frames.push(format!("{received:?}"));
    }
    Ok(frames)
}

fn reason(error: Error) -> (u64, Reason) {
    match error {
        Error::Format(error) => (error.offset, error.reason),
        error => panic!("{error}"),
    }
}

#[test]
fn frames_are_read_whole_however_the_transport_cuts_them() {
    let stream = every_frame();
    let whole = read_all(&mut FrameReader::new(&stream[..], LIMITS)).unwrap();
    assert_eq!(whole.len(), 18, "two of 20 frames are skipped");
    for size in 1..150 {
        let script = (0..2000)
            .map(|call| if call % 3 == 1 { Answer::Fails(ErrorKind::Interrupted) } else { Answer::Bytes(size) });
        let mut reader = FrameReader::new(Scripted::new(&stream, script), LIMITS);
        assert_eq!(read_all(&mut reader).unwrap(), whole, "in reads of {size}");
        assert_eq!(reader.offset(), stream.len() as u64);
    }
}

#[test]
fn every_prefix_is_a_clean_end_or_truncated() {
    let frames = [control(&Message::Switchover), data(1, 0, &[3; 70]), control(&Message::Commit)];
    let stream = stream(&frames);
    for prefix in prefixes(&stream) {
        let read = read_all(&mut FrameReader::new(prefix, LIMITS));
        match prefix.len() {
            16 => assert_eq!(read.unwrap().len(), 0),
            48 => assert_eq!(read.unwrap().len(), 1),
            150 => assert_eq!(read.unwrap().len(), 2),
            length => {
                let error = read.unwrap_err();
                assert_eq!(error.fault(), Fault::Transport);
                let (offset, reason) = reason(error);
                let expected = match length {
                    0..=15 => (0, Reason::Truncated { what: "the prologue", wanted: 16, have: length as u32 }),
                    17..=47 => (16, Reason::Truncated { what: "a frame header", wanted: 32, have: length as u32 - 16 }),
                    49..=79 => (48, Reason::Truncated { what: "a frame header", wanted: 32, have: length as u32 - 48 }),
                    80..=149 => (
                        48,
                        Reason::Truncated { what: "the payload of a Data frame", wanted: 70, have: length as u32 - 80 },
                    ),
                    _ => (150, Reason::Truncated { what: "a frame header", wanted: 32, have: length as u32 - 150 }),
                };
                assert_eq!((offset, reason), expected);
            }
        }
    }
}

#[test]
fn a_payload_comes_with_the_next_header_in_one_call() {
    let frames = (0..50).map(|sequence| data(0, sequence, &[1; 90])).collect::<Vec<_>>();
    let stream = stream(&frames);
    let mut reader = FrameReader::new(Scripted::new(&stream, []), LIMITS);
    assert_eq!(read_all(&mut reader).unwrap().len(), 50);
    // One for the prologue and the first header, one per frame, and the last that sees the end.
    assert_eq!(reader.get_ref().calls, 52);
}

#[test]
fn nothing_unverified_is_handed_out_and_the_first_error_is_final() {
    let mut damaged = data(0, 0, b"state");
    damaged[35] ^= 4;
    let stream = stream(&[control(&Message::Switchover), damaged, control(&Message::Commit)]);
    let mut reader = FrameReader::new(&stream[..], LIMITS);
    assert!(reader.read_frame().unwrap().is_some());
    let (offset, reason) = reason(reader.read_frame().unwrap_err());
    assert_eq!(offset, 48);
    assert!(matches!(reason, Reason::PayloadChecksum { .. }), "{reason}");
    assert!(matches!(reader.read_frame(), Err(Error::AfterError { .. })));
}

#[test]
fn a_malformed_control_frame_is_final_too() {
    let stream = stream(&[common::payload_frame(4, u32::MAX, &[1]), control(&Message::Commit)]);
    let mut reader = FrameReader::new(&stream[..], LIMITS);
    assert!(matches!(reason(reader.read_frame().unwrap_err()), (16, Reason::Malformed { kind: Kind::Commit, .. })));
    assert!(matches!(reader.read_frame(), Err(Error::AfterError { .. })));
}

#[test]
fn a_timeout_anywhere_can_be_repeated() {
    let stream = every_frame();
    let whole = read_all(&mut FrameReader::new(&stream[..], LIMITS)).unwrap();
    let kinds = [ErrorKind::WouldBlock, ErrorKind::TimedOut];
    let script =
        (0..4000).map(|call| if call % 2 == 0 { Answer::Fails(kinds[call / 2 % 2]) } else { Answer::Bytes(7) });
    let mut reader = FrameReader::new(Scripted::new(&stream, script), LIMITS);
    let (mut frames, mut timeouts) = (Vec::new(), 0);
    loop {
        match reader.read_frame() {
            Ok(Some(received)) => frames.push(format!("{received:?}")),
            Ok(None) => break,
            Err(Error::Read { source, .. }) if kinds.contains(&source.kind()) => timeouts += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(frames, whole);
    assert!(timeouts > 100, "{timeouts}");
}

#[test]
fn a_transport_error_names_the_place() {
    let stream = stream(&[data(0, 0, &[1; 50])]);
    let script = [Answer::Bytes(48), Answer::Bytes(10), Answer::Fails(ErrorKind::ConnectionReset)];
    let mut reader = FrameReader::new(Scripted::new(&stream, script), LIMITS);
    let error = reader.read_frame().unwrap_err();
    assert!(error.to_string().starts_with("reading the payload of a Data frame at stream offset 58: "), "{error}");
    assert!(matches!(reader.read_frame(), Err(Error::AfterError { offset: 58 })));
}

#[test]
fn payloads_are_read_into_the_callers_buffer() {
    let stream = stream(&[data(2, 0, b"state"), data(2, 1, b"longer state")]);
    let mut reader = FrameReader::unbuffered(&stream[..], LIMITS);
    let mut buffer = [0xaa; 8];
    let received = reader.read_frame_into(&mut buffer).unwrap().unwrap();
    let expected = Frame::Data { device: 2, sequence: 0, payload: b"state" };
    assert_eq!(received, Received { offset: 16, frame: expected });
    assert_eq!(&buffer[5..], [0xaa; 3], "the rest of the buffer is as before");
    let short = reason(reader.read_frame_into(&mut buffer).unwrap_err());
    assert_eq!(short, (53, Reason::Buffer { length: 12, buffer: 8 }));
    let mut buffer = [0; 12];
    let received = reader.read_frame_into(&mut buffer).unwrap().unwrap();
    assert_eq!(received.frame, Frame::Data { device: 2, sequence: 1, payload: b"longer state" });
    assert_eq!(reader.read_frame_into(&mut []).unwrap(), None);
}

#[test]
fn a_reader_that_claims_too_much_is_not_believed() {
    struct Liar;
    impl Read for Liar {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            Ok(buffer.len() + 100)
        }
    }
    let mut reader = FrameReader::new(Liar, LIMITS);
    assert!(matches!(reader.read_frame(), Err(Error::Read { what: "the prologue", .. })));
}

/// Takes what the script says; then as much as is given.
#[derive(Default)]
struct Sink {
    bytes: Vec<u8>,
    script: VecDeque<Answer>,
    calls: usize,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.calls += 1;
        let bytes = slices.iter().flat_map(|slice| slice.iter().copied());
        let before = self.bytes.len();
        match self.script.pop_front() {
            Some(Answer::Fails(kind)) => return Err(kind.into()),
            Some(Answer::Bytes(count)) => self.bytes.extend(bytes.take(count)),
            None => self.bytes.extend(bytes),
        }
        Ok(self.bytes.len() - before)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_is_written_is_the_stream_however_short_the_writes_are() {
    let frames = [control(&Message::Switchover), data(1, 0, &[3; 70]), control(&Message::Commit)];
    let expected = stream(&frames);
    for size in 1..120 {
        let script = (0..1000)
            .map(|call| if call % 3 == 1 { Answer::Fails(ErrorKind::Interrupted) } else { Answer::Bytes(size) });
        let mut writer = FrameWriter::new(Sink { script: script.collect(), ..Sink::default() }, LIMITS);
        writer.write_control(&Message::Switchover).unwrap();
        writer.write_data(1, 0, &[3; 70]).unwrap();
        writer.write_control(&Message::Commit).unwrap();
        assert_eq!(writer.offset(), expected.len() as u64);
        assert_eq!(writer.into_inner().bytes, expected, "in writes of {size}");
    }
}

#[test]
fn header_and_payload_go_out_in_one_call() {
    let mut writer = FrameWriter::new(Sink::default(), LIMITS);
    for sequence in 0..10 {
        writer.write_data(0, sequence, &[1; 100]).unwrap();
    }
    writer.flush().unwrap();
    assert_eq!(writer.get_ref().calls, 10);
}

#[test]
fn a_stream_may_begin_with_data_and_carries_one_prologue() {
    let mut writer = FrameWriter::new(Vec::new(), LIMITS);
    writer.write_data(1, 0, b"state").unwrap();
    writer.write_data(1, 1, b"state").unwrap();
    assert_eq!(writer.into_inner(), stream(&[data(1, 0, b"state"), data(1, 1, b"state")]));
}

#[test]
fn refused_frames_leave_the_stream_as_it_was() {
    let mut writer = FrameWriter::new(Vec::new(), Limits { control_bytes: 63, ..LIMITS });
    let too_long = |kind, length, limit| Reason::PayloadLength { kind, length, limit };
    assert_eq!(reason(writer.write_data(0, 0, &[]).unwrap_err()), (0, Reason::EmptyData));
    assert_eq!(reason(writer.write_data(0, 0, &[0; 101]).unwrap_err()), (0, too_long(0x12, 101, 100)));
    let hello = Message::Hello(hello(Role::Source, 1));
    assert_eq!(reason(writer.write_control(&hello).unwrap_err()), (0, too_long(1, 64, 63)));
    writer.set_limits(LIMITS);
    writer.write_control(&hello).unwrap();
    assert_eq!(writer.into_inner(), stream(&[control(&hello)]));
}

#[test]
fn a_failed_write_is_final() {
    let script = [Answer::Bytes(20), Answer::Fails(ErrorKind::BrokenPipe)];
    let mut writer = FrameWriter::new(Sink { script: script.into(), ..Sink::default() }, LIMITS);
    let error = writer.write_data(0, 0, b"state").unwrap_err();
    assert!(error.to_string().starts_with("writing a Data frame at stream offset 20: "), "{error}");
    assert!(matches!(writer.write_control(&Message::Commit), Err(Error::AfterError { offset: 20 })));
    assert!(matches!(writer.write_data(0, 1, b"x"), Err(Error::AfterError { offset: 20 })));
    assert_eq!(writer.get_ref().calls, 2);

    let full = Sink { script: [Answer::Bytes(0)].into(), ..Sink::default() };
    let error = FrameWriter::new(full, LIMITS).write_control(&Message::Commit).unwrap_err();
    assert!(matches!(&error, Error::Write { source, .. } if source.kind() == ErrorKind::WriteZero), "{error}");
}

#[test]
fn every_message_survives_writer_and_reader() {
    let mut writer = FrameWriter::new(Vec::new(), LIMITS);
    for message in every_message() {
        writer.write_control(&message).unwrap();
    }
    let mut bytes = writer.into_inner();
    bytes.extend(raw(Header { flags: 1, ..header(0xabcd, 7) }, b"skipped"));
    let mut reader = FrameReader::new(&bytes[..], LIMITS);
    for message in every_message() {
        assert_eq!(reader.read_frame().unwrap().unwrap().frame, Frame::Control(message));
    }
    assert_eq!(reader.read_frame().unwrap(), None);
}

/// Whoever asks for the header first sees the same frames, skips the same ones, and may choose a buffer.
#[test]
fn headers_are_known_before_their_payload() {
    let whole = every_frame();
    let expected = read_all(&mut FrameReader::new(&whole[..], LIMITS)).unwrap();
    for interruption in [None, Some(ErrorKind::WouldBlock)] {
        let script = (0..400).map(|call| match interruption {
            Some(kind) if call % 2 == 1 => Answer::Fails(kind),
            _ => Answer::Bytes(7),
        });
        let mut reader = FrameReader::unbuffered(Scripted::new(&whole, script), LIMITS);
        let mut frames = Vec::new();
        let mut buffer = Vec::new();
        loop {
            let header = match reader.next_header() {
                Ok(Some(header)) => header,
                Ok(None) => break,
                Err(Error::Read { source, .. }) if Some(source.kind()) == interruption => continue,
                Err(error) => panic!("{error}"),
            };
            assert!(header.kind().is_some(), "unknown frames are skipped");
            buffer.resize(header.payload_size(), 0);
            match reader.read_frame_into(&mut buffer) {
                Ok(received) => frames.push(format!("{:?}", received.unwrap())),
                Err(Error::Read { source, .. }) if Some(source.kind()) == interruption => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(frames, expected);
    }
}

#[test]
fn a_skipped_frame_is_checked_and_may_not_be_cut() {
    let skipped = raw(Header { flags: 1, ..header(0x8123, 1500) }, &[0xee; 1500]);
    let limits = Limits { data_bytes: 2000, ..LIMITS };
    let mut damaged = skipped.clone();
    damaged[900] ^= 1;
    let whole = stream([&damaged]);
    let (offset, damage) = reason(FrameReader::new(&whole[..], limits).next_header().unwrap_err());
    assert!(matches!(damage, Reason::PayloadChecksum { .. }), "{damage}");
    assert_eq!(offset, 16);
    let whole = stream([&skipped]);
    let (_, cut) = reason(FrameReader::new(&whole[..900], limits).next_header().unwrap_err());
    assert!(matches!(cut, Reason::Truncated { .. }), "{cut}");
    assert!(FrameReader::new(&whole[..], limits).next_header().unwrap().is_none());
}

#[test]
fn data_without_a_checksum_goes_through_where_it_was_agreed() {
    let mut bytes = Vec::new();
    let mut writer = FrameWriter::new(&mut bytes, LIMITS);
    writer.set_unchecked(true);
    writer.write_data(1, 2, b"state").unwrap();
    let limits = Limits { unchecked_data: true, ..LIMITS };
    let mut reader = FrameReader::new(&bytes[..], limits);
    let received = reader.read_frame().unwrap().unwrap();
    assert_eq!(received.frame, Frame::Data { device: 1, sequence: 2, payload: b"state" });
    let (_, refused) = reason(FrameReader::new(&bytes[..], LIMITS).read_frame().unwrap_err());
    assert_eq!(refused, Reason::Flags { kind: Kind::Data.raw(), flags: 2 });
}

/// Takes `count` bytes of the payload, or what the transport gives of them.
fn take(reader: &mut FrameReader<impl Read>, count: usize) -> Result<Option<usize>, Error> {
    reader.take_payload(|transport, left| transport.read(&mut vec![0; count.min(left)]))
}

fn unchecked(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = FrameWriter::new(&mut bytes, LIMITS);
    writer.set_unchecked(true);
    writer.write_data(1, 0, payload).unwrap();
    writer.write_control(&Message::Switchover).unwrap();
    bytes
}

const UNCHECKED: Limits = Limits { unchecked_data: true, ..LIMITS };

#[test]
fn a_payload_can_be_taken_past_the_reader() {
    let bytes = unchecked(b"device state");
    let script = [Answer::Bytes(16), Answer::Bytes(32), Answer::Bytes(5), Answer::Fails(ErrorKind::TimedOut)];
    let mut reader = FrameReader::new(Scripted::new(&bytes, script), UNCHECKED);
    assert_eq!(take(&mut reader, 9).unwrap(), None, "no header was asked for");
    assert_eq!(reader.next_header().unwrap().unwrap().payload_length, 12);
    assert_eq!(take(&mut reader, 9).unwrap(), Some(5));
    assert!(matches!(take(&mut reader, 9), Err(Error::Read { offset: 53, .. })), "which is not final");
    assert_eq!(reader.next_header().unwrap().unwrap().payload_length, 12, "it is open still");
    assert_eq!((take(&mut reader, 3).unwrap(), reader.offset()), (Some(3), 56));
    assert_eq!(take(&mut reader, 99).unwrap(), Some(4), "what is behind it is not this frame's");
    assert_eq!(take(&mut reader, 9).unwrap(), None);
    assert_eq!(reader.read_frame().unwrap().unwrap().frame, Frame::Control(Message::Switchover));
}

#[test]
fn what_was_taken_goes_on_in_a_buffer() {
    let bytes = unchecked(b"device state");
    let mut reader = FrameReader::new(&bytes[..], UNCHECKED);
    reader.next_header().unwrap();
    assert_eq!(take(&mut reader, 6).unwrap(), Some(6));
    let interrupted = reader.take_payload(|_, _| Err(ErrorKind::Interrupted.into()));
    assert!(matches!(interrupted, Err(Error::Read { .. })));
    let mut buffer = *b"device------";
    let received = reader.read_frame_into(&mut buffer).unwrap().unwrap();
    assert_eq!(received.frame, Frame::Data { device: 1, sequence: 0, payload: b"device state" });

    let mut reader = FrameReader::new(&bytes[..], UNCHECKED);
    reader.next_header().unwrap();
    take(&mut reader, 6).unwrap();
    let (_, refused) = reason(reader.read_frame().unwrap_err());
    assert_eq!(refused, Reason::Buffer { length: 12, buffer: 0 }, "its own buffer does not have them");
    take(&mut reader, 6).unwrap();
    assert_eq!(reader.read_frame().unwrap().unwrap().frame, Frame::Control(Message::Switchover));
}

#[test]
fn nobody_takes_what_must_be_compared_or_was_not_there() {
    let checked = stream(&[data(1, 0, b"device state")]);
    let mut reader = FrameReader::new(&checked[..], UNCHECKED);
    reader.next_header().unwrap();
    assert_eq!(reader.take_payload(|_, _| panic!("a payload with a checksum")).unwrap(), None);
    assert!(reader.read_frame().unwrap().is_some(), "and it is read as ever");

    let control_frame = stream(&[control(&every_message()[0])]);
    let mut reader = FrameReader::new(&control_frame[..], UNCHECKED);
    reader.next_header().unwrap();
    assert_eq!(reader.take_payload(|_, _| panic!("no data")).unwrap(), None);

    let bytes = unchecked(b"device state");
    let open = |bytes| {
        let mut reader = FrameReader::new(bytes, UNCHECKED);
        reader.next_header().unwrap();
        reader
    };
    let mut claimed = open(&bytes[..]);
    assert!(matches!(claimed.take_payload(|_, left| Ok(left + 1)), Err(Error::Read { .. })));
    assert!(matches!(take(&mut claimed, 1), Err(Error::AfterError { .. })), "the position is lost");
    let mut ended = open(&bytes[..50]);
    assert_eq!(take(&mut ended, 9).unwrap(), Some(2));
    let (offset, refused) = reason(take(&mut ended, 9).unwrap_err());
    assert_eq!(offset, 16);
    assert!(matches!(refused, Reason::Truncated { wanted: 12, have: 2, .. }), "{refused}");
}
