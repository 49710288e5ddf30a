use lb_common::{BackendId, BackendRow, RowIndex};

use super::service::Admin;
use crate::{
    config,
    health::{Health, Report},
    schedule,
};

/// A backend of one service.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) spec: config::Backend,
    pub(super) admin: Admin,
    pub(super) id: BackendId,
    /// Its row in the datapath: with one, its next hop is known.
    pub(super) row: Option<(RowIndex, BackendRow)>,
    /// Why it has no row.
    pub(super) unresolved: Option<String>,
    /// What the last probe said; `None` before the first, and without a check.
    pub(super) report: Option<Report<BackendId>>,
    pub(super) health: Checked,
}

/// What is known of a backend's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checked {
    /// The service has no check: the backend counts as healthy.
    Unchecked,
    /// By its check.
    By(Health),
}

impl Backend {
    /// Whether it can take flows.
    pub(super) fn is_usable(&self) -> bool {
        self.admin == Admin::Enabled
            && self.row.is_some()
            && matches!(self.health, Checked::Unchecked | Checked::By(Health::Up))
    }

    /// Its part in the slot table.
    pub(super) fn member(&self) -> schedule::Member {
        schedule::Member {
            name: self.spec.address.to_string().into_bytes(),
            weight: if self.is_usable() { self.spec.weight } else { 0 },
        }
    }
}
