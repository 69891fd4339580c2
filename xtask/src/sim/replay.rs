// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command `replay`: run a scheduler's log again and see that the same comes out.
//!
//! A log is text, one JSON document on each line. The first is `{"format":"savevm-sched-log/1","config":…}`; each other is a
//! [`Record`]: `Event` (what the scheduler was told), `Poll` (what it answered), `Commit`, `NeverSent`, or `Decision`. Times are
//! durations since any fixed moment.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use savevm_core::sched::{self, Config, Divergence, Logged, Record};
use serde::{Deserialize, Serialize};

use crate::cli;
use crate::out::outln;

const FORMAT: &str = "savevm-sched-log/1";

/// The longest is the first, with some hundred bytes for each section.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Run a scheduler's event log again, and see that it decides the same
#[derive(Debug, clap::Args)]
#[command(after_help = "\
LOG is what `cargo xtask migrate source --log FILE` writes of a real migration and `cargo xtask sim --seed N --runs 1 --log FILE` of a
simulated one: JSON lines, the configuration first, then every event with its time, every answer, and every decision with its reason.

A line has 1 MiB at most.

Exit status: 0 the same came out; 1 something else did; 2 the log cannot be read.")]
pub(crate) struct ReplayArgs {
    /// The log
    log: PathBuf,

    /// Print the decisions only, not every event
    #[arg(long)]
    decisions: bool,

    /// Print one JSON document on standard output
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize, Serialize)]
struct Head {
    format: String,
    config: Config,
}

/// Writes a piece of a log, on a line of its own.
pub(crate) fn write(writer: &mut impl Write, entry: Logged<'_>) -> io::Result<()> {
    match entry {
        Logged::Config(config) => {
            serde_json::to_writer(&mut *writer, &Head { format: FORMAT.into(), config: config.clone() })?;
        }
        Logged::Record(record) => serde_json::to_writer(&mut *writer, record)?,
    }
    writer.write_all(b"\n")
}

fn read(path: &Path) -> Result<(Config, Vec<Record>), String> {
    let file = File::open(path).map_err(|error| format!("cannot open {}: {error}", path.display()))?;
    parse(BufReader::new(file)).map_err(|(line, error)| format!("{}:{line}: {error}", path.display()))
}

/// Reads a log, or says in which line it is none.
fn parse(mut log: impl BufRead) -> Result<(Config, Vec<Record>), (usize, String)> {
    let what = "this is no log of a scheduler, which `sim` and `migrate source` write with --log";
    let mut line = Vec::new();
    if !read_line(&mut log, &mut line).map_err(|error| (1, format!("{what}: {error}")))? {
        return Err((1, "the log is empty".into()));
    }
    let head: Head = serde_json::from_slice(&line).map_err(|error| (1, format!("{what}: {error}")))?;
    if head.format != FORMAT {
        return Err((1, format!("the format is {}, not {FORMAT}", head.format)));
    }
    let mut records = Vec::new();
    for number in 2.. {
        if !read_line(&mut log, &mut line).map_err(|error| (number, error))? {
            break;
        }
        records.push(serde_json::from_slice(&line).map_err(|error| (number, error.to_string()))?);
    }
    Ok((head.config, records))
}

/// Reads the next line, without its end, into `line`. False where there is none.
fn read_line(log: &mut impl BufRead, line: &mut Vec<u8>) -> Result<bool, String> {
    line.clear();
    // One more for its end.
    let room = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    log.take(room).read_until(b'\n', line).map_err(|error| error.to_string())?;
    let has_end = line.last() == Some(&b'\n');
    if has_end {
        let _ = line.pop();
    }
    if line.len() > LINE_BYTES_MAX {
        return Err(format!("the line is longer than {LINE_BYTES_MAX} bytes, which no log of a scheduler comes near"));
    }
    Ok(has_end || !line.is_empty())
}

/// Runs the log again. The exit status is the answer.
pub(crate) fn replay(args: &ReplayArgs) -> ExitCode {
    let (config, records) = match read(&args.log) {
        Ok(log) => log,
        Err(error) => {
            let _ = cli::fail(args.json, &error);
            return ExitCode::from(2);
        }
    };
    if !args.json {
        records.iter().for_each(|record| show(record, args.decisions));
    }
    let count = records.len();
    let divergence = sched::replay(config, records).err();
    if args.json {
        let same = divergence.is_none();
        let text = divergence.as_ref().map(describe);
        cli::print_json(&serde_json::json!({ "records": count, "same": same, "divergence": text }));
    } else {
        match &divergence {
            None => outln!("{count} records: the same steps and decisions came out"),
            Some(divergence) => outln!("{}", describe(divergence)),
        }
    }
    if divergence.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn show(record: &Record, decisions_only: bool) {
    match record {
        Record::Decision { at, decision } => outln!("{:>12.6} s  {decision:?}", at.as_secs_f64()),
        _ if decisions_only => {}
        Record::Event { at, event } => outln!("{:>12.6} s  <- {event:?}", at.as_secs_f64()),
        Record::Poll { at, step } => outln!("{:>12.6} s  -> {step:?}", at.as_secs_f64()),
        other => outln!("{other:?}"),
    }
}

fn describe(divergence: &Divergence) -> String {
    // Records are counted from 0, and the first stands on the second line.
    match divergence {
        Divergence::Step { record, logged, now } => {
            format!("line {}: the log has {logged:?}, now it is {now:?}", record + 2)
        }
        Divergence::Decision { record, logged, now } => {
            format!("line {}: the log has {logged:?}, now it is {now:?}", record + 2)
        }
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod test {
    use std::io::{Cursor, repeat};

    use savevm_core::sched::{Event, Kind, Section};
    use vfio_mig_fsm::Capabilities;

    use super::*;

    /// A first line for so many sections.
    fn head(sections: usize) -> Vec<u8> {
        let section = |index| Section::new(format!("device{index}"), Kind::Device, Capabilities::P2pPreCopy);
        let mut line = Vec::new();
        write(&mut line, Logged::Config(&Config::new((0..sections).map(section).collect()))).unwrap();
        line
    }

    /// A record that takes up so many bytes.
    fn record(length: usize) -> Vec<u8> {
        let mut line = Vec::new();
        let record = Record::Event { at: core::time::Duration::ZERO, event: Event::Cancel };
        write(&mut line, Logged::Record(&record)).unwrap();
        let _ = line.pop();
        line.resize(length.max(line.len()), b' ');
        line
    }

    #[test]
    fn the_most_sections_fit_into_a_line() {
        let sections = usize::try_from(savevm_core::Limits::default().devices_max).unwrap();
        let line = head(sections);
        assert!(line.len() < LINE_BYTES_MAX / 2, "{} bytes", line.len());
        assert_eq!(parse(&*line).unwrap().0.sections.len(), sections);
    }

    #[test]
    fn a_line_up_to_the_limit_is_read_with_an_end_or_without() {
        for end in ["", "\n", "\r\n"] {
            let room = LINE_BYTES_MAX - end.len().saturating_sub(1);
            let log = [&*head(1), &*record(room), end.as_bytes()].concat();
            assert_eq!(parse(&*log).unwrap().1.len(), 1, "{end:?}");
        }
    }

    #[test]
    fn a_line_beyond_the_limit_is_refused_with_its_number() {
        let check = |log: &mut dyn BufRead, expected: usize| {
            let (line, error) = parse(log).unwrap_err();
            assert_eq!(line, expected, "{error}");
            assert!(error.contains("longer than 1048576 bytes"), "{error}");
        };
        check(&mut &*[head(1), record(80), b"\n".into(), record(LINE_BYTES_MAX + 1)].concat(), 3);
        check(&mut &*[head(1), record(80), b"\n".into(), record(LINE_BYTES_MAX + 1), b"\n".into()].concat(), 3);
        // Without an end at all, as a device file has none.
        check(&mut BufReader::new(repeat(b'x')), 1);
        check(&mut BufReader::new(Cursor::new(head(1)).chain(repeat(b' '))), 2);
    }

    #[test]
    fn a_log_that_is_none_says_so() {
        for (log, line, part) in
            [(&b""[..], 1, "empty"), (b"{}", 1, "no log of a scheduler"), (b"\xff\n", 1, "no log of a scheduler")]
        {
            let (found, error) = parse(log).unwrap_err();
            assert!(found == line && error.contains(part), "{found}: {error}");
        }
        let (line, error) = parse(&*[head(1), b"\n".into()].concat()).unwrap_err();
        assert!(line == 2 && error.contains("EOF"), "{line}: {error}");
    }
}
