// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One side of a whole migration as a process of its own: this very executable.

use core::time::Duration;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;

use super::check::{Checked, Failure, ensure, failed, must};

/// What a side reports at its end.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Report {
    /// The state is the target's, and acknowledged.
    #[serde(default)]
    pub moved: bool,
    /// The source gave its devices up, or may have.
    #[serde(default)]
    pub committed: bool,
    /// Why it failed.
    pub error: Option<String>,
    /// Where it failed.
    pub failed_in: Option<String>,
    /// How much of the buffers a target used.
    pub buffer_bytes: Option<BufferReport>,
    /// One per device.
    #[serde(default)]
    pub devices: Vec<DeviceReport>,
    /// In order.
    #[serde(default)]
    pub phases: Vec<PhaseReport>,
}

/// Bytes of buffers.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct BufferReport {
    /// The most in use at a time.
    pub peak: u64,
    /// What they may come to.
    pub bound: u64,
}

/// A device at the end.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct DeviceReport {
    /// As the kernel names it.
    pub state: String,
    /// All that moved.
    pub bytes: Option<u64>,
    /// What moved while the source ran.
    pub precopy_bytes: Option<u64>,
    /// As which format its stream was looked at.
    #[serde(default)]
    pub checked_as: Option<String>,
}

/// When a phase began.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct PhaseReport {
    /// Its name.
    pub phase: String,
    /// Milliseconds since that side began.
    pub at_ms: f64,
}

/// A running side. Dropping it kills it.
pub(crate) struct Side {
    name: &'static str,
    child: Child,
    stdin: Option<ChildStdin>,
    said: Receiver<String>,
    heard: Vec<String>,
    stdout: Option<JoinHandle<String>>,
    address: String,
}

/// No step of a migration of the suite's devices takes longer, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Gibibytes take longer.
pub(crate) const LONG: Duration = Duration::from_secs(240);

impl Side {
    /// Starts `migrate` with `arguments`; `name` is for failures.
    pub(crate) fn start(name: &'static str, arguments: &[String]) -> Checked<Self> {
        Self::start_with(name, arguments, &[])
    }

    /// As [`start`](Self::start), with more or other variables in its environment.
    pub(crate) fn start_with(
        name: &'static str,
        arguments: &[String],
        environment: &[(&str, OsString)],
    ) -> Checked<Self> {
        Self::start_under(name, &[], arguments, environment)
    }

    /// As [`start_with`](Self::start_with), run by a command of this executable, whose arguments come first.
    pub(crate) fn start_under(
        name: &'static str,
        runner: &[&str],
        arguments: &[String],
        environment: &[(&str, OsString)],
    ) -> Checked<Self> {
        let executable = must("find this executable", std::env::current_exe())?;
        let mut command = Command::new(executable);
        command
            .args(runner)
            .arg("migrate")
            .args(arguments)
            .arg("--json")
            .envs(environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = must(&format!("start the {name}"), command.spawn())?;
        let (sender, said) = mpsc::channel();
        if let Some(stderr) = child.stderr.take() {
            thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        let stdout = child.stdout.take().map(|mut stdout| {
            thread::spawn(move || {
                let mut text = String::new();
                // A document cut short shows as one that does not parse.
                let _ = stdout.read_to_string(&mut text);
                text
            })
        });
        let stdin = child.stdin.take();
        Ok(Self { name, child, stdin, said, heard: Vec::new(), stdout, address: String::new() })
    }

    /// Waits until the side says a line that `wanted` takes something from.
    pub(crate) fn hears<T>(&mut self, what: &str, wanted: impl Fn(&str) -> Option<T>) -> Checked<T> {
        self.hears_within(what, PATIENCE, wanted)
    }

    fn hears_within<T>(&mut self, what: &str, patience: Duration, wanted: impl Fn(&str) -> Option<T>) -> Checked<T> {
        let begin = Instant::now();
        loop {
            match self.said.recv_timeout(patience.saturating_sub(begin.elapsed())) {
                Ok(line) => {
                    let found = wanted(&line);
                    self.heard.push(line);
                    if let Some(found) = found {
                        return Ok(found);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(self.told(&format!("did not say {what} within {} s", patience.as_secs())));
                }
                Err(RecvTimeoutError::Disconnected) => return Err(self.told(&format!("ended before it said {what}"))),
            }
        }
    }

    /// Waits for all of these lines, in any order.
    pub(crate) fn hears_all(&mut self, lines: &[&str]) -> Checked {
        for line in lines {
            if !self.heard.iter().any(|heard| heard == line) {
                self.hears(line, |said| (said == *line).then_some(()))?;
            }
        }
        Ok(())
    }

    /// Waits until a target listens.
    pub(crate) fn listens(&mut self) -> Checked {
        let said = |line: &str| line.strip_prefix("listening on ").map(str::to_owned);
        self.address = self.hears("where it listens", said)?;
        Ok(())
    }

    /// Where a target listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// A target that has lost nobody it knew listens on, and ends when it is asked to.
    pub(crate) fn listens_on(&mut self) -> Checked {
        self.hears("that it turned a connection away", |line| {
            line.starts_with("turned a connection away: ").then_some(())
        })?;
        let ended = must("wait", self.child.try_wait())?;
        ensure(ended.is_none(), || format!("the {} ended for a connection that said no Hello", self.name))?;
        self.signal(Signal::SIGINT)
    }

    /// The process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the pause at `phase`.
    pub(crate) fn pauses_at(&mut self, phase: &str) -> Checked {
        self.pauses_at_after(phase, PATIENCE)
    }

    /// As [`pauses_at`](Self::pauses_at), for as long as it takes to move what is large.
    pub(crate) fn pauses_at_after(&mut self, phase: &str, patience: Duration) -> Checked {
        let line = format!("{{\"phase\":\"{phase}\"}}");
        self.hears_within(&format!("that it pauses at {phase}"), patience, |said| (said == line).then_some(()))
    }

    /// Lets it go on after a pause.
    pub(crate) fn goes_on(&mut self) {
        // It may have died of what it was paused for.
        let _ = self.stdin.as_mut().map(|stdin| stdin.write_all(b"\n").and_then(|()| stdin.flush()));
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Checked {
        let pid = must("pid", i32::try_from(self.child.id()))?;
        must(&format!("{signal} to the {}", self.name), kill(Pid::from_raw(pid), signal))
    }

    /// Waits for its end and reads its report. A side that ends otherwise than by reporting has failed the test.
    pub(crate) fn ends(mut self) -> Checked<Report> {
        let status = self.wait()?;
        self.heard.extend(self.said.try_iter());
        let text = self.stdout.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        let report: Report = serde_json::from_str(&text)
            .map_err(|error| self.told(&format!("ended with {status} and no report ({error})")))?;
        let success = report.moved && report.error.is_none();
        if status.success() == success {
            return Ok(report);
        }
        Err(self
            .told(&format!("ended with {status}, but reports moved = {}, error = {:?}", report.moved, report.error)))
    }

    /// Kills it without warning.
    pub(crate) fn dies(mut self) -> Checked {
        must(&format!("kill the {}", self.name), self.child.kill())?;
        self.wait().map(|_| ())
    }

    /// Waits for its end, reads its report if there is one, and gives what it said.
    pub(crate) fn ends_somehow(mut self) -> Checked<(Option<Report>, Vec<String>)> {
        self.wait()?;
        let text = self.stdout.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        // Until the end: it has come.
        let said = core::mem::take(&mut self.heard).into_iter().chain(self.said.iter()).collect();
        Ok((serde_json::from_str(&text).ok(), said))
    }

    fn wait(&mut self) -> Checked<ExitStatus> {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if let Some(status) = must("wait", self.child.try_wait())? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(2));
        }
        Err(self.told(&format!("is still there after {} s", PATIENCE.as_secs())))
    }

    fn told(&mut self, what: &str) -> Failure {
        self.heard.extend(self.said.try_iter());
        let said = if self.heard.is_empty() { "nothing".into() } else { self.heard.join("\n") };
        failed(format!("the {} {what}; it said: {said}", self.name))
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
