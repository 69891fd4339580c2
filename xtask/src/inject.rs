// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `inject`: runs this program under ptrace and lets one of its system calls fail.
//!
//! Counted are the calls through which a side talks to its peer and makes its threads, from the moment it has read a byte of
//! standard input. Not counted, because their failure says nothing about a migration:
//!
//! - memory and locks (mmap, brk, futex, …), signal masks and stacks, clocks: Rust's standard library aborts, or they cannot fail;
//! - close: it gives the descriptor up even where it fails;
//! - standard input, output and error, which belong to the test;
//! - what the simulated driver does for itself (opening and listing files, fstat, process_vm_readv): a kernel's driver makes no
//!   system calls. A driver that fails is the business of `fault=` in its configuration.

use std::process::ExitCode;

/// What happens to the call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    /// It is not made, and fails with this errno.
    Errno(i32),
    /// It transfers a byte, or the first of several pieces.
    Short,
    /// SIGKILL instead of the call.
    Kill,
}

impl Fault {
    /// Everything a sweep tries.
    pub(crate) const ALL: [(&'static str, Self); 7] = [
        ("EIO", Self::Errno(nix::libc::EIO)),
        ("ENODEV", Self::Errno(nix::libc::ENODEV)),
        ("ETIMEDOUT", Self::Errno(nix::libc::ETIMEDOUT)),
        ("EPIPE", Self::Errno(nix::libc::EPIPE)),
        ("ENOMEM", Self::Errno(nix::libc::ENOMEM)),
        ("short", Self::Short),
        ("kill", Self::Kill),
    ];

    fn named(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, fault)| *fault);
        found.ok_or_else(|| format!("there are {}", Self::ALL.map(|(name, _)| name).join(", ")))
    }
}

/// Run this program and let one of its system calls fail
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which one, counted from 1; 0 only counts.
    #[arg(long, value_name = "N")]
    at: u64,
    /// How.
    #[arg(long, value_name = "FAULT", value_parser = Fault::named)]
    with: Fault,
    /// The arguments of this program.
    #[arg(last = true, required = true)]
    arguments: Vec<String>,
}

/// Whether this machine's registers are known here.
pub(crate) const IS_POSSIBLE: bool = cfg!(all(target_arch = "x86_64", target_env = "gnu"));

/// Runs the command. The exit status is that of the program, or 128 if a signal ended it.
pub(crate) fn run(args: &Args) -> ExitCode {
    match tracer::run(args) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("cannot trace: {error}");
            ExitCode::from(125)
        }
    }
}

#[cfg(not(all(target_arch = "x86_64", target_env = "gnu")))]
mod tracer {
    /// Registers differ on every architecture.
    pub(super) fn run(_: &super::Args) -> Result<u8, String> {
        Err("only x86-64 with glibc is supported".into())
    }
}

#[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
mod tracer;
