// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A fault at every call, a cut at every byte, a cancel at every phase: one side owns the guest, always.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod common;

use core::sync::atomic::{AtomicUsize, Ordering};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use common::{assert_all, devices, load_options, migrate, migrate_over, migrate_with, save_options};
use savevm_core::sim::{FaultPlan, FaultRule};
use savevm_core::{Cancel, Cause, Channel, Hooks, Outcome, Phase};
use vfio_mig_fsm::State;

/// Two devices with everything optional, small enough to be moved thousands of times.
const SET: [&str; 2] = [
    "model=plain caps=7 initial=2KiB dirty=1KiB stop=5KiB seed=1",
    "model=plain caps=7 initial=1KiB dirty=1KiB stop=3KiB seed=2",
];

fn plan(rule: &str) -> FaultPlan {
    [FaultRule::parse(rule).unwrap()].into_iter().collect()
}

/// Runs migrations with `rule@1`, `rule@2`, … on one side until one is not hit any more, and checks each.
fn sweep(rule: &str, on_source: bool) -> u32 {
    for nth in 1_u32.. {
        let (source, target) = (devices(&SET), devices(&SET));
        let side = if on_source { &source } else { &target };
        side[0].set_faults(plan(&format!("{rule}@{nth}")));
        // Small pieces, so that there are several calls to fail.
        let mut save = save_options();
        save.limits.chunk_bytes_max = 1 << 10;
        let both = migrate_with(&source, &target, &mut (), &mut (), &save, &load_options());
        both.assert_one_owner();
        if both.source.is_ok() {
            both.assert_moved();
            return nth - 1;
        }
        assert!(nth < 200, "{rule}: the fault never passes by");
    }
    0
}

#[test]
fn a_failing_call_on_the_source_leaves_the_guest_there() {
    for (rule, at_least) in [
        ("set_state:EIO", 3),
        ("set_state:error-state=EIO", 3),
        ("step:EINVAL", 3),
        ("step:error-state=EIO", 3),
        ("read:EIO", 3),
        ("read:dead=ENODEV", 3),
        ("precopy_info:EIO", 1),
        ("get_state:EIO", 3),
    ] {
        let failures = sweep(rule, true);
        assert!(failures >= at_least, "{rule} failed only {failures} migrations");
    }
}

#[test]
fn a_failing_call_on_the_target_leaves_the_guest_on_the_source() {
    for (rule, at_least) in [
        ("set_state:RESUMING:EIO", 1),
        ("set_state:STOP:error-state=EIO", 1),
        ("step:RESUMING>STOP:EINVAL", 1),
        ("write:ENOMEM", 3),
        ("write:dead=ENODEV", 3),
    ] {
        let failures = sweep(rule, false);
        assert!(failures >= at_least, "{rule} failed only {failures} migrations");
    }
}

/// After the commit a target that cannot run has no way back, and says so on both sides.
#[test]
fn a_target_that_cannot_run_after_the_commit_is_reported_on_both_sides() {
    let (source, target) = (devices(&SET), devices(&SET));
    target[1].set_faults(plan("step:STOP>RUNNING_P2P:EIO"));
    let both = migrate(&source, &target);
    let (source_error, target_error) = (both.source.unwrap_err(), both.target.unwrap_err());
    assert!(source_error.committed && target_error.committed);
    assert!(source_error.to_string().contains("must stay stopped"), "{source_error}");
    assert_all(&both.source_states, State::Stop, "source");
    assert_eq!(both.target_states[1], Ok(State::Stop), "the loaded device keeps its contents");
}

/// A size that cannot be asked is no reason to fail: it is only an estimate.
#[test]
fn an_estimate_is_not_needed() {
    for rule in ["mig_data_size:EIO", "mig_data_size:answer=0xffffffffffffffea"] {
        let (source, target) = (devices(&SET), devices(&SET));
        source[0].set_faults(plan(rule));
        migrate(&source, &target).assert_moved();
    }
}

#[test]
fn a_source_device_that_answers_nonsense_ends_the_attempt() {
    for (rule, said) in [("get_state:answer=42@1", "state 42"), ("get_state:answer=42@2+", "state 42")] {
        let (source, target) = (devices(&SET), devices(&SET));
        source[0].set_faults(plan(rule));
        let both = migrate(&source, &target);
        let error = both.source.as_ref().unwrap_err();
        assert!(error.to_string().contains(said), "{rule}: {error}");
        both.assert_one_owner();
    }
}

/// A driver that claims initial bytes for ever, and yields none, does not hold the guest in pre-copy.
#[test]
fn a_claim_that_yields_nothing_is_not_believed_for_ever() {
    let (source, target) = (devices(&SET), devices(&SET));
    source[0].set_faults(plan("precopy_info:answer=0xffffffffffffffff/0xffffffffffffffff"));
    migrate(&source, &target).assert_moved();
}

#[test]
fn a_state_without_end_is_cut_off_by_the_limit() {
    let config = ["model=plain caps=1 stop=1MiB seed=1"];
    for (save_bytes, load_bytes) in [(100_000, u64::MAX), (u64::MAX, 100_000)] {
        let (source, target) = (devices(&config), devices(&config));
        let (mut save, mut load) = (save_options(), load_options());
        save.limits.state_bytes_max = save_bytes;
        load.limits.state_bytes_max = load_bytes;
        let both = migrate_with(&source, &target, &mut (), &mut (), &save, &load);
        both.assert_one_owner();
        assert!(both.source.unwrap_err().to_string().contains("limit of 100000 bytes"));
        assert!(both.target.unwrap_err().to_string().contains("limit of 100000 bytes"));
    }
}

/// A way back that fails ends in a reset, and a reset that fails is reported as a loss.
#[test]
fn a_device_that_cannot_return_is_reset_and_says_so() {
    let (source, target) = (devices(&SET), devices(&SET));
    let rules = ["read:EIO@4", "set_state:RUNNING:EIO"];
    source[0].set_faults(rules.iter().map(|rule| FaultRule::parse(rule).unwrap()).collect());
    let both = migrate(&source, &target);
    let error = both.source.as_ref().unwrap_err();
    assert!(matches!(&error.devices[0].outcome, Outcome::Reset { because: Some(_) }), "{error}");
    assert!(matches!(&error.devices[1].outcome, Outcome::Returned(State::Running)), "{error}");
    assert_all(&both.source_states, State::Running, "source");

    let (source, target) = (devices(&SET), devices(&SET));
    let rules = ["read:EIO@4", "set_state:RUNNING:EIO", "reset:EIO"];
    source[0].set_faults(rules.iter().map(|rule| FaultRule::parse(rule).unwrap()).collect());
    let error = migrate(&source, &target).source.unwrap_err();
    assert!(matches!(&error.devices[0].outcome, Outcome::Lost { .. }), "{error}");
}

/// Cancels when a phase begins.
struct CancelAt(Phase, Cancel);

impl Hooks for CancelAt {
    fn phase(&mut self, phase: Phase) {
        if phase == self.0 {
            self.1.cancel();
        }
    }
}

#[test]
fn a_cancel_at_any_phase_of_either_side() {
    for phase in Phase::ALL {
        for on_source in [true, false] {
            let (source, target) = (devices(&SET), devices(&SET));
            let (mut save, mut load) = (save_options(), load_options());
            let (ours, theirs) = (Cancel::new(), Cancel::new());
            (save.cancel, load.cancel) = (ours.clone(), theirs.clone());
            let mut cancelling = CancelAt(phase, if on_source { ours } else { theirs });
            let both = if on_source {
                migrate_with(&source, &target, &mut cancelling, &mut (), &save, &load)
            } else {
                migrate_with(&source, &target, &mut (), &mut cancelling, &save, &load)
            };
            // A target that has acknowledged everything leaves the decision to the source.
            if phase == Phase::Done || (phase == Phase::Commit && !on_source) {
                both.assert_moved();
                continue;
            }
            let cancelled = if on_source {
                &both.source.as_ref().unwrap_err().cause
            } else {
                &both.target.as_ref().unwrap_err().cause
            };
            assert!(matches!(cancelled, Cause::Cancelled), "{phase}, on the source: {on_source}: {cancelled}");
            if on_source {
                assert_all(&both.source_states, State::Running, "source");
            }
            both.assert_one_owner();
        }
    }
}

/// One half of a connection that breaks after so many bytes.
struct Breaking {
    stream: UnixStream,
    left: usize,
    total: Arc<AtomicUsize>,
}

impl Breaking {
    /// A channel that breaks after so many bytes in either direction, and the count of the bytes written.
    fn channel(stream: UnixStream, reads_left: usize, writes_left: usize) -> (Channel<'static>, Arc<AtomicUsize>) {
        let half = |left| Self { stream: stream.try_clone().unwrap(), left, total: Arc::default() };
        let (reader, writer) = (half(reads_left), half(writes_left));
        let total = Arc::clone(&writer.total);
        (Channel::new(reader, writer).with_shutdown(move |how| drop(stream.shutdown(how))), total)
    }

    fn cut(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Read for Breaking {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(self.left);
        if length == 0 {
            self.cut();
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let read = self.stream.read(&mut buffer[..length])?;
        self.left -= read;
        Ok(read)
    }
}

impl Write for Breaking {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(self.left);
        if length == 0 {
            self.cut();
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let written = self.stream.write(&bytes[..length])?;
        self.left -= written;
        self.total.fetch_add(written, Ordering::Relaxed);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

const ALL: usize = usize::MAX;

/// Cuts the source's connection after `reads` and `writes` bytes. Gives the bytes each side wrote.
fn cut_after(reads: usize, writes: usize) -> (usize, usize) {
    let config = ["model=mtty ports=1"];
    let (source, target) = (devices(&config), devices(&config));
    let (left, right) = common::connection();
    let ((left, sent), (right, answered)) =
        (Breaking::channel(left, reads, writes), Breaking::channel(right, ALL, ALL));
    let totals = (sent, answered);
    let both =
        migrate_over(&source, &target, (left.into(), right.into()), &mut (), &mut (), &save_options(), &load_options());
    match (&both.source, &both.target) {
        // The Complete was lost: the target runs, the source knows that it may.
        (Err(source), Ok(_)) => {
            assert!(source.committed, "cut after {reads}/{writes}: both sides own the guest: {source}");
            assert_all(&both.source_states, State::Stop, "source after the commit");
        }
        _ => both.assert_one_owner(),
    }
    // The last thing a source says is the Commit: while a byte of it is missing, the target cannot have read it.
    if writes != ALL {
        let error = both.source.as_ref().unwrap_err();
        assert!(!error.committed, "cut after {writes} bytes sent: {error}");
        assert_all(&both.source_states, State::Running, "source");
    }
    (totals.0.load(Ordering::Relaxed), totals.1.load(Ordering::Relaxed))
}

#[test]
fn a_connection_cut_after_any_byte() {
    let (sent, answered) = cut_after(ALL, ALL);
    assert!(sent > 300 && answered > 100, "{sent} and {answered} bytes: the stream is there to be cut");
    for writes in 0..sent {
        cut_after(ALL, writes);
    }
    for reads in 0..answered {
        cut_after(reads, ALL);
    }
}

/// A second attempt after any failed one works: nothing is left behind.
#[test]
fn after_a_failure_the_next_attempt_succeeds() {
    let (source, target) = (devices(&SET), devices(&SET));
    for rule in ["read:EIO@2", "step:error-state=EIO@2", "set_state:EIO@3"] {
        source[0].set_faults(plan(rule));
        migrate(&source, &target).source.unwrap_err();
    }
    for rule in ["write:ENOMEM@2", "step:RESUMING>STOP:EIO"] {
        target[1].set_faults(plan(rule));
        migrate(&source, &target).target.unwrap_err();
    }
    migrate(&source, &target).assert_moved();
}

/// Cuts one of two channels after `reads` and `writes` bytes of the source. Gives the bytes that side and the other
/// wrote on it.
fn cut_one_of_two(cut: usize, reads: usize, writes: usize) -> (usize, usize) {
    let config = ["model=mtty ports=1", "model=mtty ports=1"];
    let (source, target) = (devices(&config), devices(&config));
    let mut totals = (Arc::default(), Arc::default());
    let ends = (0..2)
        .map(|index| {
            let (left, right) = common::connection();
            if index != cut {
                return (Channel::unix(left).unwrap(), Channel::unix(right).unwrap());
            }
            let (left, sent) = Breaking::channel(left, reads, writes);
            let (right, answered) = Breaking::channel(right, ALL, ALL);
            totals = (sent, answered);
            (left, right)
        })
        .unzip();
    let both = migrate_over(&source, &target, ends, &mut (), &mut (), &save_options(), &load_options());
    match (&both.source, &both.target) {
        // The Complete was lost: the target runs, the source knows that it may.
        (Err(source), Ok(_)) => assert!(source.committed, "channel {cut} after {reads}/{writes}: {source}"),
        _ => both.assert_one_owner(),
    }
    if (reads, writes) != (ALL, ALL) && cut != 0 {
        // All of it is needed before the commit.
        assert!(!both.source.unwrap_err().committed, "channel {cut} after {reads}/{writes}");
        assert_all(&both.source_states, State::Running, "source");
    }
    (totals.0.load(Ordering::Relaxed), totals.1.load(Ordering::Relaxed))
}

#[test]
fn one_of_two_channels_cut_after_any_byte() {
    for cut in 0..2 {
        let (sent, answered) = cut_one_of_two(cut, ALL, ALL);
        assert!(sent > 150 && answered > 100, "channel {cut}: {sent} and {answered} bytes");
        for writes in 0..sent {
            cut_one_of_two(cut, ALL, writes);
        }
        for reads in 0..answered {
            cut_one_of_two(cut, reads, ALL);
        }
    }
}
