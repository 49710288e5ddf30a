//! Showing the results.

use lb_tests::{
    benchmark::{Machine, Output, Table, Target},
    lab::rivals,
};
use serde::Serialize;

use crate::{packets::PathResult, targets, tcp::TcpResult};

/// All results of a run.
#[derive(Serialize)]
pub(crate) struct Report {
    machine: Machine,
    /// Names and versions of the rivals.
    rivals: Vec<String>,
    pub(crate) packets: Vec<PathResult>,
    pub(crate) tcp: Vec<TcpResult>,
    targets: Vec<Target>,
}

impl Report {
    pub(crate) fn new(machine: Machine, packets: Vec<PathResult>, tcp: Vec<TcpResult>) -> Self {
        let programs = [("HAProxy", "haproxy"), ("nginx", "nginx"), ("nftables", "nft")];
        let rivals = programs
            .into_iter()
            .filter_map(|(name, program)| Some(format!("{name} {}", rivals::version(program, "-v")?)))
            .collect();
        let targets = targets::of(&packets, &tcp);
        Self { machine, rivals, packets, tcp, targets }
    }

    pub(crate) fn print(&self, output: &Output) {
        println!("{}, {}", self.machine, self.rivals.join(", "));
        if !self.packets.is_empty() {
            println!("\n{}", output.render(&self.packet_table()));
        }
        if !self.tcp.is_empty() {
            println!("\n{}", output.render(&self.tcp_table()));
        }
        if !self.targets.is_empty() {
            println!("\n{}", output.render(&Target::table(&self.targets)));
        }
    }

    fn packet_table(&self) -> Table {
        let header =
            ["way", "flows", "forwarded by", "packets/s", "of the reflector", "CPU", "minimum", "own share", "lost"];
        let mut table = Table::new(3, &header);
        for PathResult { network, path, flows, standing, lost } in &self.packets {
            table.push(vec![
                network.name().to_owned(),
                flows.name().to_owned(),
                path.clone(),
                format!("{:.0}", standing.rate),
                format!("{:.0} %", standing.rate_ratio * 100.0),
                nanoseconds(standing.cost),
                nanoseconds(standing.min_cost),
                nanoseconds(standing.own_cost),
                format!("{:.2} %", lost * 100.0),
            ]);
        }
        table
    }

    fn tcp_table(&self) -> Table {
        let header =
            ["case", "by way of", "a second", "p50", "p99", "CPU", "own share", "of the machine", "node", "failed"];
        let mut table = Table::new(2, &header);
        for TcpResult { case, contender, standing, machine, node_us, p50_us, p99_us, failed } in &self.tcp {
            let figures = [*p50_us, *p99_us, standing.cost, standing.own_cost, machine.own_cost].map(microseconds);
            let head = vec![(*case).to_owned(), contender.clone(), format!("{:.0}", standing.rate)];
            let node = node_us.map_or_else(|| "–".to_owned(), microseconds);
            table.push([head, figures.into(), vec![node, failed.to_string()]].concat());
        }
        table
    }
}

fn nanoseconds(nanoseconds: f64) -> String {
    format!("{nanoseconds:.0} ns")
}

fn microseconds(microseconds: f64) -> String {
    format!("{microseconds:.1} µs")
}
