use std::{
    fs, io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya::maps::{Array, Map, MapData};
use aya_obj::generated::bpf_map_type;
use lb_common::layout::{self, MMAPABLE, names};

use crate::dataplane::{
    DataplaneError, Pins,
    attach::detach,
    bpf::{self, new_map},
    mapped::Mapped,
    pins::pin_error,
};

/// The maps that go first when a folder goes, and in this order: without the first it is not whole; without the second the flow
/// tables, should some be left, are nobody's.
const FIRST: [&str; 2] = [names::DIRECTORY_IN_USE, names::FLOW_TABLES_IN_USE];

/// The folder of pins of one layout.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn of(pins: &Pins, version: u32) -> Self {
        Self(pins.folder(version))
    }

    pub(super) fn current(pins: &Pins) -> Self {
        Self::of(pins, layout::VERSION)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    fn links(&self) -> PathBuf {
        self.0.join("links")
    }

    /// Whether everything is there that a daemon needs.
    pub(super) fn is_whole(&self) -> bool {
        self.has(names::DIRECTORY_IN_USE)
    }

    /// Makes the directory number 0 the one in use.
    pub(super) fn make_whole(&self) -> Result<(), DataplaneError> {
        let name = names::DIRECTORY_IN_USE;
        let map = new_map(name, bpf_map_type::BPF_MAP_TYPE_ARRAY, size_of::<u32>(), 1, MMAPABLE)?;
        self.pin(name, &map)
    }

    /// Whether there is a pin of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.join(name).exists()
    }

    pub(super) fn map(&self, name: &'static str) -> Result<MapData, DataplaneError> {
        MapData::from_pin(self.0.join(name)).map_err(|source| DataplaneError::Map { name, source })
    }

    /// The first `len` bytes of an array.
    pub(super) fn mapped(&self, name: &'static str, len: usize) -> Result<Mapped, DataplaneError> {
        Mapped::new(self.map(name)?.fd(), len).map_err(|source| DataplaneError::Mapping { name, source })
    }

    /// Which of the two directories is in use.
    pub(super) fn directory_in_use(&self) -> Result<u32, DataplaneError> {
        let name = names::DIRECTORY_IN_USE;
        let read = |map| Array::<_, u32>::try_from(Map::Array(map))?.get(&0, 0);
        read(self.map(name)?).map_err(|source| DataplaneError::Map { name, source })
    }

    pub(super) fn pin(&self, name: &str, map: &MapData) -> Result<(), DataplaneError> {
        let path = self.0.join(name);
        bpf::pin(map.fd().as_fd(), &path).map_err(|source| pin_error("pin", &path, source))
    }

    /// Whether the map of this name is the same as in `other`.
    pub(super) fn has_same(&self, other: &Self, name: &'static str) -> Result<bool, DataplaneError> {
        let id = |folder: &Self| {
            let info = folder.map(name)?.info();
            info.map(|info| info.id()).map_err(|source| DataplaneError::Map { name, source })
        };
        Ok(id(self)? == id(other)?)
    }

    /// Pins maps of `other` here.
    pub(super) fn share_maps(&self, other: &Self, names: &[&'static str]) -> Result<(), DataplaneError> {
        self.create()?;
        for &name in names {
            if !self.has(name) {
                self.pin(name, &other.map(name)?)?;
            } else if !self.has_same(other, name)? {
                remove_file(&self.0.join(name))?;
                self.pin(name, &other.map(name)?)?;
            }
        }
        Ok(())
    }

    /// Pins the links of `other` here, too.
    pub(super) fn share_links(&self, other: &Self) -> Result<(), DataplaneError> {
        self.create()?;
        for link in pins_in(&other.links())? {
            let Some(name) = link.file_name() else { continue };
            let path = self.links().join(name);
            if !path.exists() {
                bpf::pin_again(&link, &path).map_err(|source| pin_error("pin", &path, source))?;
            }
        }
        Ok(())
    }

    fn create(&self) -> Result<(), DataplaneError> {
        let links = self.links();
        fs::create_dir_all(&links).map_err(|source| pin_error("create", &links, source))
    }

    /// Unpins the maps, but for that of the virtual MAC addresses: a VRRP process of that layout's lbd may go on writing it.
    pub(super) fn remove_maps(&self) -> Result<(), DataplaneError> {
        FIRST.iter().try_for_each(|name| remove_file(&self.0.join(name)))?;
        let kept = [self.links(), self.0.join(names::VIRTUAL_MACS)];
        pins_in(&self.0)?.iter().filter(|path| !kept.contains(path)).try_for_each(|path| remove_file(path))
    }

    /// Unpins the links, which stay where they are pinned elsewhere.
    pub(super) fn unpin_links(&self) -> Result<(), DataplaneError> {
        pins_in(&self.links())?.iter().try_for_each(|link| remove_file(link))
    }

    /// Detaches the program.
    pub(super) fn detach_links(&self) -> Result<(), DataplaneError> {
        pins_in(&self.links())?.iter().try_for_each(|link| detach(link))
    }

    /// Removes the folder.
    pub(super) fn remove(&self) -> Result<(), DataplaneError> {
        self.remove_maps()?;
        match fs::remove_dir_all(&self.0) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(pin_error("remove", &self.0, source)),
            _ => Ok(()),
        }
    }
}

fn pins_in(folder: &Path) -> Result<Vec<PathBuf>, DataplaneError> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(entries.filter_map(Result::ok).map(|entry| entry.path()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(pin_error("read", folder, source)),
    }
}

fn remove_file(path: &Path) -> Result<(), DataplaneError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(pin_error("remove", path, source)),
        _ => Ok(()),
    }
}
