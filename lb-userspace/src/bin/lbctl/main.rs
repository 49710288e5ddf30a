//! The command line that drives a running `lbd`.

mod tables;
mod vrrp;

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use hyper::Method;
use lb_userspace::{
    api::{BackendPatch, Client, ClientError, FlowView, NewBackend, StatsView, StatusView},
    model::{Admin, Applied, ServiceView},
};
use serde::Serialize;

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
    /// Which backend a flow goes to. A service with a hash algorithm keeps no list of its flows: the slot says it.
    Flows {
        /// The service.
        service: String,
        /// The client's address and port.
        #[arg(long, value_name = "ADDRESS:PORT")]
        client: SocketAddr,
        /// The destination port, for a service of all ports.
        #[arg(long)]
        port: Option<u16>,
    },
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
        /// The backend's address.
        address: String,
        /// Its name; the address if not given.
        #[arg(long)]
        name: Option<String>,
        /// Its weight; 1 if not given.
        #[arg(long)]
        weight: Option<u16>,
    },
    /// Remove a backend.
    Remove(Which),
    /// Change a backend's weight.
    Weight {
        #[command(flatten)]
        which: Which,
        /// The new weight; 0 takes no flows.
        weight: u16,
    },
    /// Give a backend no new flows. Flows are not tracked yet: those that it has go to other backends, too.
    Drain(Which),
    /// Give a backend flows again.
    Enable(Which),
    /// Give a backend no packets, and do not check it.
    Disable(Which),
}

#[derive(Args)]
struct Which {
    /// The backend's name or address.
    backend: String,
    /// Only in this service.
    #[arg(long)]
    service: Option<String>,
}

impl Which {
    fn path(&self) -> String {
        let query = self.service.as_ref().map_or(String::new(), |service| format!("?service={}", encode(service)));
        format!("/v1/backends/{}{query}", encode(&self.backend))
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
        Command::Flows { service, client: from, port } => {
            let port = port.map_or(String::new(), |port| format!("&port={port}"));
            let path = format!("/v1/flow?service={}&client={}{port}", encode(&service), encode(&from.to_string()));
            let flow: FlowView = client.get(&path).await?;
            show(output, &flow, tables::flow);
        }
        Command::Vrrp(command) => vrrp::run(client.socket(), command, output).await?,
        Command::Reload => {
            let () = client.send(Method::POST, "/v1/reload", &()).await?;
            show(output, &(), |()| "reloaded".to_owned());
        }
    }
    Ok(())
}

async fn backend(client: &Client, command: BackendCommand, output: Output) -> Result<(), ClientError> {
    let (applied, what): (Vec<Applied>, String) = match command {
        BackendCommand::List { service } => {
            let services = services_of(client, service.as_deref()).await?;
            show(output, &services, |services| tables::backends(services));
            return Ok(());
        }
        BackendCommand::Add { service, address, name, weight } => {
            let path = format!("/v1/services/{}/backends", encode(&service));
            (client.send(Method::POST, &path, &NewBackend { name, address, weight }).await?, "added".to_owned())
        }
        BackendCommand::Remove(which) => (client.send(Method::DELETE, &which.path(), &()).await?, "removed".to_owned()),
        BackendCommand::Weight { which, weight } => {
            let patch = BackendPatch::Weight(weight);
            (client.send(Method::PATCH, &which.path(), &patch).await?, format!("weight {weight}"))
        }
        BackendCommand::Drain(which) => (
            set_admin(client, &which, Admin::Draining).await?,
            "draining; its slots, and the flows in them, went to the others".to_owned(),
        ),
        BackendCommand::Enable(which) => (set_admin(client, &which, Admin::Enabled).await?, "enabled".to_owned()),
        BackendCommand::Disable(which) => (set_admin(client, &which, Admin::Disabled).await?, "disabled".to_owned()),
    };
    show(output, &applied, |applied| {
        let line = |Applied { service, backend }: &Applied| format!("{service}/{backend}: {what}");
        applied.iter().map(line).collect::<Vec<_>>().join("\n")
    });
    Ok(())
}

async fn set_admin(client: &Client, which: &Which, admin: Admin) -> Result<Vec<Applied>, ClientError> {
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
