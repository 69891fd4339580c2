// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stock QEMU with the same file as its guest's memory, told to go as fast as it can.

use core::time::Duration;
use std::path::Path;

use serde_json::{Value, json};

use super::CHANNELS;
use super::work::{Over, Work};
use crate::bench::peers::cost::Usage;
use crate::bench::peers::process;
use crate::bench::peers::stock::{Wiring, prepare, wait};
use crate::qemu::devices::Devices;
use crate::qemu::machine::{Extras, Machine, MachineError, Spec};
use crate::vm::Qemu;

pub(super) fn measure(work: &Work, qemu: &Qemu) -> Result<[f64; 3], String> {
    let (folder, target_memory) = work.run_folder()?;
    let start = |name: &str, memory: &Path, is_target: bool| {
        let spec = Spec { name, folder: folder.path(), devices: Devices::Real(&[]), is_target };
        let extras = Extras { memory: Some((memory, work.bytes)), ..Extras::default() };
        Machine::start_with(extras, qemu, &spec)
    };
    let run = || -> Result<(Option<u64>, Usage), MachineError> {
        let mut target = start("target", &target_memory, true)?;
        let mut source = start("source", &work.source, false)?;
        for machine in [&mut target, &mut source] {
            prepare(machine, CHANNELS, Wiring::Multifd)?;
        }
        let socket = format!("unix:{}", folder.path().join("incoming.sock").display());
        let listen = if work.over == Over::Tcp { "tcp:127.0.0.1:0" } else { socket.as_str() };
        target.execute("migrate-incoming", json!({ "uri": listen, "exit-on-error": false }))?;
        let to = match work.over {
            Over::Tcp => format!("tcp:127.0.0.1:{}", target.incoming_port()?.unwrap_or_default()),
            Over::Unix => socket,
        };
        let both = [target.process(), source.process()];
        let before = both.map(process::processor);
        let mut peak_bytes = 0;
        source.execute("migrate", json!({ "uri": to }))?;
        wait(&mut source, || peak_bytes = process::own_bytes(target.process()).unwrap_or(0).max(peak_bytes))?;
        wait(&mut target, || ())?;
        let used = both.map(process::processor).into_iter().zip(before);
        let processor = used.map(|(after, before)| after.saturating_sub(before)).sum();
        let answer = source.execute("query-migrate", json!({}))?;
        let took_ms = answer.get("total-time").and_then(Value::as_u64);
        Ok((took_ms, Usage { processor, target_peak_bytes: peak_bytes }))
    };
    let (took_ms, usage) = run().map_err(|error| error.to_string())?;
    let took_ms = took_ms.ok_or("QEMU does not say how long it took")?;
    work.cost(&target_memory, Duration::from_millis(took_ms).as_secs_f64(), &usage)
}
