//! What tracking does to the priority: pure.

use super::links::LinkState;
use crate::config::{Track, Tracked};

/// The lowest and the highest priority that tracking can lead to: 0 says farewell, 255 is for the owner of the addresses.
const RANGE: (i32, i32) = (1, 254);

/// What is known of something tracked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reading {
    /// Nothing yet.
    #[default]
    Unknown,
    /// It is as it should be.
    Good,
    /// It is not.
    Bad,
    /// The number in a file.
    Number(i32),
}

impl Reading {
    /// An interface is good while it is there, and up.
    pub fn of_link(link: Option<&LinkState>) -> Self {
        if link.is_some_and(|link| link.up) { Self::Good } else { Self::Bad }
    }
}

/// What the readings make of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It can take part, with this priority.
    Fit(u8),
    /// It cannot, because of this.
    Unfit(String),
    /// Something has not been looked at yet: it does not start, and if it has started it goes on.
    Unclear(String),
}

impl Standing {
    /// Both: what is unfit decides, then what is unclear, then the priority of the other.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (&self, &other) {
            (Self::Unfit(_), _) | (Self::Unclear(_), Self::Unclear(_) | Self::Fit(_)) => self,
            _ => other,
        }
    }
}

/// The standing of an instance whose configured priority is `base`.
///
/// What has no weight decides alone, so it has to be known before the instance starts.
pub fn standing<'a>(base: u8, readings: impl IntoIterator<Item = (&'a Track, Reading)>) -> Standing {
    let mut priority = i32::from(base);
    let mut unclear = None;
    for (track, reading) in readings {
        match (track.weight.map(i32::from), reading) {
            (None, Reading::Unknown) => {
                unclear.get_or_insert_with(|| format!("{} is not known yet", describe(&track.what)));
            }
            (None, Reading::Bad) => return Standing::Unfit(format!("{} fails", describe(&track.what))),
            (None, Reading::Number(number)) if number != 0 => {
                return Standing::Unfit(format!("{} says {number}", describe(&track.what)));
            }
            (Some(weight), Reading::Number(number)) => {
                priority = priority.saturating_add(weight.saturating_mul(number));
            }
            (Some(weight @ ..=0), Reading::Bad) | (Some(weight @ 1..), Reading::Good) => {
                priority = priority.saturating_add(weight);
            }
            (None, Reading::Good | Reading::Number(_)) | (Some(_), _) => {}
        }
    }
    // In range, so it fits.
    let fit = Standing::Fit(u8::try_from(priority.clamp(RANGE.0, RANGE.1)).unwrap_or(base));
    unclear.map_or(fit, Standing::Unclear)
}

/// How something tracked is called in messages.
pub fn describe(what: &Tracked) -> String {
    match what {
        Tracked::Interface { name } => format!("interface {name}"),
        Tracked::Service { name, .. } => format!("service {name}"),
        Tracked::Script { command, .. } => format!("script {}", command.program.display()),
        Tracked::File { path } => format!("file {}", path.display()),
        Tracked::Datapath => "the datapath".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(weight: Option<i16>) -> Track {
        Track { what: Tracked::File { path: "/run/f".into() }, weight }
    }

    fn of(base: u8, readings: &[(Option<i16>, Reading)]) -> Standing {
        let tracks: Vec<_> = readings.iter().map(|(weight, reading)| (file(*weight), *reading)).collect();
        standing(base, tracks.iter().map(|(track, reading)| (track, *reading)))
    }

    #[test]
    fn a_negative_weight_counts_while_it_is_bad_and_a_positive_one_while_it_is_good() {
        for (weight, reading, priority) in [
            (-20, Reading::Bad, 80),
            (-20, Reading::Good, 100),
            (-20, Reading::Unknown, 100),
            (20, Reading::Good, 120),
            (20, Reading::Bad, 100),
            (20, Reading::Unknown, 100),
            (5, Reading::Number(-3), 85),
            (-5, Reading::Number(3), 85),
        ] {
            assert_eq!(of(100, &[(Some(weight), reading)]), Standing::Fit(priority), "{weight} {reading:?}");
        }
    }

    #[test]
    fn weights_add_up_and_end_at_1_and_254() {
        let bad = (Some(-60), Reading::Bad);
        assert_eq!(of(200, &[bad, bad]), Standing::Fit(80));
        assert_eq!(of(100, &[bad, bad]), Standing::Fit(1));
        assert_eq!(of(100, &[(Some(253), Reading::Good)]), Standing::Fit(254));
        assert_eq!(
            of(100, &[(Some(253), Reading::Number(i32::MAX)), (Some(253), Reading::Number(1))]),
            Standing::Fit(254)
        );
        assert_eq!(of(100, &[(Some(-253), Reading::Number(i32::MIN))]), Standing::Fit(254));
        assert_eq!(of(100, &[(Some(253), Reading::Number(i32::MAX)), (Some(20), Reading::Good)]), Standing::Fit(254));
    }

    #[test]
    fn without_a_weight_only_what_is_good_keeps_an_instance_fit() {
        assert_eq!(of(100, &[(None, Reading::Good)]), Standing::Fit(100));
        assert_eq!(of(100, &[(None, Reading::Number(0))]), Standing::Fit(100));
        for (reading, why) in [(Reading::Bad, "file /run/f fails"), (Reading::Number(2), "file /run/f says 2")] {
            assert_eq!(of(100, &[(None, reading)]), Standing::Unfit(why.to_owned()));
        }
        assert_eq!(of(100, &[(None, Reading::Unknown)]), Standing::Unclear("file /run/f is not known yet".to_owned()));
    }
}
