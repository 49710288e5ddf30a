//! Which virtual routers of VRRP this node is master of: frames to their MAC addresses are balanced.

use std::{
    io,
    path::{Path, PathBuf},
};

use aya::maps::{Array, Map, MapData, MapError};
use lb_common::{VirtualRouter, layout::names};

use super::{DataplaneError, pins};

/// The map of virtual routers, as the process that speaks VRRP writes it. It does without the lock of [`super::Pins`], which the
/// daemon has: nobody else writes this map.
#[derive(Debug)]
pub struct VirtualMacs {
    pin: PathBuf,
}

impl VirtualMacs {
    /// The map in the folder of pins of the daemon, `[node] pins`, whether it is there yet or not.
    pub fn new(pins: &Path) -> Self {
        Self { pin: pins::maps(pins).join(names::VIRTUAL_MACS) }
    }

    /// From now on frames to the MAC address of `router` that come in by the interface `master_on` are balanced, and by no
    /// other.
    ///
    /// `false` means that no daemon has made the map: nothing is balanced. The map is opened anew each time, since the
    /// daemon may have made a new one.
    pub fn set(&self, router: VirtualRouter, master_on: Option<u32>) -> Result<bool, DataplaneError> {
        let name = names::VIRTUAL_MACS;
        let map = match MapData::from_pin(&self.pin) {
            Ok(map) => map,
            Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => return Err(DataplaneError::Map { name, source }),
        };
        let mut map: Array<_, u32> =
            Array::try_from(Map::Array(map)).map_err(|source| DataplaneError::Map { name, source })?;
        map.set(router.index(), master_on.unwrap_or_default(), 0)
            .map_err(|source| DataplaneError::Map { name, source })?;
        Ok(true)
    }
}
