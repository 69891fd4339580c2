// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One side of a move of memory that is not QEMU's: a process of its own, with its connections.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use savevm_core::{Channel, Limits};

use super::engine::Proof;
use super::work::{Over, Work};
use super::{CHANNELS, engine, pump};
use crate::bench::peers::process;
use crate::bench::peers::pump::{meet, tell};

/// Who moves it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum How {
    /// This workspace, without a checksum of anything.
    Bare,
    /// With the digest over everything,
    Digested,
    /// and with the checksum of each frame besides.
    Checked,
    Pump,
}

impl How {
    /// What this workspace is asked for.
    const fn proof(self) -> Option<Proof> {
        match self {
            Self::Bare => Some(Proof::Nothing),
            Self::Digested => Some(Proof::Digest),
            Self::Checked => Some(Proof::Both),
            Self::Pump => None,
        }
    }
}

/// One side.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    how: How,
    #[arg(long)]
    over: Over,
    #[arg(long)]
    channels: usize,
    /// The guest's memory
    #[arg(long)]
    memory: PathBuf,
    /// Where the target tells its address
    #[arg(long)]
    meet: PathBuf,
    /// Where the source leaves how many seconds it took; without it this is the target
    #[arg(long)]
    seconds: Option<PathBuf>,
}

/// Runs both sides as processes.
pub(super) fn measure(work: &Work, how: How) -> Result<[f64; 3], String> {
    let (folder, target_memory) = work.run_folder()?;
    let program = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let seconds = folder.path().join("seconds");
    let word = |value: &dyn ToString| value.to_string();
    let side = |memory: &PathBuf| {
        let mut command = Command::new(&program);
        command.args(["ram-side", "--how", &name(how), "--over", &name(work.over)]);
        command.args(["--channels", &word(&CHANNELS)]).arg("--memory").arg(memory);
        command.arg("--meet").arg(folder.path().join("meet")).stdin(Stdio::null());
        command
    };
    let (mut target, mut source) = (side(&target_memory), side(&work.source));
    source.arg("--seconds").arg(&seconds);
    let usage = process::run_both(&mut target, &mut source)?;
    let took = std::fs::read_to_string(&seconds).map_err(|error| format!("the source left no time: {error}"))?;
    let took = took.parse().map_err(|error| format!("the source's time is '{took}': {error}"))?;
    work.cost(&target_memory, took, &usage)
}

fn name(value: impl clap::ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Runs one side.
pub(crate) fn run(args: &Args) -> ExitCode {
    match move_memory(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{} of memory: {error}", if args.seconds.is_some() { "source" } else { "target" });
            ExitCode::FAILURE
        }
    }
}

fn move_memory(args: &Args) -> Result<(), String> {
    let is_source = args.seconds.is_some();
    let memory = File::options().read(true).write(!is_source).open(&args.memory);
    let memory = memory.map_err(|error| format!("cannot open {}: {error}", args.memory.display()))?;
    let Some(seconds) = &args.seconds else {
        let connections = accept(args).map_err(|error| format!("cannot listen: {error}"))?;
        return match args.how.proof() {
            Some(proof) => engine::load(memory, connections, proof, Limits::default().buffer_bytes_max),
            None => pump::load(&memory, connections),
        };
    };
    let connections = connect(args)?;
    let took = match args.how.proof() {
        Some(proof) => engine::save(memory, connections, proof),
        None => pump::save(&memory, connections),
    }?;
    std::fs::write(seconds, took.as_secs_f64().to_string()).map_err(|error| format!("cannot leave the time: {error}"))
}

/// A connection of either kind.
pub(in crate::bench) enum Connection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Connection {
    pub(super) fn into_channel(self) -> io::Result<Channel<'static>> {
        match self {
            Self::Tcp(stream) => Channel::tcp(stream),
            Self::Unix(stream) => Channel::unix(stream),
        }
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn accept(args: &Args) -> io::Result<Vec<Connection>> {
    let each = 0..args.channels;
    match args.over {
        Over::Tcp => {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            tell(&args.meet, &listener.local_addr()?.to_string())?;
            each.map(|_| listener.accept().map(|(stream, _)| Connection::Tcp(stream))).collect()
        }
        Over::Unix => {
            let path = args.meet.with_extension("sock");
            let listener = UnixListener::bind(&path)?;
            tell(&args.meet, &path.to_string_lossy())?;
            each.map(|_| listener.accept().map(|(stream, _)| Connection::Unix(stream))).collect()
        }
    }
}

fn connect(args: &Args) -> Result<Vec<Connection>, String> {
    let at = meet(&args.meet)?;
    let one = |_| match args.over {
        Over::Tcp => TcpStream::connect(&at).map(Connection::Tcp),
        Over::Unix => UnixStream::connect(&at).map(Connection::Unix),
    };
    (0..args.channels).map(one).collect::<io::Result<_>>().map_err(|error| format!("cannot connect to {at}: {error}"))
}
