// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `bench`: how fast things are, compared with what they could be.
//!
//! A number of bytes per second says more about a machine than about a program. So every benchmark runs contenders
//! for the same work in one process, in turn (`measure`), and judges the *ratio* to a named baseline. No test depends
//! on any of this.
//!
//! A benchmark is a function that makes [`Comparison`]s; [`BENCHMARKS`] lists them.

mod allocations;
mod cancel;
mod channels;
mod codec;
mod decision;
mod delay;
mod dirty_scan;
mod distance;
mod downtime;
mod drawn;
mod engine;
mod file_device;
mod growth;
mod html;
mod lean;
mod limit;
mod measure;
mod network;
mod order;
mod peers;
mod ram;
mod report;
mod rig;
mod slow;
mod spread;
mod tap;
mod tls;

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use crate::out::outln;
use crate::{cli, soft};
pub(crate) use measure::{Comparison, Contender, Goal, Outcome, Unit, per_second};

/// A goal was missed.
const MISSED: u8 = 1;
/// Something could not be measured.
const FAILED: u8 = 2;

/// Set for the optimised build, so that it is not looked for twice.
const REBUILT_VARIABLE: &str = "SAVEVM_BENCH_REBUILT";

/// Compare the speed of what this workspace does with what the machine could do
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Every benchmark runs contenders for the same work in one process, in turn, each behind each of
the others about equally often, after one run of each that does not count. What counts is the
ratio to the baseline within a round: its median over the rounds is held against the goal, its
quartiles say how far to trust it. Between runs only ratios can be compared.

Where the values of the baseline are too far apart to judge by, or the ratios to it are and lie on
both sides of the goal, all is measured once more, up to three times, and then shown as not judged.
So it goes for new memory (`ram`) on a virtual machine whose host takes free memory back: some runs
have to fetch it first.

Where nothing can run beside what is measured (a promise, a delay, a bound of memory) the
baseline is what is allowed, and a ratio of 1 uses it up.

TCP is measured with the congestion control reno, which every kernel has, in a network of the
benchmark's own, which takes root; without root, with what the system has. The report names it. It
decides what a connection within one machine carries: with bbr everybody is slower, and most of all
who is answered on it.

Processor time varies least on one processor: `taskset -c 0 cargo xtask bench growth`.

`ram` takes 2 GiB of memory, in /dev/shm; `growth` takes 4. `drawn`, `decision`, `growth` and
`slow` take minutes. `allocations`, `peers` and `slow` build what they run with cargo, where it is
not up to date.

An xtask that was built without optimisation builds itself again (`cargo run --release`) and
measures that one; the alias `cargo xtask` is optimised already.

Exit status: 0 all goals reached; 1 a goal missed; 2 something could not be measured, and the report
has the rest.")]
pub(crate) struct Args {
    /// Only these benchmarks [default: all]
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    /// Name the benchmarks and stop
    #[arg(long)]
    list: bool,

    /// Fewer rounds over less data: to see that it works, not to judge by
    #[arg(long)]
    quick: bool,

    /// Where to put files to measure with, up to 4 GiB [default: /dev/shm where that has room, or else the folder for temporary files]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,

    /// Where the emulators are kept [default: savevm in the user's cache folder]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,

    /// Measure TCP with this congestion control, of those in tcp_allowed_congestion_control [default: reno, or without root what the system has]
    #[arg(long, value_name = "NAME")]
    congestion: Option<String>,

    /// Print one JSON document on standard output, or write it to FILE and print the table
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    json: Option<Option<PathBuf>>,

    /// Write a page with tables and plots: one file, nothing from elsewhere
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// What a benchmark may use.
pub(crate) struct Setting {
    /// Fewer rounds over less data.
    pub(crate) quick: bool,
    /// For files.
    pub(crate) folder: PathBuf,
    /// For emulators.
    pub(crate) cache: Option<PathBuf>,
}

impl Setting {
    /// How many rounds count.
    const fn rounds(&self) -> usize {
        if self.quick { 3 } else { 21 }
    }

    /// Measures and says on standard error that it does.
    pub(crate) fn compare(&self, comparison: Comparison<'_>) -> Result<Outcome, String> {
        eprintln!("{}: {} rounds", comparison.name, self.rounds());
        measure::compare(comparison, self.rounds())
    }

    /// The same, where a run costs several things.
    pub(crate) fn compare_costs<const N: usize>(
        &self,
        costs: measure::Costs<'_, N>,
        rounds: usize,
    ) -> Result<Vec<Outcome>, String> {
        self.compare_rivals(costs, &[], rounds)
    }

    /// The same, with goals against contenders beside those against the baseline.
    pub(crate) fn compare_rivals<const N: usize>(
        &self,
        costs: measure::Costs<'_, N>,
        rivals: &[measure::Rival<N>],
        rounds: usize,
    ) -> Result<Vec<Outcome>, String> {
        eprintln!("{}: {rounds} rounds", costs.name);
        measure::compare_costs(costs, rivals, rounds)
    }
}

/// A benchmark by its name.
struct Benchmark {
    name: &'static str,
    about: &'static str,
    run: fn(&Setting) -> Result<Vec<Outcome>, String>,
}

const BENCHMARKS: [Benchmark; 17] = [
    Benchmark {
        name: "allocations",
        about: "how often memory is allocated for a chunk, once a migration is under way",
        run: allocations::run,
    },
    Benchmark { name: "cancel", about: "how long a cancel takes at a random moment of a migration", run: cancel::run },
    Benchmark {
        name: "channels",
        about: "one device beside idle channels: what is decided while it moves, against the best fixed number",
        run: channels::run,
    },
    Benchmark {
        name: "codec",
        about: "decode device state, as QEMU and as we send it, against a bare read of the same file",
        run: codec::run,
    },
    Benchmark {
        name: "decision",
        about: "promises given and kept in 10 000 simulated scenarios, with QEMU's rule and an oracle beside",
        run: decision::run,
    },
    Benchmark {
        name: "dirty-scan",
        about: "find and take the dirty pages of 1 TiB of guest memory, against bare passes over its bitmap",
        run: dirty_scan::run,
    },
    Benchmark {
        name: "distance",
        about: "migrate files and memory over a way that carries 10 Gbit/s and takes its time, against a bare pump over the same",
        run: distance::run,
    },
    Benchmark {
        name: "downtime",
        about: "what the scheduler predicts against what it takes, on simulated devices with known delays",
        run: downtime::run,
    },
    Benchmark {
        name: "drawn",
        about: "whether promised downtimes are kept, over real migrations of devices with drawn delays",
        run: drawn::run,
    },
    Benchmark {
        name: "engine",
        about: "migrate files as devices in one process, over one and several channels, against a bare pump",
        run: engine::run,
    },
    Benchmark {
        name: "growth",
        about: "what a byte costs, and how much memory is taken, as devices, channels, state or the memory for it grow",
        run: growth::run,
    },
    Benchmark {
        name: "lean",
        about: "a link of 100 KB/s, an idle guest, queries, eight devices that stop at once",
        run: lean::run,
    },
    Benchmark {
        name: "peers",
        about: "migrate 1 GiB of simulated devices' state between two processes: ours, and stock QEMUs, against a bare pump",
        run: peers::run,
    },
    Benchmark {
        name: "ram",
        about: "migrate 1 GiB of guest memory between two processes over two channels: ours, and stock QEMUs, against a bare pump",
        run: ram::run,
    },
    Benchmark {
        name: "slow",
        about: "a target device that is slower than everything else, and a rate that is capped",
        run: slow::run,
    },
    Benchmark {
        name: "tap",
        about: "look at a stream while it passes, against the same migration with nobody looking",
        run: tap::run,
    },
    Benchmark { name: "tls", about: "migrate files over TLS 1.3 against the same without it", run: tls::run },
];

pub(crate) use growth::memory;
pub(crate) use peers::pump;
pub(crate) use ram::side;

/// Runs benchmarks. The exit status says whether all goals were reached.
pub(crate) fn run(args: &Args) -> ExitCode {
    if args.list {
        BENCHMARKS.iter().for_each(|benchmark| outln!("{:12} {}", benchmark.name, benchmark.about));
        return ExitCode::SUCCESS;
    }
    let chosen = match chosen(&args.names) {
        Ok(_) if cfg!(debug_assertions) => return run_optimised(),
        chosen => chosen,
    };
    match chosen
        .and_then(|chosen| measure_all(args, &chosen))
        .and_then(|(outcomes, is_whole)| report(args, &outcomes).map(|()| (outcomes, is_whole)))
    {
        Ok((_, false)) => ExitCode::from(FAILED),
        Ok((outcomes, _)) if outcomes.iter().all(Outcome::is_reached) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(MISSED),
        Err(error) => {
            let _ = cli::fail(matches!(args.json, Some(None)), &error);
            ExitCode::from(FAILED)
        }
    }
}

/// In memory where possible: a disk that writes back would be measured too.
fn folder() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let has_room = nix::sys::statvfs::statvfs(&memory)
        .is_ok_and(|found| found.blocks_available().saturating_mul(found.fragment_size()) >= 5 << 30);
    if has_room { memory } else { std::env::temp_dir() }
}

/// Everything that could be measured, and whether that is all. What could not is said on standard error, and alone it is an error.
fn measure_all(args: &Args, chosen: &[&Benchmark]) -> Result<(Vec<Outcome>, bool), String> {
    network::choose(args.congestion.as_deref())?;
    let folder = args.folder.clone().unwrap_or_else(folder);
    let setting = Setting { quick: args.quick, folder, cache: args.cache.clone() };
    let (mut outcomes, mut is_whole) = (Vec::new(), true);
    for benchmark in chosen {
        match (benchmark.run)(&setting).map_err(|error| format!("{}: {error}", benchmark.name)) {
            Ok(measured) => outcomes.extend(measured),
            Err(error) if chosen.len() == 1 => return Err(error),
            Err(error) => {
                eprintln!("{error}");
                is_whole = false;
            }
        }
    }
    Ok((outcomes, is_whole))
}

fn chosen(names: &[String]) -> Result<Vec<&'static Benchmark>, String> {
    if names.is_empty() {
        return Ok(BENCHMARKS.iter().collect());
    }
    let find = |name: &String| {
        let found = BENCHMARKS.iter().find(|benchmark| benchmark.name == name);
        found.ok_or_else(|| format!("there is no benchmark {name}; --list names them"))
    };
    names.iter().map(find).collect()
}

fn report(args: &Args, outcomes: &[Outcome]) -> Result<(), String> {
    let document = report::document(outcomes, args.quick);
    if let Some(path) = &args.html {
        let written = std::fs::write(path, html::page(&document));
        written.map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    match &args.json {
        Some(None) => cli::print_json(&document),
        Some(Some(path)) => {
            let text =
                serde_json::to_string_pretty(&document).map_err(|error| format!("cannot write JSON: {error}"))?;
            std::fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
            outln!("{}", report::table(&document));
        }
        None => outln!("{}", report::table(&document)),
    }
    Ok(())
}

/// Becomes the optimised build of this program.
fn run_optimised() -> ExitCode {
    if std::env::var_os(REBUILT_VARIABLE).is_some() {
        eprintln!("the release profile has debug assertions: nothing is measured with them");
        return ExitCode::from(FAILED);
    }
    eprintln!("this build is not optimised; building one that is");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["run", "--quiet", "--release", "--package", "xtask", "--manifest-path"]);
    cargo.arg(soft::workspace().join("Cargo.toml")).arg("--").args(std::env::args_os().skip(1));
    let error = cargo.env(REBUILT_VARIABLE, "1").exec();
    eprintln!("cannot run cargo: {error}; is Rust installed?");
    ExitCode::from(FAILED)
}
