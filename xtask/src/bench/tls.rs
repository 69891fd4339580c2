// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `tls`: what certificates and ciphers cost, on the same files over the same sockets.

use core::time::Duration;
use std::thread;

use savevm_core::load::LoadOptions;
use savevm_core::save::SaveOptions;
use savevm_core::{Cancel, Channel};

use super::engine::{Files, failed, tcp};
use super::file_device::devices;
use super::measure::{Costly, Costs};
use super::rig::{Ends, SPEED_AND_PRICE, migrate};
use super::{Goal, Outcome, Setting};
use crate::migrate::{Link, Transport};
use crate::tls::throwaway::{Authority, Files as Certificates};
use crate::tls::{Args, Client, Server};

/// `spec/perf/bench-plan.md`, P4: what AES-128-GCM must be paid, and little more.
const GOALS: [Option<Goal>; 2] = [Some(Goal::AtLeast(0.72)), Some(Goal::AtMost(1.40))];

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>, String> {
    let total_bytes: u64 = if setting.quick { 64 << 20 } else { 512 << 20 };
    let folder = tempfile::tempdir().map_err(failed)?;
    let authority = Authority::new().map_err(failed)?;
    let side = |name: &str| Certificates::write(&folder.path().join(name), &authority, name);
    let client = Args::of(&side("source.test")?, "target.test").client(None)?.ok_or("no certificate")?;
    let server = Args::of(&side("target.test")?, "source.test").server()?.ok_or("no certificate")?;
    let mut outcomes = Vec::new();
    for (count, channels) in [(1, 1), (2, 2)] {
        let files = &Files::new(&setting.folder, count, total_bytes)?;
        let over = |ends: Ends| {
            let (mut ours, mut theirs) = (devices(&files.source)?, devices(&files.target)?);
            let (mut save, mut load) = (SaveOptions::default(), LoadOptions::default());
            // A cipher checks what it carries.
            (save.limits.payload_checksums, load.limits.payload_checksums) = (false, false);
            let ran = migrate(&mut ours, &mut theirs, ends, &mut (), &save, &load)?;
            Ok([ran.speed(), ran.price()])
        };
        let (client, server) = (&client, &server);
        outcomes.extend(setting.compare_costs(
            Costs {
                name: format!("tls/tcp, {count} devices, {channels} channels"),
                metrics: SPEED_AND_PRICE,
                baseline: Costly::new("plain", [None; 2], move || over(plain(channels)?)),
                contenders: vec![Costly::new("TLS 1.3", GOALS, move || over(secured(client, server, channels)?))],
            },
            setting.rounds(),
        )?);
    }
    Ok(outcomes)
}

fn plain(channels: usize) -> Result<Ends, String> {
    let pair = |_| {
        let (left, right) = tcp()?;
        Ok((Channel::tcp(left).map_err(failed)?, Channel::tcp(right).map_err(failed)?))
    };
    (0..channels).map(pair).collect::<Result<Vec<_>, String>>().map(|pairs| pairs.into_iter().unzip())
}

fn secured(client: &Client, server: &Server, channels: usize) -> Result<Ends, String> {
    let patience = Duration::from_secs(5);
    let pair = |_| {
        let (left, right) = tcp()?;
        left.set_nodelay(true).and_then(|()| right.set_nodelay(true)).map_err(failed)?;
        thread::scope(|scope| {
            let accepted = scope.spawn(|| server.accept(Transport::Tcp(right), patience, &Cancel::new()));
            let connected = client.connect(Transport::Tcp(left), patience, &Cancel::new()).map_err(failed)?;
            let accepted = accepted.join().map_err(|_| "the handshake panicked")?.map_err(failed)?;
            let channel = |secured| Link::secured(secured).into_channel().map_err(failed);
            Ok((channel(connected)?, channel(accepted)?))
        })
    };
    (0..channels).map(pair).collect::<Result<Vec<_>, String>>().map(|pairs| pairs.into_iter().unzip())
}

#[cfg(test)]
mod test {
    use super::{Setting, run};

    /// In an unoptimised build the goals mean nothing; that the bytes arrive does.
    #[test]
    fn both_ways_move_the_same_files() {
        let folder = tempfile::tempdir().unwrap();
        let setting = Setting { quick: true, folder: folder.path().to_owned(), cache: None };
        let outcomes = run(&setting).unwrap();
        assert_eq!(outcomes.len(), 4, "speed and price, twice");
        assert!(outcomes.iter().flat_map(|outcome| &outcome.contenders).all(|measured| measured.value.min > 0.0));
    }
}
