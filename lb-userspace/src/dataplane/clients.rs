//! The table of clients and their servers. Packets write it; the daemon gives it its size, lists it, and forgets clients.

use std::{
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use aya::maps::{HashMap, Map, MapData, MapError};
use aya_obj::generated::bpf_map_type;
use lb_common::{AffinityClient, AffinityEntry, layout::names};

use super::{DataplaneError, bpf, pins::pin_error};

const NAME: &str = names::AFFINITY_CLIENTS;
/// Where a table is pinned while it is filled. (Names on a bpf file system have no dots.)
const NEW: &str = "AFFINITY_CLIENTS_NEW";
/// How many clients are read at once: more than one bucket of the kernel's map ever has.
const BATCH: usize = 4096;

/// Which server each client has: an LRU map of the kernel, which gives up who has not come for longest where there is no room.
#[derive(Debug)]
pub struct AffinityClients {
    map: MapData,
}

impl AffinityClients {
    pub(super) const fn new(map: MapData) -> Self {
        Self { map }
    }

    /// Makes the table pinned in `folder` one of `size` clients that has the same ones, or of more than that those that came last.
    /// Returns the table of before, which programs may go on to use, if it had another size.
    pub(super) fn resize(folder: &Path, size: u32) -> Result<Option<Self>, DataplaneError> {
        let (path, new_path) = (folder.join(NAME), folder.join(NEW));
        // What a daemon left that was killed while it did this.
        match fs::remove_file(&new_path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(pin_error("remove", &new_path, source));
            }
            _ => {}
        }
        if !path.exists() {
            return Ok(None);
        }
        let before = Self::new(MapData::from_pin(&path).map_err(map_error)?);
        if before.size()? == size {
            return Ok(None);
        }
        let new = Self::create(size)?;
        new.take_in(&before)?;
        bpf::pin(new.map.fd().as_fd(), &new_path).map_err(|source| pin_error("pin", &new_path, source))?;
        fs::rename(&new_path, &path).map_err(|source| pin_error("replace", &path, source))?;
        Ok(Some(before))
    }

    fn create(size: u32) -> Result<Self, DataplaneError> {
        let kind = bpf_map_type::BPF_MAP_TYPE_LRU_HASH as u32;
        let [key, value] = [size_of::<AffinityClient>(), size_of::<AffinityEntry>()]
            .map(|size| u32::try_from(size).expect("a client and its server are small"));
        let map = aya_obj::Map::new_from_params(kind, key, value, size, 0);
        Ok(Self::new(MapData::create(map, NAME, None).map_err(map_error)?))
    }

    /// For how many clients there is room.
    pub fn size(&self) -> Result<u32, DataplaneError> {
        Ok(self.map.info().map_err(map_error)?.max_entries())
    }

    /// Takes in what `other` knows and this one does not, or what is newer there.
    pub(super) fn take_in(&self, other: &Self) -> Result<(), DataplaneError> {
        let mut clients = Vec::new();
        other.for_each(|client, entry| clients.push((*client, *entry)))?;
        // Where there is no room for all, those that were put last stay.
        clients.sort_unstable_by_key(|(_, entry)| entry.seen);
        let room = self.size()? as usize;
        let mut map = self.map()?;
        for (client, entry) in &clients[clients.len().saturating_sub(room)..] {
            match get(&map, client)? {
                None => insert_if_missing(&mut map, client, entry)?,
                Some(known) if known.seen < entry.seen => map.insert(client, entry, 0).map_err(map_error)?,
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Calls `each` with all clients, in no order. Those that come or go meanwhile may be missing.
    pub fn for_each(&self, mut each: impl FnMut(&AffinityClient, &AffinityEntry)) -> Result<(), DataplaneError> {
        let mut clients = vec![AffinityClient::default(); BATCH];
        let mut entries = vec![AffinityEntry::default(); BATCH];
        let mut place = None;
        loop {
            let (count, next) = bpf::lookup_batch(self.map.fd().as_fd(), place, &mut clients, &mut entries)
                .map_err(|source| DataplaneError::Reading { name: NAME, source })?;
            clients.iter().zip(&entries).take(count).for_each(|(client, entry)| each(client, entry));
            if next.is_none() {
                return Ok(());
            }
            place = next;
        }
    }

    /// What is known of a client. To be asked does not make it one that has come.
    pub fn get(&self, client: &AffinityClient) -> Result<Option<AffinityEntry>, DataplaneError> {
        get(&self.map()?, client)
    }

    /// Lets nothing be known of a client. Whether anything was.
    pub fn forget(&self, client: &AffinityClient) -> Result<bool, DataplaneError> {
        match self.map()?.remove(client) {
            Ok(()) => Ok(true),
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(map_error(error)),
        }
    }

    /// The map for one who reads or changes single clients, on whichever thread.
    fn map(&self) -> Result<HashMap<MapData, AffinityClient, AffinityEntry>, DataplaneError> {
        let fd: OwnedFd = self
            .map
            .fd()
            .as_fd()
            .try_clone_to_owned()
            .map_err(|source| DataplaneError::Reading { name: NAME, source })?;
        let map = MapData::from_fd(fd).map_err(map_error)?;
        HashMap::try_from(Map::LruHashMap(map)).map_err(map_error)
    }
}

fn get(
    map: &HashMap<MapData, AffinityClient, AffinityEntry>,
    client: &AffinityClient,
) -> Result<Option<AffinityEntry>, DataplaneError> {
    match map.get(client, 0) {
        Ok(entry) => Ok(Some(entry)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(map_error(error)),
    }
}

/// Puts a client of which nothing is known; a packet that was faster knows better.
fn insert_if_missing(
    map: &mut HashMap<MapData, AffinityClient, AffinityEntry>,
    client: &AffinityClient,
    entry: &AffinityEntry,
) -> Result<(), DataplaneError> {
    const NOEXIST: u64 = 1;
    match map.insert(client, entry, NOEXIST) {
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        inserted => inserted.map_err(map_error),
    }
}

/// Whether nothing is wrong but that there is no such key.
pub(super) fn is_missing(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound => true,
        MapError::SyscallError(error) => error.io_error.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

const fn map_error(source: MapError) -> DataplaneError {
    DataplaneError::Map { name: NAME, source }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::Ipv4Addr, path::PathBuf};

    use lb_common::{Address, Affinity, AffinityScope, AffinityServer, NetU16};

    use super::*;
    use crate::dataplane::Pins;

    fn client(number: u32) -> AffinityClient {
        let affinity = Affinity::new(AffinityScope::group("web"), 32, 300);
        affinity.client(Address::from(Ipv4Addr::from_bits(number)).words(), true)
    }

    /// That it has this server since then.
    fn entry(server: u32, seen: u64) -> AffinityEntry {
        let address = Address::from(Ipv4Addr::from_bits(server));
        AffinityEntry { server: AffinityServer::new(AffinityScope::group("web"), address, NetU16::new(0)), seen }
    }

    impl AffinityClients {
        fn put(&self, client: &AffinityClient, entry: &AffinityEntry) {
            self.map().unwrap().insert(client, entry, 0).unwrap();
        }

        /// When each client came last.
        fn all(&self) -> BTreeMap<Ipv4Addr, u64> {
            let mut all = BTreeMap::new();
            self.for_each(|client, entry| {
                let std::net::IpAddr::V4(address) = client.address.to_ip() else { panic!("all are of IPv4") };
                assert_eq!(all.insert(address, entry.seen), None, "{address} is met twice");
            })
            .unwrap();
            all
        }
    }

    /// A folder for pins, gone with the test.
    struct Root(PathBuf);

    impl Drop for Root {
        fn drop(&mut self) {
            if let Ok(Some(pins)) = Pins::existing(&self.0) {
                let _ = pins.remove();
            }
        }
    }

    fn is_root() -> bool {
        let is_root = nix::unistd::geteuid().is_root();
        if !is_root {
            eprintln!("SKIPPED: needs root");
        }
        is_root
    }

    #[test]
    fn all_clients_are_listed_and_forgotten_one_by_one() {
        if !is_root() {
            return;
        }
        let clients = AffinityClients::create(1 << 14).unwrap();
        let count = 3 * u32::try_from(BATCH).unwrap();
        (0..count).for_each(|number| clients.put(&client(number), &entry(1, number.into())));
        assert_eq!(clients.all().len(), count as usize);
        assert_eq!(clients.get(&client(5)).unwrap(), Some(entry(1, 5)));
        assert!(clients.forget(&client(5)).unwrap());
        assert!(!clients.forget(&client(5)).unwrap());
        assert_eq!(clients.get(&client(5)).unwrap(), None);
        assert_eq!(clients.all().len(), count as usize - 1);
    }

    #[test]
    fn another_size_keeps_the_clients_or_of_too_many_those_that_came_last() {
        if !is_root() {
            return;
        }
        let root = Root(Path::new("/sys/fs/bpf").join(format!("lb-clients-{}", std::process::id())));
        let pins = Pins::create(&root.0).unwrap();
        let folder = pins.maps();
        let pinned = || AffinityClients::new(MapData::from_pin(folder.join(NAME)).unwrap());
        assert!(AffinityClients::resize(&folder, 4096).unwrap().is_none(), "there was none");
        let small = AffinityClients::create(4096).unwrap();
        bpf::pin(small.map.fd().as_fd(), &folder.join(NAME)).unwrap();
        // Those that came first have the largest numbers.
        (0..3000).for_each(|number| small.put(&client(number), &entry(1, u64::from(9000 - number))));
        assert!(AffinityClients::resize(&folder, 4096).unwrap().is_none(), "it has that size");

        // What was left of one that was killed is in nobody's way.
        bpf::pin(small.map.fd().as_fd(), &folder.join(NEW)).unwrap();
        let before = AffinityClients::resize(&folder, 1 << 14).unwrap().expect("it had another size");
        assert_eq!((before.size().unwrap(), pinned().size().unwrap()), (4096, 1 << 14));
        assert_eq!(pinned().all(), small.all());
        assert!(!folder.join(NEW).exists());

        // What comes to the old one meanwhile is taken in later, and what the new one knows better stays.
        before.put(&client(7000), &entry(2, 9500));
        before.put(&client(7), &entry(2, 9600));
        pinned().put(&client(8), &entry(3, 9700));
        pinned().take_in(&before).unwrap();
        let known = [7000, 7, 8].map(|number| pinned().get(&client(number)).unwrap());
        assert_eq!(known, [entry(2, 9500), entry(2, 9600), entry(3, 9700)].map(Some));

        AffinityClients::resize(&folder, 1024).unwrap().expect("it had another size");
        let left = pinned().all();
        assert!((512..=1024).contains(&left.len()), "{} are left", left.len());
        let oldest = left.values().min().unwrap();
        assert!(*oldest > 9000 - 1100, "one of {oldest} is left");
    }
}
