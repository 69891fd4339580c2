// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whole migrations that should succeed, and those that should be refused.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod common;

use common::{assert_all, devices, load_options, migrate, migrate_with, ports, save_options};
use savevm_core::load::{self};
use savevm_core::save::{self};
use savevm_core::sim::SimDevice;
use savevm_core::{Cause, Device, Hooks, Phase};
use vfio_mig_fsm::State;

/// The bytes of BAR0 of every device: the observable contents of a plain or an mtty device.
fn registers(devices: &[SimDevice]) -> Vec<Vec<u8>> {
    let read = |device: &SimDevice| {
        let size = usize::try_from(device.facts().region_bytes(0)).unwrap().min(4096);
        let mut bytes = vec![0; size];
        for (offset, byte) in bytes.iter_mut().enumerate() {
            let mut one = [0];
            device.region_read(0, u64::try_from(offset).unwrap(), &mut one).unwrap();
            *byte = one[0];
        }
        bytes
    };
    devices.iter().map(read).collect()
}

#[test]
fn every_capability_set_moves() {
    for caps in [1, 3, 5, 7] {
        let config = format!("model=plain caps={caps} initial=100KiB dirty=300KiB stop=1MiB seed=7");
        let (source, target) = (devices(&[&config]), devices(&[&config]));
        let both = migrate(&source, &target);
        both.assert_moved();
        let moved = &both.source.as_ref().unwrap().devices[0];
        assert_eq!(moved.precopy_bytes > 0, caps & 4 != 0, "capability set {caps}: pre-copy is used where it is");
    }
}

#[test]
fn an_mtty_arrives_with_its_registers() {
    let (source, target) = (devices(&["model=mtty ports=2"]), devices(&["model=mtty ports=2"]));
    // SCR and LCR of both ports (mtty.md section 5).
    for (region, register, value) in [(0, 7, 0x5a), (0, 3, 0x03), (1, 7, 0xa5), (1, 3, 0x1b)] {
        source[0].region_write(region, register, &[value]).unwrap();
    }
    let both = migrate(&source, &target);
    both.assert_moved();
    // 24 bytes of header and 36 per port (mtty.md section 2).
    assert_eq!(both.source.unwrap().devices[0].sum.bytes, 24 + 2 * 36);
    for (region, register, value) in [(0, 7, 0x5a), (0, 3, 0x03), (1, 7, 0xa5), (1, 3, 0x1b)] {
        let mut found = [0];
        target[0].region_read(region, register, &mut found).unwrap();
        assert_eq!(found, [value], "region {region} register {register}");
    }
}

#[test]
fn a_mixed_set_moves_together() {
    let configs = [
        "model=plain caps=7 initial=64KiB dirty=1MiB dirty-rate=1MiB/s dirty-total=2MiB stop=3MiB seed=1",
        "model=plain caps=1 stop=2MiB seed=2",
        "model=mtty ports=1",
        "model=plain caps=5 initial=1 stop=1 drained=zero seed=3",
        "model=plain caps=3 stop=5MiB seed=4",
    ];
    let (source, target) = (devices(&configs), devices(&configs));
    let before = registers(&source);
    migrate(&source, &target).assert_moved();
    assert_eq!(registers(&target)[2], before[2], "the mtty among them");
}

#[test]
fn pieces_are_as_small_as_the_smaller_side_wants() {
    for (source_bytes, target_bytes) in [(1, 4096), (4096, 7), (65536, 1 << 20), (1 << 20, 65536)] {
        let config = ["model=plain caps=7 initial=1KiB dirty=2KiB stop=9000 seed=5"];
        let (mut save, mut load) = (save_options(), load_options());
        save.limits.chunk_bytes_max = source_bytes;
        load.limits.chunk_bytes_max = target_bytes;
        migrate_with(&devices(&config), &devices(&config), &mut (), &mut (), &save, &load).assert_moved();
    }
}

/// Records what the VMM is asked to do, and the states of the devices at that moment.
struct Recorder {
    devices: Vec<SimDevice>,
    events: Vec<String>,
}

impl Hooks for Recorder {
    fn phase(&mut self, phase: Phase) {
        self.events.push(phase.name().to_owned());
    }

    fn pause_guest(&mut self) -> Result<(), String> {
        let states: Vec<&str> =
            self.devices.iter().map(|device| State::from_raw(device.get_state().unwrap()).unwrap().name()).collect();
        self.events.push(format!("pause with {}", states.join(", ")));
        Ok(())
    }

    fn resume_guest(&mut self) {
        self.events.push("resume".to_owned());
    }
}

#[test]
fn the_guest_is_paused_behind_the_barrier() {
    let configs = [
        "model=plain caps=7 initial=1KiB stop=1KiB seed=1",
        "model=plain caps=3 stop=1KiB seed=2",
        "model=plain caps=1 stop=1KiB seed=3",
    ];
    let (source, target) = (devices(&configs), devices(&configs));
    let mut recorder = Recorder { devices: source.clone(), events: Vec::new() };
    migrate_with(&source, &target, &mut recorder, &mut (), &save_options(), &load_options()).assert_moved();
    let expected = [
        "hello",
        "open",
        "pre-copy",
        "switchover",
        "stop-copy",
        "pause with PRE_COPY_P2P, RUNNING_P2P, RUNNING",
        "load",
        "commit",
        "done",
    ];
    assert_eq!(recorder.events, expected);
}

#[test]
fn a_vmm_that_cannot_pause_keeps_its_guest() {
    struct Refuses;
    impl Hooks for Refuses {
        fn pause_guest(&mut self) -> Result<(), String> {
            Err("vCPU 3 does not stop".to_owned())
        }
    }
    let config = ["model=plain caps=7 initial=1KiB stop=1KiB seed=1"];
    let (source, target) = (devices(&config), devices(&config));
    let both = migrate_with(&source, &target, &mut Refuses, &mut (), &save_options(), &load_options());
    both.assert_one_owner();
    let error = both.source.unwrap_err();
    assert!(error.to_string().contains("vCPU 3 does not stop"), "{error}");
    assert_all(&both.source_states, State::Running, "source");
    let told = both.target.unwrap_err();
    assert!(told.to_string().contains("vCPU 3 does not stop"), "the target is told why: {told}");
}

#[test]
fn ready_dropped_is_an_abort() {
    let config = ["model=plain caps=7 initial=1KiB stop=1KiB seed=1"];
    let (source, target) = (devices(&config), devices(&config));
    let (mut ours, mut theirs) = (ports(&source), ports(&target));
    let (left, right) = common::channels(1);
    let outcome = std::thread::scope(|scope| {
        let options = load_options();
        let loading = scope.spawn(|| load::load(&mut theirs, right, &mut (), &load_options()).unwrap().run());
        let mut recorder = Recorder { devices: Vec::new(), events: Vec::new() };
        let ready = save::save(&mut ours, left, &mut recorder, &save_options()).unwrap();
        assert!(!ready.sums().is_empty());
        drop(ready);
        assert_eq!(recorder.events.last().unwrap(), "resume", "the guest runs again");
        drop(options);
        loading.join().unwrap()
    });
    assert!(matches!(outcome.unwrap_err().cause, Cause::Peer { .. }));
    assert_eq!(ours[0].state(), Ok(State::Running));
    assert_eq!(theirs[0].state(), Ok(State::Running), "reset");
}

#[test]
fn what_does_not_fit_is_refused_before_a_device_is_touched() {
    let plain = "model=plain caps=7 initial=1KiB stop=1KiB seed=1";
    for (source_configs, target_configs, reason) in [
        (vec![plain], vec!["model=mtty"], "is 'sim/"),
        (vec![plain, plain], vec![plain], "the source offers device 'd1'"),
        (vec![plain], vec![plain, plain], "device 'd1' waits here"),
    ] {
        let (source, target) = (devices(&source_configs), devices(&target_configs));
        for device in &target {
            device.observe(Box::new(|event| panic!("the target's device was touched: {event:?}")));
        }
        let both = migrate(&source, &target);
        both.assert_one_owner();
        let (source_error, target_error) = (both.source.unwrap_err(), both.target.unwrap_err());
        assert!(matches!(target_error.cause, Cause::Refused { .. }), "{target_error}");
        assert!(target_error.to_string().contains(reason), "{target_error}");
        assert!(source_error.to_string().contains(reason), "the source is told: {source_error}");
        assert_all(&both.source_states, State::Running, "source");
    }
}

#[test]
fn identities_that_do_not_fit_are_refused_with_every_reason() {
    const VF: &str = "mig1:pci-15b3/mlx5_vfio_pci/101e/mlx5@2.1(2.0..2.1);!queues=8";
    let config = ["model=plain caps=7 initial=1KiB stop=1KiB seed=1"; 2];
    for (here, there, reasons) in [
        // Equal, and different where it does not matter: the target reads what the source writes.
        ([VF, "mine"], [VF, "mine"], [].as_slice()),
        ([VF, VF], [VF, "mig1:pci-15b3/mlx5_vfio_pci/101e/mlx5@2.2(2.0..2.2);!queues=8;node=1"], &[]),
        (
            [VF, "mine"],
            ["mig1:pci-15b3/mlx5_vfio_pci/1021/mlx5@2.0;!queues=16", "yours"],
            &[
                "device 'd0'",
                "of type 101e, the target's of type 1021",
                "writes mlx5 2.1, the target reads 2.0 to 2.0",
                "queues is 8 on the source and 16 on the target",
                "device 'd1'",
                "it is 'mine' on the source and 'yours' on the target",
            ],
        ),
    ] {
        let (source, target) = (devices(&config), devices(&config));
        let named = |devices: &[SimDevice], names: [&str; 2]| -> Vec<_> {
            ports(devices).into_iter().zip(names).map(|(port, name)| port.with_identity(name)).collect()
        };
        let (mut ours, mut theirs) = (named(&source, here), named(&target, there));
        if !reasons.is_empty() {
            for device in &target {
                device.observe(Box::new(|event| panic!("the target's device was touched: {event:?}")));
            }
        }
        let (left, right) = common::channels(1);
        let (saved, loaded) = std::thread::scope(|scope| {
            let loading = scope.spawn(|| {
                load::load(&mut theirs, right, &mut (), &load_options()).and_then(load::Loaded::run).map(|_| ())
            });
            let saved = save::save(&mut ours, left, &mut (), &save_options()).and_then(save::Ready::commit).map(|_| ());
            (saved, loading.join().unwrap())
        });
        if reasons.is_empty() {
            saved.and(loaded).unwrap();
            continue;
        }
        let (saved, loaded) = (saved.unwrap_err(), loaded.unwrap_err());
        assert!(matches!(loaded.cause, Cause::Refused { .. }), "{loaded}");
        for reason in reasons {
            assert!(loaded.to_string().contains(reason), "{reason}: {loaded}");
            assert!(saved.to_string().contains(reason), "{reason}: the source is told: {saved}");
        }
        assert!(ours.iter_mut().all(|port| port.state() == Ok(State::Running)));
    }
}

#[test]
fn a_device_somebody_else_migrates_is_left_alone() {
    let config = ["model=plain caps=7 initial=1KiB stop=1KiB seed=1"];
    let (source, target) = (devices(&config), devices(&config));
    source[0].open().unwrap();
    let _theirs = source[0].set_state(State::PreCopy.raw()).unwrap();
    let both = migrate(&source, &target);
    assert!(both.source.unwrap_err().to_string().contains("PRE_COPY"));
    assert_all(&both.source_states, State::PreCopy, "what the other one does goes on");
    both.target.unwrap_err();
}

#[test]
fn through_a_file_and_back() {
    let configs = ["model=mtty ports=1", "model=plain caps=7 initial=10KiB dirty=1KiB stop=100KiB seed=9"];
    let (source, target) = (devices(&configs), devices(&configs));
    source[0].region_write(0, 7, &[0x77]).unwrap();
    let mut ours = ports(&source);
    let mut file = Vec::new();
    let sums = save::save_to(&mut ours, &mut file, &mut (), &save_options()).unwrap();
    assert!(ours.iter_mut().all(|port| port.state() == Ok(State::Stop)));

    let mut theirs = ports(&target);
    let loaded = load::load_from(&mut theirs, file.as_slice(), &mut (), &load_options()).unwrap();
    for (saved, loaded) in sums.iter().zip(&loaded) {
        assert_eq!(saved.sum, loaded.sum);
    }
    assert!(theirs.iter_mut().all(|port| port.state() == Ok(State::Stop)));
    let mut scr = [0];
    target[0].region_read(0, 7, &mut scr).unwrap();
    assert_eq!(scr, [0x77]);
}

#[test]
fn every_truncation_of_a_file_is_refused_and_leaves_a_reset_device() {
    let config = ["model=mtty ports=1"];
    let mut file = Vec::new();
    save::save_to(&mut ports(&devices(&config)), &mut file, &mut (), &save_options()).unwrap();
    for length in 0..file.len() {
        let target = devices(&config);
        let mut theirs = ports(&target);
        let error = load::load_from(&mut theirs, &file[..length], &mut (), &load_options()).unwrap_err();
        assert!(!error.committed, "{length} bytes: {error}");
        assert_eq!(theirs[0].state(), Ok(State::Running), "{length} bytes: {error}");
    }
}

#[test]
fn every_flipped_bit_of_a_file_is_noticed() {
    let config = ["model=mtty ports=1"];
    let mut file = Vec::new();
    save::save_to(&mut ports(&devices(&config)), &mut file, &mut (), &save_options()).unwrap();
    for bit in 0..file.len() * 8 {
        let mut damaged = file.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let target = devices(&config);
        let mut theirs = ports(&target);
        let result = load::load_from(&mut theirs, damaged.as_slice(), &mut (), &load_options());
        assert!(result.is_err(), "bit {bit} of {} was not noticed", file.len());
        assert_eq!(theirs[0].state(), Ok(State::Running), "bit {bit}");
    }
}

/// Damage that every checksum on the way has been adapted to: only the digest over the whole state tells.
#[test]
fn consistent_damage_is_noticed_by_the_digest() {
    use stream_codec::frame::Limits;
    use stream_codec::frame::io::{Frame, FrameReader, FrameWriter};

    let config = ["model=mtty ports=1"];
    let mut file = Vec::new();
    save::save_to(&mut ports(&devices(&config)), &mut file, &mut (), &save_options()).unwrap();
    let mut reader = FrameReader::new(file.as_slice(), Limits::DEFAULT);
    let mut damaged = Vec::new();
    let mut writer = FrameWriter::new(&mut damaged, Limits::DEFAULT);
    let mut position = 0;
    while let Some(received) = reader.read_frame().unwrap() {
        match received.frame {
            Frame::Control(message) => writer.write_control(&message).unwrap(),
            Frame::Data { device, sequence, payload } => {
                let mut payload = payload.to_vec();
                // SCR of the port, which the driver does not check; before it is a header of 24 bytes, which it does.
                if let Some(register) = (24_usize + 7).checked_sub(position).and_then(|at| payload.get_mut(at)) {
                    *register ^= 1;
                }
                position += payload.len();
                writer.write_data(device, sequence, &payload).unwrap();
            }
            _ => {}
        }
    }
    let target = devices(&config);
    let mut theirs = ports(&target);
    let error = load::load_from(&mut theirs, damaged.as_slice(), &mut (), &load_options()).unwrap_err();
    assert!(matches!(error.cause, Cause::Digest { .. }), "{error}");
    assert_eq!(theirs[0].state(), Ok(State::Running), "reset, not loaded");
}

/// A guest that dirties faster than a capped channel reads: what then is the caller's choice.
#[test]
fn what_does_not_converge_is_switched_over_or_given_up_as_the_caller_says() {
    use core::time::Duration;
    use savevm_core::sched::Verdict;

    let config = "model=plain caps=7 initial=64KiB dirty=8MiB dirty-rate=50MiB/s dirty-total=1GiB stop=64KiB seed=1";
    for (verdict, moves) in [(Verdict::Switch, true), (Verdict::Abort, false)] {
        let (source, target) = (devices(&[config]), devices(&[config]));
        let mut save = save_options();
        let mut rule = save::Precopy::default();
        rule.window = Duration::from_millis(5);
        rule.downtime_max = Duration::from_millis(100);
        rule.rate_bytes_per_s = Some(8 << 20);
        rule.bandwidth_bytes_per_s = Some(10 << 20);
        (rule.level, rule.rising, rule.late, rule.infeasible) = (verdict, verdict, verdict, Verdict::Wait);
        rule.duration_max = Duration::from_secs(1);
        save.precopy = Some(rule);
        let both = migrate_with(&source, &target, &mut (), &mut (), &save, &load_options());
        both.assert_one_owner();
        assert_eq!(both.source.is_ok(), moves, "{verdict:?}");
        if let Err(error) = &both.source {
            assert!(matches!(error.cause, Cause::GivenUp { .. }), "{error}");
            assert_all(&both.source_states, State::Running, "source");
        }
    }
}

/// Bytes that were read while the guest ran, by time: no burst beyond the cap.
#[test]
fn a_cap_is_kept_while_the_guest_runs() {
    use core::time::Duration;
    use std::time::Instant;

    let config = "model=plain caps=7 initial=1MiB dirty=0 stop=1KiB seed=1";
    let (source, target) = (devices(&[config, config]), devices(&[config, config]));
    let mut save = save_options();
    let mut rule = save::Precopy::default();
    rule.window = Duration::from_millis(5);
    rule.rate_bytes_per_s = Some(8 << 20);
    save.precopy = Some(rule);
    let began = Instant::now();
    migrate_with(&source, &target, &mut (), &mut (), &save, &load_options()).assert_moved();
    // Two MiB at eight a second.
    assert!(began.elapsed() > Duration::from_millis(200), "{:?}", began.elapsed());
}

/// What its guest makes would fill a task of eight chunks in four seconds. Decisions do not wait for that.
#[test]
fn a_device_that_trickles_does_not_hold_up_decisions() {
    use core::time::Duration;
    use savevm_core::sched::Verdict;
    use std::time::Instant;

    let config = "model=plain caps=7 initial=64KiB dirty=64MiB dirty-rate=2MiB/s stop=64KiB seed=1";
    let (source, target) = (devices(&[config]), devices(&[config]));
    let (mut save, mut load) = (save_options(), load_options());
    (save.limits.chunk_bytes_max, load.limits.chunk_bytes_max) = (1 << 20, 1 << 20);
    let mut rule = save::Precopy::default();
    rule.window = Duration::from_millis(10);
    rule.downtime_max = Duration::ZERO;
    (rule.level, rule.rising, rule.infeasible, rule.late) =
        (Verdict::Wait, Verdict::Wait, Verdict::Wait, Verdict::Switch);
    rule.duration_max = Duration::from_millis(300);
    save.precopy = Some(rule);
    let began = Instant::now();
    migrate_with(&source, &target, &mut (), &mut (), &save, &load).assert_moved();
    let took = began.elapsed();
    assert!((Duration::from_millis(300)..Duration::from_secs(2)).contains(&took), "{took:?}");
}
