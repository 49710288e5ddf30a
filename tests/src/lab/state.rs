//! What a lab leaves on the machine while it is up, and how that is removed.
//!
//! A lab belongs to the process that built it. It is taken down by that process; or by its guard, a small process
//! that waits for the owner to die, however that happens; or, should both be killed, by the next lab that comes up.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write as _},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    netns,
    paths::{self, BalancerPaths, LABS, Paths, binary},
    process::{Identity, end_all},
};

/// `prefix`, made unique among all labs of this machine.
pub fn unique_name(prefix: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(1);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}-{}-{number}", std::process::id())
}

/// Makes the lab's folder, in this process's name; fails if the lab is up.
pub(super) fn claim(paths: &Paths) -> Result<()> {
    fs::create_dir_all(LABS).with_context(|| format!("create {LABS}"))?;
    match fs::create_dir(paths.dir()) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("a lab named {0} is up already: take it down with `cargo xtask lab down --name {0}`", paths.lab())
        }
        created => created.with_context(|| format!("create {}", paths.dir().display()))?,
    }
    let owner = Identity::of(std::process::id()).context("read /proc/self/stat")?;
    fs::write(paths.owner(), owner.to_string())?;
    create_folder(&paths.logs())
}

/// Makes what the balancer finds when it is started for the first time.
pub(super) fn prepare_balancer(paths: &BalancerPaths) -> Result<()> {
    create_folder(&paths.state())?;
    create_folder(&paths.bin())?;
    write_lbctl(paths)
}

fn create_folder(folder: &Path) -> Result<()> {
    fs::create_dir(folder).with_context(|| format!("create {}", folder.display()))
}

/// An `lbctl` that needs no `--socket`.
fn write_lbctl(paths: &BalancerPaths) -> Result<()> {
    let path = paths.bin().join("lbctl");
    let script = format!(
        "#!/bin/sh\nexec '{}' --socket '{}' \"$@\"\n",
        paths::binaries()?.join("lbctl").display(),
        paths.socket().display()
    );
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// From now on the lab belongs to no process, and stays until [`teardown`].
pub(super) fn disown(paths: &Paths) -> Result<()> {
    fs::remove_file(paths.owner()).context("give the lab up")
}

/// Notes a process of the lab, to be ended with it.
pub(super) fn record(paths: &Paths, pid: u32) -> Result<()> {
    // One that has ended already needs no end.
    if let Some(process) = Identity::of(pid) {
        let mut pids = File::options().create(true).append(true).open(paths.pids())?;
        writeln!(pids, "{process}")?;
    }
    Ok(())
}

/// Removes everything of a lab: processes, what `lbd` has pinned, namespaces, files. A lab that is not there is no error.
pub fn teardown(paths: &Paths) -> Result<()> {
    if !paths.dir().exists() {
        return Ok(());
    }
    end_all(read_pids(paths)?)?;
    end_daemons(paths)?;
    for balancer in paths.balancers() {
        if let Err(error) = unload(&balancer) {
            eprintln!("lab {}, {}: {error:#}", paths.lab(), balancer.node());
        }
    }
    netns::delete(&paths.namespaces()?)?;
    for folder in paths.balancers().map(|balancer| balancer.pins()).chain([paths.dir()]) {
        if let Err(error) = fs::remove_dir_all(&folder)
            && error.kind() != ErrorKind::NotFound
        {
            return Err(error).with_context(|| format!("remove {}", folder.display()));
        }
    }
    Ok(())
}

fn read_pids(paths: &Paths) -> Result<Vec<Identity>> {
    match fs::read_to_string(paths.pids()) {
        Ok(lines) => lines.lines().map(str::parse).collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).context("read the lab's process ids"),
    }
}

/// Ends what nobody has recorded: `lbd run` starts `lbd vrrp` in a session of its own, to be outlived by it.
fn end_daemons(paths: &Paths) -> Result<()> {
    for balancer in paths.balancers() {
        // Again, for one that was started while the one before was being ended.
        loop {
            let daemons = Identity::lbds_in(&balancer.namespace())?;
            if daemons.is_empty() {
                break;
            }
            end_all(daemons)?;
        }
    }
    Ok(())
}

/// Has `lbd` remove what it has attached and pinned, if it ever ran.
fn unload(paths: &BalancerPaths) -> Result<()> {
    const TIMEOUT: Duration = Duration::from_secs(5);

    if !paths.pins().exists() {
        return Ok(());
    }
    let mut child = paths
        .namespace()
        .command(binary("lbd")?)
        .arg("unload")
        // Whatever the configuration says by now.
        .arg("--pins")
        .arg(paths.pins())
        // What it removes is the lab's, and says nothing to whoever reads what came of the lab.
        .env("RUST_LOG", "warn")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .context("start lbd unload")?;
    let deadline = Instant::now() + TIMEOUT;
    while Instant::now() < deadline {
        match child.try_wait()? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => bail!("lbd unload: {status}"),
            None => thread::sleep(Duration::from_millis(2)),
        }
    }
    child.kill()?;
    child.wait()?;
    bail!("lbd unload took more than {TIMEOUT:?}");
}

/// Takes down the labs whose owner has died; returns their names.
pub fn sweep() -> Result<Vec<String>> {
    let entries = match fs::read_dir(LABS) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("list {LABS}"))?,
    };
    let mut swept = Vec::new();
    for entry in entries {
        let paths = Paths::new(&entry?.file_name().to_string_lossy())?;
        // Without an owner it was left running on purpose, or is being built or removed this very moment.
        if let Ok(owner) = fs::read_to_string(paths.owner())
            && let Ok(owner) = owner.parse::<Identity>()
            && !owner.is_alive()
        {
            teardown(&paths)?;
            swept.push(paths.lab().to_owned());
        }
    }
    Ok(swept)
}

/// The process that takes the lab down when its owner dies: it sees its standard input end.
#[derive(Debug)]
pub(super) struct Guard(Child);

impl Guard {
    pub(super) fn start(paths: &Paths) -> Result<Self> {
        let child = Command::new(binary("lab-agent")?)
            .args(["guard", paths.lab()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .context("start the lab's guard")?;
        Ok(Self(child))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        if let Err(error) = self.0.wait() {
            eprintln!("wait for the lab's guard: {error}");
        }
    }
}

/// The guard's part: waits for the end of standard input, then takes the lab down unless its owner has done that, or has
/// disowned it.
pub fn guard(paths: &Paths) -> Result<()> {
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    if paths.owner().exists() {
        teardown(paths)?;
    }
    Ok(())
}
