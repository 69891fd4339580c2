// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! DMA of devices that tests can program: what they write is reported, and they stop when they must.
//!
//! Only simulated plain devices are known that well. What they write follows from their seed and the number of the write, so
//! memory itself shows whether one was lost.

use core::time::Duration;
use std::os::fd::OwnedFd;
use std::time::Instant;

use savevm_core::sim::{Dma, dma_write};
use vfio_mig_fsm::State;
use vfio_uapi::contract::Memory;
use vfio_uapi::open::{AfterRead, Container, HwptFlags, Iommufd, TrackedHwpt};
use vfio_uapi::{Device, DeviceState, DirtyBitmap, DmaRange};

use super::address_space::{by_cdev, by_group, is_emulated};
use super::check::{Checked, ensure, expect, failed, must};
use super::context::Ctx;
use super::dut::Dut;
use super::{Need, Test, test};
use crate::hw_test::event::Group;

const PAGE: u64 = 4096;
/// Above what any IOMMU reserves at the bottom.
const START: u64 = 1 << 24;
const PAGES: u64 = 1024;
const LENGTH: u64 = PAGES * PAGE;
const WINDOW: [u64; 2] = [START, LENGTH];
/// How long a device that writes is left alone between two looks.
const PAUSE: Duration = Duration::from_millis(10);
/// How long a device may take to begin.
const PATIENCE: Duration = Duration::from_secs(5);

const BAR0: u32 = 0;
const SEED: u64 = 0x00;
const BASE: u64 = 0x80;
const CONTROL: u64 = 0x90;
const WRITES: u64 = 0x98;
const FAULTS: u64 = 0xa0;
const SENT: u64 = 0xa8;
const ARRIVED: u64 = 0xb0;
const ARRIVED_STOPPED: u64 = 0xc0;
const WRITE_BYTES: u64 = 0xc8;

/// The tests of this group.
pub(super) const TESTS: &[Test] = &[
    test(Group::Dma, "the device's own log has what it writes", &[Need::Dma, Need::DmaLogging], own_log),
    test(Group::Dma, "the page table it is attached to has what it writes", &[Need::Dma, Need::ByCdev], page_table),
    test(Group::Dma, "its container has what it writes", &[Need::Dma, Need::ByGroup], container),
    test(Group::Dma, "nothing is written after STOP", &[Need::Dma], stopped),
    test(Group::Dma, "nothing is written after RESET", &[Need::Dma], reset),
    test(Group::Dma, "what is unmapped is written no more", &[Need::Dma], unmapped),
    test(Group::Dma, "a write of registers waits for writes to memory", &[Need::Dma], reprogrammed),
    test(Group::Dma, "the P2P barrier holds", &[Need::Dma, Need::P2p, Need::SecondDevice], barrier),
    test(Group::Dma, "a resumed device goes on where it was", &[Need::Dma, Need::SecondDevice], resumed),
];

/// Whether tests know how to make `dut` write.
pub(super) fn is_known(dut: &Dut) -> Checked<bool> {
    if dut.profile.registers != super::Registers::Digest {
        return Ok(false);
    }
    let device = dut.device()?;
    let bar = must("REGION_INFO of BAR0", device.region_info(BAR0))?;
    Ok(bar.size > WRITE_BYTES.saturating_add(8) && register(device, WRITE_BYTES)? > 0)
}

fn register(device: &Device<OwnedFd>, offset: u64) -> Checked<u64> {
    let bar = must("REGION_INFO of BAR0", device.region_info(BAR0))?;
    let mut value = [0; 8];
    must(&format!("read of the register at {offset:#x}"), device.region_read(&bar, offset, &mut value))?;
    Ok(u64::from_le_bytes(value))
}

/// Has the device do what `control` says.
fn program(device: &Device<OwnedFd>, [base, bytes]: [u64; 2], control: u64) -> Checked {
    let bar = must("REGION_INFO of BAR0", device.region_info(BAR0))?;
    let window: Vec<u8> = [base, bytes].into_iter().flat_map(u64::to_le_bytes).collect();
    must("write of the window", device.region_write(&bar, BASE, &window))?;
    must("write of the control register", device.region_write(&bar, CONTROL, &control.to_le_bytes()))
}

fn set(device: &Device<OwnedFd>, state: State) -> Checked {
    let state = DeviceState::from_raw(state.raw());
    must("SET", device.set_device_state(state)).map(|_| ())
}

/// Waits until the register at `offset` is above `least`.
fn wait_above(device: &Device<OwnedFd>, offset: u64, least: u64) -> Checked<u64> {
    let begin = Instant::now();
    loop {
        let found = register(device, offset)?;
        if found > least {
            return Ok(found);
        }
        ensure(begin.elapsed() < PATIENCE, || format!("the register at {offset:#x} stays at {found}"))?;
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The address space the device is in.
enum Space<'a> {
    Container(&'a Container<OwnedFd>),
    Iommufd(&'a Iommufd<OwnedFd>, &'a vfio_uapi::open::Ioas),
}

impl Space<'_> {
    fn map(&self, memory: &Memory, iova: u64) -> Checked {
        match self {
            Self::Container(container) => must("MAP_DMA", memory.map_dma(container, iova)),
            Self::Iommufd(iommufd, ioas) => must("IOAS_MAP", memory.map(iommufd, ioas, iova)),
        }
    }

    fn unmap(&self, iova: u64, length: u64) -> Checked {
        let unmapped = match self {
            Self::Container(container) => must("UNMAP_DMA", container.unmap_dma(iova, length))?,
            Self::Iommufd(iommufd, ioas) => must("IOAS_UNMAP", iommufd.unmap(ioas, iova, length))?,
        };
        expect("unmapped bytes", unmapped, length)
    }
}

/// Does `work` with the device opened anew, in an address space of its own.
fn opened(ctx: &mut Ctx, work: impl FnOnce(&Ctx, &Device<OwnedFd>, &Space<'_>) -> Checked) -> Checked {
    if ctx.first.access() == super::Access::Group {
        by_group(ctx, |ctx, opened| work(ctx, &opened.device, &Space::Container(&opened.container)))
    } else {
        by_cdev(ctx, |ctx, opened| work(ctx, &opened.device, &Space::Iommufd(&opened.iommufd, &opened.ioas)))
    }
}

fn snapshot(memory: &Memory) -> Checked<Vec<u8>> {
    must("reading memory", memory.snapshot())
}

/// What the window holds after all that the device says it has written.
fn expected(device: &Device<OwnedFd>, bytes: usize) -> Checked<Vec<u8>> {
    let (seed, writes) = (register(device, SEED)?, register(device, WRITES)?);
    let write_bytes = usize::try_from(register(device, WRITE_BYTES)?).map_err(|_| failed("writes are too large"))?;
    let (mut memory, mut data) = (vec![0; bytes], vec![0; write_bytes]);
    let window = u64::try_from(bytes).unwrap_or(u64::MAX);
    for number in 0..writes {
        let at = usize::try_from(dma_write(seed, window, number, &mut data)).unwrap_or(usize::MAX);
        for (to, from) in memory.iter_mut().skip(at).zip(&data) {
            *to = *from;
        }
    }
    Ok(memory)
}

/// Copies the pages that are dirty in `bitmap` from `memory`, as a migration does.
fn copy(bitmap: &DirtyBitmap, memory: &[u8], copied: &mut [u8]) {
    for range in bitmap.dirty_ranges() {
        let from = usize::try_from(range.iova.saturating_sub(START)).unwrap_or(usize::MAX);
        let to = from.saturating_add(usize::try_from(range.length).unwrap_or(usize::MAX));
        if let (Some(to), Some(from)) = (copied.get_mut(from..to), memory.get(from..to)) {
            to.copy_from_slice(from);
        }
    }
}

/// Has the device write while pages are copied by what `read` reports, stops it, and compares. `exact`: something is clean
/// in each report, as the device is slow.
fn follow(
    ctx: &Ctx,
    device: &Device<OwnedFd>,
    memory: &Memory,
    exact: bool,
    mut read: impl FnMut(&mut DirtyBitmap) -> Checked,
) -> Checked {
    let mut bitmap = must("a bitmap", DirtyBitmap::new(DmaRange { iova: START, length: LENGTH }, PAGE))?;
    let mut copied = snapshot(memory)?;
    let mut pages = 0;
    program(device, WINDOW, Dma::MEMORY)?;
    for round in 0..8 {
        // What was under way at the last report may be in it already; what begins after that is not.
        let under_way = register(device, WRITES)?;
        let begun = wait_above(device, WRITES, under_way)?;
        wait_above(device, WRITES, begun)?;
        read(&mut bitmap)?;
        ensure(!exact || bitmap.dirty_pages() < PAGES, || format!("round {round}: everything is dirty"))?;
        ensure(!bitmap.is_clean(), || format!("round {round}: nothing is dirty"))?;
        pages = bitmap.dirty_pages().saturating_add(pages);
        copy(&bitmap, &snapshot(memory)?, &mut copied);
    }
    set(device, State::Stop)?;
    read(&mut bitmap)?;
    copy(&bitmap, &snapshot(memory)?, &mut copied);
    let found = snapshot(memory)?;
    same("pages copied by the reports", &copied, &found)?;
    same("memory after all the device's writes", &expected(device, found.len())?, &found)?;
    expect("refused writes", register(device, FAULTS)?, 0)?;
    if exact {
        read(&mut bitmap)?;
        ensure(bitmap.is_clean(), || "pages get dirty after STOP".into())?;
    }
    ctx.note(format!("{} writes, {pages} pages copied in eight rounds", register(device, WRITES)?));
    Ok(())
}

/// Where `left` and `right` first differ, in pages.
fn same(what: &str, left: &[u8], right: &[u8]) -> Checked {
    let page = usize::try_from(PAGE).unwrap_or(1);
    let differing = left.chunks(page).zip(right.chunks(page)).filter(|(left, right)| left != right).count();
    ensure(left.len() == right.len() && differing == 0, || format!("{what}: {differing} pages differ from memory"))
}

fn own_log(ctx: &mut Ctx) -> Checked {
    opened(ctx, |ctx, device, space| {
        let memory = Memory::new(LENGTH);
        space.map(&memory, START)?;
        let range = DmaRange { iova: START, length: LENGTH };
        let page_size = must("DMA_LOGGING_START", device.dma_logging_start(PAGE, &[range]))?;
        ctx.note(format!("logged in pages of {page_size} bytes"));
        let read = |bitmap: &mut DirtyBitmap| must("DMA_LOGGING_REPORT", device.dma_logging_report(bitmap));
        follow(ctx, device, &memory, page_size == PAGE, read)?;
        must("DMA_LOGGING_STOP", device.dma_logging_stop())
    })
}

fn page_table(ctx: &mut Ctx) -> Checked {
    by_cdev(ctx, |ctx, opened| {
        if is_emulated(ctx) {
            ctx.note("no IOMMU behind this device");
            return Ok(());
        }
        let (iommufd, device) = (&opened.iommufd, &opened.device);
        let alloc = iommufd.alloc_hwpt(opened.id, &opened.ioas, HwptFlags::DIRTY_TRACKING);
        let hwpt = must("HWPT_ALLOC", alloc)?;
        must("ATTACH", device.attach(hwpt.id()))?;
        let memory = Memory::new(LENGTH);
        must("IOAS_MAP", memory.map(iommufd, &opened.ioas, START))?;
        let tracked: TrackedHwpt = must("SET_DIRTY_TRACKING", iommufd.start_dirty_tracking(hwpt))?;
        let read = |bitmap: &mut DirtyBitmap| {
            must("GET_DIRTY_BITMAP", iommufd.dirty_bitmap(&tracked, AfterRead::Clear, bitmap))
        };
        follow(ctx, device, &memory, true, read)
    })
}

fn container(ctx: &mut Ctx) -> Checked {
    by_group(ctx, |ctx, opened| {
        let memory = Memory::new(LENGTH);
        must("MAP_DMA", memory.map_dma(&opened.container, START))?;
        must("START", opened.container.start_dirty_pages())?;
        // Beside a device that cannot say what it wrote all that is mapped is dirty.
        let exact = is_emulated(ctx);
        let read = |bitmap: &mut DirtyBitmap| must("GET_BITMAP", opened.container.dirty_pages(bitmap));
        follow(ctx, &opened.device, &memory, exact, read)
    })
}

/// Nothing changes from now on: neither memory nor the device's account.
fn expect_still(device: &Device<OwnedFd>, memory: &Memory) -> Checked {
    let (before, writes) = (snapshot(memory)?, register(device, WRITES)?);
    std::thread::sleep(PAUSE.saturating_mul(2));
    same("memory of a device that must not write", &before, &snapshot(memory)?)?;
    expect("its writes", register(device, WRITES)?, writes)
}

fn stopped(ctx: &mut Ctx) -> Checked {
    opened(ctx, |ctx, device, space| {
        let memory = Memory::new(LENGTH);
        space.map(&memory, START)?;
        program(device, WINDOW, Dma::MEMORY)?;
        for state in ctx.first.states() {
            if matches!(state, State::Running | State::Resuming)
                || matches!(state, State::RunningP2p | State::PreCopyP2p)
            {
                continue;
            }
            let writes = register(device, WRITES)?;
            wait_above(device, WRITES, writes)?;
            if state == State::PreCopy {
                set(device, state)?;
                let writes = register(device, WRITES)?;
                wait_above(device, WRITES, writes)?;
            } else {
                set(device, state)?;
                expect_still(device, &memory)?;
                let found = snapshot(&memory)?;
                same("memory after all the device's writes", &expected(device, found.len())?, &found)?;
            }
            set(device, State::Running)?;
        }
        let writes = register(device, WRITES)?;
        wait_above(device, WRITES, writes)?;
        program(device, WINDOW, 0)?;
        expect_still(device, &memory)
    })
}

fn reset(ctx: &mut Ctx) -> Checked {
    opened(ctx, |_, device, space| {
        let memory = Memory::new(LENGTH);
        space.map(&memory, START)?;
        program(device, WINDOW, Dma::MEMORY)?;
        wait_above(device, WRITES, 0)?;
        must("RESET", device.reset())?;
        expect_still(device, &memory)?;
        expect("control", register(device, CONTROL)?, 0)
    })
}

fn unmapped(ctx: &mut Ctx) -> Checked {
    opened(ctx, |_, device, space| {
        let (kept, taken) = (Memory::new(LENGTH / 2), Memory::new(LENGTH / 2));
        space.map(&kept, START)?;
        space.map(&taken, START + LENGTH / 2)?;
        program(device, WINDOW, Dma::MEMORY)?;
        wait_above(device, WRITES, 100)?;
        expect("refused writes", register(device, FAULTS)?, 0)?;
        space.unmap(START + LENGTH / 2, LENGTH / 2)?;
        let (before, others) = (snapshot(&taken)?, snapshot(&kept)?);
        ensure(before.iter().any(|byte| *byte != 0), || "nothing was written before".into())?;
        let writes = register(device, WRITES)?;
        wait_above(device, WRITES, writes.saturating_add(100))?;
        same("memory that is not mapped any more", &before, &snapshot(&taken)?)?;
        ensure(snapshot(&kept)? != others, || "what is mapped is not written either".into())?;
        ensure(register(device, FAULTS)? > 0, || "no write was refused".into())?;
        program(device, WINDOW, 0)
    })
}

fn reprogrammed(ctx: &mut Ctx) -> Checked {
    opened(ctx, |_, device, space| {
        let memory = Memory::new(LENGTH);
        space.map(&memory, START)?;
        for _ in 0..20 {
            program(device, WINDOW, Dma::MEMORY)?;
            wait_above(device, WRITES, 0)?;
            program(device, [START, PAGE], 0)?;
            let before = snapshot(&memory)?;
            let writes = register(device, WRITES)?;
            std::thread::sleep(Duration::from_millis(3));
            same("memory of a device that was told to stop", &before, &snapshot(&memory)?)?;
            expect("its writes", register(device, WRITES)?, writes)?;
        }
        Ok(())
    })
}

fn barrier(ctx: &mut Ctx) -> Checked {
    let (first, second) = (&ctx.first, ctx.target());
    second.reset()?;
    let (a, b) = (first.device()?, second.device()?);
    // Numbers of earlier tests may be there.
    let begun = [register(a, SENT)?, register(b, ARRIVED)?, register(b, SENT)?, register(a, ARRIVED)?];
    for device in [a, b] {
        program(device, WINDOW, Dma::MEMORY | Dma::PEER)?;
    }
    let [_, b_arrived, _, a_arrived] = begun;
    if wait_above(b, ARRIVED, b_arrived.saturating_add(2)).is_err() {
        return Err(super::check::skipped("the devices do not reach each other"));
    }
    wait_above(a, ARRIVED, a_arrived.saturating_add(2))?;
    let lost = [register(a, ARRIVED_STOPPED)?, register(b, ARRIVED_STOPPED)?];
    // The first keeps still, and yet takes what comes.
    set(a, State::RunningP2p)?;
    let (sent, arrived) = (register(a, SENT)?, register(a, ARRIVED)?);
    wait_above(a, ARRIVED, arrived.saturating_add(2))?;
    expect("numbers sent in RUNNING_P2P", register(a, SENT)?, sent)?;
    set(b, State::RunningP2p)?;
    let account = || -> Checked<[u64; 4]> {
        Ok([register(a, SENT)?, register(b, ARRIVED)?, register(b, SENT)?, register(a, ARRIVED)?])
    };
    let quiet = account()?;
    std::thread::sleep(PAUSE);
    expect("numbers behind the barrier", account()?, quiet)?;
    let since = |index: usize| quiet.get(index).zip(begun.get(index)).map(|(now, then)| now.saturating_sub(*then));
    expect("numbers that arrived from the first", since(1), since(0))?;
    expect("numbers that arrived from the second", since(3), since(2))?;
    for device in [a, b] {
        set(device, State::Stop)?;
    }
    for state in [State::RunningP2p, State::Running] {
        for device in [a, b] {
            set(device, state)?;
        }
    }
    wait_above(b, ARRIVED, register(b, ARRIVED)?)?;
    let found = [register(a, ARRIVED_STOPPED)?, register(b, ARRIVED_STOPPED)?];
    expect("numbers lost by stopped devices", found, lost)?;
    // Without the barrier they would be.
    set(a, State::Stop)?;
    let [lost, _] = lost;
    wait_above(a, ARRIVED_STOPPED, lost)?;
    first.reset()?;
    second.reset()
}

fn resumed(ctx: &mut Ctx) -> Checked {
    let (first, second) = (&ctx.first, ctx.target());
    second.reset()?;
    program(first.device()?, WINDOW, Dma::MEMORY)?;
    wait_above(first.device()?, WRITES, 10)?;
    let mut data = first.open_session(State::StopCopy)?;
    let writes = register(first.device()?, WRITES)?;
    let mut stream = Vec::new();
    must("reading the state", std::io::Read::read_to_end(&mut data, &mut stream))?;
    let mut data = second.open_session(State::Resuming)?;
    must("writing the state", std::io::Write::write_all(&mut data, &stream))?;
    second.set(State::Stop)?;
    let device = second.device()?;
    expect("writes that the stopped target has taken over", register(device, WRITES)?, writes)?;
    second.set(State::Running)?;
    wait_above(device, WRITES, writes)?;
    expect("writes of the source since", register(first.device()?, WRITES)?, writes)?;
    first.reset()?;
    second.reset()
}
