//! Which broken connections were on a backend that died. Pure.

use std::time::Duration;

use crate::lab::Broken;

/// A backend has died: whoever was connected with it may notice.
#[derive(Clone, Debug)]
pub struct Death {
    pub backend: String,
    /// When it began: milliseconds since 1970.
    pub from_ms: u64,
    /// When no new connection went there any more: milliseconds since 1970.
    pub until_ms: u64,
}

/// All connections that have broken.
#[derive(Clone, Debug, Default)]
pub struct Judgement {
    /// Those that no death explains.
    pub broken: Vec<Broken>,
    /// How many were on a backend that died.
    pub forgiven: usize,
}

impl Judgement {
    /// A client notices no later than `notice` after the end of a death.
    pub fn new(broken: Vec<Broken>, deaths: &[Death], notice: Duration) -> Self {
        let (forgiven, broken): (Vec<_>, _) =
            broken.into_iter().partition(|broken| deaths.iter().any(|death| death.explains(broken, notice)));
        Self { broken, forgiven: forgiven.len() }
    }

    /// The first of the broken connections, in words.
    pub fn describe(&self) -> String {
        const SHOWN: usize = 10;
        let mut lines = vec![format!("{} broken connections", self.broken.len())];
        lines.extend(self.broken.iter().take(SHOWN).map(|broken| format!("  {broken}")));
        if self.broken.len() > SHOWN {
            lines.push("  ...".to_owned());
        }
        lines.join("\n")
    }
}

impl Death {
    fn explains(&self, broken: &Broken, notice: Duration) -> bool {
        let notice = u64::try_from(notice.as_millis()).unwrap_or(u64::MAX);
        let was_there = broken.opened_ms <= self.until_ms && broken.broken_ms >= self.from_ms;
        was_there
            && match &broken.backend {
                Some(backend) => *backend == self.backend && broken.broken_ms <= self.until_ms.saturating_add(notice),
                // It may have been about to become the dead one's.
                None => true,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::HeldKind;

    #[test]
    fn a_death_explains_what_was_on_the_backend_or_about_to_be() {
        let death = Death { backend: "b1".into(), from_ms: 1000, until_ms: 1100 };
        let cases = [
            ("on it before, noticed after", Some("b1"), 500, 1500, true),
            ("opened meanwhile", Some("b1"), 1050, 1200, true),
            ("on another one", Some("b2"), 500, 1500, false),
            ("opened after", Some("b1"), 1101, 1500, false),
            ("broken before", Some("b1"), 500, 999, false),
            ("noticed too late", Some("b1"), 500, 2101, false),
            ("on nobody yet, opened meanwhile", None, 1050, 1200, true),
            ("on nobody yet, opened after", None, 1101, 1200, false),
            ("on nobody yet, broken before", None, 500, 999, false),
        ];
        for (case, backend, opened_ms, broken_ms, is_forgiven) in cases {
            let backend = backend.map(str::to_owned);
            let broken =
                Broken { kind: HeldKind::Idle, backend, port: None, opened_ms, broken_ms, cause: String::new() };
            let judgement = Judgement::new(vec![broken], std::slice::from_ref(&death), Duration::from_secs(1));
            assert_eq!(judgement.forgiven == 1, is_forgiven, "{case}");
            assert_eq!(judgement.broken.len() == 1, !is_forgiven, "{case}");
        }
    }
}
