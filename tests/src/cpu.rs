//! How long CPUs were busy, as the kernel has it to the nanosecond.
//!
//! What a soft interrupt does counts for the task that it interrupts (unless the kernel has `CONFIG_IRQ_TIME_ACCOUNTING`): on a veth
//! that is mostly the one that sends, and sometimes `ksoftirqd`.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    errno::Errno,
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

/// What a process and its descendants have run until now, with all their threads.
pub fn process(process: u32) -> Result<Duration> {
    tasks(process)?.iter().map(|task| task_time(task)).sum()
}

/// Has a process and its descendants, with all their threads, run on these CPUs only.
pub fn confine(process: u32, cpus: impl IntoIterator<Item = usize>) -> Result<()> {
    let mut set = CpuSet::new();
    cpus.into_iter().try_for_each(|cpu| set.set(cpu))?;
    for task in tasks(process)? {
        let id = task.file_name().and_then(OsStr::to_str).context("a task has a number")?;
        sched_setaffinity(Pid::from_raw(id.parse()?), &set).with_context(|| format!("confine task {id} to CPUs"))?;
    }
    Ok(())
}

/// Has the calling thread run on one CPU only.
pub fn confine_this_thread(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("stay on CPU {cpu}"))
}

/// The folders of all threads of a process and its descendants.
fn tasks(process: u32) -> Result<Vec<PathBuf>> {
    let folder = format!("/proc/{process}/task");
    let mut found = Vec::new();
    for task in fs::read_dir(&folder).with_context(|| format!("list {folder}"))? {
        let path = task?.path();
        for child in fs::read_to_string(path.join("children"))?.split_ascii_whitespace() {
            found.extend(tasks(child.parse()?)?);
        }
        found.push(path);
    }
    Ok(found)
}

/// What the calling thread has run until now. Its `schedstat` would be of the last tick.
pub fn this_thread() -> Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes to `time`, which lives until the call returns.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Errno::result(result).context("read this thread's clock")?;
    Ok(Duration::new(time.tv_sec.try_into()?, time.tv_nsec.try_into()?))
}

fn task_time(task: &Path) -> Result<Duration> {
    let path = task.join("schedstat");
    let schedstat = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    parse_schedstat(&schedstat).with_context(|| format!("{} says {schedstat:?}", path.display()))
}

/// The first number is the time on the CPU, in nanoseconds.
fn parse_schedstat(schedstat: &str) -> Option<Duration> {
    Some(Duration::from_nanos(schedstat.split_ascii_whitespace().next()?.parse().ok()?))
}

/// The threads of the kernel that take over soft interrupts where there are many, one for each CPU.
#[derive(Debug)]
pub struct SoftirqThreads(Vec<u32>);

impl SoftirqThreads {
    /// Those of all CPUs.
    pub fn find() -> Result<Self> {
        Self::named(|name| name.starts_with("ksoftirqd/"))
    }

    /// That of one CPU.
    pub fn of_cpu(cpu: usize) -> Result<Self> {
        let name = format!("ksoftirqd/{cpu}");
        Self::named(|found| found == name)
    }

    fn named(is_it: impl Fn(&str) -> bool) -> Result<Self> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").context("list the processes")? {
            let entry = entry?;
            if let Ok(pid) = entry.file_name().to_string_lossy().parse()
                && fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| is_it(name.trim_end()))
            {
                found.push(pid);
            }
        }
        ensure!(!found.is_empty(), "there is no ksoftirqd in /proc: this is no machine of its own");
        Ok(Self(found))
    }

    /// What they have run until now.
    pub fn time(&self) -> Result<Duration> {
        self.0.iter().map(|pid| process(*pid)).sum()
    }
}

/// How busy the whole machine is, whoever it is that is.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    at: Instant,
    idle: Duration,
    cpus: u32,
}

impl Machine {
    /// Up to now.
    pub fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        let (idle, cpus) = parse_stat(&stat).context("/proc/stat has another form")?;
        Ok(Self { at: Instant::now(), idle, cpus })
    }

    /// The time that all CPUs together were busy since then. Idle time is exact where ticks miss what is short.
    pub fn busy_since(&self) -> Result<Duration> {
        let now = Self::now()?;
        let wall = now.at.duration_since(self.at) * self.cpus;
        Ok(wall.saturating_sub(now.idle.saturating_sub(self.idle)))
    }
}

/// Idle time, waiting for disks included, and time that others had the CPUs of this machine, in hundredths of a second; how many CPUs.
fn parse_stat(stat: &str) -> Option<(Duration, u32)> {
    const TICK_MS: u64 = 10;

    let mut lines = stat.lines();
    let all: Vec<u64> = lines.next()?.split_ascii_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
    let &[_user, _nice, _system, idle, waiting, _irq, _softirq, stolen, ..] = all.as_slice() else { return None };
    let cpus = lines.take_while(|line| line.starts_with("cpu")).count();
    Some((Duration::from_millis((idle + waiting + stolen) * TICK_MS), u32::try_from(cpus).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_on_the_cpu_is_the_first_number_of_schedstat() {
        assert_eq!(parse_schedstat("570028 47327 2\n"), Some(Duration::from_nanos(570_028)));
        assert_eq!(parse_schedstat(""), None);
    }

    #[test]
    fn idle_time_is_that_of_idling_waiting_and_others() {
        let stat = "cpu  10 20 30 400 50 0 7 1000 0 0\ncpu0 1 2 3\ncpu1 9 18 27\nintr 60816619 0\n";
        assert_eq!(parse_stat(stat), Some((Duration::from_millis(14_500), 2)));
        assert_eq!(parse_stat("cpu  1 2 3\n"), None);
    }

    #[test]
    fn a_thread_that_works_has_run() {
        let before = this_thread().expect("this thread");
        let started = Instant::now();
        while this_thread().expect("this thread") == before {
            assert!(started.elapsed() < Duration::from_mins(1), "no time has passed");
        }
        assert!(process(std::process::id()).expect("this process") > before);
    }
}
