//! From a command to the datapath: a daemon with 1,000 services of ten backends each is told to change one, or all.

use std::{
    fmt::Write as _,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use hyper::Method;
use lb_tests::lab::{Lab, config::node_config, unique_name, wait_for};
use lb_userspace::{
    api::{BackendPatch, Client},
    model::{Admin, Applied},
};

use crate::CaseResult;

const SERVICES: u32 = 1000;
const BACKENDS: usize = 10;
/// Commands of each kind.
const COMMANDS: u32 = 300;

pub(crate) fn run() -> Result<Vec<CaseResult>> {
    let lab = Lab::builder(&unique_name("bench-daemon")).backends(BACKENDS).build()?;
    let mut config = node_config(lab.balancer("lb"));
    for number in 0..SERVICES {
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() + number);
        write!(
            config,
            "\n[[service]]\nname = \"s{number}\"\naddress = \"{address}:80\"\nprotocol = \"tcp\"\nforwarding = \"l2-dsr\"\n"
        )?;
        for backend in lab.backends() {
            write!(config, "[[service.backend]]\nname = \"{}\"\naddress = \"{}\"\n", backend.name(), backend.ipv4())?;
        }
    }
    lab.write_config(&config)?;
    let _lbd = lab.start_lbd()?;
    wait_for("all backends up", Duration::from_mins(1), || {
        let up = lab.status()?.backends.get("up").copied().unwrap_or_default();
        Ok((up == usize::try_from(SERVICES)? * BACKENDS).then_some(()))
    })?;
    let client = Client::new(&lab.paths().socket());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut cases = Vec::new();
        for (what, patch, back) in [
            ("weight", BackendPatch::Weight(3), BackendPatch::Weight(1)),
            ("drain", BackendPatch::Admin(Admin::Draining), BackendPatch::Admin(Admin::Enabled)),
            ("disable", BackendPatch::Admin(Admin::Disabled), BackendPatch::Admin(Admin::Enabled)),
        ] {
            let mut one = Vec::new();
            for number in 0..COMMANDS {
                let path = |patch: &BackendPatch| (format!("/v1/backends/b3?service=s{}", number * 3), patch.clone());
                for (path, patch) in [path(&patch), path(&back)] {
                    one.push(time(&client, &path, &patch).await.with_context(|| path.clone())?);
                }
            }
            cases.push(CaseResult::new(format!("change/{what}/1-of-1000-services"), one));
            let mut all = Vec::new();
            for _ in 0..COMMANDS / 30 {
                for patch in [&patch, &back] {
                    all.push(time(&client, "/v1/backends/b3", patch).await?);
                }
            }
            cases.push(CaseResult::new(format!("change/{what}/all-1000-services"), all));
        }
        Ok(cases)
    })
}

/// Milliseconds until the daemon says that the change is in the datapath.
async fn time(client: &Client, path: &str, patch: &BackendPatch) -> Result<f64> {
    let started = Instant::now();
    let applied: Vec<Applied> = client.send(Method::PATCH, path, patch).await?;
    anyhow::ensure!(!applied.is_empty(), "{path}: nothing was changed");
    Ok(started.elapsed().as_secs_f64() * 1e3)
}
