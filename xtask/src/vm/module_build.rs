// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Building the driver against headers that are unpacked but not installed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::vm::error::ProvisionError;
use crate::vm::{host, unpack};

/// Where the header packages believe to be.
const INSTALLED: &str = "/usr/src/linux-headers-";

/// Builds `folder/mtty.c` to `folder/mtty.ko` for kernel `release`, whose header packages are unpacked in `headers`.
/// Gives the compiler's name.
pub(crate) fn build(headers: &Path, release: &str, folder: &Path) -> Result<String, ProvisionError> {
    let kernel = headers.join("usr/src").join(format!("linux-headers-{release}"));
    relocate(headers)?;
    let (compiler, original) = compiler(&kernel)?;
    let kbuild = folder.join("Kbuild");
    fs::write(&kbuild, "obj-m := mtty.o\n").map_err(ProvisionError::io("write", &kbuild))?;
    let mut make = Command::new("make");
    make.arg("-C").arg(&kernel).arg(format!("M={}", folder.display())).arg(format!("CC={compiler}"));
    // BTF would need the uncompressed kernel and pahole, and nothing here reads it.
    make.args(["CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"]);
    // Flags of an outer make, or of a distribution's package build, are not meant for this one.
    for variable in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "ARCH", "CROSS_COMPILE", "KCFLAGS", "LLVM"] {
        make.env_remove(variable);
    }
    host::run(&mut make).map_err(|error| match error {
        ProvisionError::Command { output, .. } => {
            ProvisionError::Build { release: release.to_owned(), compiler: compiler.clone(), original, output }
        }
        other => other,
    })?;
    Ok(compiler)
}

/// Makes absolute includes and links of the header packages point to where they are unpacked.
fn relocate(headers: &Path) -> Result<(), ProvisionError> {
    let source = headers.join("usr/src");
    let entries = fs::read_dir(&source).map_err(ProvisionError::io("list", &source))?;
    for tree in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir() && !path.is_symlink()) {
        for file in [tree.join("Makefile"), tree.join(".kernelvariables")] {
            if file.is_symlink() || !file.is_file() {
                continue;
            }
            let text = fs::read_to_string(&file).map_err(ProvisionError::io("read", &file))?;
            let moved = relocate_text(&text, headers);
            if moved != text {
                fs::write(&file, moved).map_err(ProvisionError::io("write", &file))?;
            }
        }
        relocate_links(&tree, headers)?;
    }
    Ok(())
}

fn relocate_text(text: &str, headers: &Path) -> String {
    text.replace(INSTALLED, &format!("{}{INSTALLED}", headers.display()))
}

fn relocate_links(tree: &Path, headers: &Path) -> Result<(), ProvisionError> {
    let mut pending = vec![tree.to_owned()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).map_err(ProvisionError::io("list", &folder))?.flatten() {
            let path = entry.path();
            if path.is_symlink() {
                let target = fs::read_link(&path).map_err(ProvisionError::io("read the link", &path))?;
                if let Ok(inside) = target.strip_prefix("/") {
                    unpack::remove_file(&path)?;
                    symlink(headers.join(inside), &path).map_err(ProvisionError::io("link", &path))?;
                }
            } else if path.is_dir() {
                pending.push(path);
            }
        }
    }
    Ok(())
}

/// The compiler to use, and the name of the package of the one that built the kernel.
fn compiler(kernel: &Path) -> Result<(String, String), ProvisionError> {
    let path: PathBuf = kernel.join(".config");
    let config = fs::read_to_string(&path).map_err(ProvisionError::io("read", &path))?;
    let named = compiler_of(&config);
    let short = named.trim_start_matches("x86_64-linux-gnu-");
    let installed = [named, short].into_iter().find(|name| !name.is_empty() && host::has(name));
    Ok((installed.unwrap_or("gcc").to_owned(), short.to_owned()))
}

/// `CONFIG_CC_VERSION_TEXT="x86_64-linux-gnu-gcc-12 (Debian …) 12.2.0"`.
fn compiler_of(config: &str) -> &str {
    let text = config.lines().find_map(|line| line.strip_prefix("CONFIG_CC_VERSION_TEXT=\"")).unwrap_or_default();
    text.split([' ', '"']).next().unwrap_or_default()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_kernel_s_compiler_is_read_from_its_configuration() {
        let config = "CONFIG_X=y\nCONFIG_CC_VERSION_TEXT=\"x86_64-linux-gnu-gcc-12 (Debian 12.2.0-14) 12.2.0\"\n";
        assert_eq!(compiler_of(config), "x86_64-linux-gnu-gcc-12");
        assert_eq!(compiler_of("CONFIG_CC_VERSION_TEXT=\"\"\n"), "");
        assert_eq!(compiler_of(""), "");
    }

    #[test]
    fn absolute_includes_and_links_follow_the_headers() {
        let root = tempfile::tempdir().unwrap();
        let tree = root.path().join("usr/src/linux-headers-1-amd64");
        fs::create_dir_all(tree.join("sub")).unwrap();
        fs::write(tree.join("Makefile"), "include /usr/src/linux-headers-1-common/Makefile\n").unwrap();
        symlink("/usr/lib/linux-kbuild-1/scripts", tree.join("sub/scripts")).unwrap();
        symlink("../relative", tree.join("tools")).unwrap();
        relocate(root.path()).unwrap();
        let prefix = root.path().display();
        assert_eq!(
            fs::read_to_string(tree.join("Makefile")).unwrap(),
            format!("include {prefix}/usr/src/linux-headers-1-common/Makefile\n")
        );
        assert_eq!(
            fs::read_link(tree.join("sub/scripts")).unwrap(),
            root.path().join("usr/lib/linux-kbuild-1/scripts")
        );
        assert_eq!(fs::read_link(tree.join("tools")).unwrap(), Path::new("../relative"));
    }
}
