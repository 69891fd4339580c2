// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A QEMU process with VFIO devices and nothing else: no guest, no KVM, 16 MiB of RAM.

use core::time::Duration;
use std::fs::{self, File};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::device_log::DeviceLog;
use super::devices::Devices;
pub(crate) use super::devices::idstr;
use super::qmp::{DeviceState, Qmp, QmpError};
use crate::soft::scratch;
use crate::vm::{Guarded, Qemu, tail};

/// How long QEMU may take to start, and to answer a command.
const START_LIMIT: Duration = Duration::from_secs(30);
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(5);
/// Lines of QEMU's messages that are quoted.
const SAID_LINES: usize = 12;

/// A simulated device.
#[derive(Clone, Debug)]
pub(crate) struct SoftDevice {
    /// Its name in logs.
    pub(crate) name: String,
    /// Model and options, as `xtask/softvfio/README.md` has them.
    pub(crate) options: String,
    /// Mediated device instead of a PCI device.
    pub(crate) is_mediated: bool,
}

/// What to start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec<'a> {
    /// Tells the machines in one folder apart.
    pub(crate) name: &'a str,
    /// Existing folder for the machine's files.
    pub(crate) folder: &'a Path,
    /// Its devices.
    pub(crate) devices: Devices<'a>,
    /// Waits for a migration instead of running.
    pub(crate) is_target: bool,
}

/// What few machines need.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extras<'a> {
    /// More properties of every device, each with a comma in front.
    pub(crate) properties: &'a str,
    /// The most address space the emulator may have, in bytes.
    pub(crate) address_bytes_max: Option<u64>,
    /// RAM that matters.
    pub(crate) memory: Option<GuestMemory<'a>>,
    /// A file that is the guest's memory, and its size in bytes. The machine is not let run then.
    pub(crate) memory_file: Option<(&'a Path, u64)>,
}

/// RAM that is looked at, and what the guest does with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GuestMemory<'a> {
    /// How much.
    pub(crate) mib: u32,
    /// What stands there from 1 MiB on when the machine starts; zeros without.
    pub(crate) content: Option<&'a Path>,
    /// What the guest's processor runs.
    pub(crate) firmware: &'a Path,
    /// The guest does not run after a migration.
    pub(crate) is_paused: bool,
    /// `multifd-flush-after-each-section`.
    pub(crate) flush_each_section: bool,
}

/// Why there is no machine, or none any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum MachineError {
    /// A file, socket or process could not be made.
    #[error("cannot {what} of the {machine} machine: {error}")]
    Io {
        /// The operation, as an infinitive.
        what: &'static str,
        /// Which machine.
        machine: String,
        /// The system's answer.
        error: io::Error,
    },
    /// QEMU ended by itself.
    #[error("the {machine} QEMU ended ({status}): {said}")]
    Ended {
        /// Which machine.
        machine: String,
        /// How.
        status: String,
        /// The end of its messages.
        said: String,
    },
    /// The monitor did not do what it was told.
    #[error("{machine}: {error}; {said}")]
    Monitor {
        /// Which machine.
        machine: String,
        /// Why.
        error: QmpError,
        /// The end of QEMU's messages.
        said: String,
    },
}

/// A QEMU that runs until this is dropped.
#[derive(Debug)]
pub(crate) struct Machine {
    name: String,
    folder: PathBuf,
    child: Guarded,
    qmp: Option<Qmp>,
    /// The simulated paths.
    _root: TempDir,
}

/// How far a migration is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Migration {
    /// As QEMU calls it; empty if there is none yet.
    pub(crate) status: String,
    /// What went wrong.
    pub(crate) error: Option<String>,
    /// How long the guest stood still, in milliseconds; only the source knows.
    pub(crate) downtime_ms: Option<u64>,
}

impl Migration {
    /// Nothing will happen any more.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.status.as_str(), "completed" | "failed" | "cancelled")
    }

    fn from_answer(answer: &Value) -> Self {
        let text = |key: &str| answer.get(key).and_then(Value::as_str).map(str::to_owned);
        Self {
            status: text("status").unwrap_or_default(),
            error: text("error-desc"),
            downtime_ms: answer.get("downtime").and_then(Value::as_u64),
        }
    }
}

impl Machine {
    /// Starts QEMU and waits for its monitor.
    pub(crate) fn start(qemu: &Qemu, spec: &Spec<'_>) -> Result<Self, MachineError> {
        Self::start_with(Extras::default(), qemu, spec)
    }

    /// The same with more.
    pub(crate) fn start_with(extras: Extras<'_>, qemu: &Qemu, spec: &Spec<'_>) -> Result<Self, MachineError> {
        let io = |what| {
            let machine = spec.name.to_owned();
            move |error| MachineError::Io { what, machine, error }
        };
        let file = |suffix: &str| spec.folder.join(format!("{}.{suffix}", spec.name));
        let root = scratch().map_err(io("create the device folder"))?;
        let errors = File::create(file("err")).map_err(io("create the message file"))?;
        let mut command = match spec.devices {
            Devices::Soft { library, devices } => {
                let mut command = qemu.command_preloading(library);
                command.env("SOFTVFIO", configuration(devices));
                command.env("SOFTVFIO_LOG", file("log")).env("SOFTVFIO_ROOT", root.path());
                command
            }
            Devices::Real(_) => qemu.command_tied_to_thread(),
        };
        arguments(&mut command, spec, &extras, &file("qmp"));
        if let Some(bytes) = extras.address_bytes_max {
            command = limited(&command, bytes);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
        let child = Guarded::spawn(&mut command).map_err(io("start the emulator"))?;
        let mut machine =
            Self { name: spec.name.to_owned(), folder: spec.folder.to_owned(), child, qmp: None, _root: root };
        let stream = machine.monitor()?;
        let qmp = Qmp::begin(stream, ANSWER_LIMIT).map_err(|error| machine.failed(error))?;
        machine.qmp = Some(qmp);
        Ok(machine)
    }

    fn monitor(&mut self) -> Result<UnixStream, MachineError> {
        let begin = Instant::now();
        loop {
            match UnixStream::connect(self.file("qmp")) {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    self.check_alive()?;
                    if begin.elapsed() > START_LIMIT {
                        let machine = self.name.clone();
                        return Err(MachineError::Io { what: "reach the monitor", machine, error });
                    }
                }
            }
            thread::sleep(POLL);
        }
    }

    fn check_alive(&mut self) -> Result<(), MachineError> {
        match self.child.child().try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                Err(MachineError::Ended { machine: self.name.clone(), status: status.to_string(), said: self.said() })
            }
            Err(error) => Err(MachineError::Io { what: "wait for the emulator", machine: self.name.clone(), error }),
        }
    }

    /// Runs a monitor command.
    pub(crate) fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, MachineError> {
        let answer = match &mut self.qmp {
            Some(qmp) => qmp.execute(command, arguments),
            None => Err(QmpError::Closed { command: command.to_owned() }),
        };
        match answer {
            Err(error @ QmpError::Closed { .. }) => {
                // That it ended, and how, says more.
                let begin = Instant::now();
                while begin.elapsed() < Duration::from_secs(1) {
                    self.check_alive()?;
                    thread::sleep(POLL);
                }
                Err(self.failed(error))
            }
            other => other.map_err(|error| self.failed(error)),
        }
    }

    fn failed(&self, error: QmpError) -> MachineError {
        MachineError::Monitor { machine: self.name.clone(), error, said: self.said() }
    }

    /// Switches migration capabilities on.
    pub(crate) fn enable(&mut self, capabilities: &[&str]) -> Result<(), MachineError> {
        let all: Vec<Value> = capabilities.iter().map(|name| json!({ "capability": name, "state": true })).collect();
        self.execute("migrate-set-capabilities", json!({ "capabilities": all })).map(drop)
    }

    /// The state of the migration.
    pub(crate) fn migration(&mut self) -> Result<Migration, MachineError> {
        self.execute("query-migrate", json!({})).map(|answer| Migration::from_answer(&answer))
    }

    /// The port that `migrate-incoming` of `tcp:…:0` got.
    pub(crate) fn incoming_port(&mut self) -> Result<Option<String>, MachineError> {
        let answer = self.execute("query-migrate", json!({}))?;
        let address = answer.get("socket-address").and_then(|all| all.get(0));
        Ok(address.and_then(|it| it.get("port")).and_then(Value::as_str).map(str::to_owned))
    }

    /// How the emulator ended, once it has.
    pub(crate) fn ended(&mut self) -> Option<String> {
        match self.check_alive() {
            Err(MachineError::Ended { status, said, .. }) => Some(format!("{status}: {said}")),
            _ => None,
        }
    }

    /// The process.
    pub(crate) fn process(&mut self) -> u32 {
        self.child.child().id()
    }

    /// That a migration did not come to the end it should have.
    pub(crate) fn unfinished(&self, migration: &Migration) -> MachineError {
        let error = migration.error.clone().unwrap_or_default();
        let status = format!("the migration is {} {error}", migration.status);
        MachineError::Ended { machine: self.name.clone(), status, said: self.said() }
    }

    /// The state of the virtual machine: `running`, `postmigrate`, ….
    pub(crate) fn run_state(&mut self) -> Result<String, MachineError> {
        let answer = self.execute("query-status", json!({}))?;
        Ok(answer.get("status").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    /// Whether it runs and its monitor does not answer.
    pub(crate) fn is_deaf(&mut self) -> bool {
        let answer = self.execute("query-status", json!({}));
        matches!(answer, Err(MachineError::Monitor { error: QmpError::Timeout { .. }, .. }))
    }

    /// Begins a migration to the address.
    ///
    /// An earlier one that failed may not have been put away: until then QEMU 10.0 refuses another, and says no more than this.
    pub(crate) fn migrate(&mut self, uri: &str) -> Result<(), MachineError> {
        let begin = Instant::now();
        loop {
            match self.execute("migrate", json!({ "uri": uri })) {
                Err(MachineError::Monitor { error: QmpError::Refused { reason, .. }, .. })
                    if reason.contains("duplicate yank instance") && begin.elapsed() < ANSWER_LIMIT =>
                {
                    thread::sleep(POLL);
                }
                other => return other.map(drop),
            }
        }
    }

    /// QEMU's own version, from its monitor.
    pub(crate) fn version(&self) -> &str {
        self.qmp.as_ref().map_or("", Qmp::version)
    }

    /// The states that real devices have been put into, by QEMU's account.
    pub(crate) fn device_states(&mut self) -> Result<Vec<DeviceState>, MachineError> {
        // What was said comes with an answer.
        self.run_state()?;
        Ok(self.qmp.iter().flat_map(Qmp::device_states).cloned().collect())
    }

    /// What simulated devices have seen so far.
    pub(crate) fn device_log(&self) -> Result<DeviceLog, MachineError> {
        let failed = |error| MachineError::Io { what: "read the device log", machine: self.name.clone(), error };
        DeviceLog::read(&self.file("log")).map_err(failed)
    }

    /// The end of QEMU's messages.
    pub(crate) fn said(&self) -> String {
        let said = tail(&fs::read_to_string(self.file("err")).unwrap_or_default(), SAID_LINES);
        if said.is_empty() { "it said nothing".to_owned() } else { said }
    }

    fn file(&self, suffix: &str) -> PathBuf {
        self.folder.join(format!("{}.{suffix}", self.name))
    }
}

/// What `SOFTVFIO` takes. Kernel 7.3 is the one that has all that QEMU knows of.
pub(crate) fn configuration(devices: &[SoftDevice]) -> String {
    let mut text = "kernel=7.3\n".to_owned();
    for (index, device) in devices.iter().enumerate() {
        text.push_str(&format!("device {} address={} {}\n", device.name, soft_address(index, device), device.options));
    }
    text
}

/// Where [`configuration`] puts a device.
pub(crate) fn soft_address(index: usize, device: &SoftDevice) -> String {
    if device.is_mediated {
        format!("50f7f10c-0000-4000-8000-{index:012}")
    } else {
        // One on each bus, from a0 to ff.
        format!("0000:{:02x}:00.0", index.saturating_add(0xa0))
    }
}

/// Setting a limit here would take unsafe code between fork and exec: `prlimit` comes with `setpriv`, which starts the
/// emulator too.
fn limited(command: &Command, address_bytes_max: u64) -> Command {
    let mut limited = Command::new("prlimit");
    limited.arg(format!("--as={address_bytes_max}")).arg(command.get_program()).args(command.get_args());
    limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    limited
}

fn arguments(command: &mut Command, spec: &Spec<'_>, extras: &Extras<'_>, monitor: &Path) {
    command.args(["-accel", "tcg"]);
    match (&extras.memory, extras.memory_file) {
        (Some(memory), _) => memory.arguments(command),
        (None, Some((path, bytes))) => {
            let backend = format!("memory-backend-file,id=ram,size={bytes},mem-path={},share=on", word(path));
            command.args(["-machine", "q35,memory-backend=ram", "-S", "-m", &format!("{}", bytes >> 20)]);
            command.args(["-object", &backend]);
        }
        (None, None) => drop(command.args(["-machine", "q35", "-m", "16"])),
    }
    command.args([
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-name",
        &format!("{},debug-threads=on", spec.name),
    ]);
    command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", word(monitor)));
    command.args(spec.devices.arguments(extras.properties));
    if spec.is_target {
        command.args(["-incoming", "defer"]);
    }
}

/// A path in QEMU's option syntax, where commas are doubled.
fn word(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

impl GuestMemory<'_> {
    fn arguments(&self, command: &mut Command) {
        if let Some(path) = self.content {
            // Not as a file that the memory is: those 11.1 maps for devices in a way of their own.
            command.arg("-device").arg(format!("loader,file={},addr=0x100000,force-raw=on", word(path)));
        }
        command.args(["-machine", "q35", "-m"]).arg(self.mib.to_string()).arg("-bios").arg(self.firmware);
        if self.is_paused {
            command.arg("-S");
        }
        if self.flush_each_section {
            command.args(["-global", "migration.multifd-flush-after-each-section=on"]);
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn simulated_devices_are_where_the_library_has_them() {
        let device = |is_mediated| SoftDevice { name: "d".into(), options: "model=plain".into(), is_mediated };
        let devices = [device(false), device(true)];
        assert_eq!(
            configuration(&devices),
            "kernel=7.3\n\
             device d address=0000:a0:00.0 model=plain\n\
             device d address=50f7f10c-0000-4000-8000-000000000001 model=plain\n"
        );
        let (folder, library) = (Path::new("/f"), Path::new("/l.so"));
        let devices = Devices::Soft { library, devices: &devices };
        let spec = Spec { name: "target", folder, devices, is_target: true };
        let mut command = Command::new("qemu");
        let extras = Extras { properties: ",x-y=z", ..Extras::default() };
        arguments(&mut command, &spec, &extras, Path::new("/f/a,b.qmp"));
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        assert!(words.iter().any(|word| word.starts_with("unix:/f/a,,b.qmp,")), "{words:?}");
        assert!(
            words.iter().any(|word| word.contains("host=0000:a0:00.0") && word.ends_with("addr=10,x-y=z")),
            "{words:?}"
        );
        assert!(words.iter().any(|word| word.contains("sysfsdev=/sys/bus/mdev") && word.ends_with("addr=11,x-y=z")));
        assert!(words.ends_with(&["-incoming".into(), "defer".into()]));
    }

    #[test]
    fn a_file_can_be_the_memory_of_a_machine_that_stands() {
        let spec = Spec { name: "source", folder: Path::new("/f"), devices: Devices::Real(&[]), is_target: false };
        let extras = Extras { memory_file: Some((Path::new("/f/a,b"), 64 << 20)), ..Extras::default() };
        let mut command = Command::new("qemu");
        arguments(&mut command, &spec, &extras, Path::new("/f/qmp"));
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        let backend = "memory-backend-file,id=ram,size=67108864,mem-path=/f/a,,b,share=on".to_owned();
        assert!(words.contains(&backend) && words.contains(&"-S".into()), "{words:?}");
        assert!(words.windows(2).any(|pair| pair == ["-m", "64"]), "{words:?}");
    }

    #[test]
    fn the_answer_of_query_migrate_is_read() {
        let migration = Migration::from_answer(&json!({ "status": "failed", "error-desc": "why", "downtime": 7 }));
        assert!(migration.is_over());
        assert_eq!((migration.error.as_deref(), migration.downtime_ms), (Some("why"), Some(7)));
        for status in ["setup", "active", "device", "cancelling", "failing", "postcopy-active"] {
            assert!(!Migration::from_answer(&json!({ "status": status })).is_over(), "{status}");
        }
        assert!(!Migration::from_answer(&json!({})).is_over());
    }
}
