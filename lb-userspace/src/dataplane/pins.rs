//! The folder of pins: what is in it outlives the daemon.
//!
//! ```text
//! <pins>/v1/              one folder per version of the map layout
//!     SERVICES, SLOTS, …  the maps
//!     links/native-3      the program on interface number 3, in native mode
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use lb_common::layout;
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::{DataplaneError, attach::detach};

/// Where the distributions mount the bpf file system.
const BPFFS: &str = "/sys/fs/bpf";

/// The folder of pins.
#[derive(Debug, Clone)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// The folder below `root`, made if it is missing.
    pub fn create(root: &Path) -> Result<Self, DataplaneError> {
        mount_bpffs(root)?;
        let pins = Self { root: root.to_owned() };
        fs::create_dir_all(pins.links()).map_err(|source| pin_error("create", &pins.links(), source))?;
        Ok(pins)
    }

    /// The folder below `root`, if there is one.
    pub fn existing(root: &Path) -> Option<Self> {
        root.is_dir().then(|| Self { root: root.to_owned() })
    }

    pub(super) fn maps(&self) -> PathBuf {
        self.root.join(format!("v{}", layout::VERSION))
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

    /// Removes everything: the programs are detached, the maps freed.
    pub fn remove(self) -> Result<(), DataplaneError> {
        self.link_pins()?.iter().try_for_each(|pin| detach(pin))?;
        fs::remove_dir_all(&self.root).map_err(|source| pin_error("remove", &self.root, source))
    }
}

/// Sees to it that `root` is on a bpf file system: mounts one at the usual place if that is empty.
fn mount_bpffs(root: &Path) -> Result<(), DataplaneError> {
    let parent = root.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    let is_bpffs = |path: &Path| statfs(path).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC);
    if is_bpffs(parent) {
        return Ok(());
    }
    if !root.starts_with(BPFFS) {
        return Err(DataplaneError::NotBpffs { path: root.to_owned() });
    }
    log::info!("mounting the bpf file system at {BPFFS}");
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>)
        .map_err(|source| pin_error("mount the bpf file system at", Path::new(BPFFS), source.into()))
}

pub(super) fn pin_error(action: &'static str, path: &Path, source: io::Error) -> DataplaneError {
    DataplaneError::Pin { action, path: path.to_owned(), source }
}
