//! `lbctl affinity`: which server a client stays with, and how one is forgotten.

use std::net::IpAddr;

use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};
use hyper::Method;
use lb_userspace::{
    api::{Client, ClientError, ClientView, ClientsView},
    model::counted,
};

use super::{
    Output, encode, show,
    tables::{self, whole_seconds},
};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// The clients that stay with their servers, in services with [service.affinity].
    #[command(
        after_help = "BACKEND      the service's backend that is the server: - if it has none there, and with (takes no new flows) if the
             client's next flow gets another server.
LAST FLOW    how long ago the client's last new flow came.
FOR ANOTHER  for how long it stays, if no other one comes."
    )]
    List(List),
    /// Let a client's next flow get its server by the algorithm. The flows that it has stay where they are.
    Forget {
        /// The client's address, or one of its network where a prefix counts.
        client: IpAddr,
        #[command(flatten)]
        scope: Scope,
    },
}

#[derive(Args)]
pub(crate) struct List {
    #[command(flatten)]
    scope: Scope,
    /// Only the client with this address, or that this address is a part of.
    #[arg(long, value_name = "ADDRESS")]
    client: Option<IpAddr>,
    /// List so many at most.
    #[arg(long, default_value_t = 1000, allow_negative_numbers = true)]
    limit: usize,
}

#[derive(Args)]
pub(crate) struct Scope {
    /// Only of this service.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    service: Option<String>,
    /// Only of services in this group. They share what they know.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    group: Option<String>,
}

impl Scope {
    fn filters(self) -> [(&'static str, Option<String>); 2] {
        [("service", self.service), ("group", self.group)]
    }
}

pub(crate) async fn run(client: &Client, command: Command, output: Output) -> Result<(), ClientError> {
    match command {
        Command::List(List { scope, client: address, limit }) => {
            let more = [("client", address.map(|address| address.to_string())), ("limit", Some(limit.to_string()))];
            let path = with_query("/v1/affinity", scope.filters().into_iter().chain(more));
            let found: ClientsView = client.get(&path).await?;
            show(output, &found, clients_text);
        }
        Command::Forget { client: address, scope } => {
            let path = with_query(&format!("/v1/affinity/{}", encode(&address.to_string())), scope.filters());
            let forgotten: Vec<ClientView> = client.send(Method::DELETE, &path, &()).await?;
            show(output, &forgotten, |forgotten| forgotten.iter().map(forgotten_text).collect::<Vec<_>>().join("\n"));
        }
    }
    Ok(())
}

fn with_query(path: &str, filters: impl IntoIterator<Item = (&'static str, Option<String>)>) -> String {
    let filters = filters.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", encode(&value?))));
    format!("{path}?{}", filters.collect::<Vec<_>>().join("&"))
}

fn forgotten_text(client: &ClientView) -> String {
    format!("{}: {} is forgotten; it stayed with {}", client.service, client.client, server(client))
}

/// A server, for people.
pub(crate) fn server(ClientView { server, backend, takes_new_flows, .. }: &ClientView) -> String {
    match backend {
        Some(backend) if *takes_new_flows => backend.clone(),
        Some(backend) => format!("{backend} (takes no new flows)"),
        None => format!("{server}, which is no backend"),
    }
}

fn clients_text(found: &ClientsView) -> String {
    if found.total == 0 {
        return "no client is known that stays with a server".to_owned();
    }
    let mut table = tables::table(&["SERVICE", "GROUP", "CLIENT", "SERVER", "BACKEND", "LAST FLOW", "FOR ANOTHER"]);
    for client in &found.clients {
        table.add_row([
            client.service.clone(),
            client.group.clone().unwrap_or_else(|| "-".to_owned()),
            client.client.clone(),
            client.server.to_string(),
            client.backend.as_ref().map_or_else(|| "-".to_owned(), |_| server(client)),
            whole_seconds(client.last_flow),
            whole_seconds(client.remaining),
        ]);
    }
    let listed = found.clients.len();
    let all = if listed as u64 == found.total { String::new() } else { format!(", {listed} shown") };
    format!("{}\n\n{}{all}", tables::render(&table), counted(found.total, "client"))
}
