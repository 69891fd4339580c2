// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whole programs on top of the library: one in C, one in Rust, and whatever the machine has.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

const UUIDS: [&str; 2] = ["50f7f10c-0000-4000-8000-000000000000", "50f7f10c-0000-4000-8000-000000000001"];
const MTTYS: &str = "device a model=mtty; device b model=mtty";

/// The folder that this test was built in, `target/debug` or `target/release`.
fn built() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_path_buf()
}

/// The library and the Rust program, built: cargo builds what a test links with, and this one links with neither.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--package", "softvfio", "--lib", "--example", "drive", "--target-dir"]);
        cargo.arg(built().parent().unwrap());
        if built().ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success(), "the library builds");
        built().join("libsoftvfio.so")
    })
}

/// `program` on top of the library.
fn soft(program: impl AsRef<std::ffi::OsStr>, config: &str) -> Command {
    let mut command = Command::new(program);
    command.env("LD_PRELOAD", library()).env("SOFTVFIO", config);
    command
}

fn drive(config: &str, arguments: &[&str]) -> Command {
    library();
    let mut command = soft(built().join("examples/drive"), config);
    command.args(arguments);
    command
}

fn text(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8(both).unwrap()
}

/// Runs a command that must succeed.
fn good(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, text(&output));
    text(&output)
}

/// Whether the machine has a program; the reason for a skip is printed.
fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("skipped: this machine has no {program}");
    }
    found
}

fn walk(folder: &Path) -> Option<PathBuf> {
    if !has("cc") {
        return None;
    }
    let program = folder.join("walk");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/walk.c");
    good(Command::new("cc").args(["-Wall", "-Werror", "-O2", "-D_FORTIFY_SOURCE=2", "-o"]).arg(&program).arg(source));
    Some(program)
}

#[test]
fn a_c_program_gets_the_kernels_errnos_by_group() {
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = walk(folder.path()) else { return };
    let [a, b] = UUIDS;
    let found = good(soft(program, MTTYS).args(["group", a, "1", b, "2"]));
    assert!(found.ends_with(" checks, 0 failures\n"), "{found}");
}

#[test]
fn a_c_program_gets_the_kernels_errnos_by_cdev() {
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = walk(folder.path()) else { return };
    let found = good(soft(program, &format!("kernel=7.3; {MTTYS}")).args(["cdev", "0", "1"]));
    assert!(found.ends_with(" checks, 0 failures\n"), "{found}");
}

#[test]
fn the_c_program_notices_a_driver_that_errs() {
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = walk(folder.path()) else { return };
    let [a, b] = UUIDS;
    let config = "device a model=mtty fault=read:EIO@2; device b model=mtty";
    let output = soft(program, config).args(["group", a, "1", b, "2"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
}

#[test]
fn a_rust_program_finds_the_devices() {
    let config = format!("{MTTYS}; device c model=plain address=0000:01:02.3 group=77 cdev=9");
    let found = good(&mut drive(&config, &["list"]));
    assert_eq!(found.lines().count(), 3, "{found}");
    assert!(found.contains("0000:01:02.3"), "{found}");
    assert!(found.contains("/dev/vfio/77"), "{found}");
    assert!(!found.contains("/dev/vfio/devices"), "a stock 6.12 has no cdevs: {found}");
    let found = good(&mut drive(&format!("kernel=7.3; {config}"), &["list"]));
    assert!(found.contains("/dev/vfio/devices/vfio9"), "{found}");
}

/// Every session's checksum in a log, by direction.
fn checksums(log: &Path, direction: &str) -> Vec<String> {
    let log = std::fs::read_to_string(log).unwrap();
    let ended = log.lines().filter(|line| line.contains(&format!(" {direction} ends ")));
    ended.map(|line| line.split(" ends ").nth(1).unwrap().to_owned()).collect()
}

#[test]
fn a_rust_program_moves_a_device() {
    for kernel in ["6.12", "6.12-iommufd", "7.3"] {
        for (caps, bytes) in [(1, 15 << 20), (3, 15 << 20), (5, 17 << 20), (7, 17 << 20)] {
            let plain = format!("model=plain caps={caps} initial=10MiB dirty=2MiB stop=5MiB");
            let config = format!(
                "kernel={kernel}; device a {plain} address=0000:0a:00.0 seed=1; device b {plain} address=0000:0b:00.0 seed=2"
            );
            let folder = tempfile::tempdir().unwrap();
            let log = folder.path().join("log");
            let state = folder.path().join("state");
            let run = |arguments: &[&str]| {
                good(drive(&config, arguments).env("SOFTVFIO_LOG", &log).env("SOFTVFIO_STATE", &state))
            };
            run(&["register", "0000:0a:00.0", "77", "99"]);
            assert_eq!(run(&["register", "0000:0b:00.0", "0"]), "2\n", "the target's own seed");
            assert_eq!(run(&["move", "0000:0a:00.0", "0000:0b:00.0"]), format!("moved {bytes} bytes\n"));
            assert_eq!(run(&["register", "0000:0b:00.0", "0"]), "1\n", "the source's seed, in another process");
            assert_eq!(run(&["register", "0000:0b:00.0", "77"]), "99\n");
            let saved = checksums(&log, "save");
            assert_eq!(saved.len(), 1);
            assert_eq!(saved, checksums(&log, "load"));
            assert!(saved[0].starts_with(&format!("bytes={bytes} crc64=")), "{saved:?}");
        }
    }
}

#[test]
fn the_state_of_an_mtty_outlives_its_process() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| good(drive(MTTYS, arguments).env("SOFTVFIO_STATE", folder.path()));
    run(&["register", UUIDS[0], "7", "90"]);
    run(&["state", UUIDS[0], "1"]);
    assert_eq!(run(&["state", UUIDS[0]]), "STOP\n");
    run(&["move", UUIDS[0], UUIDS[1]]);
    assert_eq!(run(&["register", UUIDS[1], "7"]), "90\n");
    assert_eq!(good(&mut drive(MTTYS, &["register", UUIDS[1], "7"])), "0\n", "without the folder all is new");
    if has("python3") {
        // Closes nothing: the end of the process does.
        let program = "
import fcntl, os, struct
device = os.open('/dev/vfio/devices/vfio0', os.O_RDWR)
fcntl.ioctl(device, 0x3b76, bytearray(struct.pack('IIiI', 16, 0, os.open('/dev/iommu', os.O_RDWR), 0)))
os.pwrite(device, bytes([91]), 7)
";
        let mut python = soft("python3", &format!("kernel=7.3; {MTTYS}"));
        good(python.args(["-c", program]).env("SOFTVFIO_STATE", folder.path()));
        assert_eq!(run(&["register", UUIDS[0], "7"]), "91\n");
    }
}

#[test]
fn faults_reach_the_program() {
    let config = "kernel=7.3; device a model=plain address=0000:0a:00.0 initial=3KiB reinit-after=1";
    assert_eq!(good(&mut drive(config, &["precopy", "0000:0a:00.0"])), "6144 0 Some(true)\n");
    let config = format!("{config} fault=set_state:PRE_COPY:ENOTCONN");
    let output = drive(&config, &["precopy", "0000:0a:00.0"]).output().unwrap();
    assert!(!output.status.success());
    assert!(text(&output).contains("107"), "{}", text(&output));
}

#[test]
fn a_bad_configuration_ends_the_program() {
    for (config, expected) in [
        ("device a model=mtty ports=3", "line 1: ports=3: expected 1 or 2"),
        ("/nonexistent/config", "/nonexistent/config: No such file"),
    ] {
        let output = drive(config, &["list"]).output().unwrap();
        assert_eq!(output.status.code(), Some(126));
        assert!(text(&output).contains(expected), "{}", text(&output));
    }
}

#[test]
fn nothing_is_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let found = good(drive(MTTYS, &["list"]).env("TMPDIR", folder.path()));
    assert_eq!(found.lines().count(), 2, "{found}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the folder of paths goes with the process");
    if has("python3") {
        let kill = "import os; os.listdir('/dev/vfio'); print(*os.listdir(os.environ['TMPDIR']), flush=True); os.kill(os.getpid(), 9)";
        let killed = soft("python3", MTTYS).args(["-c", kill]).env("TMPDIR", folder.path()).output().unwrap();
        let left = text(&killed).trim().to_owned();
        assert!(left.starts_with("softvfio-"), "{left}");
        assert!(folder.path().join(&left).exists(), "a process that is killed cannot clean up");
        good(drive(MTTYS, &["list"]).env("TMPDIR", folder.path()));
        assert!(!folder.path().join(&left).exists(), "the next one does");
    }
    let root = folder.path().join("root");
    good(drive(MTTYS, &["list"]).env("SOFTVFIO_ROOT", &root));
    assert!(root.join("dev/vfio/vfio").exists(), "a folder that was named stays");
}

#[test]
fn without_a_configuration_nothing_changes() {
    let library = library();
    let mut command = Command::new(built().join("examples/drive"));
    let bare = command.arg("list").output().unwrap();
    let preloaded = command.env("LD_PRELOAD", library).env_remove("SOFTVFIO").output().unwrap();
    assert_eq!(text(&preloaded), text(&bare));
    assert_eq!(preloaded.status, bare.status);
}

#[test]
fn stock_programs_see_the_paths() {
    let config = format!("{MTTYS}; device c model=plain address=0000:01:02.3 group=77");
    let run = |program: &str, arguments: &[&str]| good(soft(program, &config).args(arguments));
    let [a, _] = UUIDS;
    let mdev = format!("/sys/bus/mdev/devices/{a}");
    let listed = run("ls", &["-l", "/sys/bus/mdev/devices"]);
    assert!(listed.contains(&format!("{a} -> ../../../../sys/devices/virtual/mtty/mtty/{a}")), "{listed}");
    assert!(run("ls", &["-l", "/dev/vfio"]).lines().any(|line| line.starts_with('c') && line.ends_with(" 77")));
    assert_eq!(run("cat", &["/sys/bus/pci/devices/0000:01:02.3/vendor"]), "0x1af4\n");
    assert_eq!(run("readlink", &["-f", &format!("{mdev}/iommu_group")]), "/sys/kernel/iommu_groups/1\n");
    assert_eq!(run("cat", &[&format!("{mdev}/mdev_type/device_api")]), "vfio-pci\n");
    assert!(!soft("ls", &config).arg("/dev/vfio/78").output().unwrap().status.success());
}

#[test]
fn a_launcher_can_promise_descriptors() {
    if !has("python3") {
        return;
    }
    // What a launcher does: it opens something on the numbers and starts the program. The program is a VMM that was
    // told `-object iommufd,fd=200 -device vfio-pci,fd=201`.
    let vmm = "
import fcntl, os, struct, sys
bind = bytearray(struct.pack('IIiI', 16, 0, 200, 0))
fcntl.ioctl(201, 0x3b76, bind)
device = struct.unpack('IIiI', bind)[3]
ioas = bytearray(struct.pack('III', 12, 0, 0))
fcntl.ioctl(200, 0x3b81, ioas)
ioas = struct.unpack('III', ioas)[2]
info = bytearray(struct.pack('IIIIQIBxxxQ', 40, 0, device, 0, 0, 0, 0, 0))
fcntl.ioctl(200, 0x3b8a, info)
assert struct.unpack('IIIIQIBxxxQ', info)[7] & 1, 'dirty tracking'
hwpt = bytearray(struct.pack('IIIIIIIIQII', 48, 2, device, ioas, 0, 0, 0, 0, 0, 0, 0))
fcntl.ioctl(200, 0x3b89, hwpt)
hwpt = struct.unpack('IIIIIIIIQII', hwpt)[4]
fcntl.ioctl(201, 0x3b77, bytearray(struct.pack('III', 12, 0, hwpt)))
fcntl.ioctl(200, 0x3b8b, struct.pack('IIII', 16, 1, hwpt, 0))
page = bytearray(4096)
fcntl.ioctl(200, 0x3b85, bytearray(struct.pack('IIIIQQQ', 40, 7, ioas, 0, 0x10000, 0x2000, 0x100000)))
try:
    fcntl.ioctl(200, 0x3b85, bytearray(struct.pack('IIIIQQQ', 40, 7, ioas, 0, 0x10000, 0x2000, 0x101000)))
    sys.exit('overlap')
except FileExistsError:
    pass
state = bytearray(struct.pack('IIIi', 16, 0x20002, 6, 0))
fcntl.ioctl(201, 0x3b75, state)
save = struct.unpack('IIIi', state)[3]
print(len(os.read(save, 1 << 20)), os.get_inheritable(save))
";
    let config = "kernel=7.3; device nic model=plain initial=700000";
    let program =
        soft("python3", config).args(["-c", vmm]).env("SOFTVFIO_FDS", "200=iommufd,201=nic").output().unwrap();
    assert_eq!(text(&program), "700000 False\n");

    // The same, inherited through exec from a program that opened them by path.
    let launcher = format!(
        "
import os, sys
os.dup2(os.open('/dev/iommu', os.O_RDWR), 200)
os.dup2(os.open('/dev/vfio/devices/vfio0', os.O_RDWR), 201)
os.execvp('python3', ['python3', '-c', {vmm:?}])
"
    );
    assert_eq!(good(soft("python3", config).args(["-c", &launcher])), "700000 False\n");
}

#[test]
fn a_forked_child_does_no_harm() {
    if !has("python3") {
        return;
    }
    let parent = "
import fcntl, os, struct
device = os.open('/dev/vfio/devices/vfio0', os.O_RDWR)
fcntl.ioctl(device, 0x3b76, bytearray(struct.pack('IIiI', 16, 0, os.open('/dev/iommu', os.O_RDWR), 0)))
state = bytearray(struct.pack('IIIi', 16, 0x20002, 6, 0))
fcntl.ioctl(device, 0x3b75, state)
save = struct.unpack('IIIi', state)[3]
child = os.fork()
if child == 0:
    os.close(device)
    os.close(save)
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(os.read(save, 24)))
";
    let config = "kernel=7.3; device a model=mtty";
    assert_eq!(good(soft("python3", config).args(["-c", parent])), "7 24\n");
}
