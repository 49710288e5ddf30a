//! Makes changes by `lbctl`, as an operator would.

use std::thread;

use anyhow::{Context as _, Result};

use super::{
    changes::{Change, Step},
    judge::Death,
    stage::Stage,
};
use crate::lab::now_ms;

/// Changes a stage's backends.
#[derive(Debug)]
pub struct Driver {
    stage: Stage,
    /// How many changes it has made.
    made: usize,
    deaths: Vec<Death>,
}

impl Driver {
    /// Of this stage.
    pub fn new(stage: Stage) -> Self {
        Self { stage, made: 0, deaths: Vec::new() }
    }

    /// Gives the stage back.
    pub fn into_stage(self) -> Stage {
        self.stage
    }

    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    pub fn stage_mut(&mut self) -> &mut Stage {
        &mut self.stage
    }

    /// The backends that have died up to now.
    pub fn deaths(&self) -> &[Death] {
        &self.deaths
    }

    /// How many changes it has made.
    pub fn made(&self) -> usize {
        self.made
    }

    /// Waits until it is time, and makes the changes, with one `lbctl` for each.
    pub fn make(&mut self, step: &Step) -> Result<()> {
        thread::sleep(step.after);
        let words: Vec<_> = step.changes.iter().map(ToString::to_string).collect();
        let words = words.join(" and ");
        eprintln!("{}: {words}", now_ms());
        let from_ms = now_ms();
        let mut commands = Vec::new();
        for change in &step.changes {
            commands.extend(self.command(*change));
        }
        let stage = &self.stage;
        thread::scope(|scope| {
            let running: Vec<_> = commands
                .iter()
                .map(|command| {
                    let arguments: Vec<_> = command.iter().map(String::as_str).collect();
                    scope.spawn(move || stage.lbctl(&arguments))
                })
                .collect();
            running
                .into_iter()
                .try_for_each(|command| command.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
        .with_context(|| words.clone())?;
        for change in &step.changes {
            match *change {
                Change::Crash { backend } => self.stage.crash(backend),
                Change::Recover { backend } => self.stage.recover(backend),
                _ => Ok(()),
            }
            .with_context(|| words.clone())?;
        }
        let until_ms = now_ms();
        for change in step.changes.iter().filter(|change| change.is_death()) {
            let backend = self.name(change.backend());
            self.deaths.push(Death { backend, from_ms, until_ms });
        }
        self.made += step.changes.len();
        Ok(())
    }

    /// The arguments of `lbctl`; `None` where it has no part in the change.
    fn command(&self, change: Change) -> Option<Vec<String>> {
        let name = self.name(change.backend());
        let arguments = match change {
            Change::Add { backend, weight } => self.stage.add_arguments(backend, weight),
            Change::Weight { weight, .. } => vec!["weight".to_owned(), name, weight.to_string()],
            Change::Drain { .. } => vec!["drain".to_owned(), name],
            Change::Remove { .. } => vec!["remove".to_owned(), name],
            Change::Disable { .. } => vec!["disable".to_owned(), name],
            Change::Enable { .. } => vec!["enable".to_owned(), name],
            Change::Crash { .. } | Change::Recover { .. } => return None,
        };
        Some([vec!["backend".to_owned()], arguments].concat())
    }

    fn name(&self, backend: usize) -> String {
        self.stage.lab().backends()[backend].name().to_owned()
    }
}
