// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One run: a source, a target for each attempt, and the comparison of what the last two have.

use core::time::Duration;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use super::cut::{Cut, Who};
use crate::demo::{self, Side, Simulated, Stage};
use crate::guest::wait_until;
use crate::{Arguments, Outcome};

/// An attempt that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// What came of a run that lost nothing.
pub(super) struct Report {
    /// Who cut the attempts, and in which phase of the source.
    pub(super) cuts: Vec<(Who, String)>,
    pub(super) predicted_ms: f64,
    pub(super) downtime_ms: f64,
}

impl Side {
    /// Starts it, with what it says of failures in a file.
    fn start(mut command: Command, log: File) -> Outcome<Self> {
        Ok(Self(command.stderr(log).spawn()?))
    }

    fn wait(&mut self) -> Outcome<ExitStatus> {
        let mut status = None;
        wait_until(PATIENCE, || {
            status = self.0.try_wait().ok().flatten();
            status.is_some()
        });
        status.ok_or_else(|| "a side does not end".into())
    }
}

/// Moves a guest, after attempts that are cut.
pub(super) fn run(stage: &Stage, arguments: &Arguments, machine: &Simulated, cuts: &[Cut]) -> Outcome<Report> {
    let log = stage.folder.join("log");
    let moved = move_it(stage, arguments, machine, cuts, &File::create(&log)?);
    moved.map_err(|error| {
        let said = fs::read_to_string(&log).unwrap_or_default();
        format!("{error}\n{said}").trim_end().into()
    })
}

fn move_it(stage: &Stage, arguments: &Arguments, machine: &Simulated, cuts: &[Cut], log: &File) -> Outcome<Report> {
    let mut source = stage.side(arguments, machine, &["proof-source"])?;
    source.stdin(Stdio::piped()).stdout(Stdio::piped());
    if arguments.proof.forgets {
        source.arg("--forget-a-word");
    }
    let mut source = Side::start(source, log.try_clone()?)?;
    let mut tell = source.0.stdin.take().ok_or("no way to tell the source")?;
    let answers = lines(&mut source.0)?;
    let (mut done, mut ends) = (Vec::new(), Vec::new());
    for (number, cut) in cuts.iter().map(Some).chain([None]).enumerate() {
        let socket = stage.folder.join(format!("socket{number}")).display().to_string();
        let mut target = stage.side(arguments, machine, &["target", &socket])?;
        let mut order = socket.clone();
        match cut {
            Some(Cut { who: Who::Target, when }) => drop(target.args(["--vanish", &when.to_string()])),
            Some(Cut { who: Who::Source, when }) => order += &format!(" {when}"),
            None => {}
        }
        let mut target = Side::start(
            {
                target.stdout(Stdio::null());
                target
            },
            log.try_clone()?,
        )?;
        writeln!(tell, "{order}")?;
        let answer = answer(&answers)?;
        let status = target.wait()?;
        let _ = fs::remove_file(&socket);
        match (answer.strip_prefix("kept "), cut) {
            (Some(kept), Some(cut)) => {
                done.push((cut.who, kept.split(' ').next().unwrap_or_default().to_owned()));
            }
            (Some(kept), None) => return Err(format!("an attempt that nobody cut failed: {kept}").into()),
            (None, _) => {
                ends.push(("target", status));
                break;
            }
        }
    }
    ends.push(("source", source.wait()?));
    // A side that found something itself has left its evidence before.
    let evidence = stage.compare("proof-source")?;
    if let Some((side, status)) = ends.iter().find(|(_, status)| !status.success()) {
        return Err(format!("the {side} ended with {status}").into());
    }
    let (predicted_ms, downtime_ms) = demo::downtime(&evidence);
    Ok(Report { cuts: done, predicted_ms, downtime_ms })
}

/// What the source says, line by line.
fn lines(source: &mut Child) -> Outcome<Receiver<String>> {
    let output = BufReader::new(source.stdout.take().ok_or("no way to hear the source")?);
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// `kept …` or `gone`.
fn answer(lines: &Receiver<String>) -> Outcome<String> {
    loop {
        let line = lines.recv_timeout(PATIENCE).map_err(|_| "the source ended, or does not answer")?;
        if line.starts_with("kept ") || line == "gone" {
            return Ok(line);
        }
    }
}
