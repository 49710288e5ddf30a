//! Where the balancing program finds the one that translates.

use std::{
    fs, io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    maps::{Map, MapData, ProgramArray},
};
use lb_common::layout::names;

use super::{DataplaneError, bpf, pins::pin_error, program_of};

/// The map of programs of one load. What the two programs hand over to each other only they agree about, so each pair has a map of
/// its own: the one of before goes on as a whole until this one is attached everywhere, also if it never is.
///
/// It is pinned, as the kernel empties such a map when nobody has it open and it is pinned nowhere.
pub(super) struct Programs {
    map: ProgramArray<MapData>,
    pin: PathBuf,
    is_in_use: bool,
}

impl Programs {
    /// Loads the program that translates, puts it into its map, and pins that in `folder`.
    pub(super) fn put(ebpf: &mut Ebpf, folder: &Path) -> Result<Self, DataplaneError> {
        let name = names::PROGRAMS;
        let Some(Map::ProgramArray(data)) = ebpf.take_map(name) else { return Err(DataplaneError::Missing { name }) };
        let failed = |source| DataplaneError::Map { name, source };
        let pin = folder.join(format!("{name}-{}", data.info().map_err(failed)?.id()));
        bpf::pin(data.fd().as_fd(), &pin).map_err(|source| pin_error("pin", &pin, source))?;
        let mut programs =
            Self { map: ProgramArray::try_from(Map::ProgramArray(data)).map_err(failed)?, pin, is_in_use: false };
        let translate = program_of(ebpf, names::TRANSLATE)?;
        translate.load().map_err(DataplaneError::Verify)?;
        let program = translate.fd().map_err(DataplaneError::Verify)?;
        programs.map.set(0, program, 0).map_err(failed)?;
        Ok(programs)
    }

    /// From now on a program that is attached may use it, so it stays when this process ends.
    pub(super) const fn keep(&mut self) {
        self.is_in_use = true;
    }

    /// Unpins those of other loads, when no program of theirs is attached any more.
    pub(super) fn unpin_others(&self) -> Result<(), DataplaneError> {
        let Some(folder) = self.pin.parent() else { return Ok(()) };
        let entries = fs::read_dir(folder).map_err(|source| pin_error("read", folder, source))?;
        for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
            let is_one = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(names::PROGRAMS));
            if is_one && path != self.pin {
                unpin(&path)?;
            }
        }
        Ok(())
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        if !self.is_in_use
            && let Err(error) = unpin(&self.pin)
        {
            log::warn!("{error}");
        }
    }
}

fn unpin(path: &Path) -> Result<(), DataplaneError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(pin_error("remove", path, source)),
        _ => Ok(()),
    }
}
