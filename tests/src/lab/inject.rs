//! Frames that no program would send: replayed, duplicated, forged. The work is done by `lab-agent inject`.

use std::{process::Command, time::Duration};

use anyhow::{Result, ensure};

use super::{Lab, paths::binary, process::Process};

/// How much longer than its pauses an injection may take.
const SLACK: Duration = Duration::from_secs(10);

/// Frames to send from a node's `eth0`, as they stand.
#[derive(Clone, Debug)]
pub struct Injection {
    /// Each from the Ethernet header on, without checksum. They are sent in this order.
    pub frames: Vec<Vec<u8>>,
    /// How often all of them are sent.
    pub rounds: u32,
    /// The time between two frames.
    pub spacing: Duration,
}

impl Injection {
    /// One frame, once.
    pub fn once(frame: Vec<u8>) -> Self {
        Self { frames: vec![frame], rounds: 1, spacing: Duration::ZERO }
    }

    fn add_arguments(&self, command: &mut Command) {
        command.args(["inject", "--interface", "eth0", "--rounds", &self.rounds.to_string()]);
        command.args(["--spacing", &format!("{}us", self.spacing.as_micros())]);
        command.args(self.frames.iter().map(|frame| hex(frame)));
    }

    fn duration(&self) -> Duration {
        let frames = u32::try_from(self.frames.len()).unwrap_or(u32::MAX);
        self.spacing * frames.saturating_mul(self.rounds)
    }
}

impl Lab {
    /// Sends frames, and waits until all are sent.
    pub fn inject(&self, node: &str, injection: &Injection) -> Result<()> {
        let mut process = self.start_injection(node, injection)?;
        let status = process.wait(injection.duration() + SLACK)?;
        ensure!(status.success(), "the injection: {status}\n{}", process.log()?);
        Ok(())
    }

    /// Starts to send frames.
    pub fn start_injection(&self, node: &str, injection: &Injection) -> Result<Process> {
        let mut command = self.node(node).command(binary("lab-agent")?);
        injection.add_arguments(&mut command);
        self.spawn(&format!("{node}-inject"), command)
    }
}

fn hex(bytes: &[u8]) -> String {
    let digits: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.concat()
}
