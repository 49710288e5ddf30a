//! What the daemon writes down: the hash key, the live changes, and what it has to know of backends after a restart.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Instant, SystemTime},
};

use anyhow::{Context as _, bail};
use lb_common::{HashKey, ServiceKey};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    config::{self, Endpoint},
    model::{Admin, DesiredService, ENDLESS, Memory, service_key},
};

/// The daemon's folder, `[node] state` in the configuration.
pub struct StateDir {
    path: PathBuf,
    _lock: Flock<File>,
}

/// One service.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    /// As the configuration file had it when it was changed.
    declared: config::Service,
    backends: Vec<config::Backend>,
    admin: BTreeMap<String, Admin>,
    /// Until when backends may keep their flows. Files of older daemons do not say so.
    #[serde(default)]
    deadlines: BTreeMap<String, SystemTime>,
    /// Backends that it has no more, and that had flows yet. Files of older daemons do not say so.
    #[serde(default)]
    removed: Vec<SavedRemoved>,
    /// Since when the weight of backends rises. Files of older daemons do not say so.
    #[serde(default)]
    rising: BTreeMap<Endpoint, SystemTime>,
}

/// A backend that leaves.
#[derive(Debug, Serialize, Deserialize)]
struct SavedRemoved {
    backend: config::Backend,
    /// Until when it may keep its flows; without a time, until they end.
    until: Option<SystemTime>,
}

impl Saved {
    /// Whether there are live changes.
    fn is_changed(&self) -> bool {
        self.backends != self.declared.backends || !self.admin.is_empty()
    }

    fn memory(self, clocks: Clocks) -> Memory {
        let removed = self.removed.into_iter();
        let rising = self.rising.into_iter();
        Memory {
            members: self.backends,
            removed: removed
                .map(|SavedRemoved { backend, until }| (backend, until.map(|time| clocks.instant(time))))
                .collect(),
            rising: rising.map(|(address, time)| (address, clocks.instant(time))).collect(),
        }
    }
}

impl StateDir {
    /// Opens the folder, and makes it if it is missing. One daemon at a time has it.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
        let lock_path = path.join("lock");
        let lock = private(OpenOptions::new().write(true).create(true).truncate(false))
            .open(&lock_path)
            .with_context(|| format!("cannot open {}", lock_path.display()))?;
        let lock = match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => bail!(
                "another lbd runs on {}; stop it, or give this one its own state, pins and socket in [node]",
                path.display()
            ),
            Err((_, errno)) => return Err(errno).with_context(|| format!("cannot lock {}", lock_path.display())),
        };
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Puts files aside that cannot be read, so that the daemon can start without them. They are kept under another name, and stay a
    /// [problem](StateDir::problems) until somebody removes them.
    pub fn set_damaged_aside(&self) -> anyhow::Result<()> {
        let read =
            [read::<Saved>(&self.changes_path()).map(drop), read::<config::Service>(&self.declared_path()).map(drop)];
        for damage in read {
            let Err(ReadError::Damaged { path, source }) = damage else { continue };
            let aside = unused_name(&path);
            fs::rename(&path, &aside).with_context(|| format!("cannot rename {}", path.display()))?;
            log::error!("{} is damaged ({source}): {}", path.display(), damaged(&aside));
        }
        Ok(())
    }

    /// What is not as it should be, in sentences.
    pub fn problems(&self) -> Vec<String> {
        let files = fs::read_dir(&self.path).into_iter().flatten().filter_map(Result::ok).map(|file| file.path());
        let mut aside: Vec<PathBuf> = files.filter(|path| is_aside(path)).collect();
        aside.sort();
        aside.iter().map(|path| damaged(path)).collect()
    }

    /// The configured hash key, else the one drawn earlier, else a new one that is kept.
    pub fn hash_key(&self, configured: Option<&config::HashKey>) -> anyhow::Result<HashKey> {
        if let Some(config::HashKey(bytes)) = configured {
            return Ok(HashKey::from_bytes(*bytes));
        }
        let path = self.path.join("hash-key");
        match fs::read(&path) {
            Ok(bytes) => {
                let bytes = <[u8; 16]>::try_from(bytes).map_err(|bytes| {
                    anyhow::anyhow!(
                        "{} has {} bytes, not 16; remove it to draw a new key (flows change sides)",
                        path.display(),
                        bytes.len()
                    )
                })?;
                Ok(HashKey::from_bytes(bytes))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut bytes = [0; 16];
                File::open("/dev/urandom")
                    .and_then(|mut file| file.read_exact(&mut bytes))
                    .context("cannot read /dev/urandom")?;
                replace(&path, &bytes)?;
                Ok(HashKey::from_bytes(bytes))
            }
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// The services of the file with the live changes of before. A service that was edited in the file since then is as
    /// the file has it now; and the names of those that have lost changes by that.
    pub fn merge(&self, declared: Vec<config::Service>) -> anyhow::Result<(Vec<DesiredService>, Vec<String>)> {
        let (mut saved, clocks) = (self.load()?, Clocks::now());
        let mut edited = Vec::new();
        let services = declared
            .into_iter()
            .map(|service| {
                let desired = DesiredService::as_declared(service);
                let Some(index) = saved.iter().position(|saved| saved.declared.name == desired.declared.name) else {
                    return desired;
                };
                let saved = saved.swap_remove(index);
                let is_changed = saved.is_changed();
                let Saved { declared, backends, admin, deadlines, .. } = saved;
                if declared == desired.declared {
                    let deadlines = deadlines.into_iter().map(|(name, time)| (name, clocks.instant(time))).collect();
                    DesiredService { spec: config::Service { backends, ..declared }, admin, deadlines, ..desired }
                } else {
                    let holds = admin.is_empty() && backends == desired.declared.backends;
                    if is_changed && !holds {
                        edited.push(declared.name);
                    }
                    desired
                }
            })
            .collect();
        Ok((services, edited))
    }

    /// What is written down of services besides the live changes, of those edited in the file, too.
    pub fn memories(&self) -> anyhow::Result<HashMap<ServiceKey, Memory>> {
        let clocks = Clocks::now();
        let declared: Vec<config::Service> = read(&self.declared_path())?;
        let declared = declared.iter().map(|service| (service_key(service), Memory::of_declared(service)));
        let differing = self.load()?.into_iter().map(|saved| (service_key(&saved.declared), saved.memory(clocks)));
        Ok(declared.chain(differing).collect())
    }

    /// Writes down the services as the configuration file has them: when that is taken in, and not with each live change, as
    /// there may be thousands.
    pub fn save_declared<'a>(&self, services: impl Iterator<Item = &'a config::Service>) -> anyhow::Result<()> {
        replace(&self.declared_path(), &serde_json::to_vec_pretty(&services.collect::<Vec<_>>())?)
    }

    /// Writes down `services`, those that are not as the configuration file has them.
    pub fn save<'a>(&self, services: impl Iterator<Item = (&'a DesiredService, Memory)>) -> anyhow::Result<()> {
        let clocks = Clocks::now();
        let removed = |(backend, until): (config::Backend, Option<Instant>)| SavedRemoved {
            backend,
            until: until.map(|time| clocks.time(time)),
        };
        let saved: Vec<Saved> = services
            .map(|(service, memory)| Saved {
                declared: service.declared.clone(),
                backends: service.spec.backends.clone(),
                admin: service.admin.clone(),
                deadlines: service.deadlines.iter().map(|(name, time)| (name.clone(), clocks.time(*time))).collect(),
                removed: memory.removed.into_iter().map(removed).collect(),
                rising: memory.rising.into_iter().map(|(address, time)| (address, clocks.time(time))).collect(),
            })
            .collect();
        replace(&self.changes_path(), &serde_json::to_vec_pretty(&saved)?)
    }

    fn load(&self) -> Result<Vec<Saved>, ReadError> {
        read(&self.changes_path())
    }

    fn changes_path(&self) -> PathBuf {
        self.path.join("changes.json")
    }

    fn declared_path(&self) -> PathBuf {
        self.path.join("declared.json")
    }
}

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("cannot read {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{} is damaged: any change with lbctl writes it anew from what lbd knows; without one, the next start of lbd puts it aside",
        path.display()
    )]
    Damaged { path: PathBuf, source: serde_json::Error },
    #[error(
        "{} says what this lbd does not know: another version has written it. Start that one, or move the file away: then the changes that \
         were made with lbctl are not in force",
        path.display()
    )]
    Unknown { path: PathBuf, source: serde_json::Error },
}

/// Reads a list; without the file it is empty.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, ReadError> {
    match fs::read(path) {
        Ok(json) => serde_json::from_slice(&json).map_err(|source| {
            let path = path.to_owned();
            if source.is_data() { ReadError::Unknown { path, source } } else { ReadError::Damaged { path, source } }
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(ReadError::Io { path: path.to_owned(), source }),
    }
}

/// What the names of files end with that were put aside, and a number.
const ASIDE: &str = "damaged-";

fn is_aside(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.to_string_lossy().starts_with(ASIDE))
}

fn unused_name(path: &Path) -> PathBuf {
    let names = (1..).map(|number: u32| path.with_extension(format!("{ASIDE}{number}")));
    names.into_iter().find(|name| !name.exists()).expect("there are not so many files")
}

/// What is to be said of a file that was put aside.
fn damaged(aside: &Path) -> String {
    format!(
        "what lbd has written down could not be read, and it has started without: changes made with lbctl may not be in force. What there \
         was is in {}; make the changes again (`lbctl backend list` shows how things are), and remove that file",
        aside.display()
    )
}

/// Both clocks at the same moment: the one that deadlines go by, and the one that means something after a restart.
#[derive(Clone, Copy)]
struct Clocks {
    instant: Instant,
    time: SystemTime,
}

impl Clocks {
    fn now() -> Self {
        Self { instant: Instant::now(), time: SystemTime::now() }
    }

    fn time(self, instant: Instant) -> SystemTime {
        match instant.checked_duration_since(self.instant) {
            Some(ahead) => self.time + ahead,
            None => self.time - (self.instant - instant),
        }
    }

    fn instant(self, time: SystemTime) -> Instant {
        match time.duration_since(self.time) {
            Ok(ahead) => self.instant + ahead.min(ENDLESS),
            // What was before the clock began counts as now.
            Err(behind) => self.instant.checked_sub(behind.duration()).unwrap_or(self.instant),
        }
    }
}

/// Writes a file whole or not at all.
fn replace(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let temporary = path.with_extension("new");
    private(OpenOptions::new().write(true).create(true).truncate(true))
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options.mode(0o600)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Config;

    const CONFIG: &str = r#"
        [[interface]]
        name = "eth0"
        [[service]]
        name = "quic"
        address = "192.0.2.1:443"
        protocol = "udp"
        forwarding = "l2-dsr"
        [service.quic]
        server_id_length = 1
        [[service.backend]]
        name = "first"
        address = "10.0.0.1"
        server_id = "01"
        [[service.backend]]
        name = "second"
        address = "10.0.0.2"
        server_id = "02"
    "#;

    fn service() -> config::Service {
        Config::parse("test.toml", CONFIG).expect("the configuration is valid").services.remove(0)
    }

    fn backend(name: &str) -> config::Backend {
        service().backends.into_iter().find(|backend| backend.name == name).expect("it is there")
    }

    /// Clocks differ by how long it takes to read them.
    fn is_close(one: Instant, other: Instant) -> bool {
        one.max(other) - one.min(other) < Duration::from_secs(5)
    }

    #[test]
    fn what_is_written_down_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let now = Instant::now();
        let (deadline, since) = (now + Duration::from_mins(9), now.checked_sub(Duration::from_mins(1)).unwrap());
        let mut desired = DesiredService::as_declared(service());
        desired.spec.backends.retain(|backend| backend.name == "first");
        desired.admin.insert("first".to_owned(), Admin::Draining);
        desired.deadlines.insert("first".to_owned(), deadline);
        let memory = Memory {
            members: desired.spec.backends.clone(),
            removed: vec![(backend("second"), Some(deadline)), (backend("second"), None)],
            rising: BTreeMap::from([("10.0.0.1".parse().unwrap(), since)]),
        };
        state.save([(&desired, memory.clone())].into_iter()).unwrap();

        let read = state.memories().unwrap().remove(&service_key(&service())).expect("it was written down");
        assert_eq!(read.members, memory.members);
        assert_eq!((&read.removed[0].0, &read.removed[1]), (&memory.removed[0].0, &memory.removed[1]));
        assert!(is_close(read.removed[0].1.unwrap(), deadline));
        assert!(is_close(read.rising[&"10.0.0.1".parse().unwrap()], since));
        let merged = state.merge(vec![service()]).unwrap().0.remove(0);
        assert_eq!((&merged.spec, &merged.admin), (&desired.spec, &desired.admin));
        assert!(is_close(merged.deadlines["first"], deadline));
        // An edit in the file undoes live changes, and does not bring back what was removed.
        let edited = config::Service { slots: Some(2048), ..service() };
        let expected = (vec![DesiredService::as_declared(edited.clone())], vec![edited.name.clone()]);
        assert_eq!(state.merge(vec![edited]).unwrap(), expected);
    }

    /// As an operator does who wants to keep them.
    #[test]
    fn changes_that_are_written_into_the_configuration_file_are_not_lost() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let mut desired = DesiredService::as_declared(service());
        desired.spec.backends.retain(|backend| backend.name == "first");
        state.save([(&desired, Memory::default())].into_iter()).unwrap();
        let expected = (vec![DesiredService::as_declared(desired.spec.clone())], Vec::new());
        assert_eq!(state.merge(vec![desired.spec]).unwrap(), expected);
    }

    /// Not so far away that nothing could be added to it.
    #[test]
    fn a_time_that_no_clock_reaches_is_a_hundred_years_away() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let service = service();
        let until = serde_json::json!({ "secs_since_epoch": i64::MAX, "nanos_since_epoch": 0 });
        let removed = serde_json::json!([{ "backend": backend("second"), "until": until }]);
        let saved = serde_json::json!([{
            "declared": service, "backends": [backend("first")], "admin": {}, "removed": removed
        }]);
        fs::write(folder.path().join("changes.json"), saved.to_string()).unwrap();
        let memory = state.memories().unwrap().remove(&service_key(&service)).unwrap();
        assert!(is_close(memory.removed[0].1.unwrap(), Instant::now() + ENDLESS));
    }

    #[test]
    fn a_file_that_another_version_has_written_stays_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        fs::write(folder.path().join("changes.json"), "{}").unwrap();
        state.set_damaged_aside().unwrap();
        let refused = format!("{:#}", state.merge(vec![service()]).unwrap_err());
        assert!(refused.contains("another version") && refused.contains("expected a sequence"), "{refused}");
        assert_eq!(state.problems(), Vec::<String>::new());
    }

    #[test]
    fn damaged_files_are_put_aside_and_told_of_until_they_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        state.save([(&DesiredService::as_declared(service()), Memory::default())].into_iter()).unwrap();
        state.set_damaged_aside().unwrap();
        assert_eq!((state.problems(), state.memories().unwrap().len()), (Vec::new(), 1), "nothing is wrong with it");
        for damage in ["[{\"declared\":", ""] {
            fs::write(folder.path().join("changes.json"), damage).unwrap();
            fs::write(folder.path().join("declared.json"), damage).unwrap();
            assert!(state.memories().is_err() && state.merge(vec![service()]).is_err());
            state.set_damaged_aside().unwrap();
            assert_eq!(state.memories().unwrap(), HashMap::new());
            assert_eq!(state.merge(vec![service()]).unwrap().0, [DesiredService::as_declared(service())]);
        }
        let kept = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(kept("changes.damaged-1"), "[{\"declared\":");
        assert_eq!(["changes.damaged-2", "declared.damaged-2"].map(kept), ["", ""]);
        assert_eq!(state.problems().len(), 4);
        assert!(state.problems()[0].contains("changes.damaged-1"));
        fs::remove_file(folder.path().join("changes.damaged-1")).unwrap();
        assert_eq!(state.problems().len(), 3);
    }

    #[test]
    fn a_file_of_an_older_daemon_says_nothing_of_what_was_removed() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let service = service();
        let older = serde_json::json!([{ "declared": service, "backends": [backend("first")], "admin": {} }]);
        fs::write(folder.path().join("changes.json"), older.to_string()).unwrap();
        let memory = |state: &StateDir| state.memories().unwrap().remove(&service_key(&service)).unwrap();
        assert_eq!(memory(&state), Memory { members: vec![backend("first")], ..Memory::default() });
        // Live changes are newer than the configuration file.
        state.save_declared([&service].into_iter()).unwrap();
        assert_eq!(memory(&state), Memory { members: vec![backend("first")], ..Memory::default() });
        state.save([].into_iter()).unwrap();
        assert_eq!(memory(&state), Memory { members: service.backends.clone(), ..Memory::default() });
    }
}
