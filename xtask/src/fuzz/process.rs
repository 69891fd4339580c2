// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A fuzz target as a process: what it is told, what it says, and what it leaves behind.

mod said;

use core::time::Duration;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use serde::Serialize;

use super::targets::Target;
use super::{FOUND, Folders, shown};
use crate::out::outln;
pub(super) use said::Said;

/// What libFuzzer exits with when it was interrupted, which is no finding.
const INTERRUPTED: i32 = 72;
/// How often to say how far it is.
const PROGRESS: Duration = Duration::from_secs(10);
/// How many ticks of `/proc/PID/stat` make a second, on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// Bounds of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// How long to run; 0 runs what there is once.
    pub(super) seconds: u32,
    /// For one input, in seconds.
    pub(super) timeout: u32,
    /// In mebibytes.
    pub(super) memory: u32,
}

impl Limits {
    fn arguments(self) -> Vec<OsString> {
        let length = match self.seconds {
            0 => "-runs=0".to_owned(),
            seconds => format!("-max_total_time={seconds}"),
        };
        [length, format!("-timeout={}", self.timeout), format!("-rss_limit_mb={}", self.memory)].map(Into::into).into()
    }
}

/// What came of a target.
#[derive(Debug, Serialize)]
pub(super) struct Fuzzed {
    pub(super) name: String,
    /// How often it was called.
    pub(super) runs: u64,
    /// Edges of the code that were reached.
    pub(super) edges: u64,
    /// Files of the corpus that reach something of their own.
    pub(super) corpus: u64,
    pub(super) peak_memory_mib: u64,
    pub(super) wall_seconds: f64,
    /// Of the processor, where `/proc` says.
    pub(super) cpu_seconds: Option<f64>,
    pub(super) was_interrupted: bool,
    pub(super) finding: Option<Finding>,
}

impl Fuzzed {
    pub(super) const fn is_found(&self) -> bool {
        self.finding.is_some()
    }
}

/// A run that ended badly.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    /// The line that says what happened.
    pub(super) what: String,
    /// The inputs that did it.
    pub(super) inputs: Vec<PathBuf>,
    /// The command that does it again.
    pub(super) replay: Option<String>,
    pub(super) log: PathBuf,
}

/// Runs a target as long as the limits say.
pub(super) fn fuzz(program: &Path, target: &Target, folders: &Folders, limits: Limits) -> Result<Fuzzed, String> {
    let (findings, learnt) = (folders.of("findings", target)?, folders.of("corpus", target)?);
    let log = folders.log(target)?;
    let before = files(&findings);
    let mut command = Command::new(program);
    command.args(limits.arguments()).arg("-print_final_stats=1");
    // The last separator matters: it makes a folder of the prefix.
    command.arg(format!("-artifact_prefix={}/", findings.display()));
    // What is learnt goes to the first folder; the others are only read.
    command.arg(&learnt).args(Some(target.corpus()).filter(|corpus| corpus.is_dir()));
    let begin = Instant::now();
    let (said, cpu_seconds, code) = watch(command, target, &log, begin)?;
    let was_interrupted = code == Some(INTERRUPTED);
    let finding = (code != Some(0) && !was_interrupted).then(|| {
        let inputs: Vec<PathBuf> = files(&findings).difference(&before).cloned().collect();
        let replay = inputs.first().map(|input| format!("cargo xtask fuzz {target} --replay {}", shown(input)));
        Finding { what: said.failure(), inputs, replay, log }
    });
    let fuzzed = Fuzzed {
        name: target.to_string(),
        runs: said.runs,
        edges: said.edges,
        corpus: said.corpus,
        peak_memory_mib: said.peak_memory_mib,
        wall_seconds: begin.elapsed().as_secs_f64(),
        cpu_seconds,
        was_interrupted,
        finding,
    };
    eprintln!("{}: {}", fuzzed.name, fuzzed.finding.as_ref().map_or("done", |finding| finding.what.as_str()));
    Ok(fuzzed)
}

/// Runs a command to its end, and gives what it said, its processor time and its exit code.
pub(super) fn watch(
    mut command: Command,
    target: &Target,
    log: &Path,
    begin: Instant,
) -> Result<(Said, Option<f64>, Option<i32>), String> {
    let failed = |error: std::io::Error| format!("cannot run {target}: {error}");
    let mut file = File::create(log).map_err(|error| format!("cannot write {}: {error}", log.display()))?;
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(failed)?;
    let mut said = Said::default();
    let mut shown = begin;
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).split(b'\n') {
            let line = line.map_err(failed)?;
            file.write_all(&line).and_then(|()| file.write_all(b"\n")).map_err(failed)?;
            said.line(&String::from_utf8_lossy(&line));
            if shown.elapsed() > PROGRESS {
                shown = Instant::now();
                let seconds = begin.elapsed().as_secs();
                eprintln!("{target}: {seconds} s, {} runs, {} edges", said.runs, said.edges);
            }
        }
    }
    let cpu_seconds = cpu_seconds(&child);
    let status = child.wait().map_err(failed)?;
    Ok((said, cpu_seconds, status.code()))
}

/// The processor time of a process that may have ended, but was not waited for.
fn cpu_seconds(child: &Child) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).ok()?;
    // proc(5): the name, in parentheses, may hold anything; utime and stime are the fields 14 and 15.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system) = (fields.next()?.parse::<f64>().ok()?, fields.next()?.parse::<f64>().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

pub(super) fn files(folder: &Path) -> BTreeSet<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Runs inputs one after the other. The exit status says whether one of them broke something.
pub(super) fn replay(program: &Path, inputs: &[PathBuf], limits: Limits) -> Result<ExitCode, String> {
    if let Some(missing) = inputs.iter().find(|input| !input.is_file()) {
        return Err(format!("there is no file {}", missing.display()));
    }
    let mut failed = 0u32;
    for input in inputs {
        let status = Command::new(program).args(limits.arguments()).arg(input).stdin(Stdio::null()).status();
        let status = status.map_err(|error| format!("cannot run {}: {error}", program.display()))?;
        failed = failed.saturating_add(u32::from(!status.success()));
        outln!("{}: {}", input.display(), if status.success() { "nothing found" } else { "found again" });
    }
    Ok(if failed > 0 { ExitCode::from(FOUND) } else { ExitCode::SUCCESS })
}
