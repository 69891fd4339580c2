// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where a listening target keeps connections until a whole session is among them.
//!
//! Whoever can reach a port connects to it: health checks, scanners, a source that dies at once, the second attempt of
//! one that is misconfigured. [`load`](crate::load::load) takes its channels as given, and one that says nothing ends it. A [`Lobby`] stands before
//! that: it hears the first frame of every connection, has no more of them than it says and none for longer than its
//! patience, turns away what cannot be a channel of a session, and hands out the channels of the first session that is
//! complete. It has no thread and no clock, opens nothing and waits for nothing.
//!
//! **Invariant:** a connection that has not said a valid Hello cannot end a session, take the place of a channel of it, or
//! hold it up by more than one look. Who can say one is believed: only an authenticated transport keeps strangers out.

mod visitor;

use core::fmt;
use core::time::Duration;
use std::format;
use std::io::{Read, Write};
use std::string::{String, ToString};
use std::time::Instant;
use std::vec::Vec;

use stream_codec::frame::{Hello, Role};

use crate::channel::Channel;
use crate::limits::Limits;
use visitor::{Heard, Visitor};

/// How many connections wait at most, beside those of the session.
const STRANGERS_MAX: usize = 16;

/// Connections that have come and are not a session yet.
///
/// ```
/// use std::os::unix::net::UnixStream;
/// use std::time::Instant;
/// use savevm_core::Limits;
/// use savevm_core::lobby::Lobby;
///
/// let (near, far) = UnixStream::pair()?;
/// near.set_nonblocking(true)?;
/// let mut lobby = Lobby::new(1, &Limits::default());
/// lobby.enter(near, Instant::now());
/// drop(far);
/// let look = lobby.look(Instant::now());
/// assert!(look.session.is_none());
/// assert_eq!(look.turned_away[0].to_string(), "it closed the connection without a word");
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Lobby<C> {
    channels: u16,
    patience: Duration,
    visitors: Vec<Visitor<C>>,
    evicted: Vec<TurnedAway>,
}

/// What a look into the lobby found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Look<C> {
    /// The connections of the first whole session, in the order of its channels. Everybody else has been turned away then.
    pub session: Option<Vec<Greeted<C>>>,
    /// Why others had to go.
    pub turned_away: Vec<TurnedAway>,
}

/// Why a connection was closed before it became a channel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TurnedAway(String);

impl fmt::Display for TurnedAway {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A connection whose first frame has been heard.
#[derive(Debug)]
pub struct Greeted<C> {
    connection: C,
    said: Vec<u8>,
}

impl<C> Greeted<C> {
    /// The connection, which is as the caller left it: not to block, that is.
    pub const fn connection(&self) -> &C {
        &self.connection
    }

    /// What it has said so far: its prologue and its Hello.
    pub fn said(&self) -> &[u8] {
        &self.said
    }

    /// The channel for [`load`](crate::load::load), made of the connection by `set_up`; it hears what was heard already once more.
    ///
    /// # Errors
    /// Those of `set_up`.
    pub fn into_channel<'a, E>(self, set_up: impl FnOnce(C) -> Result<Channel<'a>, E>) -> Result<Channel<'a>, E> {
        let Self { connection, said } = self;
        set_up(connection).map(|channel| channel.after(said))
    }
}

impl<C: Read + Write> Lobby<C> {
    /// For sessions of so many channels. [`Limits::silence_max`] is how long a connection may take to become part of one.
    #[must_use]
    pub fn new(channels: u16, limits: &Limits) -> Self {
        Self { channels, patience: limits.silence_max, visitors: Vec::new(), evicted: Vec::new() }
    }

    /// Takes a new connection in, whose reads and writes must not block. Where the lobby is full, the one that has been silent
    /// longest makes room.
    pub fn enter(&mut self, connection: C, now: Instant) {
        self.visitors.push(Visitor::new(connection, now));
        if self.visitors.len() > STRANGERS_MAX.saturating_add(usize::from(self.channels)) {
            let silent = self.visitors.iter().position(|visitor| visitor.hello().is_none());
            let longest = self.visitors.remove(silent.unwrap_or(0));
            self.evicted.push(longest.turn_away("there were too many connections, and it had waited longest"));
        }
    }

    /// Hears what the connections have said since.
    pub fn look(&mut self, now: Instant) -> Look<C> {
        let mut turned_away = core::mem::take(&mut self.evicted);
        let mut staying: Vec<Visitor<C>> = Vec::with_capacity(self.visitors.len());
        for mut visitor in self.visitors.drain(..) {
            let reason = match visitor.hear() {
                Err(reason) => Some(reason),
                Ok(heard) => {
                    let doubt = visitor.hello().and_then(|hello| doubt(self.channels, hello, &staying));
                    doubt.or_else(|| late(self.patience, visitor.waited(now), heard))
                }
            };
            match reason {
                Some(reason) => turned_away.push(visitor.turn_away(&reason)),
                None => staying.push(visitor),
            }
        }
        self.visitors = staying;
        let session = self.complete();
        if session.is_some() {
            let others = self.visitors.drain(..).map(|visitor| visitor.turn_away("another source was here first"));
            turned_away.extend(others);
        }
        Look { session, turned_away }
    }

    /// Takes the channels of a session out, if all have come.
    fn complete(&mut self) -> Option<Vec<Greeted<C>>> {
        let nonces = self.visitors.iter().filter_map(|visitor| visitor.hello().map(|hello| hello.nonce));
        let count = |nonce: &[u8; 16]| self.visitors.iter().filter(|visitor| visitor.is_of(nonce)).count();
        let nonce = nonces.into_iter().find(|nonce| count(nonce) == usize::from(self.channels))?;
        let (mut session, others): (Vec<_>, Vec<_>) =
            self.visitors.drain(..).partition(|visitor| visitor.is_of(&nonce));
        self.visitors = others;
        session.sort_unstable_by_key(|visitor| visitor.hello().map(|hello| hello.channel.index));
        Some(session.into_iter().map(Visitor::into_greeted).collect())
    }
}

/// Why this Hello is none of a channel that is wanted beside those that `stay`.
fn doubt<C>(channels: u16, hello: &Hello, stay: &[Visitor<C>]) -> Option<String> {
    let theirs = hello.channel.count;
    if hello.role != Role::Source {
        return Some(match hello.role {
            Role::File => "it sends a file, which cannot be acknowledged; load it as a file".into(),
            role => format!("it is a {role} itself"),
        });
    }
    if theirs != channels {
        return Some(format!(
            "the source uses {theirs} channels, and this target {channels}: use the same number on both"
        ));
    }
    let is_same = |visitor: &&Visitor<C>| {
        visitor.is_of(&hello.nonce) && visitor.hello().is_some_and(|other| other.channel.index == hello.channel.index)
    };
    let twin = stay.iter().find(is_same);
    twin.map(|_| format!("channel {} of this session is here already", hello.channel.index))
}

fn late(patience: Duration, waited: Duration, heard: Heard) -> Option<String> {
    let seconds = patience.as_secs_f64();
    (waited >= patience).then(|| match heard {
        Heard::Part { bytes } => format!("it said {bytes} bytes of a Hello in {seconds} s"),
        Heard::Hello => format!("the other channels of its session did not come within {seconds} s"),
    })
}

impl<C> fmt::Debug for Lobby<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let visitors = self.visitors.len().to_string();
        f.debug_struct("Lobby").field("channels", &self.channels).field("visitors", &visitors).finish_non_exhaustive()
    }
}
