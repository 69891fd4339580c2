// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The guest's file system: busybox, the modules, the job's program and the script that runs it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use core::time::Duration;

use crate::vm::cpio::Archive;
use crate::vm::elf;
use crate::vm::error::VmError;
use crate::vm::guest::GuestJob;
use crate::vm::kernel::Kernel;

/// Where the job's program is in the guest.
const PROGRAM: &str = "job";
/// What every guest has.
const FOLDERS: [&str; 9] = ["bin", "dev", "lib", "lib/modules", "proc", "root", "run", "sys", "tmp"];
/// How much later than the host the guest gives up, for the case that the host is gone.
const GRACE: Duration = Duration::from_secs(30);

/// Writes the initial file system of a job.
pub(crate) fn write(kernel: &Kernel, job: &GuestJob, out: impl io::Write) -> Result<(), VmError> {
    let read = |path: &Path| fs::read(path).map_err(VmError::io("read", path));
    let failed = |error| VmError::io("write", Path::new("the initial file system"))(error);
    let mut archive = Archive::new(out);
    for folder in FOLDERS {
        archive.directory(folder).map_err(failed)?;
    }
    archive.character_device("dev/console", 0o600, 5, 1).map_err(failed)?;
    archive.file("bin/busybox", 0o755, &read(&kernel.busybox)?).map_err(failed)?;
    archive.symlink("bin/sh", "busybox").map_err(failed)?;
    let mut modules = Vec::new();
    for path in &kernel.modules {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        archive.file(&format!("lib/modules/{file}"), 0o644, &read(path)?).map_err(failed)?;
        modules.push(file);
    }
    let program = read(&job.binary)?;
    if elf::needs_loader(&program) {
        let reason = format!("{} is not statically linked, and the guest has no libraries", job.binary.display());
        return Err(VmError::Job { reason });
    }
    archive.file(PROGRAM, 0o755, &program).map_err(failed)?;
    for folder in folders(&job.files) {
        archive.directory(&folder).map_err(failed)?;
    }
    for (name, source) in &job.files {
        archive.file(name.trim_start_matches('/'), 0o755, &read(source)?).map_err(failed)?;
    }
    archive.file("init", 0o755, script(&modules, job).as_bytes()).map_err(failed)?;
    archive.finish().map_err(failed)?.flush().map_err(failed)
}

/// The folders that files need besides, parents first.
fn folders(files: &[(String, PathBuf)]) -> BTreeSet<String> {
    let parents = files.iter().flat_map(|(name, _)| Path::new(name.trim_start_matches('/')).ancestors().skip(1));
    let names = parents.map(|parent| parent.to_string_lossy().into_owned());
    names.filter(|name| !name.is_empty() && !FOLDERS.contains(&name.as_str())).collect()
}

/// The first program. Its parts report failure on the status port and stop the machine.
fn script(modules: &[String], job: &GuestJob) -> String {
    let insmod: String =
        modules.iter().map(|file| format!("insmod /lib/modules/{file} || give_up 'loading {file}'\n")).collect();
    let mdevs: String = job
        .mdevs
        .iter()
        .map(|mdev| {
            let (kind, uuid) = (mdev.kind.name(), &mdev.uuid);
            format!(
                "echo {uuid} >/sys/devices/virtual/mtty/mtty/mdev_supported_types/{kind}/create \
                 || give_up 'creating mdev {uuid} of type {kind}'\n"
            )
        })
        .collect();
    let environment: String = job.env.iter().map(|(name, value)| format!("export {name}={}\n", quote(value))).collect();
    let arguments: String = job.args.iter().map(|argument| format!(" {}", quote(argument))).collect();
    let limit = job.timeout.saturating_add(GRACE).as_secs();
    format!(
        "#!/bin/sh\n\
         export PATH=/bin HOME=/root NO_COLOR=1 TERM=dumb\n\
         /bin/busybox --install -s /bin\n\
         mount -t proc proc /proc\n\
         mount -t sysfs sysfs /sys\n\
         mount -t devtmpfs devtmpfs /dev\n\
         mount -t tmpfs tmpfs /tmp\n\
         mount -t tmpfs tmpfs /run\n\
         mkdir -p /dev/shm && mount -t tmpfs tmpfs /dev/shm\n\
         exec </dev/null >/dev/console 2>&1\n\
         stty -F /dev/ttyS1 raw -echo\n\
         stty -F /dev/ttyS2 raw -echo\n\
         give_up() {{\n\
         echo \"setup $1\" >/dev/ttyS2\n\
         dmesg | tail -n 20\n\
         poweroff -f\n\
         sleep 60\n\
         }}\n\
         ( sleep {limit}; poweroff -f ) &\n\
         ip link set lo up || give_up 'configuring lo'\n\
         {insmod}{mdevs}{environment}\
         cd /root\n\
         /{PROGRAM}{arguments} >/dev/ttyS1\n\
         status=$?\n\
         [ $status -eq 0 ] || dmesg | tail -n 40\n\
         echo \"exit $status\" >/dev/ttyS2\n\
         sync\n\
         poweroff -f\n"
    )
}

/// One word for the shell.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod test {
    use std::process::Command;

    use super::*;
    use crate::vm::guest::{Mdev, MdevType};

    fn job() -> GuestJob {
        let mut job = GuestJob::new("/p".into(), "/c.log".into(), Duration::from_secs(10));
        job.args = vec!["suite".into(), "it's $HOME".into(), String::new()];
        job.env = vec![("A".into(), "b c".into())];
        job.mdevs = vec![Mdev::numbered(MdevType::TwoPorts, 1)];
        job
    }

    #[test]
    fn folders_are_made_for_files_from_the_top_down() {
        let file = |name: &str| (name.to_owned(), PathBuf::from("/f"));
        let files = [file("/bin/a"), file("/q/lib/deep/b"), file("/q/c"), file("/d")];
        assert_eq!(folders(&files).into_iter().collect::<Vec<_>>(), ["q", "q/lib", "q/lib/deep"]);
    }

    #[test]
    fn the_shell_gives_back_what_was_quoted() {
        let text = "it's $HOME `x` \\ \"y\"\n*";
        let output = Command::new("sh").args(["-c", &format!("printf %s {}", quote(text))]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
    }

    #[test]
    fn the_script_is_a_script_and_does_the_job() {
        let script = script(&["vfio.ko".into(), "mtty.ko".into()], &job());
        let checked = Command::new("sh").args(["-n", "-c", &script]).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
        let position = |text: &str| script.find(text).unwrap_or_else(|| panic!("no {text:?} in:\n{script}"));
        assert!(position("insmod /lib/modules/vfio.ko ") < position("insmod /lib/modules/mtty.ko "));
        assert!(position("insmod /lib/modules/mtty.ko ") < position("mtty-2/create"));
        assert!(position("mtty-2/create") < position("/job 'suite' 'it'\\''s $HOME' '' >/dev/ttyS1"));
        assert!(script.contains("sleep 40;"), "the guest gives up after the host");
        assert!(script.contains("export A='b c'"));
    }
}
