// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Running the host's tools.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use crate::vm::error::ProvisionError;

/// The Debian package of each tool that may be missing, for the remedy.
const PACKAGES: [(&str, &str); 14] = [
    ("apt-cache", "apt"),
    ("apt-config", "apt"),
    ("apt-get", "apt"),
    ("bc", "bc"),
    ("bzip2", "bzip2"),
    ("dpkg-deb", "dpkg"),
    ("gcc", "gcc"),
    ("gzip", "gzip"),
    ("ld", "binutils"),
    ("make", "make"),
    ("nice", "coreutils"),
    ("tar", "tar"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
];
/// Lines of a failed tool's output that are shown.
const TAIL_LINES: usize = 15;

/// A child process that does not outlive its owner.
#[derive(Debug)]
pub(crate) struct Guarded(Child);

impl Guarded {
    /// Starts the command.
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Self> {
        command.spawn().map(Self)
    }

    /// The child itself.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // Both fail only if the child has ended and been waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command for `program` that the kernel kills when the thread that spawns it ends, even if this process is killed.
///
/// The parent death signal is set by `setpriv` (util-linux): setting it here would take unsafe code between fork and
/// exec. Without `setpriv` it is a plain command.
pub(crate) fn tied_to_thread(program: &OsStr) -> Command {
    let tie = ["--pdeathsig", "KILL"];
    let works = Command::new("setpriv").args(tie).arg("true").output();
    if !works.is_ok_and(|output| output.status.success()) {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(tie).arg(program);
    command
}

/// True if `program` is in the search path.
pub(crate) fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Fails with one sentence that names all of `programs` that are missing and how to install them.
pub(crate) fn require(programs: &[&str]) -> Result<(), ProvisionError> {
    let mut missing: Vec<&str> = programs.iter().copied().filter(|program| !has(program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    missing.sort_unstable();
    missing.dedup();
    let mut packages: Vec<&str> = missing.iter().map(|program| package_of(program)).collect();
    packages.sort_unstable();
    packages.dedup();
    Err(ProvisionError::MissingTools { programs: missing.join(", "), packages: packages.join(" ") })
}

fn package_of(program: &str) -> &str {
    PACKAGES.iter().find(|(name, _)| *name == program).map_or(program, |(_, package)| package)
}

/// Runs a command to its end and gives its standard output; messages are in English whatever the user's language.
pub(crate) fn run(command: &mut Command) -> Result<String, ProvisionError> {
    let output =
        command.env("LC_ALL", "C").stdin(Stdio::null()).output().map_err(|error| not_started(command, error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    Err(failed(command, output.status, &said))
}

/// The error for a command that ran and failed, with the end of what it `said`.
pub(crate) fn failed(command: &Command, status: ExitStatus, said: &str) -> ProvisionError {
    ProvisionError::Command { command: describe(command), status: status.to_string(), output: tail(said, TAIL_LINES) }
}

/// The error for a command that could not be started.
pub(crate) fn not_started(command: &Command, error: io::Error) -> ProvisionError {
    let program = command.get_program().to_string_lossy().into_owned();
    if error.kind() == io::ErrorKind::NotFound {
        let packages = package_of(&program).to_owned();
        return ProvisionError::MissingTools { programs: program, packages };
    }
    ProvisionError::io("start", Path::new(&program))(error)
}

/// Runs commands as a pipeline. Only the last one's success counts: it may have read all that it wants while the ones
/// before it die of a closed pipe.
pub(crate) fn pipeline(commands: &mut [Command]) -> Result<(), ProvisionError> {
    let mut children: Vec<Guarded> = Vec::new();
    let mut input = Stdio::null();
    let mut errors = Vec::new();
    let count = commands.len();
    for (index, command) in commands.iter_mut().enumerate() {
        let last = index.saturating_add(1) == count;
        command.env("LC_ALL", "C").stdin(input);
        command.stdout(if last { Stdio::null() } else { Stdio::piped() });
        command.stderr(if last { Stdio::piped() } else { Stdio::null() });
        let mut child = Guarded::spawn(command).map_err(|error| not_started(command, error))?;
        input = child.child().stdout.take().map_or_else(Stdio::null, |out: ChildStdout| out.into());
        children.push(child);
    }
    drop(input);
    let (Some(last), Some(command)) = (children.last_mut(), commands.last()) else {
        return Ok(());
    };
    if let Some(stream) = last.child().stderr.as_mut() {
        stream.take(1 << 16).read_to_end(&mut errors).map_err(|error| not_started(command, error))?;
    }
    let status = last.child().wait().map_err(|error| not_started(command, error))?;
    if status.success() { Ok(()) } else { Err(failed(command, status, &String::from_utf8_lossy(&errors))) }
}

/// The last lines of a text, without blank ones.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let kept: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let skipped = kept.len().saturating_sub(lines);
    kept.into_iter().skip(skipped).collect::<Vec<_>>().join("\n")
}

fn describe(command: &Command) -> String {
    let words = core::iter::once(command.get_program()).chain(command.get_args().take(6));
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_missing_tool_is_named_with_its_package() {
        let error = run(&mut Command::new("no-such-tool-at-all")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "this machine lacks no-such-tool-at-all; install it: apt-get install no-such-tool-at-all"
        );
        let text = require(&["sh", "no-such-a", "no-such-b"]).unwrap_err().to_string();
        assert!(text.contains("no-such-a, no-such-b") && !text.contains("sh,"), "{text}");
        assert_eq!(package_of("xz"), "xz-utils");
    }

    #[test]
    fn a_failing_tool_is_quoted() {
        let error = run(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("why"), "{error}");
    }

    #[test]
    fn a_pipeline_succeeds_when_its_last_command_does() {
        let commands = |last: &str| {
            let [mut a, mut b] = [Command::new("sh"), Command::new("sh")];
            a.args(["-c", "while echo y; do :; done"]);
            b.args(["-c", last]);
            [a, b]
        };
        pipeline(&mut commands("read line && test $line = y")).unwrap();
        let error = pipeline(&mut commands("echo broken >&2; exit 1")).unwrap_err().to_string();
        assert!(error.contains("broken"), "{error}");
    }

    #[test]
    fn a_tied_child_dies_with_its_thread() {
        if !has("setpriv") {
            println!("skipped: setpriv is not installed");
            return;
        }
        let spawn = || {
            let child = tied_to_thread(OsStr::new("sleep")).arg("600").spawn().unwrap();
            // The tie holds once setpriv has become the program.
            let name = format!("/proc/{}/comm", child.id());
            while !std::fs::read_to_string(&name).is_ok_and(|name| name == "sleep\n") {
                std::thread::yield_now();
            }
            child
        };
        let mut child = std::thread::spawn(spawn).join().unwrap();
        for _ in 0..500 {
            if let Some(status) = child.try_wait().unwrap() {
                assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
                return;
            }
            std::thread::sleep(core::time::Duration::from_millis(10));
        }
        child.kill().unwrap();
        panic!("the child outlived the thread that spawned it");
    }

    #[test]
    fn a_guarded_child_dies_with_its_guard() {
        let mut child = Guarded::spawn(Command::new("sleep").arg("600")).unwrap();
        let id = child.child().id();
        drop(child);
        assert!(!Path::new(&format!("/proc/{id}")).exists());
    }
}
