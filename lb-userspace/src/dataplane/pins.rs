//! The folder of pins: what is in it outlives the daemon.
//!
//! ```text
//! <pins>/v5/              one folder per version of the map layout
//!     SLOTS, ROWS, …      the maps
//!     links/native-3      the program on interface number 3, in native mode
//! ```

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use lb_common::layout;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::{DataplaneError, attach::detach, migrate};

/// Where the distributions mount the bpf file system.
const BPFFS: &str = "/sys/fs/bpf";

/// The folder of pins. One process at a time has it.
#[derive(Debug)]
pub struct Pins {
    root: PathBuf,
    _lock: Flock<File>,
}

impl Pins {
    /// The folder `root`, made if it is missing.
    pub fn create(root: &Path) -> Result<Self, DataplaneError> {
        mount_bpffs(root)?;
        fs::create_dir_all(root).map_err(|source| pin_error("create", root, source))?;
        let pins = Self { root: root.to_owned(), _lock: lock(root)? };
        fs::create_dir_all(pins.links()).map_err(|source| pin_error("create", &pins.links(), source))?;
        Ok(pins)
    }

    /// The folder `root`, if there is one and it can hold pins.
    pub fn existing(root: &Path) -> Result<Option<Self>, DataplaneError> {
        if !is_bpffs(root) {
            return Ok(None);
        }
        Ok(Some(Self { root: root.to_owned(), _lock: lock(root)? }))
    }

    pub(super) fn maps(&self) -> PathBuf {
        maps(&self.root)
    }

    /// The folder of a version of the layout.
    pub(super) fn folder(&self, version: u32) -> PathBuf {
        folder(&self.root, version)
    }

    pub(super) fn links(&self) -> PathBuf {
        self.maps().join("links")
    }

    /// The pins of the links.
    pub(super) fn link_pins(&self) -> Result<Vec<PathBuf>, DataplaneError> {
        let folder = self.links();
        match fs::read_dir(&folder) {
            Ok(entries) => Ok(entries.filter_map(Result::ok).map(|entry| entry.path()).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => Err(pin_error("read", &folder, source)),
        }
    }

    /// Removes everything of ours: the programs are detached, the maps freed. What others pinned there stays.
    pub fn remove(self) -> Result<(), DataplaneError> {
        migrate::remove_older(&self)?;
        self.link_pins()?.iter().try_for_each(|pin| detach(pin))?;
        match fs::remove_dir_all(self.maps()) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(pin_error("remove", &self.maps(), source));
            }
            _ => {}
        }
        match fs::remove_dir(&self.root) {
            Err(source) if source.kind() != io::ErrorKind::DirectoryNotEmpty => {
                Err(pin_error("remove", &self.root, source))
            }
            _ => Ok(()),
        }
    }
}

/// Where the maps are pinned, below the folder of pins `root`.
pub(super) fn maps(root: &Path) -> PathBuf {
    folder(root, layout::VERSION)
}

fn folder(root: &Path, version: u32) -> PathBuf {
    root.join(format!("v{version}"))
}

fn lock(root: &Path) -> Result<Flock<File>, DataplaneError> {
    let folder = File::open(root).map_err(|source| pin_error("open", root, source))?;
    Flock::lock(folder, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => DataplaneError::InUse { path: root.to_owned() },
        errno => pin_error("lock", root, errno.into()),
    })
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC)
}

/// Sees to it that `root` is on a bpf file system: mounts one at the usual place if that is empty.
fn mount_bpffs(root: &Path) -> Result<(), DataplaneError> {
    let parent = root.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    if is_bpffs(parent) {
        return Ok(());
    }
    if !root.starts_with(BPFFS) {
        return Err(DataplaneError::NotBpffs { path: root.to_owned() });
    }
    log::warn!(
        "mounting the bpf file system at {BPFFS}: there is none. (Under `ip netns exec`, or in a private mount namespace, it \
         is gone with this process, and what is pinned elsewhere is not seen: use `nsenter --net` instead)"
    );
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>)
        .map_err(|source| pin_error("mount the bpf file system at", Path::new(BPFFS), source.into()))
}

pub(super) fn pin_error(action: &'static str, path: &Path, source: io::Error) -> DataplaneError {
    DataplaneError::Pin { action, path: path.to_owned(), source }
}
