// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where a listening target lets its source in.
//!
//! Whoever connects is nobody's channel before it has said a Hello, and with TLS not before it has proved who it is. Handshakes
//! have threads of their own, because one that says nothing must not keep the source waiting.

use core::time::Duration;
use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Instant;

use savevm_core::lobby::{Greeted, Lobby};
use savevm_core::{Cancel, Limits};

use super::link::Link;
use super::transport::{Listener, Transport};
use crate::tls::{Secured, Server};

/// How often one looks who is there.
const LOOK: Duration = Duration::from_millis(5);
/// So many prove who they are at a time; more wait outside.
const HANDSHAKES_MAX: usize = 16;

pub(super) struct Door {
    pub(super) listener: Listener,
    pub(super) server: Option<Server>,
    pub(super) channels: u16,
    /// How long one source is waited for; without it, until a signal.
    pub(super) wait: Option<Duration>,
    pub(super) limits: Limits,
    pub(super) cancel: Cancel,
}

/// Handshakes under way.
struct Porch {
    outcomes: Receiver<io::Result<Secured>>,
    outcome: Sender<io::Result<Secured>>,
    busy: usize,
}

impl Door {
    /// Listens until the connections of one source are complete. Who connects and is none delays that by nothing.
    pub(super) fn receive(&self) -> Result<Vec<Greeted<Link>>, String> {
        let mut lobby = Lobby::new(self.channels, &self.limits);
        let (outcome, outcomes) = mpsc::channel();
        let mut porch = Porch { outcomes, outcome, busy: 0 };
        let (started, mut last) = (Instant::now(), None);
        loop {
            let refused = self.admit(&mut porch, &mut lobby).map_err(|error| error.to_string())?;
            let look = lobby.look(Instant::now());
            let turned_away = look.turned_away.into_iter().map(|reason| reason.to_string());
            for reason in refused.into_iter().chain(turned_away) {
                // A standard error that is gone is no reason to stop listening.
                let _ = writeln!(io::stderr(), "turned a connection away: {reason}");
                last = Some(reason);
            }
            if let Some(session) = look.session {
                return Ok(session);
            }
            if self.cancel.is_cancelled() {
                return Err("cancelled while waiting for it".into());
            }
            if let Some(wait) = self.wait.filter(|wait| started.elapsed() >= *wait) {
                let others = last.map_or("nobody connected, or said nothing".to_owned(), |last| {
                    format!("of who did connect, the last was turned away: {last}")
                });
                return Err(format!("not within {} s; {others}", wait.as_secs_f64()));
            }
            thread::sleep(LOOK);
        }
    }

    /// Takes in who has come, and gives the reasons of those whose handshake failed.
    fn admit(&self, porch: &mut Porch, lobby: &mut Lobby<Link>) -> io::Result<Vec<String>> {
        while porch.busy < HANDSHAKES_MAX {
            let Some(transport) = self.listener.accept()? else { break };
            match &self.server {
                None => lobby.enter(Link::plain(transport), Instant::now()),
                Some(server) => self.shake_hands(porch, server.clone(), transport)?,
            }
        }
        let mut refused = Vec::new();
        while let Ok(outcome) = porch.outcomes.try_recv() {
            porch.busy = porch.busy.saturating_sub(1);
            let entered = outcome.map(Link::secured).and_then(|link| {
                link.socket().set_nonblocking(true)?;
                lobby.enter(link, Instant::now());
                Ok(())
            });
            refused.extend(entered.err().map(|error| error.to_string()));
        }
        Ok(refused)
    }

    fn shake_hands(&self, porch: &mut Porch, server: Server, transport: Transport) -> io::Result<()> {
        let (outcome, patience, cancel) = (porch.outcome.clone(), self.limits.silence_max, self.cancel.clone());
        let body = move || {
            let secured = transport.set_nonblocking(false).and_then(|()| server.accept(transport, patience, &cancel));
            // Where nobody listens any more, the connection is closed.
            drop(outcome.send(secured));
        };
        thread::Builder::new().name("handshake".into()).spawn(body)?;
        porch.busy = porch.busy.saturating_add(1);
        Ok(())
    }
}
