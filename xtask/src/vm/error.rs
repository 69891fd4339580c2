// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What can go wrong, each with its remedy.

use std::io;
use std::path::{Path, PathBuf};

use crate::cache::CacheError;

/// Why no emulator or kernel could be provisioned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ProvisionError {
    /// The cache folder is at fault.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// Neither Debian nor Ubuntu, or not x86-64.
    #[error(
        "provisioning works on Debian 12 and later and on Ubuntu 24.04 and later, on x86-64, from the system's own package \
         mirror; this is {found}; provision on such a machine and name the copied folder with --cache DIR"
    )]
    UnsupportedHost {
        /// What this machine is.
        found: String,
    },
    /// Only one distribution's mirror has what is wanted.
    #[error(
        "only a mirror of Debian has release {codename}, and this is {found}; provision on Debian and name the copied folder \
         with --cache DIR"
    )]
    OtherDistribution {
        /// The release.
        codename: &'static str,
        /// What this machine is.
        found: String,
    },
    /// Tools are not installed.
    #[error("this machine lacks {programs}; install it: apt-get install {packages}")]
    MissingTools {
        /// The programs, separated by commas.
        programs: String,
        /// Their packages.
        packages: String,
    },
    /// The source lists name no archive of this release.
    #[error(
        "the apt source lists under {} name no package archive of release {codename:?}; \
         add the distribution's mirror there, or name a cache provisioned elsewhere with --cache DIR",
        lists.display()
    )]
    NoMirror {
        /// Where was looked.
        lists: PathBuf,
        /// The release's code name.
        codename: String,
    },
    /// The mirror does not answer.
    #[error(
        "cannot reach the package mirror {mirrors}: {said}; connect once (or set apt's proxy), or name a cache provisioned \
         elsewhere with --cache DIR; once provisioned, no network is needed"
    )]
    Network {
        /// Addresses.
        mirrors: String,
        /// apt's own words.
        said: String,
    },
    /// The mirror lacks a package.
    #[error("the package mirror {mirrors} offers no {wanted}; {remedy}")]
    NoPackage {
        /// Addresses.
        mirrors: String,
        /// What is missing.
        wanted: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A package is not built as expected.
    #[error("{package} has no {wanted}; this package layout is not supported, please report the package's version")]
    Layout {
        /// The package, with its version.
        package: String,
        /// The file or property.
        wanted: String,
    },
    /// The module needs another module that neither the package nor the kernel has.
    #[error("kernel {release} has no module {module}, which {needed_by} needs; its configuration is not supported")]
    NoModule {
        /// The kernel.
        release: String,
        /// The missing module.
        module: String,
        /// Who asked.
        needed_by: String,
    },
    /// A tool failed.
    #[error("`{command}` failed ({status}):\n{output}")]
    Command {
        /// The start of its command line.
        command: String,
        /// How it ended.
        status: String,
        /// The end of its output.
        output: String,
    },
    /// Building the module failed.
    #[error(
        "cannot build the module mtty for kernel {release} with {compiler}; the kernel was built with {original}: \
         apt-get install build-essential libelf1 {original}\n{output}"
    )]
    Build {
        /// The kernel.
        release: String,
        /// The compiler used.
        compiler: String,
        /// The compiler that built the kernel.
        original: String,
        /// The end of make's output.
        output: String,
    },
    /// The kernel has other options than the ones it is built for.
    #[error(
        "the kernel's source does not know the options {missing}, or what they depend on; use the stock kernel (leave out \
         --kernel built) and please report the version"
    )]
    Options {
        /// The options, separated by commas.
        missing: String,
    },
    /// Building the kernel failed. What is compiled is kept.
    #[error(
        "cannot build the kernel; what is compiled is kept, and the next run takes it up. A compiler and its C library are \
         needed: apt-get install gcc libc6-dev make bc. The end of {}:\n{output}",
        log.display()
    )]
    KernelBuild {
        /// The end of make's output.
        output: String,
        /// All of it.
        log: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {what} {}: {error}", path.display())]
    Io {
        /// The operation, as an infinitive.
        what: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
}

impl ProvisionError {
    /// For `map_err`: a file operation `what` on `path`.
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { what, path, error }
    }
}

/// Why a machine did not run its job to an exit status.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum VmError {
    /// The job asks for something that cannot be given to the guest.
    #[error("the job for the virtual machine is not valid: {reason}")]
    Job {
        /// What is wrong with it.
        reason: String,
    },
    /// A file operation on the host failed.
    #[error("cannot {what} {}: {error}", path.display())]
    Io {
        /// The operation, as an infinitive.
        what: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// The emulator ended by itself without a word from the guest.
    #[error("the emulator ended ({status}) before the guest reported: {said}\nthe guest's console ({}):\n{console}", log.display())]
    Emulator {
        /// How it ended.
        status: String,
        /// Its messages.
        said: String,
        /// The console's file.
        log: PathBuf,
        /// The end of the console.
        console: String,
    },
    /// The guest's kernel died.
    #[error("the guest's kernel panicked (whole console: {}):\n{console}", log.display())]
    Panic {
        /// The console's file.
        log: PathBuf,
        /// The console from the first report on.
        console: String,
    },
    /// The guest could not be made ready for the job.
    #[error("the guest could not be set up: {reason}; the end of its console ({}):\n{console}", log.display())]
    Setup {
        /// The step that failed, as the guest reported it.
        reason: String,
        /// The console's file.
        log: PathBuf,
        /// The end of the console.
        console: String,
    },
    /// The job took too long and the machine was killed.
    #[error(
        "the guest did not finish within {seconds} s and was killed; allow it more time or look for a hang; \
         the end of its console ({}):\n{console}",
        log.display()
    )]
    Timeout {
        /// The limit.
        seconds: u64,
        /// The console's file.
        log: PathBuf,
        /// The end of the console.
        console: String,
    },
}

impl VmError {
    /// For `map_err`: a file operation `what` on `path`.
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { what, path, error }
    }
}
