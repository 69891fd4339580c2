// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A migration on one screen: what it is, who wrote it, what is in it, and in which phase it was sent.

use serde_json::{Value, json};

use super::case::Case;
use super::native::NativeFacts;
use super::qemu::{ChannelFacts, MainFacts, Stage};
use super::words::{count, shown, size, wide};

/// Sections that are listed.
const SECTIONS_SHOWN: usize = 8;

/// As lines for a person.
pub(super) fn lines(case: &Case<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(main) = &case.main {
        main_lines(main, &mut lines);
    }
    for channel in &case.channels {
        lines.push(channel_line(channel));
    }
    if let Some(answers) = &case.answers {
        let shut = match answers.shut {
            None => "no SHUT".to_owned(),
            Some(status) => format!("SHUT with status {status}"),
        };
        let acks = count(answers.switchover_acks, "SWITCHOVER_ACK");
        lines.push(format!("answers     {}, {acks}, {shut}", count(wide(answers.pongs.len()), "PONG")));
    }
    case.natives.iter().for_each(|native| native_lines(native, &mut lines));
    lines
}

fn main_lines(main: &MainFacts, lines: &mut Vec<String>) {
    let ending = if main.is_complete { "complete" } else { "cut short or damaged" };
    lines.push(format!("stream      main stream of QEMU, {ending}"));
    let has = |name: &str| main.commands.contains_key(name);
    // SWITCHOVER_START is sent by machine types from 10.0 on.
    let by = match (has("SWITCHOVER_START"), main.stage >= Stage::StopCopy) {
        (true, _) => "QEMU 10.0 or newer",
        (false, true) => "QEMU, older than 10.0 or with a machine type that is",
        (false, false) => "QEMU",
    };
    let machine = if main.machine.is_empty() { "unknown (no configuration)".to_owned() } else { shown(&main.machine) };
    lines.push(format!("written by  {by}, machine type {machine}"));
    let mut features = Vec::new();
    features.extend(has("OPEN_RETURN_PATH").then_some("return path"));
    features.extend((main.ram.multifd_flushes > 0).then_some("multifd"));
    features.extend((main.ram.mapped_pages > 0).then_some("mapped-ram"));
    features.extend((main.ram.xbzrle_pages > 0).then_some("xbzrle"));
    features.extend(has("POSTCOPY_ADVISE").then_some("postcopy"));
    features.extend((main.footers == 0).then_some("no section footers"));
    features.extend(main.vmdesc_bytes.is_none().then_some("no vmdesc"));
    if !features.is_empty() {
        lines.push(format!("uses        {}", features.join(", ")));
    }
    let stages = Stage::ALL.iter().filter_map(|stage| {
        let bytes = main.stage_bytes.get(stage.name())?;
        Some(format!("{} {bytes} bytes", stage.name()))
    });
    lines.push(format!("phases      {}", stages.collect::<Vec<_>>().join(", ")));
    if let Some(offset) = main.switchover_offset {
        lines.push(format!("switchover  at offset {offset:08x}"));
    }
    let mapped = match main.ram.mapped_pages {
        0 => String::new(),
        pages => format!(", {} in the file", count(pages, "page")),
    };
    let pages = main.ram.text();
    let pages = if pages.is_empty() { pages } else { format!(": {pages}") };
    lines.push(format!("ram         {}{mapped}{pages}", size(main.ram.total_bytes)));
    section_lines(main, lines);
}

fn section_lines(main: &MainFacts, lines: &mut Vec<String>) {
    let mut sections: Vec<_> = main.sections.iter().collect();
    sections.sort_by_key(|(name, tally)| (core::cmp::Reverse(tally.bytes), name.as_str()));
    let ends = &main.ends;
    let total = main.sections.values().map(|tally| tally.sections).fold(0, u64::saturating_add);
    lines.push(format!(
        "sections    {total} of {}; of the FULL ones end as the vmdesc says {}, as their format says {}, by search {}",
        count(wide(main.sections.len()), "device"),
        ends.vmdesc,
        ends.format,
        ends.footer_search
    ));
    for (name, tally) in sections.iter().take(SECTIONS_SHOWN) {
        lines.push(format!("{:>12} bytes  {:<28} {}", tally.bytes, shown(name), count(tally.sections, "section")));
    }
    let rest = sections.get(SECTIONS_SHOWN..).unwrap_or_default();
    if !rest.is_empty() {
        let bytes = rest.iter().map(|(_, tally)| tally.bytes).fold(0, u64::saturating_add);
        lines.push(format!("{bytes:>12} bytes  in {} more", wide(rest.len())));
    }
}

fn channel_line(channel: &ChannelFacts) -> String {
    let ChannelFacts { channel: id, sync_packets, ram_packets, normal_pages, zero_pages, device_packets, .. } = channel;
    format!(
        "channel {id}   {}, {} with {} and {}, {} with {}",
        count(*sync_packets, "SYNC packet"),
        count(*ram_packets, "RAM packet"),
        count(*normal_pages, "page"),
        count(*zero_pages, "zero page"),
        count(*device_packets, "device packet"),
        size(channel.device_bytes)
    )
}

fn native_lines(native: &NativeFacts, lines: &mut Vec<String>) {
    let versions = native.versions.map(|(low, high)| {
        if low == high { format!(", version {low}") } else { format!(", versions {low} to {high}") }
    });
    let what = match native.role.as_str() {
        "" => "stream of this program, without its start",
        "file" => "file of this program",
        "source" => "stream of this program, source to target",
        _ => "stream of this program, target to source",
    };
    let channel = if native.channels > 1 {
        format!(", channel {} of {}", native.channel, native.channels)
    } else {
        String::new()
    };
    lines.push(format!("stream      {what}{channel}{}", versions.unwrap_or_default()));
    lines.push(format!("session     {}, {}", native.nonce, count(native.devices_announced.into(), "device")));
    if native.role != "target" {
        let after = native.data_bytes.saturating_sub(native.precopy_bytes);
        lines.push(format!(
            "phases      pre-copy {} bytes, stop-copy {after} bytes, in {}",
            native.precopy_bytes,
            count(native.data_frames, "frame")
        ));
    }
    let ending = match (&native.abort, native.is_completed, native.is_committed) {
        (Some(reason), ..) => format!("aborted: {}", shown(reason)),
        (None, true, _) => "the target took over".to_owned(),
        (None, _, true) => "committed".to_owned(),
        _ => "not committed".to_owned(),
    };
    lines.push(format!("ending      {ending}"));
}

/// As a JSON value.
pub(super) fn json(case: &Case<'_>, notes: &[String]) -> Value {
    json!({
        "complete": case.is_whole,
        "main": case.main,
        "channels": case.channels,
        "return_path": case.answers,
        "native": case.natives,
        "notes": notes,
    })
}
