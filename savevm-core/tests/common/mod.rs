// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A source and a target on simulated devices in one process, and what must be true of them whatever happened.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]
#![allow(dead_code, reason = "each test file uses a part of it")]

use core::time::Duration;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;

use savevm_core::load::{self, LoadOptions, Running};
use savevm_core::save::{self, Committed, SaveOptions};
use savevm_core::sim::{SimConfig, SimDevice, SimPort};
use savevm_core::{Channel, Device, Hooks, MigrationError, Outcome, Restored};
use vfio_mig_fsm::State;

/// Devices of one side, described as softvfio describes them.
pub(crate) fn devices(configs: &[&str]) -> Vec<SimDevice> {
    configs.iter().map(|config| SimConfig::parse(config).unwrap().device().unwrap()).collect()
}

/// Opens them under the names `d0`, `d1`, ….
pub(crate) fn ports(devices: &[SimDevice]) -> Vec<SimPort> {
    let open = |(index, device)| SimPort::open(device, format!("d{index}")).unwrap();
    devices.iter().enumerate().map(open).collect()
}

/// How both sides of a migration ended, and the states the devices ended in.
pub(crate) struct Both {
    pub(crate) source: Result<Committed, MigrationError>,
    pub(crate) target: Result<Running, MigrationError>,
    pub(crate) source_states: Vec<Result<State, String>>,
    pub(crate) target_states: Vec<Result<State, String>>,
}

/// A pair of connected sockets.
pub(crate) fn connection() -> (UnixStream, UnixStream) {
    UnixStream::pair().unwrap()
}

/// The same over TCP.
pub(crate) fn tcp_connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let left = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (left, listener.accept().unwrap().0)
}

/// Options of a source whose patience suits a test.
pub(crate) fn save_options() -> SaveOptions {
    let mut options = SaveOptions::default();
    options.limits.silence_max = Duration::from_secs(5);
    options.limits.chunk_bytes_max = 64 << 10;
    if let Some(rule) = &mut options.precopy {
        rule.window = Duration::from_millis(2);
    }
    options
}

/// Options of a target whose patience suits a test.
pub(crate) fn load_options() -> LoadOptions {
    let mut options = LoadOptions::default();
    options.limits.silence_max = Duration::from_secs(5);
    options.limits.chunk_bytes_max = 64 << 10;
    options
}

/// Runs a whole migration.
pub(crate) fn migrate(source: &[SimDevice], target: &[SimDevice]) -> Both {
    migrate_with(source, target, &mut (), &mut (), &save_options(), &load_options())
}

/// Runs a whole migration with the VMM's part on both sides.
pub(crate) fn migrate_with(
    source: &[SimDevice],
    target: &[SimDevice],
    source_hooks: &mut (dyn Hooks + Send),
    target_hooks: &mut (dyn Hooks + Send),
    save_options: &SaveOptions,
    load_options: &LoadOptions,
) -> Both {
    migrate_over(source, target, channels(1), source_hooks, target_hooks, save_options, load_options)
}

/// Both ends of some channels.
pub(crate) type Ends = (Vec<Channel<'static>>, Vec<Channel<'static>>);

/// Both ends of this many connections.
pub(crate) fn channels(count: usize) -> Ends {
    (0..count)
        .map(|_| connection())
        .map(|(left, right)| (Channel::unix(left).unwrap(), Channel::unix(right).unwrap()))
        .unzip()
}

/// The same over TCP.
pub(crate) fn tcp_channels(count: usize) -> Ends {
    (0..count)
        .map(|_| tcp_connection())
        .map(|(left, right)| (Channel::tcp(left).unwrap(), Channel::tcp(right).unwrap()))
        .unzip()
}

/// Runs a whole migration over given channels.
pub(crate) fn migrate_over(
    source: &[SimDevice],
    target: &[SimDevice],
    (left, right): Ends,
    source_hooks: &mut (dyn Hooks + Send),
    target_hooks: &mut (dyn Hooks + Send),
    save_options: &SaveOptions,
    load_options: &LoadOptions,
) -> Both {
    let (mut ours, mut theirs) = (ports(source), ports(target));
    let (source_outcome, target_outcome) = thread::scope(|scope| {
        let target =
            scope.spawn(|| load::load(&mut theirs, right, target_hooks, load_options).and_then(load::Loaded::run));
        let source = save::save(&mut ours, left, source_hooks, save_options).and_then(save::Ready::commit);
        (source, target.join().expect("the target does not panic"))
    });
    // A fault that still stands must not hide where the device is.
    source.iter().chain(target).for_each(|device| device.set_faults(savevm_core::sim::FaultPlan::new()));
    let states = |ports: &mut Vec<SimPort>| {
        ports.iter_mut().map(|port| port.state().map_err(|error| error.to_string())).collect()
    };
    Both {
        source: source_outcome,
        target: target_outcome,
        source_states: states(&mut ours),
        target_states: states(&mut theirs),
    }
}

impl Both {
    /// The migration succeeded on both sides, and every device is where it belongs.
    pub(crate) fn assert_moved(&self) {
        let source = self.source.as_ref().expect("the source succeeds");
        let target = self.target.as_ref().expect("the target succeeds");
        assert_eq!(source.devices.len(), target.devices.len());
        for (sent, received) in source.devices.iter().zip(&target.devices) {
            assert_eq!(sent.sum, received.sum, "{}", sent.device);
            assert!(sent.sum.bytes > 0, "{} sent nothing", sent.device);
        }
        assert_all(&self.source_states, State::Stop, "source");
        assert_all(&self.target_states, State::Running, "target");
        assert!(target.source_told);
    }

    /// Whatever happened, one side owns the guest, and the other side does not run it.
    pub(crate) fn assert_one_owner(&self) {
        match (&self.source, &self.target) {
            (Ok(_), Ok(_)) => self.assert_moved(),
            (Err(source), target) if !source.committed => {
                assert!(target.is_err(), "the target runs although the source kept the guest: {source}");
                let is_lost = |restored: &Restored| matches!(restored.outcome, Outcome::Lost { .. });
                if !source.devices.iter().any(is_lost) {
                    assert_all(&self.source_states, State::Running, "source after a failure");
                }
            }
            (Err(source), _) => {
                // Committed: the source stays stopped, and says so.
                assert!(source.devices.is_empty());
                assert!(!self.source_states.contains(&Ok(State::Running)), "the source runs after its commit");
            }
            (Ok(_), Err(target)) => panic!("the source was told that the target runs, and it does not: {target}"),
        }
        if let Err(error) = &self.target {
            if !error.committed {
                for (state, restored) in self.target_states.iter().zip(&error.devices) {
                    if !matches!(restored.outcome, Outcome::Lost { .. }) {
                        assert_eq!(
                            *state,
                            Ok(State::Running),
                            "{restored}: a reset leaves RUNNING, with nothing loaded"
                        );
                    }
                }
            }
        }
    }
}

pub(crate) fn assert_all(states: &[Result<State, String>], wanted: State, whose: &str) {
    for state in states {
        assert_eq!(*state, Ok(wanted), "{whose}");
    }
}
