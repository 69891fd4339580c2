// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a side has when nothing runs: a digest of each page and of each device, for whoever compares the two.

use core::fmt::Write as _;
use core::ops::Range;
use std::fs;
use std::path::Path;
use std::time::Instant;

use savevm_core::digest::Digest;
use savevm_core::save::DeviceSum;

use crate::Outcome;
use crate::driver::Driver;
use crate::guest::{Guest, PAGE_BYTES};

/// Runs of pages that are named where memory differs.
const RUNS_MAX: usize = 8;

/// A name, and numbers that are to be the same on both sides.
type Described = (String, Vec<u64>);

/// One side's.
#[derive(Default)]
pub(crate) struct Evidence {
    /// Devices by name: count and digest of the state that moved, and the registers that did.
    devices: Vec<Described>,
    /// Of each page, in order.
    pages: Vec<u64>,
    /// Whose pages they are.
    parts: Vec<(String, Range<u64>)>,
    /// What else there is to say, by name.
    facts: Vec<(String, f64)>,
}

impl Evidence {
    /// Of a machine that stands, with what moved of its devices.
    pub(crate) fn of(guest: &Guest, drivers: &[Driver], sums: &[DeviceSum]) -> Outcome<Self> {
        let (began, mut found) = (Instant::now(), Self::default());
        for sum in sums {
            found.devices.push((sum.device.clone(), vec![sum.sum.bytes, sum.sum.crc64_nvme]));
        }
        for (index, driver) in drivers.iter().enumerate() {
            found.devices.push((format!("registers{index}"), driver.registers()?));
        }
        guest.for_each_page(0..guest.bytes(), |_, page| found.pages.push(digest(page)))?;
        for (device, window) in (0..sums.len()).filter_map(|device| Some((device, guest.window(device)?))) {
            found.parts.push((format!("device {device}'s"), window.start / PAGE_BYTES..window.end / PAGE_BYTES));
        }
        found.note("digest_ms", began.elapsed().as_secs_f64() * 1000.0);
        Ok(found)
    }

    /// Of all memory.
    pub(crate) fn memory_digest(&self) -> u64 {
        self.pages
            .iter()
            .fold(Digest::new(), |mut all, page| {
                all.update(&page.to_le_bytes());
                all
            })
            .sum()
            .crc64_nvme
    }

    pub(crate) fn note(&mut self, name: &str, value: f64) {
        self.facts.push((name.to_owned(), value));
    }

    pub(crate) fn fact(&self, name: &str) -> f64 {
        self.facts.iter().find(|(found, _)| found == name).map_or(f64::NAN, |(_, value)| *value)
    }

    pub(crate) fn write(&self, path: &Path) -> Outcome<()> {
        let mut text = String::new();
        for (name, words) in &self.devices {
            let words: Vec<String> = words.iter().map(u64::to_string).collect();
            writeln!(text, "device {name} {}", words.join(" "))?;
        }
        for (owner, pages) in &self.parts {
            writeln!(text, "part {} {} {owner}", pages.start, pages.end)?;
        }
        for (name, value) in &self.facts {
            writeln!(text, "fact {name} {value}")?;
        }
        for page in &self.pages {
            writeln!(text, "page {page}")?;
        }
        Ok(fs::write(path, text)?)
    }

    pub(crate) fn read(path: &Path) -> Outcome<Self> {
        let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut found = Self::default();
        for line in text.lines() {
            let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
            let (first, more) = rest.split_once(' ').unwrap_or((rest, ""));
            match kind {
                "device" => {
                    let words = more.split(' ').map(str::parse).collect::<Result<_, _>>()?;
                    found.devices.push((first.to_owned(), words));
                }
                "part" => {
                    let (end, owner) = more.split_once(' ').unwrap_or((more, ""));
                    found.parts.push((owner.to_owned(), first.parse()?..end.parse()?));
                }
                "fact" => found.facts.push((first.to_owned(), more.parse()?)),
                _ => found.pages.push(first.parse()?),
            }
        }
        Ok(found)
    }

    /// Where the two sides differ, if they do.
    pub(crate) fn difference(&self, other: &Self) -> Option<String> {
        let differs = |(ours, theirs): (&Described, &Described)| {
            (ours != theirs).then(|| format!("{} {:?} here, {} {:?} there", ours.0, ours.1, theirs.0, theirs.1))
        };
        let mut found: Vec<String> = self.devices.iter().zip(&other.devices).filter_map(differs).collect();
        let counts = |side: &Self| (side.devices.len(), side.pages.len());
        if counts(self) != counts(other) || self.pages.is_empty() {
            found.push(format!("devices and pages: {:?} here, {:?} there", counts(self), counts(other)));
        }
        let pages: Vec<u64> =
            (0..).zip(self.pages.iter().zip(&other.pages)).filter(|(_, (a, b))| a != b).map(|(page, _)| page).collect();
        if !pages.is_empty() {
            found.push(format!("memory differs in {} pages: {}", pages.len(), self.name(&pages)));
        }
        (!found.is_empty()).then(|| found.join("; "))
    }

    /// Pages as runs, with their owners.
    fn name(&self, pages: &[u64]) -> String {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for page in pages {
            match runs.last_mut().filter(|run| run.end == *page) {
                Some(run) => run.end += 1,
                None => runs.push(*page..page + 1),
            }
        }
        let owner = |page: u64| {
            self.parts.iter().find(|(_, part)| part.contains(&page)).map_or("the vCPU's", |(owner, _)| owner.as_str())
        };
        let name = |run: &Range<u64>| format!("{} to {} ({})", run.start, run.end - 1, owner(run.start));
        let more = if runs.len() > RUNS_MAX { " and more" } else { "" };
        runs.iter().take(RUNS_MAX).map(name).collect::<Vec<_>>().join(", ") + more
    }
}

fn digest(bytes: &[u8]) -> u64 {
    let mut digest = Digest::new();
    digest.update(bytes);
    digest.sum().crc64_nvme
}
