// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The layouts against the kernel headers of the machine, by way of its C compiler.
//!
//! Older headers lack what newer kernels brought; the test lists that. `VFIO_UAPI_HEADERS` names another include
//! directory to compare with.

use core::fmt::Write as _;
use std::collections::HashMap;
use std::process::Command;

use super::{Entry, NUMBERS, STRUCTS};
use crate::IOCTLS;

const PROGRAM: &str = "\
#include <stddef.h>
#include <stdio.h>
#include <linux/vfio.h>
#if __has_include(<linux/iommufd.h>)
#include <linux/iommufd.h>
#endif
int main(void) {
";

/// Everything to compare: the layouts and the ioctls.
fn entries() -> impl Iterator<Item = Entry> {
    let listed =
        STRUCTS.iter().chain(NUMBERS).map(|&Entry { guard, expression, value }| Entry { guard, expression, value });
    let ioctls =
        IOCTLS.iter().map(|ioctl| Entry { guard: ioctl.name, expression: ioctl.name, value: ioctl.number.into() });
    listed.chain(ioctls)
}

fn program() -> String {
    let mut program = String::from(PROGRAM);
    for Entry { guard, expression, .. } in entries() {
        writeln!(
            program,
            "#ifdef {guard}\nprintf(\"%s=%llu\\n\", \"{expression}\", (unsigned long long)({expression}));"
        )
        .unwrap();
        writeln!(program, "#else\nprintf(\"%s=absent\\n\", \"{expression}\");\n#endif").unwrap();
    }
    program.push_str("return 0; }\n");
    program
}

/// Compiles with the first C compiler there is; `None` with the reason printed if there is none, or no header.
fn compile_and_run(program: &str) -> Option<String> {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("layout.c");
    let binary = directory.path().join("layout");
    std::fs::write(&source, program).unwrap();
    let headers = std::env::var_os("VFIO_UAPI_HEADERS");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let cc = |arguments: &[&std::ffi::OsStr]| {
        let mut command = Command::new(&compiler);
        command.arg("-std=gnu11");
        if let Some(headers) = &headers {
            command.arg("-isystem").arg(headers);
        }
        command.args(arguments).output()
    };
    let header = directory.path().join("header.c");
    std::fs::write(&header, "#include <linux/vfio.h>\n").unwrap();
    match cc(&["-fsyntax-only".as_ref(), header.as_ref()]) {
        Err(error) => {
            println!("SKIPPED: no C compiler {compiler}: {error}");
            return None;
        }
        Ok(output) if !output.status.success() => {
            println!("SKIPPED: {compiler} finds no linux/vfio.h: {}", String::from_utf8_lossy(&output.stderr));
            return None;
        }
        Ok(_) => {}
    }
    let output = cc(&["-Werror".as_ref(), "-o".as_ref(), binary.as_ref(), source.as_ref()]).unwrap();
    assert!(output.status.success(), "the layout program: {}", String::from_utf8_lossy(&output.stderr));
    let output = Command::new(binary).output().unwrap();
    assert!(output.status.success());
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
#[cfg_attr(miri, ignore = "runs a C compiler")]
fn agrees_with_the_kernel_headers() {
    let Some(output) = compile_and_run(&program()) else {
        return;
    };
    let header: HashMap<&str, &str> = output.lines().map(|line| line.split_once('=').unwrap()).collect();
    let mut compared = 0;
    let mut absent = Vec::new();
    for Entry { expression, value, .. } in entries() {
        match header[expression] {
            "absent" => absent.push(expression),
            found => {
                assert_eq!(found, value.to_string(), "{expression} of the header against this crate's");
                compared += 1;
            }
        }
    }
    println!("{compared} values agree with the kernel headers");
    if !absent.is_empty() {
        println!("{} values the headers lack: {}", absent.len(), absent.join(", "));
    }
    if absent.contains(&"VFIO_DEVICE_STATE_STOP_COPY") {
        println!("SKIPPED in part: headers older than the migration uAPI of Linux 5.18");
        return;
    }
    assert!(compared > 60, "only {compared} values were compared");
}
