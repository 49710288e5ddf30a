//! What the daemon writes down: the hash key, and the live changes.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Instant, SystemTime},
};

use anyhow::{Context as _, bail};
use lb_common::HashKey;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use serde::{Deserialize, Serialize};

use crate::{
    config,
    model::{Admin, DesiredService},
};

/// The daemon's folder, `[node] state` in the configuration.
pub struct StateDir {
    path: PathBuf,
    _lock: Flock<File>,
}

/// The live changes of one service.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    /// As the configuration file had it when it was changed.
    declared: config::Service,
    backends: Vec<config::Backend>,
    admin: BTreeMap<String, Admin>,
    /// Until when backends may keep their flows. Files of older daemons do not say so.
    #[serde(default)]
    deadlines: BTreeMap<String, SystemTime>,
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
    /// the file has it now.
    pub fn merge(&self, declared: Vec<config::Service>) -> anyhow::Result<Vec<DesiredService>> {
        let (mut saved, clocks) = (self.load()?, Clocks::now());
        Ok(declared
            .into_iter()
            .map(|service| {
                let desired = DesiredService::as_declared(service);
                let Some(index) = saved.iter().position(|saved| saved.declared.name == desired.declared.name) else {
                    return desired;
                };
                let Saved { declared, backends, admin, deadlines } = saved.swap_remove(index);
                if declared == desired.declared {
                    let deadlines = deadlines.into_iter().map(|(name, time)| (name, clocks.instant(time))).collect();
                    DesiredService { spec: config::Service { backends, ..declared }, admin, deadlines, ..desired }
                } else {
                    log::warn!(
                        "service {:?} was edited in the configuration file: the changes made with lbctl are dropped",
                        declared.name
                    );
                    desired
                }
            })
            .collect())
    }

    /// Writes down the live changes of `services`.
    pub fn save<'a>(&self, services: impl Iterator<Item = &'a DesiredService>) -> anyhow::Result<()> {
        let clocks = Clocks::now();
        let saved: Vec<Saved> = services
            .filter(|service| service.is_changed())
            .map(|service| Saved {
                declared: service.declared.clone(),
                backends: service.spec.backends.clone(),
                admin: service.admin.clone(),
                deadlines: service.deadlines.iter().map(|(name, time)| (name.clone(), clocks.time(*time))).collect(),
            })
            .collect();
        replace(&self.changes_path(), &serde_json::to_vec_pretty(&saved)?)
    }

    fn load(&self) -> anyhow::Result<Vec<Saved>> {
        let path = self.changes_path();
        match fs::read(&path) {
            Ok(json) => serde_json::from_slice(&json)
                .with_context(|| format!("{} is damaged; remove it to start as configured", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn changes_path(&self) -> PathBuf {
        self.path.join("changes.json")
    }
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
        self.time + instant.saturating_duration_since(self.instant)
    }

    fn instant(self, time: SystemTime) -> Instant {
        self.instant + time.duration_since(self.time).unwrap_or_default()
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
