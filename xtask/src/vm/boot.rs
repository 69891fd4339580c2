// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Booting a job's guest in the emulator and listening to it.
//!
//! Three serial ports keep three things apart: the console (with the program's standard error) goes to a file, the
//! program's standard output comes here line by line, and the guest's last word, the exit status, goes to a file of its own. A
//! guest that ends without that word has failed, whatever else it said.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Instant;

use core::time::Duration;

use crate::vm::console;
use crate::vm::error::VmError;
use crate::vm::guest::{GuestExit, GuestJob};
use crate::vm::host::Guarded;
use crate::vm::kernel::Kernel;
use crate::vm::qemu::Qemu;
use crate::vm::{Provisioned, initramfs};

/// Kernel messages of level `info` and below stay in the guest: they would double the time to boot.
/// A panic resets the machine, which `-no-reboot` turns into its end.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 loglevel=6 panic=-1 oops=panic";
/// A longer line is cut into several.
const LINE_BYTES: u64 = 1 << 20;
/// Lines that wait while the caller is busy; then the guest waits too.
const LINES_QUEUED: usize = 1024;
/// How long the emulator may take to end after it closed its output.
const CLOSING: Duration = Duration::from_secs(10);

/// Runs the job and calls `on_line` with every line of the program's standard output while it runs.
pub(crate) fn boot(
    provisioned: &Provisioned,
    job: &GuestJob,
    mut on_line: impl FnMut(&str),
) -> Result<GuestExit, VmError> {
    job.check()?;
    let begun = Instant::now();
    let folder = tempfile::tempdir().map_err(VmError::io("create a folder in", &std::env::temp_dir()))?;
    let initrd = folder.path().join("initrd");
    let file = File::create(&initrd).map_err(VmError::io("create", &initrd))?;
    initramfs::write(&provisioned.kernel, job, BufWriter::new(file))?;
    if let Some(parent) = job.console_log.parent() {
        fs::create_dir_all(parent).map_err(VmError::io("create", parent))?;
    }
    fs::write(&job.console_log, "").map_err(VmError::io("create", &job.console_log))?;

    let mut command = machine(&provisioned.qemu, &provisioned.kernel, job, folder.path());
    let said = folder.path().join("emulator.log");
    let said_file = File::create(&said).map_err(VmError::io("create", &said))?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(said_file);
    let mut emulator = Guarded::spawn(&mut command).map_err(VmError::io("start", &provisioned.qemu.binary))?;
    let lines = listen(&mut emulator);
    let deadline = begun.checked_add(job.timeout);
    let ended = pump(&lines, deadline, &mut on_line)
        .then(|| wait(&mut emulator, deadline))
        .transpose()
        .map_err(VmError::io("wait for", &provisioned.qemu.binary))?
        .flatten();
    drop(emulator);
    let Some(ended) = ended else {
        // What had been said before the end may explain the hang.
        while let Ok(line) = lines.try_recv() {
            on_line(&line);
        }
        return Err(VmError::Timeout {
            seconds: job.timeout.as_secs(),
            log: job.console_log.clone(),
            console: console::tail(&job.console_log),
        });
    };
    conclude(job, folder.path(), ended, begun)
}

/// The emulator's command line.
fn machine(qemu: &Qemu, kernel: &Kernel, job: &GuestJob, folder: &Path) -> Command {
    let mut command = qemu.command_tied_to_thread();
    let file = |id: &str, path: &Path| format!("file,id={id},path={}", path.display().to_string().replace(',', ",,"));
    command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-nic", "none"]);
    command.args(["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"]);
    command.args(["-m", &format!("{}M", job.memory_mib), "-smp", &job.cpus.to_string()]);
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(folder.join("initrd"));
    command.args(["-append", KERNEL_ARGUMENTS]);
    command.args(["-chardev", &file("console", &job.console_log), "-serial", "chardev:console"]);
    command.args(["-chardev", "stdio,id=output,signal=off", "-serial", "chardev:output"]);
    command.args(["-chardev", &file("status", &folder.join("status")), "-serial", "chardev:status"]);
    command
}

/// Reads the emulator's output on a thread of its own, which ends with the emulator.
fn listen(emulator: &mut Guarded) -> Receiver<String> {
    let (sender, lines) = sync_channel(LINES_QUEUED);
    if let Some(output) = emulator.child().stdout.take() {
        thread::spawn(move || forward(BufReader::new(output), &sender));
    }
    lines
}

fn forward(mut output: impl BufRead, lines: &SyncSender<String>) {
    let mut line = Vec::new();
    while matches!((&mut output).take(LINE_BYTES).read_until(b'\n', &mut line), Ok(1..)) {
        let text = String::from_utf8_lossy(&line);
        if lines.send(text.trim_end_matches(['\n', '\r']).to_owned()).is_err() {
            return;
        }
        line.clear();
    }
}

/// Passes lines on until the output ends (true) or the time is over (false).
fn pump(lines: &Receiver<String>, deadline: Option<Instant>, on_line: &mut impl FnMut(&str)) -> bool {
    loop {
        // A deadline beyond the clock's range is none.
        let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
        match lines.recv_timeout(left) {
            Ok(line) => on_line(&line),
            Err(RecvTimeoutError::Disconnected) => return true,
            Err(RecvTimeoutError::Timeout) => return false,
        }
    }
}

fn wait(emulator: &mut Guarded, deadline: Option<Instant>) -> io::Result<Option<ExitStatus>> {
    let limit = Instant::now().checked_add(CLOSING).into_iter().chain(deadline).min();
    loop {
        if let Some(status) = emulator.child().try_wait()? {
            return Ok(Some(status));
        }
        if limit.is_some_and(|limit| Instant::now() >= limit) {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Judges a machine that ended by itself.
fn conclude(job: &GuestJob, folder: &Path, ended: ExitStatus, begun: Instant) -> Result<GuestExit, VmError> {
    let word = fs::read_to_string(folder.join("status")).unwrap_or_default();
    let log = job.console_log.clone();
    let text = console::read(&log);
    if let Some(console) = console::panic_report(&text) {
        return Err(VmError::Panic { log, console });
    }
    match verdict(&word) {
        Some(Verdict::Exit(status)) => Ok(GuestExit {
            status,
            console_log: log,
            kernel_complaints: console::complaints(&text),
            seconds: begun.elapsed().as_secs_f64(),
        }),
        Some(Verdict::Setup(reason)) => Err(VmError::Setup { reason, log, console: console::tail(&job.console_log) }),
        None => Err(VmError::Emulator {
            status: ended.to_string(),
            said: fs::read_to_string(folder.join("emulator.log")).unwrap_or_default().trim().to_owned(),
            log,
            console: console::tail(&job.console_log),
        }),
    }
}

/// The guest's last word.
#[derive(Debug, Eq, PartialEq)]
enum Verdict {
    Exit(i32),
    Setup(String),
}

/// A word counts only when its line is complete.
fn verdict(word: &str) -> Option<Verdict> {
    let line = word.lines().next().filter(|_| word.contains('\n'))?.trim();
    match line.split_once(' ')? {
        ("exit", status) => status.parse().ok().map(Verdict::Exit),
        ("setup", reason) => Some(Verdict::Setup(reason.to_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn only_a_complete_word_counts() {
        assert_eq!(verdict("exit 0\n"), Some(Verdict::Exit(0)));
        assert_eq!(verdict("exit 137\r\n"), Some(Verdict::Exit(137)));
        assert_eq!(verdict("setup loading mtty.ko\n"), Some(Verdict::Setup("loading mtty.ko".into())));
        for word in ["", "exit 1", "exit\n", "exit x\n", "hello 0\n"] {
            assert_eq!(verdict(word), None, "{word:?}");
        }
    }

    fn forwarded(bytes: &[u8]) -> Vec<String> {
        let (sender, lines) = sync_channel(16);
        forward(bytes, &sender);
        drop(sender);
        lines.iter().collect()
    }

    #[test]
    fn output_is_cut_into_lines_of_bounded_length() {
        assert_eq!(forwarded(b"{\"a\":1}\n\nlast\r\nrest"), ["{\"a\":1}", "", "last", "rest"]);
        assert_eq!(forwarded(b"\xff\n"), ["\u{fffd}"]);
        let long = vec![b'x'; usize::try_from(LINE_BYTES).unwrap() + 5];
        assert_eq!(forwarded(&long).iter().map(String::len).collect::<Vec<_>>(), [1 << 20, 5]);
    }

    #[test]
    fn the_pump_stops_at_the_deadline() {
        let (sender, lines) = sync_channel(16);
        sender.send("one".to_owned()).unwrap();
        let mut seen = Vec::new();
        let soon = Instant::now() + Duration::from_millis(20);
        assert!(!pump(&lines, Some(soon), &mut |line| seen.push(line.to_owned())));
        drop(sender);
        assert!(pump(&lines, None, &mut |_| ()));
        assert_eq!(seen, ["one"]);
    }
}
