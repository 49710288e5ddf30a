//! Waiting until backends that drain, or were removed, have no flow left.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use lb_userspace::{
    api::{Client, ClientError},
    model::{Applied, BackendView, ServiceView},
};

/// How often it is looked at.
const PERIOD: Duration = Duration::from_millis(500);

/// Returns when none of `backends` has a flow left, as far as the balancer can know: no slot and no entry of the flow table
/// names it. Says on standard error how far it is.
pub(crate) async fn wait(client: &Client, backends: &[Applied]) -> Result<(), ClientError> {
    let mut said = String::new();
    loop {
        let services: Vec<ServiceView> = client.get("/v1/services").await?;
        let left: Vec<String> = backends.iter().filter_map(|backend| progress(&services, backend)).collect();
        let is_terminal = io::stderr().is_terminal();
        let now = left.join("; ");
        if now != said {
            said = now;
            let end = if is_terminal && !left.is_empty() { "\x1b[K\r" } else { "\n" };
            let text = if left.is_empty() { "no flow is left" } else { &said };
            // Who closed standard error does not want to know.
            let _ = write!(io::stderr(), "{text}{end}").and_then(|()| io::stderr().flush());
        }
        if left.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// What is left of the flows of a backend; `None` if nothing is.
fn progress(services: &[ServiceView], applied: &Applied) -> Option<String> {
    let service = services.iter().find(|service| service.name == applied.service)?;
    let backend = service.backends.iter().find(|backend| backend.address == applied.address)?;
    let BackendView { flows, slots, slots_left, hidden_flows, time_left, .. } = backend;
    let slots = slots + slots_left;
    // At its deadline its flows go elsewhere, and what the table still says of them is of no meaning.
    if (*flows == Some(0) && slots == 0 && !hidden_flows) || *time_left == Some(Duration::ZERO) {
        return None;
    }
    let time = time_left.map_or(String::new(), |left| {
        format!(", {} at most", humantime::format_duration(Duration::from_secs(left.as_secs())))
    });
    let flows = flows.map_or("flows not counted yet".to_owned(), |flows| format!("{flows} flows"));
    let hidden = if *hidden_flows { " and those that connection ids name" } else { "" };
    Some(format!("{}/{}: {flows}{hidden}, {slots} slots left{time}", applied.service, applied.backend))
}
