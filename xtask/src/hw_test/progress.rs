// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is shown while tests run: a bar on a terminal, otherwise a line per failure and per run.
//! Everything goes to standard error; standard output belongs to the result.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::event::{Event, Outcome, row};
use super::record::Run;

/// Shows events as they come.
pub(crate) struct Progress {
    shape: Shape,
}

enum Shape {
    Bar(ProgressBar),
    Lines,
    Quiet,
}

impl Progress {
    /// A bar if standard error is a terminal, lines otherwise.
    pub(crate) fn for_stderr() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { shape: Shape::Lines };
        }
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(15));
        let style = ProgressStyle::with_template("{prefix:16} [{bar:30}] {pos}/{len} {elapsed} {wide_msg}");
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { shape: Shape::Bar(bar) }
    }

    /// Shows nothing.
    pub(crate) fn quiet() -> Self {
        Self { shape: Shape::Quiet }
    }

    /// A sentence about what happens now, between suites.
    pub(crate) fn say(&self, text: &str) {
        match &self.shape {
            Shape::Bar(bar) => bar.println(text),
            Shape::Lines => eprintln!("{text}"),
            Shape::Quiet => {}
        }
    }

    /// How far a long step between suites is: on a terminal only, where it can be drawn over.
    pub(crate) fn step(&self, what: &str, done: u64, total: u64) {
        if let Shape::Bar(bar) = &self.shape {
            bar.set_length(total);
            bar.set_position(done.min(total));
            bar.set_message(what.to_owned());
        }
    }

    /// The next event of `run`, which has taken it in already.
    pub(crate) fn event(&mut self, run: &Run, event: &Event) {
        if let Event::TestFinished { group, name, outcome: Outcome::Failed, reason, .. } = event {
            let reason = reason.as_deref().unwrap_or("no reason given");
            self.say(&format!("FAILED {}\n       {reason}", row(&run.label, *group, name)));
        }
        if let Shape::Bar(bar) = &self.shape {
            draw(bar, run, event);
        }
    }

    /// The suite of `run` is over.
    pub(crate) fn run_ended(&mut self, run: &Run) {
        let counts = run.counts();
        if let Shape::Bar(bar) = &self.shape {
            bar.set_message("");
        }
        self.say(&format!(
            "{:16} {} passed, {} failed, {} skipped in {:.1} s",
            run.label,
            counts.passed,
            counts.failed,
            counts.skipped,
            run.duration_ms / 1e3
        ));
    }

    /// Takes the bar away.
    pub(crate) fn clear(&self) {
        if let Shape::Bar(bar) = &self.shape {
            bar.finish_and_clear();
        }
    }
}

fn draw(bar: &ProgressBar, run: &Run, event: &Event) {
    match event {
        Event::SuiteStarted { .. } => {
            bar.reset();
            bar.set_length(u64::try_from(run.planned()).unwrap_or(0));
            bar.set_prefix(run.label.clone());
        }
        Event::TestStarted { group, name } => bar.set_message(format!("{group}: {name}")),
        Event::TestFinished { .. } => bar.inc(1),
        Event::Phase(_) | Event::SuiteFinished { .. } => {}
    }
}
