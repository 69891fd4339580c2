// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `xtask suite`: the contract tests, here and now, on the devices named; one event per line.

use core::time::Duration;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Instant;

use clap::FromArgMatches;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::utsname::{UtsName, uname};
use vfio_mig_fsm::Capabilities;
use vfio_uapi::Device;
use vfio_uapi::open::{self, Roots};

use super::contract::check::{Checked, Failure, ensure, failed, must};
use super::contract::context::{Ctx, Emitter};
use super::contract::dut::Dut;
use super::contract::kernel::KernelVersion;
use super::contract::opening::{Access, Opening};
use super::contract::profile::Profile;
use super::contract::qemu::Stock;
use super::contract::{self, Test};
use super::event::{DeviceFacts, Event, Facts, Group, Outcome, PROTOCOL};
use super::record::Counts;
use super::watchdog::Watchdog;
use crate::vm::Qemu;

/// Run the contract suite here, on the named devices; one JSON event per line
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// PCI address or mdev UUID; a second one of the same kind lets states move between devices.
    #[arg(long = "device", value_name = "ID", required = true)]
    devices: Vec<String>,
    /// What to expect where drivers differ, instead of what the PCI id suggests.
    #[arg(long, value_name = "NAME", value_parser = profile)]
    profile: Option<Profile>,
    /// Run only the tests whose row in the report, "LABEL · GROUP: NAME", contains TEXT.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// What the report calls this run.
    #[arg(long, value_name = "LABEL", default_value = "")]
    label: String,
    /// How to open the devices; by group if there is one when left out.
    #[arg(long)]
    access: Option<Access>,
    /// A simulator answers, with the rules of this kernel release instead of the running one's.
    #[arg(long, value_name = "RELEASE")]
    simulated: Option<String>,
    /// A further pair, of any kind, that whole migrations move together with the first: SOURCE=TARGET, or
    /// SOURCE=TARGET=PROFILE if the PCI ids do not tell what to expect.
    #[arg(long = "pair", value_name = "PAIR", value_parser = Pair::parse, requires = "whole")]
    pairs: Vec<Pair>,
    /// Leave out everything but whole migrations.
    #[arg(long, group = "whole")]
    migrations_only: bool,
    /// Leave out the whole migrations that something ends early.
    #[arg(long)]
    no_faults: bool,
    /// Of those, run only the ones that end in this phase.
    #[arg(long, value_name = "PHASE", value_parser = contract::PHASES, conflicts_with = "no_faults")]
    faults_at: Vec<String>,
    /// Of those, run only the ones over so many channels.
    #[arg(long, value_name = "N", conflicts_with = "no_faults")]
    faults_over: Option<u16>,
    /// Let every so many system calls of whole migrations fail, and do nothing else.
    #[arg(long, value_name = "N", group = "whole", conflicts_with_all = ["no_faults"])]
    sweep_every: Option<u64>,
    /// Let a target load the devices in little memory, and do nothing else.
    #[arg(long, group = "whole", conflicts_with_all = ["no_faults"])]
    in_little_memory: bool,
    /// A stock QEMU of this version is where the guest of `hw-test vm` has it: migrate to and from it as well.
    #[arg(long, value_name = "VERSION")]
    qemu: Option<String>,
    /// There should be one, but there is not, for this reason.
    #[arg(long, value_name = "REASON", conflicts_with = "qemu")]
    no_qemu: Option<String>,
    /// End the process when a test takes longer.
    #[arg(long, value_name = "SECONDS")]
    test_timeout: Option<u64>,
    /// Where to write the events; `-` is standard output.
    #[arg(long, value_name = "FILE", default_value = "-")]
    events: PathBuf,
    /// End when the parent process does.
    #[arg(long)]
    with_parent: bool,
}

/// What `--pair` says.
#[derive(Clone, Debug)]
struct Pair {
    devices: [String; 2],
    profile: Option<Profile>,
}

impl Args {
    /// What a suite with this command line, `suite` first, would be told; its own parser says what is wrong with it.
    pub(super) fn parse(command_line: &[String]) -> Result<Self, clap::Error> {
        let command = <Self as clap::Args>::augment_args(clap::Command::new("suite"));
        Self::from_arg_matches(&command.try_get_matches_from(command_line)?)
    }

    /// The tests that are asked for, of devices with `caps`.
    pub(super) fn tests(&self, caps: Capabilities, has_qemu: bool) -> Vec<Test> {
        let with_qemu = if has_qemu { contract::with_qemu(!self.no_faults) } else { Vec::new() };
        let tests = match self.sweep_every {
            Some(_) => contract::sweep(),
            None if self.in_little_memory => contract::in_little_memory(),
            None => contract::tests(caps, !self.no_faults).into_iter().chain(with_qemu).collect(),
        };
        let tests = tests.into_iter();
        let tests = tests.filter(|test| !self.migrations_only || test.group == Group::Migrate);
        let is_asked_for = |phase: &str| self.faults_at.is_empty() || self.faults_at.iter().any(|asked| asked == phase);
        let tests = tests.filter(|test| test.fault_phase().is_none_or(is_asked_for));
        let is_over = |channels| self.faults_over.is_none_or(|asked| asked == channels);
        let tests = tests.filter(|test| test.fault_channels().is_none_or(is_over));
        tests.filter(|test| contract::selects(self.filter.as_deref(), &self.label, &test.id())).collect()
    }
}

impl Pair {
    fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.split('=').map(str::to_owned);
        let (Some(source), Some(target), name, None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err("expected SOURCE=TARGET or SOURCE=TARGET=PROFILE".into());
        };
        Ok(Self { devices: [source, target], profile: name.as_deref().map(profile).transpose()? })
    }
}

fn profile(name: &str) -> Result<Profile, String> {
    Profile::named(name).ok_or_else(|| format!("there are {}", Profile::names()))
}

/// The suite could not begin.
const EXIT_UNUSABLE: u8 = 2;
/// Nobody reads the events.
const EXIT_UNHEARD: u8 = 3;

/// Runs the command.
pub(crate) fn main(args: &Args) -> ExitCode {
    let prepared = sink(args).and_then(|sink| Ok((Rc::new(Emitter::new(sink)), prepare(args)?)));
    let (emitter, Prepared { first, second, others, stock, facts }) = match prepared {
        Ok(prepared) => prepared,
        Err(failure) => {
            eprintln!("The suite cannot begin: {}.", failure.text());
            return ExitCode::from(EXIT_UNUSABLE);
        }
    };
    let tests = args.tests(first.caps, stock.is_some());
    let kernel = KernelVersion::parse(&facts.kernel);
    let planned = tests.iter().map(Test::id).collect();
    emitter.emit(&Event::SuiteStarted { protocol: PROTOCOL, facts, planned });
    let mut ctx = Ctx::new(first, second, kernel, Rc::clone(&emitter)).with_others(others).with_stock(stock);
    ctx.sweep_every = args.sweep_every.unwrap_or(1);
    let watchdog = args.test_timeout.map(|seconds| Watchdog::start(Duration::from_secs(seconds)));
    let counts = run(&tests, &mut ctx, &emitter, watchdog.as_ref());
    let Counts { passed, failed, skipped } = counts;
    emitter.emit(&Event::SuiteFinished { passed, failed, skipped });
    match (emitter.is_broken(), failed) {
        (true, _) => ExitCode::from(EXIT_UNHEARD),
        (false, 0) => ExitCode::SUCCESS,
        (false, _) => ExitCode::FAILURE,
    }
}

fn sink(args: &Args) -> Checked<Box<dyn Write>> {
    if args.with_parent {
        must("PR_SET_PDEATHSIG", prctl::set_pdeathsig(Signal::SIGKILL))?;
    }
    if args.events.as_os_str() == "-" {
        return Ok(Box::new(std::io::stdout()));
    }
    Ok(Box::new(must(&format!("create {}", args.events.display()), File::create(&args.events))?))
}

struct Prepared {
    first: Dut,
    second: Option<Dut>,
    others: Vec<(Dut, Dut)>,
    stock: Option<Result<Stock, String>>,
    facts: Facts,
}

fn prepare(args: &Args) -> Checked<Prepared> {
    let machine = must("uname", uname())?;
    let text = |field: fn(&UtsName) -> &std::ffi::OsStr| field(&machine).to_string_lossy().into_owned();
    let mut facts = Facts {
        kernel: args.simulated.clone().unwrap_or_else(|| text(UtsName::release)),
        machine: text(UtsName::machine),
        simulated: args.simulated.is_some(),
        devices: Vec::new(),
    };
    let mut opened = Vec::new();
    for name in &args.devices {
        let (dut, about) = open_device(name, args.access, args.profile)?;
        opened.push(dut);
        facts.devices.push(about);
    }
    let mut opened = opened.into_iter();
    let first = opened.next().ok_or_else(|| failed("no device was named"))?;
    let second = opened.next();
    if let Some(second) = &second {
        same_kind(&first, second)?;
    }
    let mut others = Vec::new();
    for Pair { devices: [source, target], profile } in &args.pairs {
        let (source, about_source) = open_device(source, args.access, *profile)?;
        let (target, about_target) = open_device(target, args.access, *profile)?;
        same_kind(&source, &target)?;
        facts.devices.extend([about_source, about_target]);
        others.push((source, target));
    }
    let stock = args.qemu.clone().map(|version| Stock::new(Qemu::bundled(version)).map(Ok));
    let stock = stock.transpose()?.or_else(|| args.no_qemu.clone().map(Err));
    Ok(Prepared { first, second, others, stock, facts })
}

fn same_kind(first: &Dut, second: &Dut) -> Checked {
    let same = second.caps == first.caps && second.profile.name == first.profile.name;
    ensure(same, || format!("{} and {} are not of one kind", first.name, second.name))
}

fn open_device(name: &str, access: Option<Access>, profile: Option<Profile>) -> Checked<(Dut, DeviceFacts)> {
    let found = must("list the VFIO devices", open::find(&Roots::default(), name))?;
    let found =
        found.ok_or_else(|| failed(format!("there is no VFIO device {name}: is a vfio driver bound to it?")))?;
    let (opening, device) = Opening::open(&found, access)?;
    let flags = must("GET of MIGRATION", device.migration_flags())?;
    let flags =
        flags.ok_or_else(|| failed(format!("{name} cannot migrate: its driver offers no MIGRATION feature")))?;
    let caps = Capabilities::from_flags(flags.bits())
        .ok_or_else(|| failed(format!("{name}: flags {flags:?} lack STOP_COPY")))?;
    let (vendor, id) = pci_id(&device)?;
    let profile = profile.unwrap_or_else(|| Profile::of(vendor, id));
    let about = DeviceFacts {
        name: name.into(),
        driver: found.driver.clone().unwrap_or_else(|| "an unknown driver".into()),
        access: opening.access().name().into(),
        pci_id: format!("{vendor:04x}:{id:04x}"),
        flags: flags.bits(),
        capabilities: words(caps),
        profile: profile.name.into(),
        stop_copy_bytes: device.stop_copy_bytes().ok(),
    };
    Ok((Dut::new(found, (opening, device), (caps, profile)), about))
}

/// `VFIO_PCI_CONFIG_REGION_INDEX`.
const CONFIG_REGION: u32 = 7;

fn pci_id(device: &Device<OwnedFd>) -> Checked<(u16, u16)> {
    let region = must("REGION_INFO of the config space", device.region_info(CONFIG_REGION))?;
    let mut id = [0; 4];
    must("read of the config space", device.region_read(&region, 0, &mut id))?;
    let [vendor_low, vendor_high, device_low, device_high] = id;
    Ok((u16::from_le_bytes([vendor_low, vendor_high]), u16::from_le_bytes([device_low, device_high])))
}

fn words(caps: Capabilities) -> String {
    let names = [(true, "STOP_COPY"), (caps.has_p2p(), "P2P"), (caps.has_pre_copy(), "PRE_COPY")];
    names.into_iter().filter(|(has, _)| *has).map(|(_, name)| name).collect::<Vec<_>>().join("|")
}

fn run(tests: &[Test], ctx: &mut Ctx, emitter: &Emitter, watchdog: Option<&Watchdog>) -> Counts {
    let mut counts = Counts::default();
    for test in tests {
        if emitter.is_broken() {
            break;
        }
        let (group, name) = (test.group, test.name.clone());
        emitter.emit(&Event::TestStarted { group, name: name.clone() });
        if let Some(watchdog) = watchdog {
            watchdog.pat();
        }
        let begin = Instant::now();
        let result = test.run(ctx);
        let duration_ms = begin.elapsed().as_secs_f64() * 1e3;
        let (outcome, reason) = match result {
            Ok(()) => (Outcome::Passed, None),
            Err(Failure::Failed(reason)) => (Outcome::Failed, Some(reason)),
            Err(Failure::Skipped(reason)) => (Outcome::Skipped, Some(reason)),
        };
        counts.add(outcome);
        emitter.emit(&Event::TestFinished { group, name, outcome, reason, details: ctx.take_notes(), duration_ms });
        if outcome == Outcome::Failed {
            ctx.reopen();
        }
    }
    counts
}
