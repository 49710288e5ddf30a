//! Programs that the operator has run.

use std::path::PathBuf;

use serde::Serialize;

use crate::config::error::Problem;
use crate::config::table::Table;
use crate::config::text;

/// A program and its arguments. It is run as it stands, without a shell.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Command {
    /// The program's absolute path.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// The programs that are told of changes of state.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Notify {
    /// At each change, with keepalived's arguments behind its own: `INSTANCE`, the name, `MASTER`, `BACKUP`, `FAULT` or
    /// `STOP`, and the priority.
    pub any: Option<Command>,
    /// On becoming master.
    pub master: Option<Command>,
    /// On becoming backup.
    pub backup: Option<Command>,
    /// When a track without weight fails.
    pub fault: Option<Command>,
    /// At the end.
    pub stop: Option<Command>,
}

impl Command {
    /// Reads a program without arguments from a string, or with arguments from an array of strings.
    pub(super) fn read(table: &mut Table<'_>, key: &'static str) -> Option<Self> {
        if !table.has_array(key) {
            return table.text(key, Self::without_arguments);
        }
        let words = table.texts(key, argument)?;
        let Some((program, arguments)) = words.split_first() else {
            let help = "write a program and its arguments, as in [\"/usr/local/bin/notify\", \"vip\"]";
            table.reject(key, Problem::new(format!("{key} is empty"), help));
            return None;
        };
        match text::absolute_path(program) {
            Ok(program) => Some(Self { program, arguments: arguments.to_vec() }),
            Err(problem) => {
                table.reject(key, problem.of(key));
                None
            }
        }
    }

    /// Reads a path. A space in it would rather separate arguments, which no shell is there to do.
    fn without_arguments(text: &str) -> Result<Self, Problem> {
        let program = text::absolute_path(text)?;
        if text.contains(' ') {
            let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
            return Err(Problem::new(
                format!("{text:?} has a space in it"),
                format!("write {words:?} for a program with arguments, or [{text:?}] for a path with a space"),
            ));
        }
        Ok(Self { program, arguments: Vec::new() })
    }
}

impl Notify {
    /// Reads the keys of the instance that begin with `notify`.
    pub(super) fn read(table: &mut Table<'_>) -> Self {
        Self {
            any: Command::read(table, "notify"),
            master: Command::read(table, "notify_master"),
            backup: Command::read(table, "notify_backup"),
            fault: Command::read(table, "notify_fault"),
            stop: Command::read(table, "notify_stop"),
        }
    }
}

/// A text that a program can get: the kernel ends it at the first zero.
fn argument(text: &str) -> Result<String, Problem> {
    if text.contains('\0') {
        Err(Problem::new("has a zero character in it", "remove the character"))
    } else {
        Ok(text.to_owned())
    }
}
