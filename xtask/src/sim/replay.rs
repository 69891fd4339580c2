// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command `replay`: run a scheduler's log again and see that the same comes out.
//!
//! A log is text, one JSON document on each line. The first is `{"format":"savevm-sched-log/1","config":…}`; each other is a
//! [`Record`]: `Event` (what the scheduler was told), `Poll` (what it answered), `Commit`, `NeverSent`, or `Decision`. Times are
//! durations since any fixed moment.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use savevm_core::sched::{self, Config, Divergence, Logged, Record};
use serde::{Deserialize, Serialize};

use crate::cli;
use crate::out::outln;

const FORMAT: &str = "savevm-sched-log/1";

/// Run a scheduler's event log again, and see that it decides the same
#[derive(Debug, clap::Args)]
#[command(after_help = "\
LOG is what `cargo xtask migrate source --log FILE` writes of a real migration and `cargo xtask sim --seed N --runs 1 --log FILE` of a
simulated one: JSON lines, the configuration first, then every event with its time, every answer, and every decision with its reason.

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
    let at = |line: usize, error: &dyn core::fmt::Display| format!("{}:{line}: {error}", path.display());
    let file = File::open(path).map_err(|error| format!("cannot open {}: {error}", path.display()))?;
    let mut lines = BufReader::new(file).lines();
    let first = lines.next().ok_or_else(|| at(1, &"the log is empty"))?.map_err(|error| at(1, &error))?;
    let what = "this is no log of a scheduler, which `sim` and `migrate source` write with --log";
    let head: Head = serde_json::from_str(&first).map_err(|error| at(1, &format_args!("{what}: {error}")))?;
    if head.format != FORMAT {
        return Err(at(1, &format_args!("the format is {}, not {FORMAT}", head.format)));
    }
    let mut records = Vec::new();
    for (number, line) in (2..).zip(lines) {
        let line = line.map_err(|error| at(number, &error))?;
        records.push(serde_json::from_str(&line).map_err(|error| at(number, &error))?);
    }
    Ok((head.config, records))
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
