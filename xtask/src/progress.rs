//! Long commands: a spinner with the time on a terminal, plain lines elsewhere. What they say is shown if they fail.

use std::{
    collections::VecDeque,
    io::{self, BufRead as _, BufReader, IsTerminal as _},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// How many of a failed command's last lines are shown.
const LINES: usize = 100;

/// How often a command that is not on a terminal shows where it is.
const PLAIN_INTERVAL: Duration = Duration::from_secs(15);

/// Runs the command to its end, showing `what` is being done and the command's latest line.
pub(crate) fn run(what: &str, mut command: Command) -> Result<()> {
    let (reader, writer) = io::pipe()?;
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    let name = format!("{command:?}");
    // It holds the pipe's other end open.
    drop(command);

    let display = Display::start(what)?;
    let mut tail = VecDeque::new();
    let mut last_plain = started;
    for line in BufReader::new(reader).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
        match &display {
            Display::Spinner(spinner) => spinner.set_message(line.trim_start().to_owned()),
            Display::Plain if last_plain.elapsed() >= PLAIN_INTERVAL => {
                last_plain = Instant::now();
                println!("  {} s: {}", started.elapsed().as_secs(), line.trim_start());
            }
            Display::Plain => {}
        }
        if tail.len() == LINES {
            tail.pop_front();
        }
        tail.push_back(line);
    }
    let status = child.wait()?;
    if let Display::Spinner(spinner) = display {
        spinner.finish_and_clear();
    }
    if !status.success() {
        let said: Vec<_> = tail.into();
        bail!("{what} failed\n{name}: {status}\n{}", said.join("\n"));
    }
    println!("{what}: done in {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

enum Display {
    Spinner(ProgressBar),
    Plain,
}

impl Display {
    fn start(what: &str) -> Result<Self> {
        if !io::stdout().is_terminal() {
            println!("{what} …");
            return Ok(Self::Plain);
        }
        let style = ProgressStyle::with_template("{spinner} {elapsed} {prefix}: {wide_msg}")?;
        let spinner = ProgressBar::new_spinner().with_style(style).with_prefix(what.to_owned());
        spinner.enable_steady_tick(Duration::from_millis(100));
        Ok(Self::Spinner(spinner))
    }
}
