// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What comes where a target expects another piece of the length of those before, and has read it before it knows better.

use std::net::Shutdown;

use stream_codec::frame::Abort;
use stream_codec::frame::AbortCode;

use super::common::tcp_connection;
use super::*;

const PIECE: [u8; CHUNK] = [7; CHUNK];

/// Frames as they would be sent, to be sent at once.
fn frames(write: impl FnOnce(&mut FrameWriter<&mut Vec<u8>>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = FrameWriter::new(&mut bytes, Limits::DEFAULT);
    write(&mut writer);
    // The prologue has been said.
    bytes.split_off(encode_prologue().len())
}

/// After three pieces of one length, each alone, the target refuses these bytes, saying `said`.
fn refused_after_pieces(said: &str, bytes: &[u8], shutdown: Option<Shutdown>) {
    // Any bytes will do behind those by which a device knows its own.
    let state = ending::state("model=plain caps=7 initial=1KiB dirty=1KiB stop=16KiB seed=1");
    let (peer, ours) = tcp_connection();
    let ends = (vec![Peer::over_tcp(peer)], vec![Channel::tcp(ours).unwrap()]);
    let error = against_target_over(ends, CONFIG, MUCH_MEMORY, open, |peers| {
        for (sequence, piece) in (0..).zip([&state[..CHUNK], &PIECE, &PIECE]) {
            peers[0].data(0, sequence, piece);
            thread::sleep(Duration::from_millis(10));
        }
        peers[0].bytes(bytes);
        shutdown.into_iter().for_each(|how| peers[0].raw.shutdown(how).unwrap());
    });
    assert!(error.to_string().contains(said), "'{said}' is not in: {error}");
}

/// Says that there were so many frames and no bytes, so that the refusal says how many there were.
fn ended(writer: &mut FrameWriter<&mut Vec<u8>>, frames: u64) {
    writer.write_control(&Message::Switchover).unwrap();
    writer.write_control(&END(frames, 0)).unwrap();
}

#[test]
fn other_lengths_and_messages_are_taken_for_what_they_are() {
    let whole = 3 * CHUNK;
    for lengths in [&[CHUNK][..], &[1], &[CHUNK, 5, 6], &[100, CHUNK, CHUNK], &[CHUNK - 1, CHUNK, 1]] {
        let sent = frames(|writer| {
            for (sequence, length) in (3..).zip(lengths) {
                writer.write_data(0, sequence, &PIECE[..*length]).unwrap();
            }
            ended(writer, 3 + u64::try_from(lengths.len()).unwrap());
        });
        let said = format!("with 0 bytes, there were {}", whole + lengths.iter().sum::<usize>());
        refused_after_pieces(&said, &sent, None);
    }
    refused_after_pieces(&format!("with 0 bytes, there were {whole}"), &frames(|writer| ended(writer, 3)), None);
}

#[test]
fn what_is_wrong_with_it_is_said() {
    let mut damaged = frames(|writer| writer.write_data(0, 3, &PIECE).unwrap());
    *damaged.last_mut().unwrap() ^= 1;
    refused_after_pieces("at stream offset 12582: the payload's CRC-32", &damaged, None);
    let again = frames(|writer| writer.write_data(0, 2, &PIECE).unwrap());
    refused_after_pieces("frame 2 of device 0 where frame 3 is next", &again, None);
    let longer = frames(|writer| writer.write_data(0, 3, &[7; CHUNK + 1]).unwrap());
    refused_after_pieces("the limit is 4096", &longer, None);
    let aborted = frames(|writer| {
        let abort = Abort { code: AbortCode::CANCELLED, device: None, reason: "enough of this" };
        writer.write_control(&Message::Abort(abort)).unwrap();
        writer.write_data(0, 3, &PIECE).unwrap();
    });
    refused_after_pieces("enough of this", &aborted, None);
}

#[test]
fn one_that_stops_in_the_middle_is_noticed() {
    let piece = frames(|writer| writer.write_data(0, 3, &PIECE).unwrap());
    for length in [0, 10, 32, 33, 2000, piece.len() - 1] {
        let said = match length {
            0 => "closed the connection",
            1..32 => "a frame header",
            _ => "the payload of a Data frame",
        };
        refused_after_pieces(said, &piece[..length], Some(Shutdown::Write));
        refused_after_pieces("silent", &piece[..length], None);
    }
}
