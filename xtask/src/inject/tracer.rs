// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The process that watches the other's system calls, on x86-64.

use std::collections::HashMap;
use std::process::{Command, exit};

use nix::errno::Errno;
use nix::libc::{self, user_regs_struct};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::{Args, Fault};

/// `PTRACE_SYSCALL_INFO_ENTRY` of linux/ptrace.h.
const ENTRY: u8 = 1;

/// A call number that the kernel does not know: the call is not made.
const NO_CALL: u64 = u64::MAX;

pub(super) fn run(args: &Args) -> Result<u8, String> {
    let executable = std::env::current_exe().map_err(|error| error.to_string())?;
    let child = Command::new(executable).args(&args.arguments).spawn().map_err(|error| error.to_string())?;
    let leader = Pid::from_raw(i32::try_from(child.id()).map_err(|error| error.to_string())?);
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL;
    ptrace::seize(leader, options).map_err(|error| format!("PTRACE_SEIZE: {error}"))?;
    ptrace::interrupt(leader).map_err(|error| format!("PTRACE_INTERRUPT: {error}"))?;
    let mut tracer = Tracer { args, leader, is_counting: false, count: 0, starts: None, owed: HashMap::new() };
    let status = tracer.follow()?;
    eprintln!("{{\"calls\":{}}}", tracer.count);
    Ok(status)
}

struct Tracer<'a> {
    args: &'a Args,
    leader: Pid,
    is_counting: bool,
    count: u64,
    /// The thread whose read of standard input is under way.
    starts: Option<Pid>,
    /// Threads in a call that is not made, and what it is to have failed with.
    owed: HashMap<Pid, i32>,
}

impl Tracer<'_> {
    fn follow(&mut self) -> Result<u8, String> {
        let mut is_first = true;
        loop {
            // A thread may be gone when it is told to go on; its end is reported by itself.
            let _ = match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::__WALL)) {
                Ok(WaitStatus::PtraceSyscall(thread)) => {
                    self.call(thread);
                    ptrace::syscall(thread, None)
                }
                Ok(WaitStatus::PtraceEvent(thread, _, _)) => {
                    if core::mem::take(&mut is_first) {
                        eprintln!("{{\"phase\":\"traced\"}}");
                    }
                    ptrace::syscall(thread, None)
                }
                Ok(WaitStatus::Stopped(thread, signal)) => ptrace::syscall(thread, signal),
                Ok(WaitStatus::Exited(process, status)) if process == self.leader => {
                    return Ok(u8::try_from(status).unwrap_or(u8::MAX));
                }
                Ok(WaitStatus::Signaled(process, signal, _)) if process == self.leader => {
                    eprintln!("ended by {signal}");
                    return Ok(128);
                }
                Ok(_) | Err(Errno::EINTR) => Ok(()),
                Err(error) => return Err(format!("waitpid: {error}")),
            };
        }
    }

    /// A thread stands before a call, or behind one.
    fn call(&mut self, thread: Pid) {
        let (Ok(info), Ok(mut registers)) = (ptrace::syscall_info(thread), ptrace::getregs(thread)) else { return };
        if info.op == ENTRY {
            self.enter(thread, registers);
        } else if let Some(errno) = self.owed.remove(&thread) {
            registers.rax = 0_u64.wrapping_sub(u64::try_from(errno).unwrap_or(0));
            set(thread, registers);
        } else if self.starts == Some(thread) {
            self.is_counting = true;
        }
    }

    fn enter(&mut self, thread: Pid, mut registers: user_regs_struct) {
        if !self.is_counting {
            let is_start = registers.orig_rax == number(libc::SYS_read) && registers.rdi == 0;
            self.starts = is_start.then_some(thread).or(self.starts.filter(|starts| *starts != thread));
            return;
        }
        let Some(name) = counted(&registers) else { return };
        self.count = self.count.saturating_add(1);
        if self.count != self.args.at {
            return;
        }
        eprintln!("{{\"fault\":\"{name}\"}}");
        match self.args.with {
            Fault::Errno(errno) => {
                registers.orig_rax = NO_CALL;
                self.owed.insert(thread, errno);
                set(thread, registers);
            }
            Fault::Short => {
                if TRANSFERS.contains(&name) && registers.rdx > 1 {
                    registers.rdx = 1;
                    set(thread, registers);
                }
            }
            Fault::Kill => {
                let _ = kill(self.leader, Signal::SIGKILL);
            }
        }
    }
}

/// Calls whose third argument is how many bytes or pieces they transfer.
const TRANSFERS: [&str; 6] = ["read", "write", "readv", "writev", "sendto", "recvfrom"];

/// The name of a call that counts.
fn counted(registers: &user_regs_struct) -> Option<&'static str> {
    let is_ours = registers.rdi > 2;
    let names: [(libc::c_long, &'static str, bool); 18] = [
        (libc::SYS_read, "read", is_ours),
        (libc::SYS_write, "write", is_ours),
        (libc::SYS_readv, "readv", is_ours),
        (libc::SYS_writev, "writev", is_ours),
        (libc::SYS_sendto, "sendto", true),
        (libc::SYS_recvfrom, "recvfrom", true),
        (libc::SYS_socket, "socket", true),
        (libc::SYS_connect, "connect", true),
        (libc::SYS_bind, "bind", true),
        (libc::SYS_listen, "listen", true),
        (libc::SYS_accept4, "accept4", true),
        (libc::SYS_getsockname, "getsockname", true),
        (libc::SYS_setsockopt, "setsockopt", true),
        (libc::SYS_shutdown, "shutdown", true),
        (libc::SYS_poll, "poll", true),
        (libc::SYS_ioctl, "ioctl", is_ours),
        (libc::SYS_clone3, "clone3", true),
        (libc::SYS_fcntl, "fcntl", registers.rsi == u64::try_from(libc::F_DUPFD_CLOEXEC).unwrap_or(0)),
    ];
    let found = names.iter().find(|(call, _, _)| number(*call) == registers.orig_rax)?;
    found.2.then_some(found.1)
}

fn number(call: libc::c_long) -> u64 {
    u64::try_from(call).unwrap_or(NO_CALL)
}

fn set(thread: Pid, registers: user_regs_struct) {
    if let Err(error) = ptrace::setregs(thread, registers) {
        eprintln!("PTRACE_SETREGS: {error}");
        // A sweep must not take a call for one that failed.
        exit(125);
    }
}
