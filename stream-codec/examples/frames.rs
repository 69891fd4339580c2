// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Writes the state of one imaginary device as a file in the native format, and reads it back with every check.
//!
//! ```text
//! cargo run -p stream-codec --example frames             # in memory
//! cargo run -p stream-codec --example frames out.savevm  # keeps the file
//! ```

use core::error::Error;

use stream_codec::decode::{Decoder, Step};
use stream_codec::frame::io::{Frame, FrameReader, FrameWriter};
use stream_codec::frame::{
    Channel, DeviceEnd, DeviceOpen, Digest, Event, FrameDecoder, Hello, Limits, Message, Role, Session, Support,
};

fn main() -> Result<(), Box<dyn Error>> {
    let stream = write()?;
    if let Some(path) = std::env::args_os().nth(1) {
        std::fs::write(path, &stream)?;
    }
    read_blocking(&stream)?;
    decode_in_pieces(&stream)
}

/// What a program does that saves a device.
fn write() -> Result<Vec<u8>, Box<dyn Error>> {
    let hello = Hello {
        support: Support::CURRENT,
        role: Role::File,
        nonce: *b"example-session!",
        channel: Channel::ONLY,
        device_count: 1,
        data_bytes_max: 0,
    };
    let open = DeviceOpen {
        device: 0,
        name: "vf-0",
        identity: "example/simulated/1",
        migration_flags: 1,
        stop_copy_bytes: 3000,
    };
    let state = (0..3000u32).map(|number| number.to_le_bytes()[0]).collect::<Vec<_>>();

    let mut writer = FrameWriter::new(Vec::new(), Limits::DEFAULT);
    writer.write_control(&Message::Hello(hello))?;
    writer.write_control(&Message::DeviceOpen(open))?;
    writer.write_control(&Message::Switchover)?;
    for (sequence, chunk) in (0..).zip(state.chunks(1024)) {
        writer.write_data(0, sequence, chunk)?;
    }
    let frames = u64::try_from(state.chunks(1024).len())?;
    let bytes = u64::try_from(state.len())?;
    writer.write_control(&Message::DeviceEnd(DeviceEnd { device: 0, frames, bytes, digest: Digest::NONE }))?;
    writer.write_control(&Message::Commit)?;
    println!("wrote {} bytes for {bytes} bytes of state", writer.offset());
    Ok(writer.into_inner())
}

/// Reads verified frames and holds them against the rules of a session.
fn read_blocking(mut stream: &[u8]) -> Result<(), Box<dyn Error>> {
    let mut reader = FrameReader::new(&mut stream, Limits::DEFAULT);
    let mut session = Session::new(Role::Target, Support::CURRENT, Limits::DEFAULT);
    while let Some(received) = reader.read_frame()? {
        match received.frame {
            Frame::Control(message) => {
                session.received(&message)?;
                println!("{:6}  {message:?}", received.offset);
            }
            Frame::Data { device, sequence, payload } => {
                session.received_data(device, sequence, u32::try_from(payload.len())?)?;
                println!("{:6}  Data {sequence} of device {device}, {} bytes", received.offset, payload.len());
            }
            _ => {}
        }
    }
    session.finish()?;
    println!("the session is {}", session.phase());
    Ok(())
}

/// The same without I/O, from pieces as a network might deliver them.
fn decode_in_pieces(stream: &[u8]) -> Result<(), Box<dyn Error>> {
    let mut decoder = FrameDecoder::new(Limits::DEFAULT);
    let mut verified = Vec::new();
    for mut piece in stream.chunks(700) {
        loop {
            let Step { consumed, event } = decoder.decode(piece)?;
            match event {
                Some(Event::DataEnd { offset, .. } | Event::Control { offset, .. }) => verified.push(offset),
                Some(_) => {}
                None => break,
            }
            piece = piece.get(consumed..).unwrap_or_default();
        }
    }
    decoder.finish()?;
    println!("{} frames verified in pieces of 700 bytes", verified.len());
    Ok(())
}
