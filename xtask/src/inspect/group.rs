// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which files belong together, and what there is to say about them together.

use std::path::{Path, PathBuf};

use stream_codec::frame::Role;

use super::case::Case;
use super::device::Explained;
use super::drive::Progress;
use super::format::{Carrier, Forced, Kind, StateFormat};
use super::input::Input;
use super::paper::Paper;
use super::words::shown;
use super::{Options, bare, cross, native, qemu, summary};

/// The files of one migration, each with what it is, in the order in which they must be read.
pub(super) type Group = Vec<(Kind, Input)>;

/// Opens the files and puts those together that are of one migration.
///
/// # Errors
/// A file cannot be read or is not recognised, or it cannot be told which belong together.
pub(super) fn open(paths: &[PathBuf], options: &Options) -> Result<Vec<Group>, String> {
    spare_inputs(paths, options)?;
    let mut files = Vec::new();
    for path in paths {
        let input = Input::open(path)?;
        let kind = recognise(&input, options)?;
        files.push((kind, input));
    }
    if files.len() == 1 {
        if let Some((Kind::Empty, input)) = files.first() {
            return Err(format!("{} is empty", input.label));
        }
    }
    arrange(files)
}

/// What is written must not be what is read.
fn spare_inputs(paths: &[PathBuf], options: &Options) -> Result<(), String> {
    let real = |path: &Path| path.canonicalize().ok();
    for extract in &options.extracts {
        let target = real(&extract.path).filter(|target| target.is_file());
        if target.is_some() && paths.iter().any(|path| real(path) == target) {
            let path = shown(&extract.path.to_string_lossy());
            return Err(format!("{path} is to be read: extract to another file"));
        }
    }
    Ok(())
}

fn recognise(input: &Input, options: &Options) -> Result<Kind, String> {
    let carrier = options.forced.iter().rev().find_map(|forced| match forced {
        Forced::Carrier(carrier) => Some(*carrier),
        Forced::State(..) => None,
    });
    if input.head().is_empty() {
        return Ok(Kind::Empty);
    }
    if let Some(carrier) = carrier {
        return Ok(Kind::Carrier(carrier));
    }
    let state = options.forced.iter().rev().find_map(|forced| match forced {
        Forced::State(None, format) => Some(*format),
        _ => None,
    });
    match (Kind::of(input.head()), state) {
        // Only a return path has no magic that would contradict.
        (Ok(Kind::State(_) | Kind::Carrier(Carrier::QemuReturnPath)) | Err(_), Some(format)) => Ok(Kind::State(format)),
        (Ok(kind), _) => Ok(kind),
        (Err(error), None) => Err(format!("{}: {error}", input.label)),
    }
}

/// Files with the state of a whole migration make a group each, the others join the one that there is.
fn arrange(files: Vec<(Kind, Input)>) -> Result<Vec<Group>, String> {
    let is_main = |kind: Kind| kind == Kind::Carrier(Carrier::QemuMain);
    let is_part =
        |kind: Kind| matches!(kind, Kind::Carrier(Carrier::QemuMultifd | Carrier::QemuReturnPath) | Kind::Empty);
    let mains = files.iter().filter(|(kind, _)| is_main(*kind)).count();
    let part = files.iter().find(|(kind, _)| is_part(*kind) && *kind != Kind::Empty);
    if let Some((_, input)) = part.filter(|_| mains > 1) {
        return Err(format!(
            "{} belongs to a migration, but there are {mains} main streams: inspect one migration at a time",
            input.label
        ));
    }
    let mut groups: Vec<Group> = Vec::new();
    let mut channels = Group::new();
    for (kind, input) in files {
        match kind {
            kind if is_part(kind) => channels.push((kind, input)),
            Kind::Carrier(Carrier::Native) => {
                let nonce = native::nonce(input.head());
                let of_it = |group: &&mut Group| {
                    nonce.is_some() && group.iter().any(|(_, other)| native::nonce(other.head()) == nonce)
                };
                match groups.iter_mut().find(of_it) {
                    Some(group) => group.push((kind, input)),
                    None => groups.push(vec![(kind, input)]),
                }
            }
            kind => groups.push(vec![(kind, input)]),
        }
    }
    let home = groups.iter_mut().find(|group| group.iter().any(|(kind, _)| is_main(*kind)));
    match home {
        Some(group) => group.extend(channels),
        None if channels.is_empty() => {}
        None => groups.push(channels),
    }
    groups.iter_mut().for_each(|group| group.sort_by_key(|(kind, input)| rank(*kind, input)));
    Ok(groups)
}

/// The main stream first, for it says how long packets are; then the channels by their number, and the answers. Of ours the
/// first channel, which names the devices.
fn rank(kind: Kind, input: &Input) -> (u8, u8) {
    match kind {
        Kind::Carrier(Carrier::Native) => {
            let is_target = native::role(input.head()) == Some(Role::Target);
            (u8::from(is_target), native::channel(input.head()))
        }
        Kind::Carrier(Carrier::QemuMain) | Kind::State(_) => (0, 0),
        Kind::Carrier(Carrier::QemuMultifd) => (1, qemu::first_packet(input.head()).unwrap_or(u8::MAX)),
        Kind::Carrier(Carrier::QemuReturnPath) => (2, 0),
        Kind::Empty => (3, 0),
    }
}

/// Explains the files of a migration, and says whether all went well.
pub(super) fn explain(group: Group, options: &Options, paper: &mut Paper, progress: &Progress) -> bool {
    let mut case = Case::new(options, paper, progress);
    case.paper.json_open(None, "{");
    case.paper.json_open(Some("files"), "[");
    let (kinds, mut files): (Vec<Kind>, Vec<Input>) = group.into_iter().unzip();
    let mut errors = Vec::new();
    for (file, (kind, input)) in kinds.iter().zip(&mut files).enumerate() {
        let (what, name) = words(*kind);
        let (label, length) = (input.label.clone(), input.length());
        case.open_file(&label, &what, name, length, matches!(kind, Kind::Carrier(_)));
        let result = match kind {
            Kind::Carrier(Carrier::Native) => native::explain(file, input, &mut case),
            Kind::Carrier(Carrier::QemuMain) => qemu::explain_main(file, input, &mut case),
            Kind::Carrier(Carrier::QemuMultifd) => qemu::explain_multifd(file, input, &mut case),
            Kind::Carrier(Carrier::QemuReturnPath) => qemu::explain_return_path(input, &mut case),
            Kind::State(_) => bare::explain(file, input, &mut case),
            Kind::Empty => Ok(()),
        };
        let read_bytes = input.position();
        case.close_file(read_bytes);
        progress.next(read_bytes);
        errors.extend(result.err());
    }
    case.paper.json_close("]");
    let notes = cross::check(&files, &mut case);
    errors.iter().for_each(|error| eprintln!("{error}"));
    conclude(&files, &mut case, &notes) && errors.is_empty()
}

fn words(kind: Kind) -> (String, &'static str) {
    match kind {
        Kind::Carrier(carrier) => (carrier.to_string(), carrier.name()),
        Kind::State(StateFormat::Opaque) => ("bytes".to_owned(), StateFormat::Opaque.name()),
        Kind::State(format) => (format!("state of a device: {format}"), format.name()),
        Kind::Empty => ("empty, nothing was sent".to_owned(), "empty"),
    }
}

/// Explains the devices. Returns them, and why a state could not be written.
fn devices(files: &[Input], case: &mut Case<'_>) -> (Vec<Explained>, Vec<String>) {
    let (is_whole, is_all) = (case.is_whole, case.options.all);
    let (mut all, mut errors, mut faults) = (Vec::new(), Vec::new(), Vec::new());
    case.paper.json_open(Some("devices"), "[");
    for device in case.devices.iter_mut() {
        let is_complete = is_whole && device.is_ended;
        let mut explained = device.explain(files, is_complete, is_all);
        case.paper.json_element(&explained.json);
        faults.append(&mut explained.faults);
        errors.extend(explained.copy_error.take());
        let name = &device.name;
        if !is_complete && case.options.extracts.iter().any(|extract| extract.device == *name) {
            let bytes = device.extracted_bytes();
            errors.push(format!("the state of {} is not complete: {bytes} bytes were written", shown(name)));
        }
        all.push(explained);
    }
    case.paper.json_close("]");
    for (file, fault) in faults {
        let label = files.get(file).map_or("", |file| &file.label);
        case.fault(label, fault);
    }
    errors.extend(case.options.extracts.iter().filter_map(|extract| missing(case, &extract.device)));
    (all, errors)
}

/// That there is no such device to extract, if so.
fn missing(case: &Case<'_>, wanted: &str) -> Option<String> {
    if case.devices.iter().any(|device| device.name == wanted) {
        return None;
    }
    let names: Vec<String> = case.devices.iter().map(|device| shown(&device.name)).collect();
    let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Some(format!("there is no device {} to extract; there is {there}", shown(wanted)))
}

/// The files, in few words.
fn labels(files: &[Input]) -> String {
    match files {
        [] => String::new(),
        [only] => only.label.clone(),
        [first, others @ ..] => format!("{} and {} more", first.label, others.len()),
    }
}

/// The rest, behind the files.
fn conclude(files: &[Input], case: &mut Case<'_>, notes: &[String]) -> bool {
    let options = case.options;
    let (devices, errors) = devices(files, case);
    if options.summary {
        case.paper.line(&labels(files));
        summary::lines(case).iter().for_each(|line| case.paper.line(&format!("  {line}")));
    }
    if (case.paper.has_items() || options.summary) && !devices.is_empty() {
        case.paper.line("devices");
        for device in &devices {
            case.paper.line(&format!("  {}", device.line));
            let lines = device.lines.iter().filter(|line| !options.summary || !line.starts_with("  "));
            lines.for_each(|line| case.paper.line(&format!("    {line}")));
        }
    }
    if case.paper.has_items() || options.summary {
        notes.iter().for_each(|note| case.paper.line(&format!("note: {note}")));
    }
    let text = summary::json(case, notes);
    case.paper.json_member("summary", &text);
    let faults = core::mem::take(&mut case.faults);
    case.paper.json_member("faults", &faults);
    case.paper.json_close("}");
    if let Some(fault) = faults.first() {
        case.paper.line(&fault.to_string());
        let more = faults.iter().count().saturating_sub(1);
        if more > 0 && options.check {
            case.paper.line(&format!("and {more} more; without --check all are shown"));
        }
    } else if options.check {
        case.paper.line(&format!("{}: no fault", labels(files)));
    }
    errors.iter().for_each(|error| eprintln!("{error}"));
    errors.is_empty() && case.is_anything && !(options.check && faults.first().is_some())
}
