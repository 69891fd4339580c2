// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `compat`: whether a target would take a device's state, asked before anything is opened or stopped.

mod operand;

use std::process::ExitCode;

use savevm_core::identity::{Question, Verdict, compatible_texts};
use serde::Serialize;

use crate::out::outln;
use crate::{cli, soft};
use operand::{Operand, Origin};

/// An operand could not be read: there is no answer.
const UNREADABLE: u8 = 2;

/// Say whether TARGET can take the state of SOURCE, and otherwise every reason why not and what to change
#[derive(Debug, clap::Args)]
#[command(after_help = "\
SOURCE and TARGET are each one of:
  0000:3b:00.2           a PCI address, an mdev UUID or /dev/vfio/devices/vfioN of this machine
  mdev-type:mtty-2       a type of mediated devices of this machine (compared by type)
  FILE or FILE#NAME      a saved stream, what `probe --json` wrote, or {\"identity\": \"…\"};
                         NAME where it has several devices
  mig1:…                 an identity itself

Exit status: 0 compatible; 1 not; 2 an operand cannot be read.")]
pub(crate) struct Args {
    /// Where the state comes from
    source: String,

    /// Where it is to go
    target: String,

    /// Ask for the types alone: could a device like TARGET take it, were it made with the right attributes?
    #[arg(long)]
    by_type: bool,

    /// Print one JSON document on standard output
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    soft: soft::SoftArgs,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    compatible: bool,
    /// `type` or `instance`
    compared_by: &'static str,
    source: &'a Operand,
    target: &'a Operand,
    reasons: Vec<ReasonReport>,
    /// What a device of the target's type must have.
    must_have: Vec<AttributeReport<'a>>,
}

#[derive(Debug, Serialize)]
struct ReasonReport {
    code: &'static str,
    text: String,
}

#[derive(Debug, Serialize)]
struct AttributeReport<'a> {
    key: &'a str,
    value: &'a str,
}

/// Compares. The exit status is the answer.
pub(crate) fn run(args: &Args) -> ExitCode {
    if let Some(status) = args.soft.run_again_or(ExitCode::from(UNREADABLE)) {
        return status;
    }
    let (source, target) = match (operand::read(&args.source), operand::read(&args.target)) {
        (Ok(source), Ok(target)) => (source, target),
        (source, target) => {
            let named = |side, result: Result<Operand, String>| result.err().map(|error| format!("{side}: {error}"));
            let errors: Vec<String> =
                [named("SOURCE", source), named("TARGET", target)].into_iter().flatten().collect();
            let _ = cli::fail(args.json, &errors.join("; "));
            return ExitCode::from(UNREADABLE);
        }
    };
    // A type has no attributes of a device.
    let by_type = args.by_type || [source.origin, target.origin].contains(&Origin::MdevType);
    let question = if by_type { Question::Type } else { Question::Instance };
    let verdict = compatible_texts(&source.identity, &target.identity, question);
    if args.json {
        cli::print_json(&report(&source, &target, question, &verdict));
    } else {
        print(&source, &target, question, &verdict);
    }
    if verdict.is_compatible() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

const fn name(question: Question) -> &'static str {
    match question {
        Question::Type => "type",
        Question::Instance => "instance",
    }
}

fn report<'a>(source: &'a Operand, target: &'a Operand, question: Question, verdict: &'a Verdict) -> Report<'a> {
    let reasons =
        verdict.reasons().iter().map(|reason| ReasonReport { code: reason.code(), text: reason.to_string() }).collect();
    let attributes = verdict.undecided().iter();
    Report {
        compatible: verdict.is_compatible(),
        compared_by: name(question),
        source,
        target,
        reasons,
        must_have: attributes.map(|wanted| AttributeReport { key: &wanted.key, value: &wanted.value }).collect(),
    }
}

fn print(source: &Operand, target: &Operand, question: Question, verdict: &Verdict) {
    for (side, operand) in [("source", source), ("target", target)] {
        outln!("{side}  {}", operand.name);
        outln!("    {}", operand.identity);
        operand.notes.iter().for_each(|note| outln!("    note: {note}"));
    }
    let count = verdict.reasons().len();
    match (count, question) {
        (0, Question::Instance) => outln!("compatible"),
        (0, Question::Type) => outln!("compatible by type"),
        (1, _) => outln!("not compatible, for one reason:"),
        _ => outln!("not compatible, for {count} reasons:"),
    }
    verdict.reasons().iter().for_each(|reason| outln!("  - {reason}"));
    for wanted in verdict.undecided() {
        outln!("  the target's device must have {}={}", wanted.key, wanted.value);
    }
}
