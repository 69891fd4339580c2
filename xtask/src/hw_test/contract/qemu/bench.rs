// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What all migrations with a QEMU have in common: a folder, a deadline, the QEMU and our side.

use core::time::Duration;
use std::path::PathBuf;
use std::thread;
use std::time::{Instant, SystemTime};

use serde_json::json;
use tempfile::TempDir;

use super::super::check::{Checked, ensure, expect, failed, must};
use super::super::context::Ctx;
use super::super::dut::Dut;
use super::{SERIES, Stock};
use crate::qemu::devices::Devices;
use crate::qemu::machine::{Machine, Migration, Spec};
use crate::qemu::proxy::{Orders, Proxy};
use crate::qemu::side::{Side, SideSpec};
use crate::qemu::terms::{Switchover, Terms};

const POLL: Duration = Duration::from_millis(10);
/// Emulation within emulation, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// QEMU puts its devices to rest soon after it has said that it is done.
const SETTLING: Duration = Duration::from_secs(20);
/// How long our side waits for a word; the relay and a QEMU that has ended cut that short.
const SILENCE_S: &str = "60";

pub(super) struct Bench<'a> {
    pub(super) ctx: &'a Ctx,
    pub(super) stock: &'a Stock,
    pub(super) begin_us: u64,
    deadline: Instant,
    folder: TempDir,
}

impl<'a> Bench<'a> {
    pub(super) fn new(ctx: &'a Ctx) -> Checked<Self> {
        let stock = ctx.stock()?;
        let folder = must("a temporary folder", tempfile::Builder::new().prefix("savevm-qemu-").tempdir())?;
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let begin_us = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let deadline = Instant::now().checked_add(PATIENCE).ok_or_else(|| failed("the limit is beyond all time"))?;
        Ok(Self { ctx, stock, begin_us, deadline, folder })
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A QEMU with the device.
    pub(super) fn machine(&self, device: &Dut, is_target: bool) -> Checked<Machine> {
        let devices = [device.name.clone()];
        let spec = Spec { name: "qemu", folder: self.folder.path(), devices: Devices::Real(&devices), is_target };
        let machine = must("start", Machine::start(&self.stock.qemu, &spec))?;
        let (major, minor) = SERIES.wanted();
        let version = machine.version();
        ensure(version.starts_with(&format!("{major}.{minor}.")), || {
            format!("QEMU {major}.{minor} says that it is {version}")
        })?;
        Ok(machine)
    }

    /// A QEMU that waits behind a relay.
    pub(super) fn listening(&self, device: &Dut, terms: Terms) -> Checked<(Machine, Proxy)> {
        let mut target = self.machine(device, true)?;
        must("set up the target", terms.set(&mut target))?;
        let listening = self.at("listening");
        let arguments = json!({ "uri": format!("unix:{}", listening.display()), "exit-on-error": false });
        must("listen", target.execute("migrate-incoming", arguments))?;
        Ok((target, self.relay()?))
    }

    /// Begins a migration of a QEMU into whoever listens, through a relay.
    pub(super) fn migrate(&self, source: &mut Machine) -> Checked<Proxy> {
        let proxy = self.relay()?;
        self.migrate_to(source, &format!("unix:{}", self.at("relay").display()))?;
        Ok(proxy)
    }

    /// Begins a migration of a QEMU.
    pub(super) fn migrate_to(&self, source: &mut Machine, uri: &str) -> Checked {
        must("set parameters", source.execute("migrate-set-parameters", Switchover::Soon.parameters()))?;
        must("begin", source.execute("migrate", json!({ "uri": uri }))).map(drop)
    }

    fn relay(&self) -> Checked<Proxy> {
        let recordings = self.at("recordings");
        must("create a folder", std::fs::create_dir(&recordings))?;
        must("start the relay", Proxy::start(Orders::default(), &self.at("relay"), &self.at("listening"), &recordings))
    }

    /// Our side with the device.
    pub(super) fn ours(&self, role: &str, device: &Dut, arguments: Vec<String>) -> Checked<Side> {
        let devices = [device.name.clone()];
        let arguments: Vec<_> = ["--silence", SILENCE_S].map(str::to_owned).into_iter().chain(arguments).collect();
        let spec = SideSpec {
            name: "ours",
            folder: self.folder.path(),
            devices: Devices::Real(&devices),
            role,
            arguments: &arguments,
        };
        must("start our side", Side::start(&spec))
    }

    /// Our side, once it listens.
    pub(super) fn ours_listening(&self, device: &Dut, arguments: Vec<String>) -> Checked<Side> {
        let place = ["--socket".to_owned(), self.at("listening").display().to_string()];
        let mut target = self.ours("target", device, arguments.into_iter().chain(place).collect())?;
        self.wait("our side listens", || {
            ensure(target.is_busy(), || format!("our side ended at once: {}", target.said()))?;
            Ok(target.said().contains("listening"))
        })?;
        Ok(target)
    }

    /// When all waiting ends.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What is left until then.
    pub(super) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Waits until a QEMU's migration is over, and gives how it is.
    pub(super) fn over(&self, machine: &mut Machine) -> Checked<Migration> {
        let mut last = None;
        self.wait("QEMU's migration is over", || {
            let migration = must("query-migrate", machine.migration())?;
            let is_over = migration.is_over();
            last = Some(migration);
            Ok(is_over)
        })?;
        last.ok_or_else(|| failed("QEMU says nothing of its migration"))
    }

    /// Waits until a QEMU's migration is over, which must have been completed.
    pub(super) fn completed(&self, machine: &mut Machine) -> Checked {
        let migration = self.over(machine)?;
        ensure(migration.status == "completed", || format!("QEMU ended with {migration:?}: {}", machine.said()))
    }

    /// Waits until QEMU has put its device into these states, one after the other and the last of all.
    pub(super) fn ends_in(&self, machine: &mut Machine, states: &[&str]) -> Checked {
        let expected: Vec<String> = states.iter().map(|state| (*state).to_owned()).collect();
        self.device_is(machine, &expected.join(", "), |seen| seen.ends_with(&expected))
    }

    /// Waits until QEMU has put its device back, if it had done anything to it since it can be asked.
    pub(super) fn runs_on(&self, machine: &mut Machine) -> Checked {
        self.device_is(machine, "running", |seen| seen.last().is_none_or(|state| state == "running"))
    }

    fn device_is(&self, machine: &mut Machine, expected: &str, holds: impl Fn(&[String]) -> bool) -> Checked {
        let begin = Instant::now();
        loop {
            let found = must("the device's states", machine.device_states())?;
            let seen: Vec<String> = found.into_iter().map(|it| it.state).collect();
            if holds(&seen) {
                return Ok(());
            }
            ensure(begin.elapsed() < SETTLING, || {
                let (seen, said) = (seen.join(", "), machine.said());
                format!("what QEMU did to its device: expected {expected}, found {seen}; it says: {said}")
            })?;
            thread::sleep(POLL);
        }
    }

    /// Waits until the guest of a QEMU is in a state.
    pub(super) fn guest_is(&self, machine: &mut Machine, state: &str) -> Checked {
        let mut found = String::new();
        let waited = self.wait("QEMU's guest is where it belongs", || {
            found = must("query-status", machine.run_state())?;
            Ok(found == state)
        });
        waited.or_else(|_| expect("QEMU's guest", found.as_str(), state))
    }

    /// Waits until a condition holds, at most until the deadline.
    pub(super) fn wait(&self, what: &str, mut condition: impl FnMut() -> Checked<bool>) -> Checked {
        while !condition()? {
            if Instant::now() > self.deadline {
                return Err(failed(format!("waited in vain until {what}")));
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Draws the states that QEMU put its device into. Of the state so many bytes had moved before STOP_COPY, and in all.
    pub(super) fn draw(&self, machine: &mut Machine, role: &str, (early, all): (u64, u64)) -> Checked {
        let states = must("the device's states", machine.device_states())?;
        let timeline = self.ctx.timeline("");
        let mut states = states.into_iter().filter(|it| it.at_us >= self.begin_us).peekable();
        let begin_us = states.peek().map_or(0, |it| it.at_us);
        for it in states {
            let bytes = match it.state.as_str() {
                "stop-copy" => early,
                "stop" | "running-p2p" | "running" => all,
                _ => 0,
            };
            let after_us = u32::try_from(it.at_us.saturating_sub(begin_us)).unwrap_or(u32::MAX);
            let phase = it.state.to_uppercase().replace('-', "_");
            timeline.mark_at(f64::from(after_us) / 1e3, &format!("QEMU's device, {role}"), &phase, bytes);
        }
        Ok(())
    }
}
