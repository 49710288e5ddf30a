//! What the operator is told.

use std::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// What is wrong, and what to write instead. It says nothing of the place: the command line has no lines.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}\n    {help}")]
pub struct Problem {
    /// What is wrong.
    pub message: String,
    /// What to write instead, as an instruction.
    pub help: String,
}

impl Problem {
    pub(super) fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { message: message.into(), help: help.into() }
    }

    /// The same problem, with its subject in front.
    pub(super) fn of(self, subject: impl fmt::Display) -> Self {
        Self::new(format!("{subject} {}", self.message), self.help)
    }
}

/// A [`Problem`] at its place in a file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{file}:{line}: {problem}")]
pub struct ConfigError {
    /// The file, as it was named to the parser.
    pub file: String,
    /// The line of the key or value at fault, or of the table's header if a key is missing. The first line is 1.
    pub line: usize,
    /// What is wrong, and what to write instead.
    pub problem: Problem,
}

/// All that is wrong with a file, in the order of its lines; never empty.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(formatter)?;
            }
            write!(formatter, "{error}")?;
        }
        Ok(())
    }
}

/// Why a configuration file could not be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file cannot be read as text.
    #[error("cannot read the configuration file {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        source: io::Error,
    },
    /// The file breaks rules.
    #[error(transparent)]
    Invalid(#[from] ConfigErrors),
}
