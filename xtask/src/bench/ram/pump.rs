// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The least that can be done: each connection moves every second piece, with one thread at either end.
//!
//! Pieces of 1 MiB, read from the file and written to the socket, read from the socket and written to their place. No headers, no
//! digests, no look for zeros; at last one byte for each connection says that everything is in its place.

use core::time::Duration;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Instant;

use super::side::Connection;

const PIECE_BYTES: usize = 1 << 20;

pub(super) fn save(memory: &File, connections: Vec<Connection>) -> Result<Duration, String> {
    let began = Instant::now();
    each(memory, connections, |memory, connection, offsets| {
        let mut piece = vec![0; PIECE_BYTES];
        for offset in offsets {
            memory.read_exact_at(&mut piece, offset)?;
            connection.write_all(&piece)?;
        }
        connection.read_exact(&mut [0])
    })?;
    Ok(began.elapsed())
}

pub(super) fn load(memory: &File, connections: Vec<Connection>) -> Result<(), String> {
    each(memory, connections, |memory, connection, offsets| {
        let mut piece = vec![0; PIECE_BYTES];
        for offset in offsets {
            connection.read_exact(&mut piece)?;
            memory.write_all_at(&piece, offset)?;
        }
        connection.write_all(&[1])
    })
}

/// Runs one thread per connection, with where its pieces begin.
fn each(
    memory: &File,
    connections: Vec<Connection>,
    work: fn(&File, &mut Connection, &mut dyn Iterator<Item = u64>) -> io::Result<()>,
) -> Result<(), String> {
    let bytes = memory.metadata().map_err(|error| format!("cannot ask for the size of memory: {error}"))?.len();
    let count = connections.len();
    thread::scope(|scope| {
        let one = |(first, mut connection): (usize, Connection)| {
            let mut offsets = (0..bytes).step_by(PIECE_BYTES).skip(first).step_by(count);
            scope.spawn(move || work(memory, &mut connection, &mut offsets))
        };
        let threads: Vec<_> = connections.into_iter().enumerate().map(one).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(done) => done.map_err(|error| format!("cannot move memory: {error}")),
            Err(_) => Err("a thread panicked".into()),
        })
    })
}
