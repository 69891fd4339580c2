// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Reading a guest's console: did its kernel die, did it complain, what did it say last.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::vm::host;

/// A guest cannot make the host read more than this of its console.
const READ_BYTES: u64 = 16 << 20;
const TAIL_LINES: usize = 30;
const COMPLAINTS: usize = 20;
const PANIC: &str = "Kernel panic";
/// Beginnings of the kernel's reports, after the time stamp.
const REPORTS: [&str; 7] = ["WARNING:", "BUG:", "Oops:", "INFO: task ", "KASAN:", "UBSAN:", "general protection fault"];

/// The console's text; what cannot be read is empty.
pub(crate) fn read(path: &Path) -> String {
    let mut bytes = Vec::new();
    let Ok(file) = File::open(path) else {
        return String::new();
    };
    // A partial text is better than none.
    let _ = file.take(READ_BYTES).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The last lines of a console.
pub(crate) fn tail(path: &Path) -> String {
    host::tail(&read(path), TAIL_LINES)
}

/// If the kernel panicked, its console from the first report on: an oops comes before the panic that it causes, and
/// both before their long dumps.
pub(crate) fn panic_report(text: &str) -> Option<String> {
    messages(text).find(|message| message.starts_with(PANIC))?;
    let lines = text.lines().map(str::trim_end);
    let report =
        lines.skip_while(|line| !message(line).is_some_and(|message| message.starts_with(PANIC) || is_report(message)));
    Some(report.take(TAIL_LINES).collect::<Vec<_>>().join("\n"))
}

/// The kernel's reports of its own misbehaviour.
pub(crate) fn complaints(text: &str) -> Vec<String> {
    let reports = messages(text).filter(|message| is_report(message));
    reports.take(COMPLAINTS).map(str::to_owned).collect()
}

fn is_report(message: &str) -> bool {
    REPORTS.iter().any(|report| message.starts_with(report))
}

fn messages(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(message)
}

/// What follows the time stamp of a kernel message `[    1.234567] text`; other lines are the program's.
fn message(line: &str) -> Option<&str> {
    let (stamp, message) = line.trim().strip_prefix('[')?.split_once("] ")?;
    stamp.trim().chars().all(|c| c.is_ascii_digit() || c == '.').then_some(message)
}

#[cfg(test)]
mod test {
    use super::*;

    const CONSOLE: &str = "\
[    0.000000] Linux version 6.12
[    1.500000] mtty: loading out-of-tree module taints kernel.
the program says: Kernel panic is what WARNING: means
[    2.100000] WARNING: CPU: 0 PID: 1 at drivers/vfio/x.c:1 y+0x1/0x2 [vfio]\r
[    2.200000] general protection fault, probably for non-canonical address
";

    #[test]
    fn only_the_kernel_s_own_reports_count() {
        assert_eq!(panic_report(CONSOLE), None);
        let found = complaints(CONSOLE);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("WARNING: CPU: 0") && found[1].starts_with("general protection"));
    }

    #[test]
    fn a_panic_is_told_from_its_cause_on() {
        let text = format!("[    0.1] boot\n{CONSOLE}[    3.000000] Kernel panic - not syncing: Fatal\n");
        let report = panic_report(&text).unwrap();
        assert!(report.starts_with("[    2.100000] WARNING: CPU: 0"), "{report}");
        assert!(report.ends_with("Fatal"), "{report}");
        let long = format!("[    3.0] Kernel panic\n{}", "[    3.1] dump\n".repeat(100));
        assert!(panic_report(&long).unwrap().starts_with("[    3.0] Kernel panic"));
    }

    #[test]
    fn a_missing_console_is_empty() {
        assert_eq!(tail(Path::new("/nonexistent/console")), "");
    }
}
