//! keepalived as a VRRP speaker: the peer, and the measure, of our own.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    fs,
    io::ErrorKind,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    balancer::Balancer,
    paths::BalancerPaths,
    process::Process,
    run::wait_for,
    state::record,
    vrrp::{Instance, State, Transition},
};

/// How long keepalived may take until it has started the process that speaks.
const START: Duration = Duration::from_secs(10);

/// A keepalived on a balancer. It ends in order, with a farewell to its peers, on drop.
#[derive(Debug)]
pub struct Keepalived {
    process: Process,
    files: Files,
}

/// What it reads and writes.
#[derive(Debug)]
struct Files {
    config: PathBuf,
    pid: PathBuf,
    /// Of the process that speaks VRRP.
    speaker_pid: PathBuf,
    fifo: PathBuf,
    /// Reads the FIFO, and notes what it reads with the time.
    note_taker: PathBuf,
    transitions: PathBuf,
}

impl Files {
    fn of(paths: &BalancerPaths) -> Self {
        let file = |extension: &str| paths.file(&format!("keepalived.{extension}"));
        Self {
            config: file("conf"),
            pid: file("pid"),
            speaker_pid: file("vrrp-pid"),
            fifo: file("fifo"),
            note_taker: file("notes.sh"),
            transitions: file("notes"),
        }
    }
}

impl Balancer<'_> {
    /// Starts keepalived with these instances, and waits until it speaks.
    pub fn spawn_keepalived(&self, instances: &[Instance]) -> Result<Keepalived> {
        let files = Files::of(&self.paths());
        write_script(&files)?;
        fs::write(&files.config, config(&files, instances)?).context("write the configuration of keepalived")?;
        // Another one may have been here, and killed: nothing of it is to be taken for this one's.
        for file in [&files.pid, &files.speaker_pid, &files.fifo, &files.transitions] {
            remove_if_there(file)?;
        }
        let mut command = self.node().command("keepalived");
        command.args(["--dont-fork", "--log-console", "--log-detail", "--vrrp"]);
        for (option, file) in [("use-file", &files.config), ("pid", &files.pid), ("vrrp_pid", &files.speaker_pid)] {
            command.arg(format!("--{option}={}", file.display()));
        }
        let mut process = self.spawn("keepalived", command)?;
        let speaker = wait_for("keepalived's speaker", START, || {
            process.ensure_running()?;
            Ok(fs::read_to_string(&files.speaker_pid).ok().and_then(|pid| pid.trim().parse().ok()))
        })?;
        record(&self.lab.paths, speaker)?;
        Ok(Keepalived { process, files })
    }
}

impl Keepalived {
    /// Its first process, which starts the one that speaks again whenever that one ends.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    pub(super) fn into_process(self) -> Process {
        self.process
    }

    /// Ends all of it at once, as a crash does: it takes no address off, and tells nobody.
    pub fn crash(mut self) -> Result<()> {
        let speaker = fs::read_to_string(&self.files.speaker_pid).context("the pid of keepalived's speaker")?;
        // Neither may see the other one end: the first would start a new speaker, and the speaker would end in order.
        self.process.kill(Signal::SIGSTOP)?;
        kill(Pid::from_raw(speaker.trim().parse()?), Signal::SIGKILL).context("kill keepalived's speaker")?;
        self.process.kill(Signal::SIGKILL)?;
        self.process.wait(START)?;
        Ok(())
    }

    /// What it has told until now, the earliest first.
    pub fn transitions(&self) -> Result<Vec<Transition>> {
        match fs::read_to_string(&self.files.transitions) {
            Ok(notes) => notes.lines().filter_map(|line| parse_note(line).transpose()).collect(),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error).context("read the notes of keepalived's transitions"),
        }
    }

    /// The state of an instance, if it has told any.
    pub fn state(&self, instance: &str) -> Result<Option<State>> {
        let transitions = self.transitions()?;
        Ok(transitions.iter().rfind(|transition| transition.instance == instance).map(|transition| transition.state))
    }

    /// Waits until an instance is in a state.
    pub fn wait_for_state(&mut self, instance: &str, state: State, timeout: Duration) -> Result<()> {
        wait_for(&format!("{instance} to be {state:?}"), timeout, || {
            self.process.ensure_running()?;
            Ok((self.state(instance)? == Some(state)).then_some(()))
        })
    }
}

/// The whole configuration file.
fn config(files: &Files, instances: &[Instance]) -> Result<String, fmt::Error> {
    let mut text = String::new();
    // As ours has it, or it would be late on a busy machine; keepalived's own limit for that is 10 ms of work, and then it is killed.
    writeln!(text, "global_defs {{\n    script_user root\n    vrrp_rt_priority 10\n    vrrp_rlimit_rttime 1000000")?;
    writeln!(text, "    vrrp_notify_fifo {}", files.fifo.display())?;
    writeln!(text, "    vrrp_notify_fifo_script {}\n}}", files.note_taker.display())?;
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for instance in instances {
        if let Some(group) = &instance.sync_group {
            groups.entry(group).or_default().push(&instance.name);
        }
        instance.write_keepalived(&mut text)?;
    }
    for (group, members) in groups {
        let members = members.join("\n        ");
        writeln!(text, "vrrp_sync_group {group} {{\n    group {{\n        {members}\n    }}\n}}")?;
    }
    Ok(text)
}

/// One process reads all: scripts that are started at each transition could overtake one another.
fn write_script(files: &Files) -> Result<()> {
    let script = format!(
        "#!/bin/sh\nwhile read -r line; do echo \"$(date +%s%N) $line\"; done < \"$1\" >> '{}'\n",
        files.transitions.display()
    );
    fs::write(&files.note_taker, script).context("write keepalived's script")?;
    fs::set_permissions(&files.note_taker, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// A line such as `1700000000123456789 INSTANCE "vip4" MASTER 150`; `None` for one of a group, and for a state that is on its way.
fn parse_note(line: &str) -> Result<Option<Transition>> {
    let mut words = line.split(' ');
    let mut word = || words.next().with_context(|| format!("a note of keepalived's transitions ends early: {line:?}"));
    let at: u64 = word()?.parse().with_context(|| format!("the time in {line:?}"))?;
    let (kind, name, state) = (word()?, word()?, word()?);
    let state = match state {
        "MASTER" => State::Master,
        "BACKUP" => State::Backup,
        "FAULT" => State::Fault,
        "STOP" => State::Stop,
        _ => return Ok(None),
    };
    let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(at);
    let transition = Transition { at, instance: name.trim_matches('"').to_owned(), state };
    Ok((kind == "INSTANCE").then_some(transition))
}

fn remove_if_there(file: &PathBuf) -> Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", file.display()))
        }
        _ => Ok(()),
    }
}
