// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Explains a file with a device state, record by record: `cargo run -p device-mlx5 --example explain FILE`.
//!
//! Exit status: 0 if the stream is complete, 1 if not, 2 if the file cannot be opened.

use std::fs::File;
use std::io::Read;
use std::{env, io, process::ExitCode};

use device_mlx5::{Blame, Decoder, Error, Event, Limits, StreamDecoder};

fn main() -> ExitCode {
    let Some(path) = env::args().nth(1) else {
        eprintln!("usage: explain FILE");
        return ExitCode::from(2);
    };
    match File::open(&path).and_then(explain) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            let fault = error.fault();
            eprintln!("{path}: {error}\n{fault}: {}", fault.advice());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{path}: {error}");
            ExitCode::from(2)
        }
    }
}

/// Reads a file of any length in constant memory.
fn explain(mut file: File) -> io::Result<Result<(), Error>> {
    let mut decoder = StreamDecoder::new(Limits::FORMAT);
    let mut buffer = vec![0; 1 << 20];
    let result = loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            break decoder.finish();
        }
        if let Err(error) = feed(&mut decoder, buffer.get(..length).unwrap_or_default()) {
            break Err(error);
        }
    };
    print!("{}", decoder.summary());
    Ok(result)
}

fn feed(decoder: &mut StreamDecoder, mut piece: &[u8]) -> Result<(), Error> {
    loop {
        let step = decoder.decode(piece)?;
        match step.event {
            Some(Event::StopCopySize { record, bytes }) => println!("{:>12}  STOP_COPY_SIZE {bytes}", record.offset),
            Some(Event::ImageStart(image)) => {
                println!("{:>12}  {} {}, {} bytes", image.record.offset, image.part, image.number, image.bytes());
            }
            Some(Event::Skipped(record)) => {
                let bytes = record.header.record_bytes;
                println!("{:>12}  optional record, tag {:#x}, {bytes} bytes", record.offset, record.header.tag);
            }
            Some(_) => {}
            None => return Ok(()),
        }
        piece = piece.get(step.consumed..).unwrap_or_default();
    }
}
