//! `[[vrrp.track]]`: what the priority of an instance depends on.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::Command;
use crate::config::error::Problem;
use crate::config::interface::interface_name;
use crate::config::table::Table;
use crate::config::text;
use crate::config::word::{Word, closest};

/// Something that the priority depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Track {
    /// What is watched.
    pub what: Tracked,
    /// What it does to the priority: a negative weight is added while it fails, a positive one while it holds. `None`:
    /// while it fails, the instance takes no part at all (state fault).
    ///
    /// For a file the weight is multiplied by the number in it; `None` is a fault unless that number is zero.
    pub weight: Option<i16>,
}

/// What can be watched.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Tracked {
    /// The interface is there, and up.
    Interface {
        /// Its name.
        name: String,
    },
    /// The service has at least this many backends that take flows, as the running daemon says.
    Service {
        /// Its name.
        name: String,
        /// How many.
        min_backends: u16,
    },
    /// The program ends with 0.
    Script {
        /// The program.
        command: Command,
        /// From start to start.
        interval: Duration,
        /// It is killed after this time, and has failed.
        timeout: Duration,
        /// Successes in a row until it counts as good.
        rise: u16,
        /// Failures in a row until it counts as failed.
        fall: u16,
    },
    /// The number in a file; a file that is missing or empty is a zero.
    File {
        /// Its path.
        path: PathBuf,
    },
    /// The balancer's program is attached to the instance's interface, and the daemon answers.
    Datapath,
}

impl Track {
    /// Reads a table. `interface` is that of the instance, unknown if it could not be read; `services` are the names of
    /// the services that can be tracked.
    pub(super) fn read(mut table: Table<'_>, interface: Option<&str>, services: &[&str]) -> Option<Self> {
        table.require(&[("type", r#""interface""#)]);
        let weight = table.number_unless("weight", -253..=253, |weight| {
            let help = "write a whole number from -253 to 253, or remove it: without a weight, failure is a fault";
            (weight == 0).then(|| Problem::new("0 has no effect", help))
        });
        // Without a type, it is open which keys apply.
        let kind = table.word::<Type>("type")?;
        for other in Type::ALL.iter().filter(|other| **other != kind) {
            table.refuse(other.keys(), |key| {
                Problem::new(
                    format!("{key} does not apply to a track of type \"{kind}\""),
                    format!("remove it, or write type = \"{other}\""),
                )
            });
        }
        let what = match kind {
            Type::Interface => read_interface(&mut table, interface),
            Type::Service => read_service(&mut table, services),
            Type::Script => read_script(&mut table),
            Type::File => read_file(&mut table),
            Type::Datapath => Some(Tracked::Datapath),
        };
        table.finish();
        Some(Self { what: what?, weight })
    }
}

/// The word for the kind of track.
#[derive(Clone, Copy, PartialEq)]
enum Type {
    Interface,
    Service,
    Script,
    File,
    Datapath,
}

impl Type {
    /// The keys that only this kind has.
    const fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Interface => &["interface"],
            Self::Service => &["service", "min_backends"],
            Self::Script => &["command", "interval", "timeout", "rise", "fall"],
            Self::File => &["path"],
            Self::Datapath => &[],
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Interface => "interface",
            Self::Service => "service",
            Self::Script => "script",
            Self::File => "file",
            Self::Datapath => "datapath",
        })
    }
}

impl Word for Type {
    const ALL: &'static [Self] = &[Self::Interface, Self::Service, Self::Script, Self::File, Self::Datapath];
}

fn read_interface(table: &mut Table<'_>, own: Option<&str>) -> Option<Tracked> {
    table.require(&[("interface", r#""eth1""#)]);
    let name = table.text("interface", |text| {
        if own == Some(text) {
            return Err(Problem::new(
                format!("{text:?} is the interface of the instance, which is watched in any case"),
                "remove the track, or write another interface",
            ));
        }
        interface_name(text)
    })?;
    Some(Tracked::Interface { name })
}

fn read_service(table: &mut Table<'_>, services: &[&str]) -> Option<Tracked> {
    table.require(&[("service", r#""crm-web""#)]);
    let name = table.text("service", |text| {
        if services.contains(&text) {
            return Ok(text.to_owned());
        }
        let help = match closest(text, services) {
            Some(meant) => format!("did you mean {meant:?}?"),
            None => format!("add a [[service]] with name = {text:?}, or write the name of one"),
        };
        Err(Problem::new(format!("{text:?} is not configured"), help))
    });
    let min_backends = table.number("min_backends", 1..=u16::MAX).unwrap_or(1);
    Some(Tracked::Service { name: name?, min_backends })
}

fn read_script(table: &mut Table<'_>) -> Option<Tracked> {
    table.require(&[("command", r#""/usr/local/bin/check""#)]);
    let command = Command::read(table, "command");
    let intervals = Duration::from_millis(100)..=Duration::from_hours(1);
    let timeouts = Duration::from_millis(10)..=Duration::from_hours(1);
    let interval = table.text("interval", text::duration(intervals)).unwrap_or(Duration::from_secs(1));
    let timeout = table.text("timeout", text::duration(timeouts)).unwrap_or(Duration::from_secs(1));
    let rise = table.number("rise", 1..=100).unwrap_or(1);
    let fall = table.number("fall", 1..=100).unwrap_or(1);
    Some(Tracked::Script { command: command?, interval, timeout, rise, fall })
}

fn read_file(table: &mut Table<'_>) -> Option<Tracked> {
    table.require(&[("path", r#""/run/lb/priority""#)]);
    let path = table.text("path", text::absolute_path)?;
    Some(Tracked::File { path })
}
