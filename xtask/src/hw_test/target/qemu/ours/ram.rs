// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Guest memory between a stock QEMU and us, beside a device: what the target has must be what the source had when its guest stood still,
//! by what QEMU itself says of its memory.

use core::time::Duration;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::json;
use vfio_mig_fsm::State;

use super::super::super::super::contract::check::{Checked, ensure, failed, must};
use super::super::check::{all_in, over};
use super::super::rig::{Notes, Peers};
use super::super::scenario::{Role, Scenario};
use super::bench::Bench;
use super::from_us::{machine_with, status};
use crate::qemu::machine::{Extras, GuestMemory, Machine};
use crate::qemu::peer::outcome::Outcome;
use crate::qemu::peer::{contents, file_name, listening};
use crate::qemu::side::Side;
use crate::qemu::terms::Switchover;

const MIB: u32 = 64;
const RAM_BYTES: u64 = 64 << 20;
const PAGE_BYTES: u64 = 4096;
/// Where a PC has RAM and nothing else.
const STRETCHES: [(u64, u64); 2] = [(0, 0xa_0000), (1 << 20, RAM_BYTES - (1 << 20))];
const FIRMWARE_BYTES: usize = 64 << 10;

/// What is special about a migration of guest memory that changes while it moves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Case {
    /// Nothing.
    Plain,
    /// Every RAM section ends with a synchronisation point of all channels.
    FlushEachSection,
    /// A target with half of the memory has refused before.
    RefusedFirst,
}

/// Every case, with the number of multifd channels.
pub(super) const CASES: [(u8, Case); 5] =
    [(0, Case::Plain), (2, Case::Plain), (2, Case::FlushEachSection), (0, Case::RefusedFirst), (2, Case::RefusedFirst)];

impl Case {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "guest memory that changes",
            Self::FlushEachSection => "guest memory that changes, multifd-flush-after-each-section",
            Self::RefusedFirst => "guest memory, first to a target with half of it",
        }
    }

    const fn flushes(self) -> bool {
        matches!(self, Self::FlushEachSection)
    }
}

/// Out of QEMU into us.
pub(super) fn to_us(scenario: &Scenario, case: Case, peers: &Peers, limit: Duration, notes: &mut Notes) -> Checked {
    let bench = Bench::new(scenario, peers, limit)?;
    let result = load(&bench, case, notes);
    bench.conclude(result)
}

/// Out of us into QEMU.
pub(super) fn from_us(scenario: &Scenario, case: Case, peers: &Peers, limit: Duration, notes: &mut Notes) -> Checked {
    let bench = Bench::new(scenario, peers, limit)?;
    let result = save(&bench, case, notes);
    bench.conclude(result)
}

fn load(bench: &Bench<'_>, case: Case, notes: &mut Notes) -> Checked {
    let (firmware, content) = (firmware(bench)?, bench.at("content"));
    must("write what is in the source's memory", fill(&content))?;
    let memory = GuestMemory {
        mib: MIB,
        content: Some(&content),
        firmware: &firmware,
        is_paused: false,
        flush_each_section: case.flushes(),
    };
    let extras = Extras { memory: Some(memory), ..Extras::default() };
    let mut source = machine_with(extras, bench, "source", Role::Source, false)?;
    must("set up the source", bench.terms().set(&mut source))?;
    let (blocks, dump) = (ram_blocks(&mut source)?, dump_folder(bench)?);

    let heard = |number, blocks: &[(String, u64)]| {
        let socket = bench.at(&format!("listening-{number}"));
        let mut words = words(bench, &socket, &dump, case);
        words.extend(blocks.iter().flat_map(|(name, bytes)| ["--ram".to_owned(), format!("{name}={bytes}")]));
        (socket, words)
    };
    let (mut socket, first) = heard(1, &if case == Case::RefusedFirst { halved(&blocks) } else { blocks.clone() });
    let mut target = bench.side("target", Role::Target, &first)?;
    if case == Case::RefusedFirst {
        wait_listening(bench, &mut target, &socket)?;
        refuse(bench, &mut source, &mut target, &socket)?;
        let second = heard(2, &blocks);
        socket = second.0;
        must("tell our side", target.again(&second.1))?;
    }
    wait_listening(bench, &mut target, &socket)?;
    begin(&mut source, &socket)?;
    let outcome = must("our side", target.finish(bench.deadline))?;
    ensure(outcome.moved, || {
        let error = outcome.error.clone().unwrap_or_default();
        format!("our side: {error}; source: {}, {}", status(&mut source), source.said())
    })?;
    bench.wait("the source is done", || over(source.migration()))?;
    let migration = must("source", source.migration())?;
    ensure(migration.status == "completed", || format!("the source ended with {migration:?}"))?;
    let received = must("our side", target.device_log())?;
    ensure(all_in(&received, bench.scenario, State::Running)?, || format!("our devices do not run: {outcome:?}"))?;

    compare(bench, &mut source, &dump)?;
    let bios = must("read", fs::read(dump.join(file_name("pc.bios"))))?;
    ensure(bios == must("read", fs::read(&firmware))?, || "the firmware is not what the source ran".to_owned())?;
    moved_twice(&outcome, blocks.iter().map(|(_, bytes)| bytes).sum(), notes)
}

fn begin(source: &mut Machine, socket: &Path) -> Checked {
    must("set parameters", source.execute("migrate-set-parameters", Switchover::AfterMemory.parameters()))?;
    must("begin", source.migrate(&format!("unix:{}", socket.display())))
}

fn wait_listening(bench: &Bench<'_>, target: &mut Side, socket: &Path) -> Checked {
    bench.wait("our side listens", || {
        ensure(target.is_busy(), || format!("our side ended at once: {}", target.said()))?;
        Ok(target.said().contains(&listening(socket)))
    })
}

/// The same blocks, but only half of the guest's RAM.
fn halved(blocks: &[(String, u64)]) -> Vec<(String, u64)> {
    let halve =
        |(name, bytes): &(String, u64)| (name.clone(), if name == "pc.ram" { bytes.div_euclid(2) } else { *bytes });
    blocks.iter().map(halve).collect()
}

/// Our side has too little memory: it says how much, writes nothing, and the source's guest runs on.
fn refuse(bench: &Bench<'_>, source: &mut Machine, target: &mut Side, socket: &Path) -> Checked {
    begin(source, socket)?;
    let outcome = must("our side", target.finish(bench.deadline))?;
    let error = outcome.error.unwrap_or_default();
    let expected = format!("RAM block 'pc.ram' has {RAM_BYTES} bytes there and {} here", RAM_BYTES / 2);
    ensure(!outcome.moved && error.contains(&expected), || format!("our side should have refused: '{error}'"))?;
    let half = must("our memory", fs::read(bench.at("dump").join("pc.ram")))?;
    ensure(half.iter().all(|byte| *byte == 0), || "something was written before it was refused".to_owned())?;
    bench.wait("the source gives up", || over(source.migration()))?;
    bench.wait("the source's guest runs on", || Ok(must("source", source.run_state())? == "running"))
}

fn save(bench: &Bench<'_>, case: Case, notes: &mut Notes) -> Checked {
    let (firmware, recording) = (firmware(bench)?, bench.at("recording"));
    let memory = GuestMemory {
        mib: MIB,
        content: None,
        firmware: &firmware,
        is_paused: false,
        flush_each_section: case.flushes(),
    };
    let extras = Extras { memory: Some(memory), ..Extras::default() };
    let mut recorder = machine_with(extras, bench, "recorder", Role::Source, false)?;
    must("set parameters", recorder.execute("migrate-set-parameters", Switchover::Soon.parameters()))?;
    must("record", recorder.migrate(&format!("file:{}", recording.display())))?;
    bench.wait("the recording is whole", || over(recorder.migration()))?;
    let blocks = ram_blocks(&mut recorder)?;
    drop(recorder);

    let dump = dump_folder(bench)?;
    let memory = GuestMemory { is_paused: true, ..memory };
    let told = |socket: &Path| {
        let mut words = words(bench, socket, &dump, case);
        words.extend(["--recording".to_owned(), recording.display().to_string(), "--memory".into(), "5".into()]);
        words
    };
    let (mut target, mut source);
    if case == Case::RefusedFirst {
        let (small, socket) = waiting(bench, 1, GuestMemory { mib: MIB / 2, ..memory })?;
        source = bench.side("source", Role::OurSource, &told(&socket))?;
        refused(bench, small, &mut source)?;
        let (whole, socket) = waiting(bench, 2, memory)?;
        must("tell our side", source.again(&told(&socket)))?;
        target = whole;
    } else {
        let (whole, socket) = waiting(bench, 1, memory)?;
        source = bench.side("source", Role::OurSource, &told(&socket))?;
        target = whole;
    }
    let outcome = must("our side", source.finish(bench.deadline))?;
    ensure(outcome.moved, || {
        let error = outcome.error.clone().unwrap_or_default();
        format!("our side: {error}; target: {}, {}", status(&mut target), target.said())
    })?;
    bench.wait("the target is done", || over(target.migration()))?;
    let migration = must("target", target.migration())?;
    ensure(migration.status == "completed", || format!("the target ended with {migration:?}, {}", target.said()))?;
    let sent = must("our side", source.device_log())?;
    ensure(all_in(&sent, bench.scenario, State::Stop)?, || format!("our devices are not at rest: {outcome:?}"))?;

    compare(bench, &mut target, &dump)?;
    moved_twice(&outcome, blocks.iter().map(|(_, bytes)| bytes).sum(), notes)
}

/// A QEMU that waits for a migration, and where.
fn waiting(bench: &Bench<'_>, number: u32, memory: GuestMemory<'_>) -> Checked<(Machine, PathBuf)> {
    let (extras, name) = (Extras { memory: Some(memory), ..Extras::default() }, format!("target-{number}"));
    let mut target = machine_with(extras, bench, &name, Role::Target, true)?;
    must("set up the target", bench.terms().set(&mut target))?;
    let socket = bench.at(&format!("listening-{number}"));
    let arguments = json!({ "uri": format!("unix:{}", socket.display()), "exit-on-error": false });
    must("listen", target.execute("migrate-incoming", arguments))?;
    Ok((target, socket))
}

/// The QEMU has too little memory and says so; our devices run on.
fn refused(bench: &Bench<'_>, mut target: Machine, source: &mut Side) -> Checked {
    let outcome = must("our side", source.finish(bench.deadline))?;
    let error = outcome.error.clone().unwrap_or_default();
    ensure(!outcome.moved && !outcome.committed, || format!("the target should have refused: {outcome:?}"))?;
    ensure(error.contains("the target gave up"), || format!("our side does not say so: '{error}'"))?;
    bench.wait("the target gives up", || over(target.migration()))?;
    let why = target.said();
    ensure(why.contains("pc.ram"), || format!("the target failed for another reason: {why}"))?;
    let log = must("our side", source.device_log())?;
    ensure(all_in(&log, bench.scenario, State::Running)?, || format!("our devices do not run on: {outcome:?}"))
}

/// What our side is told.
fn words(bench: &Bench<'_>, socket: &Path, dump: &Path, case: Case) -> Vec<String> {
    let mut words = bench.terms().arguments();
    for (option, path) in [("--socket", socket), ("--dump", dump)] {
        words.extend([option.to_owned(), path.display().to_string()]);
    }
    if case.flushes() {
        words.push("--flush-each-section".into());
    }
    words
}

fn dump_folder(bench: &Bench<'_>) -> Checked<PathBuf> {
    let dump = bench.at("dump");
    must("create a folder", fs::create_dir(&dump))?;
    Ok(dump)
}

/// What the source has in its memory from 1 MiB on.
fn fill(path: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = File::create(path).map_err(failed)?;
    let [_, (_, length)] = STRETCHES;
    file.set_len(length).map_err(failed)?;
    contents(9, length, |offset, page| file.write_all_at(page, offset).map_err(failed))
}

/// What the guest's processor runs from reset on: a loop that counts in the first word of 128 pages from 64 KiB on.
fn firmware(bench: &Bench<'_>) -> Checked<PathBuf> {
    let mut image = vec![0x90; FIRMWARE_BYTES];
    let program: &[u8] = &[
        0xb8, 0x00, 0x10, // mov ax, 0x1000
        0x8e, 0xd8, // next: mov ds, ax
        0xff, 0x06, 0x00, 0x00, // inc word [0]
        0x05, 0x00, 0x01, // add ax, 0x100
        0x3d, 0x00, 0x90, // cmp ax, 0x9000
        0x75, 0xf2, // jne next
        0xeb, 0xed, // and again
    ];
    // The first instruction stands 16 bytes before the end: a jump to the program, 256 bytes before it.
    let places = [(FIRMWARE_BYTES - 0x100, program), (FIRMWARE_BYTES - 16, &[0xe9, 0x0d, 0xff][..])];
    for (start, bytes) in places {
        image.iter_mut().skip(start).zip(bytes).for_each(|(place, byte)| *place = *byte);
    }
    let path = bench.at("firmware");
    must("write the firmware", fs::write(&path, image))?;
    Ok(path)
}

/// The machine's RAM blocks and their lengths, as `info ramblock` lists them.
fn ram_blocks(machine: &mut Machine) -> Checked<Vec<(String, u64)>> {
    let answer = machine.execute("human-monitor-command", json!({ "command-line": "info ramblock" }));
    let answer = must("list RAM blocks", answer)?;
    let blocks = read_blocks(answer.as_str().unwrap_or_default());
    ensure(blocks.iter().any(|(name, bytes)| name == "pc.ram" && *bytes == RAM_BYTES), || {
        format!("no pc.ram of {MIB} MiB in what QEMU lists: {answer}")
    })?;
    Ok(blocks)
}

/// Name, page size of two words, offset, used length, length, address, access.
fn read_blocks(listing: &str) -> Vec<(String, u64)> {
    let read = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let used = words.get(4)?.strip_prefix("0x")?;
        Some(((*words.first()?).to_owned(), u64::from_str_radix(used, 16).ok()?))
    };
    listing.lines().filter_map(read).collect()
}

/// What QEMU says of its RAM must be what our side has.
fn compare(bench: &Bench<'_>, machine: &mut Machine, dump: &Path) -> Checked {
    let ours = must("our memory", fs::read(dump.join("pc.ram")))?;
    for (start, length) in STRETCHES {
        let path = bench.at(&format!("qemu-{start:x}"));
        let arguments = json!({ "val": start, "size": length, "filename": path.display().to_string() });
        must("pmemsave", machine.execute("pmemsave", arguments))?;
        let theirs = must("what pmemsave wrote", fs::read(&path))?;
        must("remove", fs::remove_file(&path))?;
        let here = range(&ours, start, length);
        ensure(here.len() == theirs.len(), || format!("{} bytes at {start:#x}, here {}", theirs.len(), here.len()))?;
        let page_len = usize::try_from(PAGE_BYTES).unwrap_or(1);
        let differing = here.chunks(page_len).zip(theirs.chunks(page_len)).position(|(here, there)| here != there);
        if let Some(page) = differing.and_then(|page| u64::try_from(page).ok()) {
            let at = start.saturating_add(page.saturating_mul(PAGE_BYTES));
            return Err(failed(format!("memory differs from {at:#x} on")));
        }
        ensure(theirs.iter().any(|byte| *byte != 0), || format!("nothing but zeros from {start:#x} on"))?;
    }
    Ok(())
}

fn range(bytes: &[u8], start: u64, length: u64) -> &[u8] {
    let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
    bytes.get(place(start)..place(start.saturating_add(length))).unwrap_or_default()
}

/// The guest wrote while its memory moved: some pages must have moved twice.
fn moved_twice(outcome: &Outcome, ram_bytes: u64, notes: &mut Notes) -> Checked {
    let once = ram_bytes.div_euclid(PAGE_BYTES);
    ensure(outcome.pages > once, || format!("{} pages moved, there are {once}: none changed", outcome.pages))?;
    let changed = outcome.pages.saturating_sub(once);
    notes.details.push(format!("{once} pages of guest memory; {changed} moved again because they changed"));
    Ok(())
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_monitors_list_of_blocks_is_read() {
        let listing = "              Block Name    PSize              Offset               Used              Total                HVA  RO\r\n\
                                     pc.ram    4 KiB  0x0000000000000000 0x0000000004000000 0x0000000004000000 0x00007f0000000000  rw\r\n\
                       /rom@etc/acpi/tables    4 KiB  0x0000000004060000 0x0000000000020000 0x0000000000200000 0x00007f0000000000  ro\r\n";
        assert_eq!(read_blocks(listing), [("pc.ram".into(), 64 << 20), ("/rom@etc/acpi/tables".into(), 0x2_0000)]);
    }
}
