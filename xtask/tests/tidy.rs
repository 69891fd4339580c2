// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The rules of the house that no compiler checks.
//!
//! Each rule looks at one file and says what is wrong with it; `every_rule_can_fail` shows each of
//! them a file it must reject.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
};

const LICENCE: &str = "// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause";
const LINES_MAX: usize = 500;
/// What the memory of another program may depend on: ioctls, the preloaded shim, and the programs
/// that have no standard library to be safe with.
const UNSAFE_PLACES: [&str; 3] = ["vfio-uapi/src/ioctl", "xtask/softvfio/src/", "xtask/tests/no_std/"];
const NO_STD: [&str; 4] = ["device-hisi/src/", "device-mlx5/src/", "stream-codec/src/", "vfio-mig-fsm/src/"];
const LICENCES: [&str; 2] = ["LICENSE-APACHE", "LICENSE-BSD-3-Clause"];
const OF_A_PUBLISHED_CRATE: [&str; 4] = ["CHANGELOG.md", LICENCES[0], LICENCES[1], "README.md"];

/// A text file of the workspace.
struct File {
    path: String,
    text: String,
    /// It belongs to a module that exists only in tests or with a feature.
    is_conditional: bool,
}

impl File {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The lines that are not comments, with their numbers.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let numbered = (1..).zip(self.text.lines());
        numbered.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

type Rule = fn(&File) -> Result<(), String>;

const RULES: [Rule; 5] = [
    starts_with_its_licence,
    is_not_too_long,
    keeps_unsafe_code_in_its_place,
    does_not_use_std_without_std,
    names_no_home_directory,
];

fn starts_with_its_licence(file: &File) -> Result<(), String> {
    if file.is_rust() && file.text.lines().next() != Some(LICENCE) {
        return Err(format!("{}:1: the first line must be: {LICENCE}", file.path));
    }
    Ok(())
}

fn is_not_too_long(file: &File) -> Result<(), String> {
    let lines = file.text.lines().count();
    if file.is_rust() && lines > LINES_MAX {
        return Err(format!("{}: {lines} lines, at most {LINES_MAX}: one idea each", file.path));
    }
    Ok(())
}

fn keeps_unsafe_code_in_its_place(file: &File) -> Result<(), String> {
    if !file.is_rust() || UNSAFE_PLACES.iter().any(|place| file.path.starts_with(place)) {
        return Ok(());
    }
    let keyword = concat!("un", "safe");
    match file.code().find(|(_, line)| has_word(line, keyword)) {
        Some((number, _)) => Err(format!("{}:{number}: {keyword} code has no place here", file.path)),
        None => Ok(()),
    }
}

/// Tests and what stands behind a feature may use the standard library.
fn does_not_use_std_without_std(file: &File) -> Result<(), String> {
    let is_no_std = NO_STD.iter().any(|place| file.path.starts_with(place));
    if !file.is_rust() || !is_no_std || file.is_conditional {
        return Ok(());
    }
    let mut is_conditional = false;
    for (number, line) in file.code() {
        // Tests come last in a file.
        if line.starts_with("#[cfg(test)]") {
            break;
        }
        if line.contains("std::") && has_word(line, "std") && !is_conditional {
            return Err(format!("{}:{number}: `std` in a no_std crate", file.path));
        }
        is_conditional = line.trim_start().starts_with("#[cfg(");
    }
    Ok(())
}

/// Paths of somebody's machine; examples live in the home of Ann.
fn names_no_home_directory(file: &File) -> Result<(), String> {
    let text = file.text.replace(concat!("/ho", "me/ann"), "");
    for home in [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/Us", "ers/")] {
        if let Some((number, _)) = (1..).zip(text.lines()).find(|(_, line)| line.contains(home)) {
            return Err(format!("{}:{number}: a path below {home}", file.path));
        }
    }
    Ok(())
}

/// Whether `word` stands in `line` on its own, not as a part of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    line.split(|letter: char| letter != '_' && !letter.is_alphanumeric()).any(|part| part == word)
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Every text file that belongs to the workspace: no build products, no version control.
fn files() -> Vec<File> {
    let mut all = Vec::new();
    collect(workspace(), &mut all);
    let conditional: Vec<String> = all.iter().flat_map(conditional_modules).collect();
    for file in &mut all {
        let is_of = |module: &String| {
            let rest = file.path.strip_prefix(module.as_str());
            rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        };
        file.is_conditional = conditional.iter().any(is_of);
    }
    all
}

/// The modules a file declares under a condition, as paths without their ending.
fn conditional_modules(file: &File) -> Vec<String> {
    let folder = match file.path.rsplit_once('/') {
        Some((folder, "lib.rs" | "main.rs" | "mod.rs")) => folder,
        _ => file.path.trim_end_matches(".rs"),
    };
    let lines: Vec<&str> = file.code().map(|(_, line)| line).collect();
    let conditional = lines.windows(2).filter(|pair| pair[0].starts_with("#[cfg("));
    let names = conditional.filter_map(|pair| {
        let (_, name) = pair[1].strip_suffix(';')?.split_once("mod ")?;
        Some(format!("{folder}/{name}"))
    });
    names.collect()
}

fn collect(folder: &Path, found: &mut Vec<File>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let (path, name) = (entry.path(), entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            if name != "target" && name != ".git" {
                collect(&path, found);
            }
        } else if let Ok(text) = fs::read_to_string(&path) {
            let path = path.strip_prefix(workspace()).unwrap().display().to_string();
            found.push(File { path, text, is_conditional: false });
        }
    }
}

#[test]
fn every_file_keeps_the_rules() {
    let all = files();
    assert!(all.iter().any(|file| file.path == "xtask/tests/tidy.rs"));
    let wrong: Vec<String> = all.iter().flat_map(|file| RULES.iter().filter_map(|rule| rule(file).err())).collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn every_published_crate_has_its_papers() {
    let all = files();
    let published: Vec<PathBuf> = all
        .iter()
        .filter(|file| file.path.ends_with("/Cargo.toml") && !file.text.contains("publish = false"))
        .map(|file| workspace().join(&file.path).with_file_name(""))
        .collect();
    assert!(published.len() >= 4, "only {published:?} are published");
    let mut wrong = Vec::new();
    for paper in published.iter().flat_map(|folder| OF_A_PUBLISHED_CRATE.map(|name| folder.join(name))) {
        let name = paper.file_name().unwrap();
        if !paper.is_file() {
            wrong.push(format!("{} is missing", paper.display()));
        } else if LICENCES.iter().any(|licence| name == *licence)
            && fs::read(&paper).unwrap() != fs::read(workspace().join(name)).unwrap()
        {
            wrong.push(format!("{} differs from the workspace's", paper.display()));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn every_rule_can_fail() {
    let long = "\n".repeat(LINES_MAX + 1);
    let keyword = concat!("un", "safe");
    let (block, word) = (format!("    {keyword} {{ call() }}"), format!("{keyword}_code = 1; // {keyword}ly"));
    let cases: [(Rule, &str, &str, bool); 14] = [
        (starts_with_its_licence, "a/src/lib.rs", "//! Text.", false),
        (starts_with_its_licence, "a/src/lib.rs", LICENCE, true),
        (starts_with_its_licence, "a/README.md", "Text.", true),
        (is_not_too_long, "a/src/lib.rs", &long, false),
        (keeps_unsafe_code_in_its_place, "vfio-uapi/src/device.rs", &block, false),
        (keeps_unsafe_code_in_its_place, "vfio-uapi/src/ioctl.rs", &block, true),
        (keeps_unsafe_code_in_its_place, "a/src/lib.rs", &word, true),
        (does_not_use_std_without_std, "stream-codec/src/a.rs", "use std::fs;", false),
        (does_not_use_std_without_std, "stream-codec/src/a.rs", "// std::fs", true),
        (does_not_use_std_without_std, "stream-codec/src/a.rs", "use my_std::fs;", true),
        (does_not_use_std_without_std, "stream-codec/src/a.rs", "#[cfg(feature = \"std\")]\nuse std::fs;", true),
        (does_not_use_std_without_std, "stream-codec/src/a.rs", "#[cfg(test)]\nuse std::fs;", true),
        (does_not_use_std_without_std, "a/src/lib.rs", "use std::fs;", true),
        (names_no_home_directory, "a/README.md", concat!("see /ho", "me/me/notes"), false),
    ];
    for (index, (rule, path, text, keeps)) in cases.into_iter().enumerate() {
        let file = File { path: path.into(), text: text.into(), is_conditional: false };
        assert_eq!(rule(&file).is_ok(), keeps, "case {index}: {path}: {text}");
    }
}
