// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The `vm` target: the same suite on a stock kernel and its own migration driver, in a virtual machine.

use core::time::Duration;
use std::path::PathBuf;
use std::time::Instant;

use super::super::agreement;
use super::super::contract::{self, qemu::SERIES};
use super::super::progress::Progress;
use super::super::record::{Ending, Run};
use super::super::supervise::{Limits, take};
use super::super::{Missing, Plan};
use super::{build_folder, soft, suite_arguments};
use crate::cache::Cache;
use crate::vm::{self, Freshness, GuestExit, GuestJob, KernelKind, Mdev, MdevType, Qemu, VmError};

/// A real kernel and its mtty driver in a virtual machine, with a stock QEMU in it to migrate to and from
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the kernel and the emulator are kept [default: savevm in the user's cache folder].
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Look for a newer kernel and emulator even if the cache has them.
    #[arg(long)]
    refresh: bool,
    /// Which kernel to boot. Building one takes minutes and 2 GB of disk, once, and adds what stock kernels leave out:
    /// character devices, iommufd and a simulated IOMMU that tracks dirty pages.
    #[arg(long, value_enum, value_name = "KIND", default_value_t)]
    kernel: KernelKind,
}

/// Emulation without hardware support is slow, and slower on a busy machine.
const TEST_LIMIT_S: u64 = 120;
const OVERALL_LIMIT_S: u64 = 1200;

/// One guest: which devices it has and how they are opened.
struct Guest {
    /// For the report.
    label: &'static str,
    kind: MdevType,
    ports: u32,
    /// By group if left out.
    access: Option<&'static str>,
    /// Why it gets no QEMU to migrate to and from, if so.
    no_qemu: Option<&'static str>,
}

impl Guest {
    /// The label of the comparison with the simulator, in which the guest's own stands too: a filter selects the same tests of
    /// both.
    fn compared(&self) -> String {
        format!("{}, simulated", self.label)
    }
}

const DISTRIBUTION_ONLY: &str =
    "QEMU is run inside the guest on the distribution's kernel only, without --kernel built";

const STOCK: &[Guest] = &[
    Guest { label: "mtty", kind: MdevType::OnePort, ports: 1, access: None, no_qemu: None },
    Guest { label: "mtty, two ports", kind: MdevType::TwoPorts, ports: 2, access: None, no_qemu: None },
];

const BUILT: &[Guest] = &[
    Guest {
        label: "mtty by group",
        kind: MdevType::OnePort,
        ports: 1,
        access: Some("group"),
        no_qemu: Some(DISTRIBUTION_ONLY),
    },
    Guest {
        label: "mtty, two ports, by cdev",
        kind: MdevType::TwoPorts,
        ports: 2,
        access: Some("cdev"),
        no_qemu: Some(DISTRIBUTION_ONLY),
    },
];

/// Provisions, builds and runs the suite in one guest per kind of device.
pub(crate) fn run(args: &Args, plan: &Plan<'_>, progress: &mut Progress) -> Result<Vec<Run>, Missing> {
    let provisioned = provision(args, progress)?;
    progress.say("building this program for the guest");
    let remedy = "Install the C library for static linking: apt-get install libc6-dev.";
    let binary = vm::build_static_xtask().map_err(|error| Missing::new(format!("{error}"), remedy))?;
    let limits = plan.limits(TEST_LIMIT_S, OVERALL_LIMIT_S);
    let mut runs = Vec::new();
    for guest in guests(args) {
        let label = guest.compared();
        if contract::list(plan.filter, &[&label], true).is_empty() {
            continue;
        }
        let mdevs = [Mdev::numbered(guest.kind, 1), Mdev::numbered(guest.kind, 2)];
        let log = build_folder().join("hw-test/vm").join(format!("console-{}.log", guest.kind.name()));
        let mut job = GuestJob::new(binary.clone(), log, limits.overall);
        job.args = suite_arguments(&label, plan);
        job.args.extend(["--test-timeout".into(), limits.test.as_secs().to_string()]);
        for mdev in &mdevs {
            job.args.extend(["--device".into(), mdev.uuid.clone()]);
        }
        job.args.extend(guest.access.into_iter().flat_map(|access| ["--access".to_owned(), access.to_owned()]));
        job.mdevs = mdevs.into();
        if contract::selects_qemu(plan.filter, &label) {
            give_qemu(&mut job, guest, &provisioned.qemu);
        }
        let (kernel, qemu) = (&provisioned.kernel, &provisioned.qemu);
        progress.say(&format!(
            "booting Linux {} ({}) in QEMU {} for {}",
            kernel.release, kernel.version, qemu.version, guest.label
        ));
        let real = in_guest(guest.label, &provisioned, &job, limits, progress);
        let compared = against_simulator(guest, &real, plan, progress)?;
        runs.extend([real, compared]);
    }
    Ok(runs)
}

/// The names of the tests.
pub(crate) fn list(args: &Args, filter: Option<&str>) -> String {
    let labels: Vec<String> = guests(args).iter().map(Guest::compared).collect();
    contract::list(filter, &labels.iter().map(String::as_str).collect::<Vec<_>>(), true)
}

fn guests(args: &Args) -> &'static [Guest] {
    match args.kernel {
        KernelKind::Stock => STOCK,
        KernelKind::Built => BUILT,
    }
}

/// Puts the emulator that boots the guest into it, or the reason why that one is none to migrate to and from.
fn give_qemu(job: &mut GuestJob, guest: &Guest, qemu: &Qemu) {
    let (major, minor) = SERIES.wanted();
    let bundle = match guest.no_qemu {
        Some(reason) => Err(reason.to_owned()),
        None if qemu.is(SERIES) => qemu.bundle().map_err(|error| error.to_string()),
        None => Err(format!("the mirror offers QEMU {}, not {major}.{minor}", qemu.version)),
    };
    match bundle {
        Ok(files) => {
            job.files.extend(files);
            job.args.extend(["--qemu".into(), qemu.version.clone()]);
        }
        Err(reason) => job.args.extend(["--no-qemu".into(), reason]),
    }
}

/// Runs the same tests on the simulator, and says where it ends one differently.
fn against_simulator(guest: &Guest, real: &Run, plan: &Plan<'_>, progress: &mut Progress) -> Result<Run, Missing> {
    let compared = guest.compared();
    let release = real.facts.as_ref().map_or("", |facts| facts.kernel.as_str());
    let Some(flavour) = flavour(release) else {
        let reason = format!("the simulator has no flavour of kernel '{release}', only of Debian's 6.12 and of 7.3");
        return Ok(agreement::skipped(&compared, &reason));
    };
    let simulated = soft::twin(&compared, flavour, guest.ports, guest.access, plan, progress)?;
    Ok(agreement::compare(&compared, real, &simulated))
}

/// What the simulator's flavours stand for: Debian's stock kernels, and those built here, which have everything.
fn flavour(release: &str) -> Option<soft::Flavour> {
    match release {
        stock if stock.starts_with("6.12.") && stock.contains("+deb") => Some(soft::DEBIAN_6_12),
        built if built.starts_with("7.3.") && !built.contains("+deb") => Some(soft::BUILT_7_3),
        _ => None,
    }
}

fn provision(args: &Args, progress: &Progress) -> Result<vm::Provisioned, Missing> {
    let cache = Cache::open(args.cache.as_deref()).map_err(missing)?;
    let freshness = if args.refresh { Freshness::Newest } else { Freshness::Cached };
    vm::provision(&cache, args.kernel, freshness, &mut |event| show(progress, event)).map_err(missing)
}

/// Shows how far provisioning is.
pub(super) fn show(progress: &Progress, event: vm::Progress<'_>) {
    match event {
        vm::Progress::Waiting => progress.say("waiting for another run that is filling the cache"),
        vm::Progress::Begin { step } => progress.say(&format!("now {step}")),
        vm::Progress::Note { text } => progress.say(text),
        vm::Progress::Download { packages, packages_total, bytes, total_bytes } => {
            let mib = |bytes: u64| bytes >> 20;
            let what = format!("package {packages} of {packages_total}, {} of {} MiB", mib(bytes), mib(total_bytes));
            progress.step(&what, bytes, total_bytes);
        }
        vm::Progress::Unpack { packages, packages_total } => {
            let count = |packages: usize| u64::try_from(packages).unwrap_or(u64::MAX);
            let what = format!("package {packages} of {packages_total}");
            progress.step(&what, count(packages), count(packages_total));
        }
        vm::Progress::Compile { files, files_about, seconds } => {
            let (minutes, rest) = (seconds / 60, seconds % 60);
            let what = format!("{files} of about {files_about} files compiled in {minutes} min {rest} s");
            progress.step(&what, files.min(files_about), files_about);
        }
        vm::Progress::End { step, seconds } => progress.say(&format!("{step} took {seconds:.1} s")),
    }
}

/// Errors of provisioning say themselves what to do.
fn missing(error: impl core::fmt::Display) -> Missing {
    Missing::new("The virtual machine cannot be provided.", error.to_string())
}

fn in_guest(
    label: &str,
    provisioned: &vm::Provisioned,
    job: &GuestJob,
    limits: Limits,
    progress: &mut Progress,
) -> Run {
    let mut run = Run::new(label);
    let begin = Instant::now();
    let result = vm::boot(provisioned, job, |line| {
        run.duration_ms = begin.elapsed().as_secs_f64() * 1e3;
        take(&mut run, line.into(), progress);
    });
    if let Ok(exit) = &result {
        progress.say(&format!("the guest was up for {:.1} s", exit.seconds));
    }
    let ending = ending(&mut run, result, limits);
    run.end(&ending);
    progress.run_ended(&run);
    run
}

/// What the kernel complained about belongs to the test that was running, which only the console's order tells:
/// the run as a whole failed.
fn ending(run: &mut Run, result: Result<GuestExit, VmError>, limits: Limits) -> Ending {
    match result {
        Ok(exit) if exit.kernel_complaints.is_empty() => {
            Ending::Exited { orderly: matches!(exit.status, 0 | 1), status: format!("exit code {}", exit.status) }
        }
        Ok(exit) => {
            for complaint in exit.kernel_complaints {
                run.output(complaint);
            }
            let status = format!("complaints of the guest's kernel, see {}", exit.console_log.display());
            Ending::Exited { orderly: false, status }
        }
        Err(VmError::Timeout { console, .. }) => {
            run.output(console);
            let limit = Duration::as_secs(&limits.overall);
            Ending::Killed { why: format!("the guest did not finish within the overall limit of {limit} s") }
        }
        Err(error) => Ending::Killed { why: error.to_string() },
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn kernels_are_compared_with_the_simulator_s_flavour_of_them_alone() {
        assert_eq!(flavour("6.12.117+deb12-amd64"), Some(soft::DEBIAN_6_12));
        assert_eq!(flavour("7.3.4"), Some(soft::BUILT_7_3));
        for other in ["6.12.117", "7.3.4+deb13-amd64", "7.4.0", "6.1.0-1-amd64", ""] {
            assert_eq!(flavour(other), None, "{other}");
        }
    }

    #[test]
    fn a_guest_without_a_qemu_to_migrate_with_is_told_why() {
        let arguments = |guest: &Guest, version: &str| {
            let mut job = GuestJob::new("/p".into(), "/c".into(), Duration::from_secs(1));
            give_qemu(&mut job, guest, &Qemu::bundled(version.into()));
            assert_eq!(job.files, []);
            job.args.join(" ")
        };
        let told = arguments(&STOCK[0], "7.2.15 (Debian)");
        assert_eq!(told, "--no-qemu the mirror offers QEMU 7.2.15 (Debian), not 10.0");
        // Of the right series, but its files are those of a guest.
        assert!(arguments(&STOCK[1], "10.0.2").starts_with("--no-qemu "));
        assert_eq!(arguments(&BUILT[0], "10.0.2"), format!("--no-qemu {DISTRIBUTION_ONLY}"));
    }
}
