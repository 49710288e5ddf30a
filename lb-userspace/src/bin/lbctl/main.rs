//! The command line that drives a running `lbd`.

mod affinity;
mod flows;
mod leaving;
mod tables;
mod vrrp;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand, ValueEnum, builder::NonEmptyStringValueParser};
use hyper::Method;
use lb_userspace::{
    api::{BackendPatch, ChangedView, Client, ClientError, NewBackend, ReloadedView, StatsView, StatusView},
    config::DrainTimeout,
    model::{Admin, ServiceView},
};
use serde::Serialize;

use self::leaving::Leaving;

/// Drives a running lbd.
///
/// A change is in the datapath when the command returns.
#[derive(Parser)]
#[command(
    name = "lbctl",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done; 1 refused or failed, nothing was changed unless the message says so; 2 wrong \
                  usage; 3 invalid configuration; 4 lbd cannot be reached."
)]
struct Options {
    /// The socket of lbd.
    #[arg(long, global = true, env = "LB_SOCKET", value_name = "PATH", default_value = "/run/lb/lb.sock")]
    socket: PathBuf,
    /// Tables for people, or JSON for programs.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// How lbd is, and what is not as it should be.
    Status,
    /// Services.
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Backends. One is named by its name or its address, in all services that have it or in the one of --service.
    #[command(subcommand)]
    Backend(BackendCommand),
    /// Counters: packets per verdict, traffic per service and backend.
    Stats,
    /// The flows that are remembered, or where the flow of one client goes.
    Flows(flows::Flows),
    /// What the slots of a service do: how many are settled, which move, why and until when.
    Slots {
        /// The service.
        service: String,
    },
    /// Clients that stay with the server that they had before.
    #[command(subcommand)]
    Affinity(affinity::Command),
    /// Virtual addresses that move between nodes.
    #[command(subcommand)]
    Vrrp(vrrp::Command),
    /// Read the configuration file again. An invalid one changes nothing.
    Reload,
}

#[derive(Subcommand)]
enum ServiceCommand {
    /// All services.
    List,
    /// One service and its backends.
    Show {
        /// Its name.
        service: String,
    },
}

#[derive(Subcommand)]
enum BackendCommand {
    /// The backends of all services, or of one.
    List {
        /// Only of this service.
        #[arg(long)]
        service: Option<String>,
    },
    /// Add a backend to a service.
    Add {
        /// The service.
        service: String,
        /// The backend's address: not a virtual IP of this node, nor a loopback address.
        address: String,
        /// Its name; the address if not given. Not the address of another backend.
        #[arg(long)]
        name: Option<String>,
        /// Its weight; 1 if not given.
        #[arg(long, allow_negative_numbers = true)]
        weight: Option<u16>,
        /// How many connections it may have before new ones go elsewhere; any number if not given.
        #[arg(long, value_name = "N")]
        max_connections: Option<u32>,
        /// Its server id in hexadecimal digits, if the service has QUIC connection ids that name their server.
        #[arg(long)]
        server_id: Option<String>,
    },
    /// Remove a backend. It gets no new flows, and keeps those that it has until they end, or for as long as the service lets
    /// it (`drain_timeout`).
    Remove(Leave),
    /// Change a backend's weight.
    Weight {
        #[command(flatten)]
        which: Which,
        /// The new weight; 0 takes no flows.
        #[arg(allow_negative_numbers = true)]
        weight: u16,
    },
    /// Give a backend no new flows. It keeps those that it has until they end, or for as long as the service lets it
    /// (`drain_timeout`).
    Drain(Leave),
    /// Give a backend flows again.
    Enable(Which),
    /// Give a backend no packets, not even those of its flows, and do not check it.
    Disable(Which),
}

#[derive(Args)]
struct Leave {
    #[command(flatten)]
    which: Which,
    /// How long it may keep its flows, as in 10m, up to 24h; none is as long as they live. 0s cuts them at once. If not given: what
    /// was said before of one that drains or was removed already, else the service's `drain_timeout`.
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    deadline: Option<DrainTimeout>,
    /// Wait until no flow is left, or the deadline has come. Ends with 1 if somebody enables, disables or adds the backend again
    /// meanwhile.
    #[arg(long)]
    wait: bool,
}

#[derive(Args)]
struct Which {
    /// The backend's name or address.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    backend: String,
    /// Only in this service.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    service: Option<String>,
}

impl Which {
    fn path(&self) -> String {
        let query = self.service.as_ref().map_or(String::new(), |service| format!("?service={}", encode(service)));
        format!("/v1/backends/{}{query}", encode(&self.backend))
    }
}

impl Leave {
    fn removal_path(&self) -> String {
        let path = self.which.path();
        let separator = if path.contains('?') { '&' } else { '?' };
        self.deadline
            .map_or(path.clone(), |deadline| format!("{path}{separator}timeout={}", encode(&deadline.to_string())))
    }

    /// Says what was done, after the wait if one is asked for.
    async fn finish(
        &self,
        client: &Client,
        changed: Vec<ChangedView>,
        leaving: Leaving,
        output: Output,
    ) -> Result<(), ClientError> {
        let standing = |backend: &ChangedView| if backend.admin.is_some() { "draining" } else { "removed" };
        if !self.wait {
            let hint = "`lbctl backend list` shows the flows that are left";
            say(output, &changed, |index| format!("{}; {hint}", standing(&changed[index])));
            return Ok(());
        }
        warn(output, &warnings_of(&changed));
        let ended = leaving::wait(client, leaving, changed).await?;
        let outcome =
            |backend: &leaving::Waiting| Some(format!("{}, and {}", standing(&backend.seen), backend.outcome()?.ok()?));
        let outcomes: Vec<String> = ended.iter().filter_map(outcome).collect();
        let left: Vec<leaving::Left> = ended.into_iter().filter_map(leaving::Waiting::left).collect();
        show(output, &left, |left| lines_of(left.iter().map(|left| &left.backend), |index| outcomes[index].clone()));
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = Options::parse();
    let client = Client::new(&options.socket);
    match run(&client, options.command, options.output).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lbctl: {error}");
            ExitCode::from(match error {
                ClientError::Refused(_) | ClientError::NoAnswer(_) => 1,
                ClientError::Usage(_) => 2,
                ClientError::Configuration(_) => 3,
                ClientError::Unreachable { .. } | ClientError::Hangs { .. } => 4,
            })
        }
    }
}

async fn run(client: &Client, command: Command, output: Output) -> Result<(), ClientError> {
    match command {
        Command::Status => {
            let status: StatusView = client.get("/v1/status").await?;
            show(output, &status, tables::status);
        }
        Command::Service(ServiceCommand::List) => {
            let services: Vec<ServiceView> = client.get("/v1/services").await?;
            show(output, &services, |services| tables::services(services));
        }
        Command::Service(ServiceCommand::Show { service }) => {
            let services = services_of(client, Some(&service)).await?;
            show(output, &services, |services| tables::service_details(services));
        }
        Command::Backend(command) => backend(client, command, output).await?,
        Command::Stats => {
            let stats: StatsView = client.get("/v1/stats").await?;
            show(output, &stats, tables::stats);
        }
        Command::Flows(flows) => flows::flows(client, flows, output).await?,
        Command::Slots { service } => flows::slots(client, &service, output).await?,
        Command::Affinity(command) => affinity::run(client, command, output).await?,
        Command::Vrrp(command) => vrrp::run(client.socket(), command, output).await?,
        Command::Reload => {
            let reloaded: ReloadedView = client.send(Method::POST, "/v1/reload", &()).await?;
            warn(output, &reloaded.warnings);
            show(output, &reloaded, |_| "reloaded".to_owned());
        }
    }
    Ok(())
}

async fn backend(client: &Client, command: BackendCommand, output: Output) -> Result<(), ClientError> {
    let (changed, what): (Vec<ChangedView>, String) = match command {
        BackendCommand::List { service } => {
            let services = services_of(client, service.as_deref()).await?;
            show(output, &services, |services| tables::backends(services));
            return Ok(());
        }
        BackendCommand::Add { service, address, name, weight, max_connections, server_id } => {
            let path = format!("/v1/services/{}/backends", encode(&service));
            let backend = NewBackend { name, address, weight, max_connections, server_id };
            (client.send(Method::POST, &path, &backend).await?, "added".to_owned())
        }
        BackendCommand::Remove(leave) => {
            let path = leave.removal_path();
            let changed = client.send(Method::DELETE, &path, &()).await?;
            return leave.finish(client, changed, Leaving::Removed, output).await;
        }
        BackendCommand::Weight { which, weight } => {
            let patch = BackendPatch::Weight(weight);
            (client.send(Method::PATCH, &which.path(), &patch).await?, format!("weight {weight}"))
        }
        BackendCommand::Drain(leave) => {
            let patch = match leave.deadline {
                Some(timeout) => BackendPatch::Drain { timeout },
                None => BackendPatch::Admin(Admin::Draining),
            };
            let changed = client.send(Method::PATCH, &leave.which.path(), &patch).await?;
            return leave.finish(client, changed, Leaving::Drains, output).await;
        }
        BackendCommand::Enable(which) => (set_admin(client, &which, Admin::Enabled).await?, "enabled".to_owned()),
        BackendCommand::Disable(which) => (set_admin(client, &which, Admin::Disabled).await?, "disabled".to_owned()),
    };
    say(output, &changed, |_| what.clone());
    Ok(())
}

/// Says what was done to each backend, by its index, and what the operator should know besides.
fn say(output: Output, changed: &[ChangedView], what: impl Fn(usize) -> String) {
    warn(output, &warnings_of(changed));
    show_changed(output, changed, what);
}

fn show_changed(output: Output, changed: &[ChangedView], what: impl Fn(usize) -> String) {
    show(output, &changed, |changed| lines_of(changed.iter(), what));
}

fn lines_of<'a>(changed: impl Iterator<Item = &'a ChangedView>, what: impl Fn(usize) -> String) -> String {
    let line = |(index, ChangedView { service, backend, .. }): (usize, &ChangedView)| {
        format!("{service}/{backend}: {}", what(index))
    };
    changed.enumerate().map(line).collect::<Vec<_>>().join("\n")
}

/// On standard error; programs find it in the JSON.
fn warn(output: Output, warnings: &[String]) {
    if output == Output::Table {
        for warning in warnings {
            let _ = writeln!(io::stderr(), "WARNING: {warning}");
        }
    }
}

fn warnings_of(changed: &[ChangedView]) -> Vec<String> {
    let warning =
        |ChangedView { service, warning, .. }: &ChangedView| Some(format!("service {service}: {}", warning.as_ref()?));
    changed.iter().filter_map(warning).collect()
}

async fn set_admin(client: &Client, which: &Which, admin: Admin) -> Result<Vec<ChangedView>, ClientError> {
    client.send(Method::PATCH, &which.path(), &BackendPatch::Admin(admin)).await
}

/// All services, or the one named.
async fn services_of(client: &Client, name: Option<&str>) -> Result<Vec<ServiceView>, ClientError> {
    let mut services: Vec<ServiceView> = client.get("/v1/services").await?;
    if let Some(name) = name {
        services.retain(|service| service.name == name);
        if services.is_empty() {
            return Err(ClientError::Refused(format!("there is no service {name:?}; `lbctl service list` shows them")));
        }
    }
    Ok(services)
}

fn show<T: Serialize>(output: Output, value: &T, table: impl FnOnce(&T) -> String) {
    let text = match output {
        Output::Table => table(value),
        Output::Json => serde_json::to_string_pretty(value).expect("what was read from JSON can be written as JSON"),
    };
    // Who closes the pipe early has seen enough.
    let _ = writeln!(io::stdout(), "{text}");
}

/// Percent-encodes what may not stand in a part of a URL (RFC 3986, section 2.1).
fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
