// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `fuzz`: every fuzz target of the workspace, with nothing installed but Rust and a C++ compiler.
//!
//! `targets` finds them, `build` builds them as libFuzzer wants them, `process` runs one, `report` says what came of
//! all. What was found stays below `target/fuzz`, and so does what libFuzzer learnt, for the next run to start with.

mod build;
mod minimise;
mod process;
mod report;
mod targets;

use core::sync::atomic::{AtomicBool, Ordering};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use crate::out::outln;
use crate::{cli, soft};
use process::{Fuzzed, Limits};
use targets::Target;

/// Something was found.
const FOUND: u8 = 1;
/// Something could not be built or run.
const FAILED: u8 = 2;

/// Feed arbitrary input to every decoder, in search of a panic, a hang, or a broken promise
#[derive(Debug, clap::Args)]
#[command(after_help = "\
TARGET is a crate (stream-codec), a target (qemu_main) or both (stream-codec/qemu_main).

Targets are built with the instrumentation that libFuzzer steers by. With a nightly toolchain
that has it they get AddressSanitizer as well; else the default toolchain is used, without.
Nothing need be installed for it but a C++ compiler. The first line says which way it went.

Below target/fuzz:
  findings/CRATE/TARGET   an input that broke something; its replay is printed
  corpus/CRATE/TARGET     what was learnt: the next run starts with it and the crate's corpus
  logs/CRATE-TARGET.log   all that libFuzzer said

Exit status: 0 nothing was found; 1 something was; 2 something could not be built or run.")]
pub(crate) struct Args {
    /// Only these targets [default: all]
    #[arg(value_name = "TARGET")]
    names: Vec<String>,

    /// How long to run each target; 0 runs the corpora once and nothing new
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    time: u32,

    /// How many targets to run at once [default: one per processor]
    #[arg(long, value_name = "COUNT")]
    jobs: Option<usize>,

    /// How long one input may take: more is a finding
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    timeout: u32,

    /// How much memory a target may take: more is a finding. AddressSanitizer takes a part of it
    #[arg(long, value_name = "MEBIBYTES", default_value_t = 2048)]
    memory: u32,

    /// Run these inputs once, one after the other, and no others; needs one TARGET
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "time")]
    replay: Vec<PathBuf>,

    /// Replace the crates' corpora by files, of theirs and of what was learnt, that reach as much code between them, and
    /// each of them code that no other does
    #[arg(long, conflicts_with_all = ["time", "replay"])]
    minimise: bool,

    /// Use the default toolchain and no AddressSanitizer: faster, and the decoders have no unsafe code of their own
    #[arg(long)]
    plain: bool,

    /// Name the targets and stop
    #[arg(long)]
    list: bool,

    /// Print one JSON document on standard output
    #[arg(long)]
    json: bool,
}

/// Where things are kept.
pub(crate) struct Folders {
    root: PathBuf,
}

impl Folders {
    fn open() -> Result<Self, String> {
        let workspace = soft::workspace();
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
        let root = target.join("fuzz");
        std::fs::create_dir_all(&root).map_err(|error| format!("cannot create {}: {error}", root.display()))?;
        let root = root.canonicalize().map_err(|error| format!("cannot resolve {}: {error}", root.display()))?;
        Ok(Self { root })
    }

    /// A folder of a target, which exists.
    fn of(&self, what: &str, target: &Target) -> Result<PathBuf, String> {
        let folder = self.root.join(what).join(&target.krate).join(&target.name);
        std::fs::create_dir_all(&folder).map_err(|error| format!("cannot create {}: {error}", folder.display()))?;
        Ok(folder)
    }

    fn log(&self, target: &Target) -> Result<PathBuf, String> {
        let folder = self.root.join("logs");
        std::fs::create_dir_all(&folder).map_err(|error| format!("cannot create {}: {error}", folder.display()))?;
        Ok(folder.join(format!("{}-{}.log", target.krate, target.name)))
    }
}

/// Fuzzes. The exit status says whether anything was found.
pub(crate) fn run(args: &Args) -> ExitCode {
    match try_run(args) {
        Ok(status) => status,
        Err(error) => {
            let _ = cli::fail(args.json, &error);
            ExitCode::from(FAILED)
        }
    }
}

fn try_run(args: &Args) -> Result<ExitCode, String> {
    let chosen = targets::choose(targets::find(&soft::workspace())?, &args.names)?;
    if args.list {
        list(&chosen, args.json);
        return Ok(ExitCode::SUCCESS);
    }
    let folders = Folders::open()?;
    let mode = build::Mode::detect(args.plain);
    eprintln!("building with {mode}");
    let built = build::build(&mode, &chosen, &folders.root.join("build"))?;
    if !args.replay.is_empty() {
        let [target] = &chosen[..] else {
            return Err(format!("--replay needs one target, these are {}", chosen.len()));
        };
        return process::replay(&built.program(target)?, &args.replay, args.limits());
    }
    if args.minimise {
        for target in &chosen {
            minimise::minimise(&built.program(target)?, target, &folders)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let targets = run_all(args, &chosen, &built, &folders)?;
    let found = targets.iter().any(Fuzzed::is_found);
    let is_missing = |name: &String| !targets.iter().any(|fuzzed| fuzzed.name == *name);
    let not_run = chosen.iter().map(Target::to_string).filter(is_missing).collect();
    let document = report::Document { mode: mode.to_string(), seconds: args.time, found, targets, not_run };
    if args.json {
        cli::print_json(&document);
    } else {
        outln!("{}", document.table());
    }
    Ok(if found { ExitCode::from(FOUND) } else { ExitCode::SUCCESS })
}

fn list(chosen: &[Target], json: bool) {
    if json {
        cli::print_json(&chosen.iter().map(Target::to_string).collect::<Vec<_>>());
    } else {
        chosen.iter().for_each(|target| outln!("{target}"));
    }
}

impl Args {
    const fn limits(&self) -> Limits {
        Limits { seconds: self.time, timeout: self.timeout, memory: self.memory }
    }

    fn jobs(&self) -> usize {
        self.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1)
    }
}

/// Runs all targets, some at once, until done or interrupted.
fn run_all(args: &Args, chosen: &[Target], built: &build::Built, folders: &Folders) -> Result<Vec<Fuzzed>, String> {
    let programs = chosen.iter().map(|target| built.program(target)).collect::<Result<Vec<_>, _>>()?;
    // A target that is interrupted says what it has done so far; so does this program.
    let interrupted = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&interrupted))
        .map_err(|error| format!("cannot watch for SIGINT: {error}"))?;
    let waiting = Mutex::new(chosen.iter().zip(&programs));
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..args.jobs().min(chosen.len()) {
            scope.spawn(|| {
                while !interrupted.load(Ordering::Relaxed) {
                    let Some((target, program)) = next(&waiting) else { break };
                    let fuzzed = process::fuzz(program, target, folders, args.limits());
                    done.lock().unwrap_or_else(PoisonError::into_inner).push(fuzzed);
                }
            });
        }
    });
    let mut fuzzed =
        done.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().collect::<Result<Vec<_>, _>>()?;
    fuzzed.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(fuzzed)
}

fn next<'a>(waiting: &Mutex<impl Iterator<Item = (&'a Target, &'a PathBuf)>>) -> Option<(&'a Target, &'a PathBuf)> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).next()
}

/// The path as a user in the current folder would write it.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let short = here.as_deref().and_then(|here| path.strip_prefix(here).ok());
    short.unwrap_or(path).display().to_string()
}
