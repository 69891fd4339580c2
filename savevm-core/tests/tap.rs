// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Taps on whole migrations: what they see, what a refusal stops, and where it leaves the devices of both sides.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod common;

use core::time::Duration;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread;

use common::{Both, assert_all, devices, load_options, migrate_with, save_options};
use savevm_core::digest::{Digest, DigestSum};
use savevm_core::sim::{Direction, FaultPlan, FaultRule, SimDevice, SimEvent};
use savevm_core::tap::{Refusal, Side, Subject, Tap, TapError, Taps};
use savevm_core::{Cause, Channel, Outcome, Phase};
use vfio_mig_fsm::{Capabilities, State};

const SET: [&str; 2] = [
    "model=plain caps=7 initial=150KiB dirty=70KiB stop=200KiB seed=1",
    "model=plain caps=7 initial=1KiB dirty=1KiB stop=3KiB seed=2",
];

/// One call of a tap.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Seen {
    Data(Phase, usize),
    End,
}

/// What the tap of one device saw.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<(Vec<Seen>, Digest)>>);

impl Log {
    fn calls(&self) -> Vec<Seen> {
        self.0.lock().unwrap().0.clone()
    }

    fn sum(&self) -> DigestSum {
        self.0.lock().unwrap().1.sum()
    }

    /// Bytes of all pieces but a last one that was refused.
    fn passed_bytes(&self, refused_last: bool) -> u64 {
        let calls = self.calls();
        let passed = calls.len() - usize::from(refused_last);
        let bytes = |seen: &Seen| if let Seen::Data(_, bytes) = seen { *bytes as u64 } else { 0 };
        calls[..passed].iter().map(bytes).sum()
    }
}

/// Keeps a log, and refuses where it is told.
struct Recorder {
    log: Log,
    calls: usize,
    /// The call that is refused, from 1; `usize::MAX` is the end.
    refused_call: usize,
    refusal: Refusal,
    hold_bytes_max: usize,
}

const AT_THE_END: usize = usize::MAX;
const NEVER: usize = 0;

impl Recorder {
    fn verdict(&self, refuse: bool) -> Result<(), TapError> {
        let error = || TapError::new(self.refusal, self.log.sum().bytes, "a test's piece", "it is the one to refuse");
        if refuse { Err(error()) } else { Ok(()) }
    }
}

impl Tap for Recorder {
    fn data(&mut self, phase: Phase, bytes: &[u8]) -> Result<(), TapError> {
        self.calls += 1;
        let mut log = self.log.0.lock().unwrap();
        log.0.push(Seen::Data(phase, bytes.len()));
        log.1.update(bytes);
        drop(log);
        self.verdict(self.calls == self.refused_call)
    }

    fn end(&mut self) -> Result<(), TapError> {
        self.log.0.lock().unwrap().0.push(Seen::End);
        self.verdict(self.refused_call == AT_THE_END)
    }

    fn hold_bytes_max(&self) -> usize {
        self.hold_bytes_max
    }
}

/// How the tap of `d0` behaves; that of `d1` only looks.
#[derive(Clone, Copy)]
struct Plan {
    refused_call: usize,
    refusal: Refusal,
    hold_bytes_max: usize,
}

const LOOK: Plan = Plan { refused_call: NEVER, refusal: Refusal::Damaged, hold_bytes_max: 0 };

/// Taps on both devices, and their logs.
fn taps(plan: Plan) -> (Taps, [Log; 2]) {
    let logs = [Log::default(), Log::default()];
    let kept = logs.clone();
    let taps = Taps::new(move |subject| {
        let index = usize::from(subject.name == "d1");
        let Plan { refused_call, refusal, hold_bytes_max } = if index == 0 { plan } else { LOOK };
        let log = kept[index].clone();
        Some(Box::new(Recorder { log, calls: 0, refused_call, refusal, hold_bytes_max }) as Box<dyn Tap>)
    });
    (taps, logs)
}

/// A migration with taps on one side or both.
fn migrate(source: &[SimDevice], target: &[SimDevice], on_source: Taps, on_target: Taps) -> Both {
    let (mut save, mut load) = (save_options(), load_options());
    (save.taps, load.taps) = (on_source, on_target);
    migrate_with(source, target, &mut (), &mut (), &save, &load)
}

/// Bytes that were written to a device, by its own account, in each of its resuming sessions.
fn written(device: &SimDevice) -> Arc<Mutex<Vec<u64>>> {
    let sessions: Arc<Mutex<Vec<u64>>> = Arc::default();
    let kept = Arc::clone(&sessions);
    device.observe(Box::new(move |event| {
        if let SimEvent::SessionEnded { direction: Direction::Resuming, bytes, .. } = event {
            kept.lock().unwrap().push(*bytes);
        }
    }));
    sessions
}

fn fault(rule: &str) -> FaultPlan {
    [FaultRule::parse(rule).unwrap()].into_iter().collect()
}

#[test]
fn a_tap_sees_exactly_the_bytes_and_then_the_end() {
    let (source, target) = (devices(&SET), devices(&SET));
    let (on_source, at_source) = taps(LOOK);
    let (on_target, at_target) = taps(LOOK);
    let both = migrate(&source, &target, on_source, on_target);
    both.assert_moved();
    let moved = both.source.unwrap().devices;
    for (index, sum) in moved.iter().enumerate() {
        for log in [&at_source[index], &at_target[index]] {
            assert_eq!(log.sum(), sum.sum, "{}", sum.device);
            let calls = log.calls();
            let ends: Vec<usize> = (0..calls.len()).filter(|call| calls[*call] == Seen::End).collect();
            assert_eq!(ends, [calls.len() - 1], "the end comes last, and once");
            let of = |wanted| {
                let bytes = |seen: &Seen| {
                    if let Seen::Data(phase, bytes) = seen { (*phase == wanted, *bytes) } else { (false, 0) }
                };
                calls.iter().map(bytes).filter(|(is, _)| *is).map(|(_, bytes)| bytes as u64).sum::<u64>()
            };
            assert_eq!(of(Phase::PreCopy), sum.precopy_bytes);
            assert_eq!(of(Phase::StopCopy), sum.sum.bytes - sum.precopy_bytes);
            assert!(of(Phase::PreCopy) > 0 && of(Phase::StopCopy) > 0, "both phases moved bytes");
        }
    }
}

#[test]
fn a_tap_is_told_for_which_device_it_is_wanted() {
    type Asked = (Side, String, String, String, Capabilities);
    let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
    let taps = || {
        let asked = Arc::clone(&asked);
        Taps::new(move |subject: &Subject<'_>| {
            let Subject { side, name, stream_identity, identity, capabilities, .. } = *subject;
            asked.lock().unwrap().push((side, name.into(), stream_identity.into(), identity.into(), capabilities));
            None
        })
    };
    let config = ["model=mtty ports=1"];
    let (source, target) = (devices(&config), devices(&config));
    migrate(&source, &target, taps(), taps()).assert_moved();
    let identity = String::from("sim/mtty/4348:3253");
    let wanted = |side| (side, String::from("d0"), identity.clone(), identity.clone(), Capabilities::P2pPreCopy);
    let mut asked = asked.lock().unwrap().clone();
    asked.sort_by_key(|asked| asked.0 == Side::Target);
    assert_eq!(asked, [wanted(Side::Source), wanted(Side::Target)]);
}

/// Has the tap of `d0` refuse its 1st, 2nd, … piece, then the end, on one side; says in which phase each one came.
fn refuse_everywhere(on_source: bool) -> Vec<Phase> {
    let pieces = (1..).map_while(|refused_call| refuse(on_source, refused_call));
    let phases: Vec<Phase> = pieces.collect();
    refuse(on_source, AT_THE_END).expect("the end is refused");
    phases
}

/// One attempt that must be refused; `None` if the piece never came.
fn refuse(on_source: bool, refused_call: usize) -> Option<Phase> {
    let (source, target) = (devices(&SET), devices(&SET));
    let arrived = written(&target[0]);
    let (refusing, logs) = taps(Plan { refused_call, ..LOOK });
    let (on_source_taps, on_target_taps) =
        if on_source { (refusing, Taps::default()) } else { (Taps::default(), refusing) };
    let both = migrate(&source, &target, on_source_taps, on_target_taps);
    if both.source.is_ok() {
        both.assert_moved();
        return None;
    }
    check_refused(&both, on_source, &logs[0], refused_call, &arrived.lock().unwrap());
    let phase = |seen: &Seen| if let Seen::Data(phase, _) = seen { Some(*phase) } else { None };
    logs[0].calls().iter().rev().find_map(phase)
}

fn check_refused(both: &Both, on_source: bool, log: &Log, refused_call: usize, arrived: &[u64]) {
    both.assert_one_owner();
    assert_all(&both.source_states, State::Running, "source");
    assert_all(&both.target_states, State::Running, "target after its reset");
    let (source, target) = (both.source.as_ref().unwrap_err(), both.target.as_ref().unwrap_err());
    let (here, there) = if on_source { (source, target) } else { (target, source) };
    let Cause::Tap { device, error } = &here.cause else { panic!("{here}") };
    assert_eq!(device, "d0");
    assert_eq!(error.offset, log.sum().bytes, "the offset is the tap's");
    for said in ["d0's stream", "a test's piece at stream offset", "device or driver is at fault", "keep the guest"] {
        assert!(here.to_string().contains(said), "{said}: {here}");
    }
    let Cause::Peer { reason } = &there.cause else { panic!("{there}") };
    assert!(reason.contains("it is the one to refuse") && reason.ends_with("(integrity)"), "{reason}");
    assert!(target.devices.iter().all(|device| device.outcome == Outcome::Reset { because: None }), "{target}");
    assert!(source.devices.iter().all(|device| matches!(device.outcome, Outcome::Returned(_) | Outcome::Untouched)));
    // Not called again, and what it refused went nowhere.
    let calls = log.calls();
    let refused_data = refused_call != AT_THE_END;
    let last = if refused_data { refused_call } else { calls.iter().position(|seen| *seen == Seen::End).unwrap() + 1 };
    assert_eq!(calls.len(), last);
    assert_eq!(arrived.len(), 1, "one resuming session");
    if on_source {
        assert!(arrived[0] <= log.passed_bytes(refused_data), "{arrived:?} of {calls:?}");
    } else {
        assert_eq!(arrived[0], log.passed_bytes(refused_data), "what passed before was written, and no more");
    }
}

#[test]
fn a_refusal_on_the_source_at_any_piece_leaves_the_guest_there() {
    let phases = refuse_everywhere(true);
    for phase in [Phase::PreCopy, Phase::StopCopy] {
        assert!(phases.iter().filter(|found| **found == phase).count() >= 2, "{phases:?}");
    }
}

#[test]
fn a_refusal_on_the_target_at_any_piece_leaves_the_guest_on_the_source() {
    let phases = refuse_everywhere(false);
    for phase in [Phase::PreCopy, Phase::StopCopy] {
        assert!(phases.iter().filter(|found| **found == phase).count() >= 2, "{phases:?}");
    }
}

#[test]
fn the_peer_hears_what_kind_of_refusal_it_was() {
    for (refusal, code) in [
        (Refusal::Damaged, "(integrity)"),
        (Refusal::Incomplete, "(integrity)"),
        (Refusal::Incompatible, "(incompatible)"),
        (Refusal::TooLarge, "(resources)"),
    ] {
        let (source, target) = (devices(&SET), devices(&SET));
        let (refusing, _) = taps(Plan { refused_call: AT_THE_END, refusal, ..LOOK });
        let both = migrate(&source, &target, Taps::default(), refusing);
        both.assert_one_owner();
        let Cause::Peer { reason } = both.source.unwrap_err().cause else { panic!("the peer's reason") };
        assert!(reason.ends_with(code), "{reason}");
        assert!(reason.contains(&refusal.to_string()), "{reason}");
    }
}

#[test]
fn what_is_held_back_reaches_the_device_whole_or_not_at_all() {
    let held = Plan { hold_bytes_max: 1 << 20, ..LOOK };
    let (source, target) = (devices(&SET), devices(&SET));
    let arrived = written(&target[0]);
    let (holding, logs) = taps(held);
    let both = migrate(&source, &target, Taps::default(), holding);
    both.assert_moved();
    assert_eq!(*arrived.lock().unwrap(), [logs[0].sum().bytes]);

    // Refused: not a byte, at whatever piece.
    for refused_call in [1, 3, AT_THE_END] {
        let (source, target) = (devices(&SET), devices(&SET));
        let arrived = written(&target[0]);
        // Any write at all would be the error that is reported.
        target[0].set_faults(fault("write:EIO"));
        let (refusing, _) = taps(Plan { refused_call, ..held });
        let both = migrate(&source, &target, Taps::default(), refusing);
        both.assert_one_owner();
        let error = both.target.unwrap_err();
        assert!(matches!(error.cause, Cause::Tap { .. }), "{error}");
        assert_eq!(*arrived.lock().unwrap(), [0]);
    }

    // On a source nothing is held back: the target has bytes when the end is refused.
    let (source, target) = (devices(&SET), devices(&SET));
    let arrived = written(&target[0]);
    let (refusing, _) = taps(Plan { refused_call: AT_THE_END, ..held });
    migrate(&source, &target, refusing, Taps::default()).assert_one_owner();
    assert!(arrived.lock().unwrap()[0] > 0);
}

#[test]
fn a_stream_longer_than_what_is_held_back_is_refused() {
    let (source, target) = (devices(&SET), devices(&SET));
    let arrived = written(&target[0]);
    let (holding, logs) = taps(Plan { hold_bytes_max: 100_000, ..LOOK });
    let both = migrate(&source, &target, Taps::default(), holding);
    both.assert_one_owner();
    let error = both.target.unwrap_err();
    let Cause::Tap { error, .. } = &error.cause else { panic!("{error}") };
    assert_eq!(error.refusal, Refusal::Damaged);
    assert!(error.detail.contains("longer than the 100000 bytes"), "{error}");
    assert_eq!(error.offset, logs[0].passed_bytes(true));
    assert_eq!(*arrived.lock().unwrap(), [0]);
}

#[test]
fn a_migration_that_fails_elsewhere_asks_for_no_end() {
    for (rule, on_source) in [("read:EIO@3", true), ("write:EIO@3", false)] {
        let (source, target) = (devices(&SET), devices(&SET));
        if on_source { &source[0] } else { &target[0] }.set_faults(fault(rule));
        let (on_source, at_source) = taps(LOOK);
        let (on_target, at_target) = taps(LOOK);
        let both = migrate(&source, &target, on_source, on_target);
        both.assert_one_owner();
        for log in at_source.iter().chain(&at_target) {
            assert!(!log.calls().contains(&Seen::End), "{rule}: {:?}", log.calls());
        }
    }
}

#[test]
fn a_file_passes_taps_too() {
    let (source, target) = (devices(&SET), devices(&SET));
    let mut file = Vec::new();
    let (mut save, mut load) = (save_options(), load_options());
    let (on_source, at_source) = taps(LOOK);
    let (on_target, at_target) = taps(Plan { refused_call: AT_THE_END, ..LOOK });
    (save.taps, load.taps) = (on_source, on_target);
    let sums = savevm_core::save::save_to(&mut common::ports(&source), &mut file, &mut (), &save).unwrap();
    assert_eq!(at_source[0].sum(), sums[0].sum);
    let error = savevm_core::load::load_from(&mut common::ports(&target), &file[..], &mut (), &load).unwrap_err();
    assert!(matches!(error.cause, Cause::Tap { .. }), "{error}");
    assert_eq!(at_target[0].sum(), sums[0].sum);
}

/// A connection that takes its time for each header.
struct Slow<W>(W);

impl<W: Write> Write for Slow<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() == stream_codec::frame::HEADER_BYTES {
            thread::sleep(Duration::from_millis(4));
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// What is said on one channel overtakes what is said on another, the switchover included, and what was said before it.
#[test]
fn the_phase_is_that_of_the_source_on_every_channel() {
    for slow in 0..3 {
        let (source, target) = (devices(&SET), devices(&SET));
        let channel = |index| {
            let (left, right) = UnixStream::pair().unwrap();
            let handle = left.try_clone().unwrap();
            let (reader, writer) = (left.try_clone().unwrap(), left);
            let left = if index == slow { Channel::new(reader, Slow(writer)) } else { Channel::new(reader, writer) };
            (left.with_shutdown(move |how| drop(handle.shutdown(how))), Channel::unix(right).unwrap())
        };
        let (mut save, mut load) = (save_options(), load_options());
        let ((on_source, _), (on_target, at_target)) = (taps(LOOK), taps(LOOK));
        (save.taps, load.taps) = (on_source, on_target);
        let ends = (0..3).map(channel).unzip();
        let both = common::migrate_over(&source, &target, ends, &mut (), &mut (), &save, &load);
        both.assert_moved();
        let (moved, arrived) = (both.source.unwrap().devices, both.target.unwrap().devices);
        for ((log, sum), arrived) in at_target.iter().zip(&moved).zip(&arrived) {
            let early = |seen: &Seen| if let Seen::Data(Phase::PreCopy, bytes) = seen { *bytes as u64 } else { 0 };
            let early: u64 = log.calls().iter().map(early).sum();
            let what = format!("{}, channel {slow} is slow", sum.device);
            assert_eq!((early, arrived.precopy_bytes), (sum.precopy_bytes, sum.precopy_bytes), "{what}");
        }
    }
}
