// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The folder where downloaded and built things are kept between runs.
//!
//! A cache holds *components*: folders that are either complete or absent. A component is assembled in a scratch
//! folder, its manifest is written last, and one rename puts it in place, so a killed run leaves only scratch that
//! the next run removes. An advisory lock keeps two runs from assembling at once; it is held shared while a
//! component is in use, so nothing is replaced under a running machine.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Name of the subfolder of the user's cache folder.
const FOLDER: &str = "savevm";
/// File inside a component that is written last and proves that the component is whole.
const MANIFEST: &str = "manifest.json";
/// Prefix of folders that are being assembled.
const SCRATCH_PREFIX: &str = ".assembling-";

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CacheError {
    /// Neither variable gives an absolute path.
    #[error("no cache folder: neither XDG_CACHE_HOME nor HOME is an absolute path; name a folder with --cache DIR")]
    NoFolder,
    /// Kernel makefiles split paths at white space and colons.
    #[error(
        "the cache folder {} contains a space or a colon, which kernel makefiles cannot handle; \
         name another folder with --cache DIR",
        path.display()
    )]
    UnusablePath {
        /// The folder.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {what} {}: {error}; is the cache folder writable, and is there space?", path.display())]
    Io {
        /// The operation, as an infinitive.
        what: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
}

impl CacheError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { what, path, error }
    }
}

/// An existing, writable cache folder.
#[derive(Debug)]
pub(crate) struct Cache {
    root: PathBuf,
}

/// A lock on the whole cache; released when dropped.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held for its release")] Flock<File>);

/// What every component's manifest holds besides the component's own facts.
#[derive(Debug, Deserialize, Serialize)]
struct Manifest<T> {
    /// The component's own facts.
    facts: T,
    /// Every regular file, relative to the component, with its length in bytes.
    files: BTreeMap<PathBuf, u64>,
}

impl Cache {
    /// Opens the folder named explicitly, or the user's cache folder by the XDG base directory rules
    /// (relative values of `XDG_CACHE_HOME` are ignored, as the specification demands). Creates what is missing.
    pub(crate) fn open(explicit: Option<&Path>) -> Result<Self, CacheError> {
        let root = match explicit {
            Some(path) => path.to_owned(),
            None => default_folder(|name| std::env::var_os(name).map(PathBuf::from)).ok_or(CacheError::NoFolder)?,
        };
        fs::create_dir_all(&root).map_err(CacheError::io("create the cache folder", &root))?;
        let root = root.canonicalize().map_err(CacheError::io("resolve the cache folder", &root))?;
        if root.to_string_lossy().contains(|c: char| c.is_whitespace() || c == ':') {
            return Err(CacheError::UnusablePath { path: root });
        }
        Ok(Self { root })
    }

    /// Takes the lock alone, for assembling. `on_wait` is called once if another run holds it.
    pub(crate) fn lock(&self, on_wait: impl FnOnce()) -> Result<Lock, CacheError> {
        self.acquire(FlockArg::LockExclusiveNonblock, FlockArg::LockExclusive, on_wait)
    }

    /// Takes the lock together with other users, for reading.
    pub(crate) fn lock_shared(&self, on_wait: impl FnOnce()) -> Result<Lock, CacheError> {
        self.acquire(FlockArg::LockSharedNonblock, FlockArg::LockShared, on_wait)
    }

    fn acquire(&self, attempt: FlockArg, wait: FlockArg, on_wait: impl FnOnce()) -> Result<Lock, CacheError> {
        let path = self.root.join("lock");
        let mut options = File::options();
        let file = options.create(true).truncate(false).write(true).open(&path);
        // A cache that somebody else owns can be used, though not changed; sharing a lock needs no right to write.
        let file = match file {
            Err(_) if matches!(wait, FlockArg::LockShared) => File::open(&path),
            other => other,
        };
        let file = file.map_err(CacheError::io("open the lock file", &path))?;
        let failed = |errno: nix::errno::Errno| CacheError::io("lock", &path)(errno.into());
        match Flock::lock(file, attempt) {
            Ok(lock) => Ok(Lock(lock)),
            Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
                on_wait();
                Flock::lock(file, wait).map(Lock).map_err(|(_, errno)| failed(errno))
            }
            Err((_, errno)) => Err(failed(errno)),
        }
    }

    /// Where a component is when it is complete.
    pub(crate) fn component(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The component's facts, if it is complete: the manifest reads as `T` and every file has its recorded length.
    pub(crate) fn facts<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let folder = self.component(name);
        let text = fs::read(folder.join(MANIFEST)).ok()?;
        let manifest: Manifest<T> = serde_json::from_slice(&text).ok()?;
        let whole = manifest
            .files
            .iter()
            .all(|(path, bytes)| fs::symlink_metadata(folder.join(path)).is_ok_and(|found| found.len() == *bytes));
        whole.then_some(manifest.facts)
    }

    /// A fresh scratch folder inside the cache (so that a rename suffices); removed when dropped.
    /// What killed runs left behind is removed first, therefore the caller holds [`Cache::lock`].
    pub(crate) fn scratch(&self, _held: &Lock) -> Result<tempfile::TempDir, CacheError> {
        let entries = fs::read_dir(&self.root).map_err(CacheError::io("list", &self.root))?;
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(SCRATCH_PREFIX) {
                let path = entry.path();
                fs::remove_dir_all(&path).map_err(CacheError::io("remove what an earlier run left in", &path))?;
            }
        }
        tempfile::Builder::new()
            .prefix(SCRATCH_PREFIX)
            .tempdir_in(&self.root)
            .map_err(CacheError::io("create a folder in", &self.root))
    }

    /// Makes `folder` the component `name`: writes the manifest, then renames. A former version is removed.
    pub(crate) fn commit<T: Serialize>(
        &self,
        _held: &Lock,
        name: &str,
        folder: &Path,
        facts: T,
    ) -> Result<(), CacheError> {
        let mut files = BTreeMap::new();
        list_files(folder, Path::new(""), &mut files)?;
        let path = folder.join(MANIFEST);
        let text = serde_json::to_vec_pretty(&Manifest { facts, files })
            .map_err(|error| CacheError::io("write", &path)(error.into()))?;
        fs::write(&path, text).map_err(CacheError::io("write", &path))?;
        let target = self.component(name);
        if target.symlink_metadata().is_ok() {
            fs::remove_dir_all(&target).map_err(CacheError::io("remove the former", &target))?;
        }
        fs::rename(folder, &target).map_err(CacheError::io("put in place", &target))
    }
}

fn default_folder(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |name| variable(name).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|path| path.join(FOLDER))
}

fn list_files(folder: &Path, prefix: &Path, files: &mut BTreeMap<PathBuf, u64>) -> Result<(), CacheError> {
    for entry in fs::read_dir(folder).map_err(CacheError::io("list", folder))? {
        let entry = entry.map_err(CacheError::io("list", folder))?;
        let (path, name) = (entry.path(), prefix.join(entry.file_name()));
        let found = entry.metadata().map_err(CacheError::io("look at", &path))?;
        if found.is_dir() {
            list_files(&path, &name, files)?;
        } else if found.is_file() {
            files.insert(name, found.len());
        }
    }
    Ok(())
}

#[cfg(test)]
mod test {
    use super::*;

    fn folder_for(variables: &[(&str, &str)]) -> Option<PathBuf> {
        default_folder(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value)))
    }

    #[test]
    fn the_user_s_cache_folder_follows_the_xdg_rules() {
        let home = ("HOME", "/home/ann");
        assert_eq!(folder_for(&[("XDG_CACHE_HOME", "/var/c"), home]), Some("/var/c/savevm".into()));
        assert_eq!(folder_for(&[home]), Some("/home/ann/.cache/savevm".into()));
        assert_eq!(folder_for(&[("XDG_CACHE_HOME", "relative"), home]), Some("/home/ann/.cache/savevm".into()));
        assert_eq!(folder_for(&[("HOME", "")]), None);
    }

    #[test]
    fn a_component_is_valid_only_while_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(folder.path())).unwrap();
        let lock = cache.lock(|| panic!("nobody else holds it")).unwrap();
        let scratch = cache.scratch(&lock).unwrap();
        let assembled = scratch.path().join("thing");
        fs::create_dir_all(assembled.join("sub")).unwrap();
        fs::write(assembled.join("sub/data"), b"12345").unwrap();
        assert_eq!(cache.facts::<String>("thing"), None);

        cache.commit(&lock, "thing", &assembled, "fact").unwrap();
        assert_eq!(cache.facts::<String>("thing"), Some("fact".to_owned()));
        assert_eq!(cache.facts::<u64>("thing"), None, "facts of another layout do not count");

        fs::write(cache.component("thing").join("sub/data"), b"1234").unwrap();
        assert_eq!(cache.facts::<String>("thing"), None, "a truncated file invalidates the component");
        fs::write(cache.component("thing").join("sub/data"), b"123456").unwrap();
        assert_eq!(cache.facts::<String>("thing"), None, "a grown file does too");
        fs::remove_file(cache.component("thing").join("sub/data")).unwrap();
        assert_eq!(cache.facts::<String>("thing"), None, "a missing file invalidates the component");
    }

    #[test]
    fn scratch_of_a_killed_run_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(folder.path())).unwrap();
        let left = folder.path().join(format!("{SCRATCH_PREFIX}dead"));
        fs::create_dir(&left).unwrap();
        let lock = cache.lock(|| ()).unwrap();
        let scratch = cache.scratch(&lock).unwrap();
        assert!(!left.exists());
        assert!(scratch.path().exists());
    }

    #[test]
    fn a_second_run_waits_for_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(folder.path())).unwrap();
        let held = cache.lock(|| ()).unwrap();
        std::thread::scope(|scope| {
            let (waiting, waits) = std::sync::mpsc::channel();
            let other = scope.spawn(|| cache.lock_shared(move || waiting.send(()).unwrap()).map(drop));
            waits.recv().unwrap();
            assert!(!other.is_finished());
            drop(held);
            other.join().unwrap().unwrap();
        });
    }

    #[test]
    fn paths_that_make_cannot_handle_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refused = Cache::open(Some(&folder.path().join("with space"))).unwrap_err();
        assert!(matches!(refused, CacheError::UnusablePath { .. }), "{refused}");
    }
}
