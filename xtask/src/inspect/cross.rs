// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What only shows when the files of a migration are looked at together.

use super::case::Case;
use super::device::Device;
use super::fault::Fault;
use super::input::Input;
use super::words::{shown, size};

/// Puts packets in order and compares what the files say of each other. Returns what is worth knowing and no fault.
pub(super) fn check(files: &[Input], case: &mut Case<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    let mut found = Vec::new();
    for device in case.devices.iter_mut().filter(|device| device.has_frames || !device.packets.is_empty()) {
        found.extend(if device.has_frames { device.join_frames(files) } else { device.join_packets(files) });
    }
    if !found.is_empty() {
        case.is_whole = false;
    }
    for (file, fault) in found {
        let label = files.get(file).map_or("", |file| &file.label);
        let glimpse = files.get(file).map(|file| file.glimpse(fault.offset)).unwrap_or_default();
        case.fault(label, fault.found(&glimpse));
    }
    channels(case, &mut notes);
    native_channels(case, &mut notes);
    devices(files, case, &mut notes);
    answers(case, &mut notes);
    sums(case);
    notes
}

/// Every channel once, all of one VM.
fn channels(case: &mut Case<'_>, notes: &mut Vec<String>) {
    let mut channels = case.channels.clone();
    channels.sort_by_key(|channel| channel.channel);
    let mut faults = Vec::new();
    for pair in channels.windows(2) {
        let [one, other] = pair else { continue };
        if one.channel == other.channel {
            let meaning = format!("channel {} again, which {} is too", other.channel, one.file);
            let advice = "give each channel of one migration once";
            faults.push((other.file.clone(), Fault::new(24, meaning, advice).within("the initial packet")));
        }
        if one.uuid != other.uuid {
            let meaning = format!("a channel of VM {}, while {} is one of VM {}", other.uuid, one.file, one.uuid);
            let advice = "give the channels of one migration only";
            faults.push((other.file.clone(), Fault::new(8, meaning, advice).within("the initial packet")));
        }
    }
    let last = channels.last().map(|channel| channel.channel);
    let missing = (0..last.unwrap_or(0)).filter(|id| channels.iter().all(|channel| channel.channel != *id));
    let missing: Vec<String> = missing.map(|id| id.to_string()).collect();
    if !missing.is_empty() {
        notes.push(format!("multifd channels are not among the FILEs: {}", missing.join(", ")));
    }
    for (file, fault) in faults {
        case.fault(&file, fault);
    }
}

/// Which channels of a migration of ours are not there.
fn native_channels(case: &Case<'_>, notes: &mut Vec<String>) {
    for role in ["source", "target"] {
        let there: Vec<_> = case.natives.iter().filter(|native| native.role == role).collect();
        let count = there.iter().map(|native| native.channels).max().unwrap_or(0);
        let missing = (0..count).filter(|index| there.iter().all(|native| native.channel != *index));
        let missing: Vec<String> = missing.map(|index| index.to_string()).collect();
        if !missing.is_empty() {
            notes.push(format!(
                "of the {role}'s {count} channels these are not among the FILEs: {}",
                missing.join(", ")
            ));
        }
    }
}

/// Every device of a complete main stream is complete, or its state is elsewhere.
fn devices(files: &[Input], case: &mut Case<'_>, notes: &mut Vec<String>) {
    let Some(main) = case.main.as_ref().filter(|main| main.is_complete) else { return };
    let has_channels = !case.channels.is_empty();
    let is_unfinished = |device: &&Device| !device.is_ended && device.packets.is_empty();
    let mut faults = Vec::new();
    for device in case.devices.iter().filter(is_unfinished).filter(|device| main.sections.contains_key(&device.name)) {
        let name = shown(&device.name);
        if has_channels {
            let meaning =
                format!("the main stream ends without the config state of {name}, and no channel has packets of it");
            faults.push(Fault::new(0, meaning, "give all multifd channels of the migration as FILEs"));
        } else {
            notes.push(format!(
                "the stop-copy state of {name} went over multifd channels, which are not among the FILEs"
            ));
        }
    }
    let label = files.first().map_or(String::new(), |file| file.label.clone());
    faults.into_iter().for_each(|fault| case.fault(&label, fault));
}

/// Answers that were not asked for, or did not come.
fn answers(case: &Case<'_>, notes: &mut Vec<String>) {
    let (Some(main), Some(answers)) = (&case.main, &case.answers) else { return };
    for ping in main.pings.iter().filter(|ping| !answers.pongs.contains(ping)) {
        notes.push(format!("PING {ping:#x} was not answered"));
    }
    if main.commands.contains_key("OPEN_RETURN_PATH") && answers.shut.is_none() {
        notes.push("the target never said SHUT: it ended, or was cut off, before its migration was over".to_owned());
    }
    let sent = case.devices.iter().map(|device| device.initial_sent).fold(0, u64::saturating_add);
    if answers.switchover_acks > sent {
        let acks = answers.switchover_acks;
        notes.push(format!("SWITCHOVER_ACK came {acks} times, but initial bytes were said to be sent {sent} times"));
    }
}

/// What the target says that it has loaded, against what the source says that it has sent.
fn sums(case: &mut Case<'_>) {
    let (targets, sources): (Vec<_>, Vec<_>) = case.natives.iter().cloned().partition(|native| native.role == "target");
    let sent: Vec<_> = sources.iter().flat_map(|source| &source.sums).collect();
    for target in &targets {
        for loaded in &target.sums {
            let Some(end) = sent.iter().find(|end| end.device == loaded.device) else { continue };
            if (end.bytes, &end.digest) != (loaded.bytes, &loaded.digest) {
                let meaning = format!(
                    "the target loaded {} of device {}, {}; the source sent {}, {}",
                    size(loaded.bytes),
                    loaded.device,
                    loaded.digest,
                    size(end.bytes),
                    end.digest
                );
                let advice = "the target must not run with this state: repeat the migration";
                case.fault(&target.file, Fault::new(loaded.offset, meaning, advice));
            }
        }
    }
}
