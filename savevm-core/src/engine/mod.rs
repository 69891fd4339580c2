// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Moving N devices over M channels in bounded memory.
//!
//! # Who does what
//!
//! One thread per device reads it (source) or writes it (target). One thread per channel sends, one receives. All of
//! them live in a scope that ends with the call, and report to the caller's thread, which leads: it asks the devices'
//! threads for one thing at a time ([`task`]), hears what comes of it ([`board`]), and looks for a cancel and for a peer
//! that fell silent.
//!
//! # Bounded by credit
//!
//! The target has one pool of buffers, as large as the caller allows, and grants every device a share of it in advance.
//! The source sends only inside the grant. So whatever arrives has a buffer waiting for it, in whatever order, however
//! slow one device is and whatever the peer tries; and the next chunk in order is always inside the grant, so nothing
//! waits for ever. Grants count frames, each worth one buffer, because a buffer is what a frame of one byte costs too.
//!
//! A grant is for a long way, over which many frames are under way before the first is answered for. How many of it a
//! source uses is its own decision ([`reach`]): where the way is short, or the target slow, more would only wait there.
//!
//! # One channel while it is enough
//!
//! A device keeps to a channel of its own, and spreads over all of them only while that is faster ([`spread`], [`trials`]).
//! Guest memory has a hand for every channel: its chunks need no order, so each is read and sent by whoever is free
//! ([`hands`]), and written by whoever receives it ([`scattered`]).
//!
//! # No hand-over without need
//!
//! A chunk that is read and sent by one thread, or received and written by one, stays in that core's cache and wakes
//! nobody; handing it over costs up to a sixth of the throughput (`spec/perf/limits.md` section 3). So a device's thread
//! sends on an idle channel itself ([`lane`]), and a channel's thread writes the next chunk to a quick device itself
//! ([`window`]). The other threads are there for when the channel is not idle, or the device not quick. And who receives
//! pieces of one length reads the next one together with its header, instead of being woken once for each ([`early`]).

pub(crate) mod board;
pub(crate) mod buffer;
pub(crate) mod counters;
pub(crate) mod credit;
mod early;
pub(crate) mod hands;
pub(crate) mod helm;
pub(crate) mod lane;
#[cfg(all(loom, test))]
mod model;
pub(crate) mod pace;
mod pipe;
pub(crate) mod plan;
mod reach;
pub(crate) mod receive;
pub(crate) mod scattered;
pub(crate) mod spread;
mod straight;
pub(crate) mod task;
pub(crate) mod threads;
pub(crate) mod trials;
pub(crate) mod verdict;
pub(crate) mod window;
pub(crate) mod wire;
