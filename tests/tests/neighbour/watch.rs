//! A resolver under test, and what it has reported.

use std::{collections::HashMap, net::IpAddr};

use anyhow::{Context as _, Result, bail, ensure};
use lb_userspace::neighbour::{Egress, Gateways, NextHop, Resolution, Resolver, ResolverHandle};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};

use crate::support::{SOON, address};

/// A resolver, and the last report of each target.
pub(crate) struct Watch {
    handle: ResolverHandle,
    reports: mpsc::Receiver<(IpAddr, Resolution)>,
    last: HashMap<IpAddr, Resolution>,
}

impl Watch {
    /// A resolver without fixed gateways.
    pub(crate) fn start(targets: &[&str]) -> Self {
        Self::start_with(Gateways::new(), targets)
    }

    pub(crate) fn start_with(gateways: Gateways, targets: &[&str]) -> Self {
        let (handle, reports) = Resolver::start(gateways);
        let watch = Self { handle, reports, last: HashMap::new() };
        watch.set_targets(targets);
        watch
    }

    pub(crate) fn set_targets(&self, targets: &[&str]) {
        self.handle.set_targets(targets.iter().copied().map(address).collect());
    }

    pub(crate) fn set_gateways(&self, gateways: Gateways) {
        self.handle.set_gateways(gateways);
    }

    /// Waits until the last report of a target is as wanted.
    pub(crate) async fn until(&mut self, target: &str, wanted: impl Fn(&Resolution) -> bool) -> Result<()> {
        let target = address(target);
        let deadline = Instant::now() + SOON;
        while !self.last.get(&target).is_some_and(&wanted) {
            let Ok(report) = timeout_at(deadline, self.reports.recv()).await else {
                bail!("after {SOON:?}, {target} is still {:?}", self.last.get(&target));
            };
            let (reported, resolution) = report.context("the resolver has ended")?;
            self.last.insert(reported, resolution);
        }
        Ok(())
    }

    /// Waits until a target is reached by a link, and says how.
    pub(crate) async fn egress(&mut self, target: &str) -> Result<Egress> {
        self.until(target, |last| egress(last).is_some()).await?;
        let last = self.last.get(&address(target)).and_then(egress);
        Ok(last.context("it has just been reported")?.clone())
    }

    pub(crate) async fn until_mac(&mut self, target: &str, wanted: [u8; 6]) -> Result<()> {
        self.until(target, |last| egress(last).is_some_and(|egress| egress.destination_mac == wanted)).await
    }

    pub(crate) async fn until_local(&mut self, target: &str) -> Result<()> {
        self.until(target, |last| *last == Ok(NextHop::Local)).await
    }

    /// Waits until a target has no next hop, for a reason that contains these words.
    pub(crate) async fn until_unresolved(&mut self, target: &str, reason: &str) -> Result<()> {
        self.until(target, |last| last.as_ref().is_err_and(|error| error.to_string().contains(reason))).await
    }

    /// Fails if there has been a report that nobody has waited for.
    pub(crate) fn ensure_no_news(&mut self) -> Result<()> {
        let report = self.reports.try_recv();
        ensure!(report.is_err(), "nothing has changed, but {report:?}");
        Ok(())
    }

    /// Ends the resolver, and waits until it has put the neighbour table in order.
    pub(crate) async fn stop(mut self) -> Result<()> {
        drop(self.handle);
        let ended = async { while self.reports.recv().await.is_some() {} };
        timeout(SOON, ended).await.context("the resolver has not ended")
    }
}

fn egress(resolution: &Resolution) -> Option<&Egress> {
    match resolution {
        Ok(NextHop::Via(egress)) => Some(egress),
        _ => None,
    }
}
