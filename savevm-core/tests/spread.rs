// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A device keeps to one channel until that is what it waits for, and then uses all of them at once.
//!
//! The channels meet at a gate that counts, so that nothing here depends on how fast the machine is.

#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::unwrap_used)]

mod common;

use core::time::Duration;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use common::{connection, devices, load_options, migrate_over, save_options};
use savevm_core::Channel;

const CHANNELS: usize = 4;
/// So often all channels carry a chunk at the same time. A device that tries all of them gives each more than that.
const MEETINGS: usize = 4;
/// A channel takes so many times as long for a chunk as went by since the one before: it is what the device waits for, however slow
/// the device is.
const SLOWNESS: u32 = 11;
/// Longer than any thread waits for a processor, shorter than the patience of either side.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where a chunk waits until there is one on every channel.
#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    met: Condvar,
}

#[derive(Default)]
struct State {
    waiting: [bool; CHANNELS],
    used: [bool; CHANNELS],
    meetings: usize,
    /// Chunks that went before a second channel had one.
    alone: usize,
    /// When a chunk went through.
    last: Option<Instant>,
    /// Somebody waited in vain for the others.
    is_missed: bool,
}

impl Gate {
    fn pass(&self, channel: usize) {
        let mut state = self.state.lock().unwrap();
        if state.meetings >= MEETINGS || state.is_missed {
            return;
        }
        (state.waiting[channel], state.used[channel]) = (true, true);
        if state.waiting == [true; CHANNELS] {
            state.waiting = [false; CHANNELS];
            state.meetings += 1;
            self.met.notify_all();
        } else {
            let is_alone = state.used.iter().filter(|used| **used).count() == 1;
            let slow = state.last.map_or(Duration::ZERO, |last| last.elapsed() * SLOWNESS);
            let patience = if is_alone { slow } else { PATIENCE };
            let before = state.meetings;
            let is_early = |state: &mut State| state.meetings == before;
            let (back, waited) = self.met.wait_timeout_while(state, patience, is_early).unwrap();
            state = back;
            if waited.timed_out() {
                state.waiting[channel] = false;
                state.alone += usize::from(is_alone);
                state.is_missed = !is_alone;
            }
        }
        state.last = Some(Instant::now());
    }
}

/// A connection whose chunks pass the gate.
struct Gated {
    stream: UnixStream,
    channel: usize,
    gate: Arc<Gate>,
}

impl Write for Gated {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Headers, control frames and the second device are shorter.
        if bytes.len() > 4096 {
            self.gate.pass(self.channel);
        }
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_device_spreads_where_one_channel_is_the_limit() {
    // All of it fits into the target's buffers, so nobody waits for credit. The second device is done at once and leaves its two
    // buffers to the first: with eight, two on each channel, none is left out while another has three.
    let config =
        ["model=plain caps=1 dirty=0 stop=16MiB seed=1", "model=plain caps=1 initial=0 dirty=0 stop=1KiB seed=2"];
    let (source, target) = (devices(&config), devices(&config));
    let gate = Arc::new(Gate::default());
    let ends = (0..CHANNELS)
        .map(|channel| {
            let (left, right) = connection();
            let (reader, cut) = (left.try_clone().unwrap(), left.try_clone().unwrap());
            let gated = Channel::new(reader, Gated { stream: left, channel, gate: Arc::clone(&gate) });
            (gated.with_shutdown(move |how| drop(cut.shutdown(how))), Channel::unix(right).unwrap())
        })
        .unzip();
    let both = migrate_over(&source, &target, ends, &mut (), &mut (), &save_options(), &load_options());
    both.assert_moved();
    let channels = both.source.unwrap().counters.channels;
    let state = gate.state.lock().unwrap();
    assert_eq!(state.meetings, MEETINGS, "chunks on all channels at the same time: {channels:?}");
    assert!(state.alone >= 4, "it kept to its own channel for {} chunks, fewer than it takes to know", state.alone);
}
