// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stock QEMU, told to go as fast as it can.

use core::time::Duration;
use std::thread;
use std::time::Instant;

use serde_json::json;

use super::cost::{Usage, Work};
use super::{Emulator, log, process};
use crate::bench::Setting;
use crate::cache::Cache;
use crate::qemu::devices::Devices;
use crate::qemu::machine::{Machine, MachineError, Spec};
use crate::vm::{self, Freshness, Qemu, Series};

const LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(5);

/// What the device state goes over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::bench) enum Wiring {
    /// The main connection, between everything else.
    Main,
    /// Multifd channels of their own, as many as the work has channels.
    Multifd,
}

/// All that can be had. Provisioned first and then held, for what is held keeps the cache from being added to.
pub(in crate::bench) fn emulators(setting: &Setting) -> Vec<Emulator> {
    for series in Series::ALL {
        if let Err(error) = find(setting, series) {
            let (major, minor) = series.wanted();
            eprintln!("QEMU {major}.{minor} is left out: {error}");
        }
    }
    Series::ALL.into_iter().filter_map(|series| find(setting, series).ok()).collect()
}

fn find(setting: &Setting, series: Series) -> Result<Emulator, String> {
    let cache = Cache::open(setting.cache.as_deref()).map_err(|error| error.to_string())?;
    let found =
        vm::provision_qemu(&cache, series, Freshness::Cached, &mut |_| ()).map_err(|error| error.to_string())?;
    if found.qemu.is(series) {
        Ok(Emulator { series, found })
    } else {
        Err(format!("there is only {}", found.qemu.version))
    }
}

/// One channel is the main connection's case.
pub(super) fn wirings(work: &Work) -> Vec<Wiring> {
    if work.channels > 1 { vec![Wiring::Multifd] } else { vec![Wiring::Main] }
}

pub(in crate::bench) fn name(series: Series, wiring: Wiring) -> &'static str {
    match (series, wiring) {
        (Series::V10_0, Wiring::Main) => "QEMU 10.0",
        (Series::V10_0, Wiring::Multifd) => "QEMU 10.0 multifd",
        (Series::V11_1, Wiring::Main) => "QEMU 11.1",
        (Series::V11_1, Wiring::Multifd) => "QEMU 11.1 multifd",
    }
}

pub(super) fn measure(work: &Work, qemu: &Qemu, wiring: Wiring) -> Result<[f64; 3], String> {
    let folder = work.run_folder()?;
    let start = |name: &str, first_seed: usize, is_target: bool| {
        let devices = work.soft_devices(first_seed);
        let devices = Devices::Soft { library: &work.library, devices: &devices };
        let spec = Spec { name, folder: folder.path(), devices, is_target };
        Machine::start(qemu, &spec)
    };
    let run = || -> Result<Usage, MachineError> {
        let (mut target, mut source) = (start("target", 1, true)?, start("source", 101, false)?);
        for machine in [&mut target, &mut source] {
            prepare(machine, work.channels, wiring)?;
        }
        let listen = json!({ "uri": "tcp:127.0.0.1:0", "exit-on-error": false });
        target.execute("migrate-incoming", listen)?;
        let port = target.incoming_port()?.unwrap_or_default();
        let both = [target.process(), source.process()];
        let before = both.map(process::processor);
        source.execute("migrate", json!({ "uri": format!("tcp:127.0.0.1:{port}") }))?;
        wait(&mut source, || ())?;
        wait(&mut target, || ())?;
        let used = both.map(process::processor).into_iter().zip(before);
        let processor = used.map(|(after, before)| after.saturating_sub(before)).sum();
        Ok(Usage { processor, target_peak_bytes: process::peak_bytes(target.process()).unwrap_or(0) })
    };
    let usage = run().map_err(|error| error.to_string())?;
    work.cost(&log(folder.path(), "source"), &log(folder.path(), "target"), &usage)
}

/// For a migration as fast as it can be.
pub(in crate::bench) fn prepare(machine: &mut Machine, channels: usize, wiring: Wiring) -> Result<(), MachineError> {
    let mut capabilities = vec!["return-path"];
    if wiring == Wiring::Multifd {
        capabilities.push("multifd");
    }
    machine.enable(&capabilities)?;
    // No limit, and no waiting for a bandwidth estimate: what is compared is how fast it moves bytes.
    let mut parameters = json!({
        "downtime-limit": 60_000,
        "avail-switchover-bandwidth": 1_000_000_000_000_u64,
        "max-bandwidth": 1_u64 << 40,
    });
    if let (Wiring::Multifd, Some(parameters)) = (wiring, parameters.as_object_mut()) {
        parameters.insert("multifd-channels".into(), channels.into());
    }
    machine.execute("migrate-set-parameters", parameters).map(drop)
}

/// Until the migration is completed; `look` is called again and again meanwhile.
pub(in crate::bench) fn wait(machine: &mut Machine, mut look: impl FnMut()) -> Result<(), MachineError> {
    let begin = Instant::now();
    loop {
        look();
        let migration = machine.migration()?;
        if migration.status == "completed" {
            return Ok(());
        }
        if migration.is_over() || begin.elapsed() > LIMIT {
            return Err(machine.unfinished(&migration));
        }
        thread::sleep(POLL);
    }
}
