// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Running a suite process and outliving it: every event is awaited with a limit, and a process that stays silent
//! is killed and reported, also when the kernel does not let it die.

use core::time::Duration;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Instant;

use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, pipe2};

use super::event::Event;
use super::progress::Progress;
use super::record::{Ending, Run};

/// How long to wait for a suite.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// From the start of a test to its end; also for the time before the first test and between two.
    pub test: Duration,
    /// For the whole process.
    pub overall: Duration,
}

/// Longer lines are cut: no event comes near.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// How long a killed process may take to disappear before it is given up.
const REAP_TIME: Duration = Duration::from_secs(5);

/// Starts `command` in its own process group and follows it to its end, whatever that is. The command is used up.
///
/// `label` names the run in the report. The only error is that the process could not be started.
pub(crate) fn supervise(
    label: &str,
    command: &mut Command,
    limits: Limits,
    progress: &mut Progress,
) -> io::Result<Run> {
    let mut run = Run::new(label);
    // One pipe for both outputs keeps them in order: what is said on the way belongs to the test that was running.
    let (output, input) = pipe2(OFlag::O_CLOEXEC)?;
    let child = command.stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input).process_group(0).spawn();
    // The command holds the pipe open for as long as it has it.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = child?;
    let (sender, lines) = mpsc::channel();
    forward(File::from(output), sender);
    let ending = match follow(&mut run, &lines, limits, progress) {
        Ok(()) => reap(&mut child),
        Err(why) => kill(&mut child, why),
    };
    run.end(&ending);
    progress.run_ended(&run);
    Ok(run)
}

/// Feeds `lines` into `run` until they end or a limit passes; then the error says which.
pub(crate) fn follow(
    run: &mut Run,
    lines: &Receiver<String>,
    limits: Limits,
    progress: &mut Progress,
) -> Result<(), String> {
    let begin = Instant::now();
    let mut last = begin;
    loop {
        let idle = limits.test.saturating_sub(last.elapsed());
        let left = limits.overall.saturating_sub(begin.elapsed());
        run.duration_ms = begin.elapsed().as_secs_f64() * 1e3;
        match lines.recv_timeout(idle.min(left)) {
            Ok(line) => {
                if take(run, line, progress) {
                    last = Instant::now();
                }
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) if left <= idle => {
                return Err(format!("not finished within the overall limit of {} s", limits.overall.as_secs()));
            }
            Err(RecvTimeoutError::Timeout) => {
                return Err(format!("no progress within the limit of {} s for one test", limits.test.as_secs()));
            }
        }
    }
}

/// Takes in a line of the suite's output. True if it moved the suite on to another test.
pub(crate) fn take(run: &mut Run, line: String, progress: &mut Progress) -> bool {
    match Event::from_line(&line) {
        Some(event) => {
            let moved = !matches!(event, Event::Phase(_));
            run.event(event.clone());
            progress.event(run, &event);
            moved
        }
        None => {
            run.output(line);
            false
        }
    }
}

fn forward(from: File, to: Sender<String>) {
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        loop {
            line.clear();
            let got = from.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if !matches!(got, Ok(1..)) || to.send(text).is_err() {
                return;
            }
        }
    });
}

fn kill(child: &mut Child, why: String) -> Ending {
    if let Ok(pid) = i32::try_from(child.id()) {
        // The group also holds the processes of whole-migration tests. It may be gone already.
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
    match reap(child) {
        Ending::Killed { why: stuck } => Ending::Killed { why: format!("{why}; {stuck}") },
        Ending::Exited { status, .. } => Ending::Killed { why: format!("{why} (it ended with {status})") },
    }
}

fn reap(child: &mut Child) -> Ending {
    let begin = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ending::Exited { orderly: is_orderly(status), status: in_words(status) },
            Ok(None) if begin.elapsed() < REAP_TIME => thread::sleep(Duration::from_millis(5)),
            Ok(None) => {
                return Ending::Killed {
                    why: format!("process {} does not go away: it is stuck in a system call", child.id()),
                };
            }
            Err(error) => return Ending::Killed { why: format!("its status cannot be read: {error}") },
        }
    }
}

/// 0: all passed; 1: a test failed. Anything else is not how a suite ends after its last event.
fn is_orderly(status: ExitStatus) -> bool {
    matches!(status.code(), Some(0 | 1))
}

fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => match Signal::try_from(signal) {
            Ok(known) => format!("signal {signal} ({known})"),
            Err(_) => format!("signal {signal}"),
        },
        (None, None) => "an unknown status".into(),
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::hw_test::event::{Facts, Group, Outcome, PROTOCOL, TestId};

    const LIMITS: Limits = Limits { test: Duration::from_secs(20), overall: Duration::from_secs(60) };

    fn script(body: &str, limits: Limits) -> Run {
        let started = Event::SuiteStarted {
            protocol: PROTOCOL,
            facts: Facts::default(),
            planned: vec![TestId { group: Group::Arcs, name: "a".into() }],
        };
        let test = Event::TestStarted { group: Group::Arcs, name: "a".into() };
        let preamble = format!("echo '{}'; echo '{}';", started.to_line().unwrap(), test.to_line().unwrap());
        let mut command = Command::new("sh");
        command.arg("-c").arg(preamble + body);
        supervise("r", &mut command, limits, &mut Progress::quiet()).unwrap()
    }

    #[test]
    fn a_process_that_dies_fails_its_test() {
        let run = script("echo help >&2; kill -SEGV $$", LIMITS);
        assert_eq!(run.tests.len(), 1);
        assert_eq!(run.tests[0].outcome, Outcome::Failed);
        assert!(run.tests[0].reason.as_deref().unwrap().contains("SIGSEGV"), "{:?}", run.tests[0]);
        assert_eq!(run.tests[0].output, ["help"]);
    }

    #[test]
    fn a_process_that_hangs_is_killed_with_its_children() {
        let limits = Limits { test: Duration::from_millis(200), ..LIMITS };
        let begin = Instant::now();
        let run = script("sleep 50 & sleep 50", limits);
        assert!(begin.elapsed() < Duration::from_secs(4));
        assert!(run.tests[0].reason.as_deref().unwrap().contains("no progress"), "{:?}", run.tests[0]);
    }

    #[test]
    fn the_overall_limit_holds_against_a_busy_process() {
        let limits = Limits { test: Duration::from_secs(20), overall: Duration::from_millis(300) };
        let run = script("while :; do echo noise; sleep 0.01; done", limits);
        assert!(run.tests[0].reason.as_deref().unwrap().contains("overall limit"), "{:?}", run.tests[0]);
    }

    #[test]
    fn a_process_that_cannot_be_started_is_an_error() {
        let mut command = Command::new("./no-such-program");
        assert!(supervise("r", &mut command, LIMITS, &mut Progress::quiet()).is_err());
    }
}
