// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Following a migration: a progress line per device on a terminal, and the times of the phases.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use savevm_core::sched::Logged;
use savevm_core::{Hooks, Phase};

use super::transport::Transport;
use super::{AfterPause, Common, pause};

/// The hooks of both sides.
pub(super) struct Watch {
    started: Instant,
    /// When each phase began, in milliseconds since the start.
    pub(super) phases: Vec<(Phase, u64)>,
    bars: Vec<ProgressBar>,
    pause_at: Option<Phase>,
    after_pause: AfterPause,
    /// The connections, for cutting them at a pause.
    connections: Vec<Transport>,
    cut_channel: Option<usize>,
    log: Option<Log>,
}

/// The scheduler's log.
struct Log {
    path: PathBuf,
    writer: BufWriter<File>,
}

impl Watch {
    pub(super) fn new(common: &Common, names: &[String], connections: Vec<Transport>) -> Self {
        let bars =
            if io::stderr().is_terminal() && !common.json && common.verbose == 0 { bars(names) } else { Vec::new() };
        Self {
            started: Instant::now(),
            phases: Vec::new(),
            bars,
            pause_at: common.pause_at,
            after_pause: common.after_pause,
            connections,
            cut_channel: common.cut_channel,
            log: None,
        }
    }

    /// Writes the scheduler's log to this file.
    pub(super) fn logging(mut self, path: Option<&Path>) -> Result<Self, String> {
        if let Some(path) = path {
            let file = File::create(path).map_err(|error| format!("cannot create {}: {error}", path.display()))?;
            self.log = Some(Log { path: path.to_owned(), writer: BufWriter::new(file) });
        }
        Ok(self)
    }

    /// Ends the log. That it could not be written is no reason to give a migration up.
    pub(super) fn end_log(&mut self) {
        self.with_log(|writer| writer.flush());
    }

    fn with_log(&mut self, act: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) {
        let Some(log) = &mut self.log else { return };
        if let Err(error) = act(&mut log.writer) {
            eprintln!("cannot write {}: {error}; the migration goes on", log.path.display());
            self.log = None;
        }
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Watch {
    fn cut(&self) {
        for (index, connection) in self.connections.iter().enumerate() {
            if self.cut_channel.is_none_or(|cut| cut == index) {
                if let Err(error) = connection.shutdown(std::net::Shutdown::Both) {
                    eprintln!("cannot cut channel {index}: {error}");
                }
            }
        }
    }
}

fn bars(names: &[String]) -> Vec<ProgressBar> {
    let all = MultiProgress::new();
    let style = ProgressStyle::with_template("{prefix:>16} {spinner} {bytes:>11} {bytes_per_sec:>13}  {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner());
    let bar = |name: &String| {
        let bar = all.add(ProgressBar::new_spinner().with_style(style.clone()).with_prefix(name.clone()));
        bar.enable_steady_tick(core::time::Duration::from_millis(100));
        bar
    };
    names.iter().map(bar).collect()
}

impl Hooks for Watch {
    fn phase(&mut self, phase: Phase) {
        self.phases.push((phase, self.elapsed_ms()));
        for bar in &self.bars {
            bar.set_message(phase.name());
            if phase == Phase::Done {
                bar.finish();
            }
        }
        // A source may come back to pre-copy; who paused it there once has done so.
        if self.pause_at == Some(phase) {
            self.pause_at = None;
            pause::wait_here(phase);
            if self.after_pause == AfterPause::Cut {
                self.cut();
            }
        }
    }

    fn scheduled(&mut self, entry: Logged<'_>) {
        self.with_log(|writer| crate::sim::write_log(writer, entry));
    }

    fn progress(&mut self, index: usize, bytes: u64) {
        if let Some(bar) = self.bars.get(index) {
            bar.set_position(bytes);
        }
    }
}
