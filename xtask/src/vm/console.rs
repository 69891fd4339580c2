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
/// Beginnings of the kernel's reports, after the time stamp.
const REPORTS: [&str; 7] = [
    "WARNING:",
    "BUG:",
    "Oops:",
    "INFO: task ",
    "KASAN:",
    "UBSAN:",
    "general protection fault",
];

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

/// True if the kernel panicked.
pub(crate) fn panicked(text: &str) -> bool {
    messages(text).any(|message| message.starts_with("Kernel panic"))
}

/// The kernel's reports of its own misbehaviour.
pub(crate) fn complaints(text: &str) -> Vec<String> {
    let is_report = |message: &&str| REPORTS.iter().any(|report| message.starts_with(report));
    messages(text)
        .filter(is_report)
        .take(COMPLAINTS)
        .map(str::to_owned)
        .collect()
}

/// Kernel messages `[    1.234567] text`; other lines are the program's.
fn messages(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let (stamp, message) = line.trim().strip_prefix('[')?.split_once("] ")?;
        stamp
            .trim()
            .chars()
            .all(|c| c.is_ascii_digit() || c == '.')
            .then_some(message)
    })
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
        assert!(!panicked(CONSOLE));
        let found = complaints(CONSOLE);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].starts_with("WARNING: CPU: 0") && found[1].starts_with("general protection")
        );
    }

    #[test]
    fn a_panic_is_seen() {
        assert!(panicked(
            "[    3.000000] Kernel panic - not syncing: sysrq triggered crash\n"
        ));
    }

    #[test]
    fn a_missing_console_is_empty() {
        assert_eq!(tail(Path::new("/nonexistent/console")), "");
    }
}
