// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Faults: which call goes wrong, when, and how.

use core::time::Duration;
use std::string::String;
use std::vec::Vec;

use vfio_mig_fsm::State;

use super::units;
use super::{Errno, Step};

/// A call that a fault can hit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Call {
    /// Opening the device.
    Open,
    /// GET of the device state.
    GetState,
    /// SET of the device state, before anything has happened; its place is the requested state.
    SetState,
    /// One step inside a SET; its place is the arc.
    Step,
    /// Read of the saving fd.
    Read,
    /// Write of the resuming fd.
    Write,
    /// GET_PRECOPY_INFO.
    PrecopyInfo,
    /// MIG_DATA_SIZE.
    MigDataSize,
    /// VFIO_DEVICE_RESET.
    Reset,
}

impl Call {
    const NAMES: [(&'static str, Call); 9] = [
        ("open", Call::Open),
        ("get_state", Call::GetState),
        ("set_state", Call::SetState),
        ("step", Call::Step),
        ("read", Call::Read),
        ("write", Call::Write),
        ("precopy_info", Call::PrecopyInfo),
        ("mig_data_size", Call::MigDataSize),
        ("reset", Call::Reset),
    ];
}

/// Where a call must be for a fault to hit it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Place {
    /// A SET that asks for this state.
    Target(State),
    /// This step.
    Step(Step),
}

/// Which of the calls that match are hit, counted from 1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum When {
    /// Every one.
    Always,
    /// This one only.
    Nth(u64),
    /// This one and all after it.
    From(u64),
}

/// What happens to a call that is hit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Action {
    /// It fails.
    Fail(Errno),
    /// It fails and leaves the device in ERROR (`set_state` and `step` only; elsewhere just a failure).
    FailIntoError(Errno),
    /// It fails and the session is dead from then on (`read`, `write`, `precopy_info`).
    FailSession(Errno),
    /// It takes this much longer.
    Delay(Duration),
    /// It does not return for this long, unless a RESET comes earlier; then it fails with `ETIMEDOUT`.
    Hang(Duration),
    /// At most this many bytes are read or written.
    Short(u64),
    /// It succeeds, with the highest bit of this byte of what it reads flipped, counted from 0 (`read` only).
    Flip(u64),
    /// It succeeds with these numbers: the state, the size, or the initial and the dirty bytes.
    Answer(u64, u64),
}

/// One rule of a plan.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FaultRule {
    call: Call,
    place: Option<Place>,
    action: Action,
    when: When,
    seen: u64,
}

impl FaultRule {
    /// Hits every `call` with `action`.
    #[must_use]
    pub const fn new(call: Call, action: Action) -> Self {
        Self { call, place: None, action, when: When::Always, seen: 0 }
    }

    /// Hits only calls at `place`.
    #[must_use]
    pub const fn at(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    /// Hits only the calls that `when` names.
    #[must_use]
    pub const fn when(mut self, when: When) -> Self {
        self.when = when;
        self
    }

    /// Parses `CALL[:PLACE]:ACTION[@WHEN]`; see [`SimConfig`](super::SimConfig) for the grammar.
    ///
    /// # Errors
    /// What was expected, for the caller to put a line number to.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (text, when) = match text.rsplit_once('@') {
            Some((text, when)) => (text, parse_when(when)?),
            None => (text, When::Always),
        };
        let mut parts = text.splitn(3, ':');
        let call = parts.next().and_then(parse_call).ok_or(EXPECTED_CALL)?;
        let second = parts.next().ok_or("an action after the call, as in read:EIO")?;
        let rule = match parts.next() {
            None => Self::new(call, parse_action(second)?),
            Some(action) => Self::new(call, parse_action(action)?).at(parse_place(call, second)?),
        };
        Ok(rule.when(when))
    }

    fn hit(&mut self, call: Call, place: Option<Place>) -> Option<Action> {
        let here = self.place.is_none() || self.place == place;
        if self.call != call || !here {
            return None;
        }
        self.seen = self.seen.saturating_add(1);
        let due = match self.when {
            When::Always => true,
            When::Nth(nth) => self.seen == nth,
            When::From(first) => self.seen >= first,
        };
        due.then_some(self.action)
    }
}

/// All rules of a device. Every rule counts the calls it matches for itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FaultPlan {
    rules: Vec<FaultRule>,
}

impl FaultPlan {
    /// A plan without faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a rule.
    pub fn push(&mut self, rule: FaultRule) {
        self.rules.push(rule);
    }

    /// Counts this call in every rule and returns the actions due, in the order of the rules.
    pub(super) fn hits(&mut self, call: Call, place: Option<Place>) -> Vec<Action> {
        self.rules.iter_mut().filter_map(|rule| rule.hit(call, place)).collect()
    }
}

impl FromIterator<FaultRule> for FaultPlan {
    fn from_iter<I: IntoIterator<Item = FaultRule>>(rules: I) -> Self {
        Self { rules: rules.into_iter().collect() }
    }
}

const EXPECTED_CALL: &str = "one of open, get_state, set_state, step, read, write, precopy_info, mig_data_size, reset";

fn parse_call(text: &str) -> Option<Call> {
    Call::NAMES.iter().find(|(name, _)| *name == text).map(|(_, call)| *call)
}

/// A state by the kernel's name (`STOP_COPY`).
pub(super) fn parse_state(text: &str) -> Option<State> {
    State::ALL.iter().copied().find(|state| state.name() == text)
}

/// An arc written `FROM>TO`.
pub(super) fn parse_step(text: &str) -> Option<Step> {
    let (from, to) = text.split_once('>')?;
    Some(Step { from: parse_state(from)?, to: parse_state(to)? })
}

fn parse_place(call: Call, text: &str) -> Result<Place, &'static str> {
    match call {
        Call::SetState => parse_state(text).map(Place::Target).ok_or("a state, as in set_state:STOP_COPY:EIO"),
        Call::Step => parse_step(text).map(Place::Step).ok_or("an arc, as in step:STOP>STOP_COPY:EIO"),
        _ => Err("no place for this call: only set_state and step have one"),
    }
}

fn parse_when(text: &str) -> Result<When, &'static str> {
    const EXPECTED: &str = "a count from 1, as in @2 or @2+";
    let (number, from) = match text.strip_suffix('+') {
        Some(number) => (number, true),
        None => (text, false),
    };
    let number = units::number(number).filter(|number| *number > 0).ok_or(EXPECTED)?;
    Ok(if from { When::From(number) } else { When::Nth(number) })
}

fn parse_action(text: &str) -> Result<Action, &'static str> {
    const TIME: &str = "a time, as in delay=20ms";
    let Some((kind, value)) = text.split_once('=') else {
        return Errno::from_name(text).map(Action::Fail).ok_or(EXPECTED_ACTION);
    };
    match kind {
        "error-state" => Errno::from_name(value).map(Action::FailIntoError).ok_or("an errno, as in error-state=EIO"),
        "dead" => Errno::from_name(value).map(Action::FailSession).ok_or("an errno, as in dead=EIO"),
        "delay" => units::duration(value).map(Action::Delay).ok_or(TIME),
        "hang" => units::duration(value).map(Action::Hang).ok_or(TIME),
        "short" => units::bytes(value).map(Action::Short).ok_or("bytes, as in short=7"),
        "flip" => units::number(value).map(Action::Flip).ok_or("the number of a byte, as in flip=7"),
        "answer" => parse_answer(value).ok_or("a number or two, as in answer=42 or answer=0/0xffff"),
        _ => Err(EXPECTED_ACTION),
    }
}

const EXPECTED_ACTION: &str =
    "an errno (EIO), delay=T, hang=T, short=N, flip=N, answer=N, answer=N/N, error-state=ERRNO or dead=ERRNO";

fn parse_answer(text: &str) -> Option<Action> {
    let (first, second) = text.split_once('/').unwrap_or((text, "0"));
    Some(Action::Answer(units::number(first)?, units::number(second)?))
}

/// A rule as a person would name it in a log.
impl core::fmt::Display for FaultRule {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let name = Call::NAMES.iter().find(|(_, call)| *call == self.call).map_or("", |(name, _)| *name);
        let place = match self.place {
            None => String::new(),
            Some(Place::Target(state)) => std::format!(" {}", state.name()),
            Some(Place::Step(step)) => std::format!(" {}>{}", step.from.name(), step.to.name()),
        };
        write!(f, "{name}{place}: {:?}", self.action)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn rules_parse() {
        let rule = FaultRule::parse("set_state:STOP_COPY:EIO@2").unwrap();
        let expected = FaultRule::new(Call::SetState, Action::Fail(Errno::EIO))
            .at(Place::Target(State::StopCopy))
            .when(When::Nth(2));
        assert_eq!(rule, expected);
        let step = Step { from: State::PreCopy, to: State::PreCopyP2p };
        let rule = FaultRule::parse("step:PRE_COPY>PRE_COPY_P2P:hang=3s").unwrap();
        assert_eq!(rule, FaultRule::new(Call::Step, Action::Hang(Duration::from_secs(3))).at(Place::Step(step)));
        let rule = FaultRule::parse("precopy_info:answer=18446744073709551615/1@3+").unwrap();
        assert_eq!(rule, FaultRule::new(Call::PrecopyInfo, Action::Answer(u64::MAX, 1)).when(When::From(3)));
    }

    #[test]
    fn bad_rules_say_what_was_expected() {
        for (text, expected) in [
            ("frobnicate:EIO", "one of open"),
            ("read", "an action after the call"),
            ("read:EWHAT", "an errno (EIO)"),
            ("read:STOP:EIO", "no place for this call"),
            ("set_state:HALT:EIO", "a state"),
            ("step:STOP:EIO", "an arc"),
            ("read:EIO@0", "a count from 1"),
            ("read:short=many", "bytes"),
            ("read:flip=many", "the number of a byte"),
        ] {
            let error = FaultRule::parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }

    #[test]
    fn rules_count_their_own_calls() {
        let mut plan: FaultPlan =
            ["read:EIO@2", "read:short=1@3+"].iter().map(|rule| FaultRule::parse(rule).unwrap()).collect();
        let hits: Vec<_> = (0..4).map(|_| plan.hits(Call::Read, None)).collect();
        assert_eq!(
            hits,
            [
                [].to_vec(),
                [Action::Fail(Errno::EIO)].to_vec(),
                [Action::Short(1)].to_vec(),
                [Action::Short(1)].to_vec(),
            ]
        );
        assert_eq!(plan.hits(Call::Write, None), []);
    }
}
