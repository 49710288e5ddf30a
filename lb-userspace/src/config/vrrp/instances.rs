//! The rules between instances: what each has for itself, and what the members of a group have in common.

use std::collections::HashMap;
use std::net::IpAddr;

use super::Vrrp;
use super::address::family;
use crate::config::MAX_VRRP;
use crate::config::error::Problem;
use crate::config::service::Tally;
use crate::config::table::{Table, Taken};

/// What may be used once in a file, by one instance.
#[derive(Default)]
pub(super) struct Used {
    pub(super) names: Taken<String>,
    /// The virtual addresses, and the instance that has each.
    pub(super) addresses: HashMap<IpAddr, String>,
}

/// Reads the tables. Those of the services are read already.
pub(in crate::config) fn read(tables: Vec<Table<'_>>, services: &Tally<'_>) -> Vec<Vrrp> {
    let service_names = services.names();
    let mut used = Used::default();
    let mut instances = Vec::with_capacity(tables.len());
    for (index, mut table) in tables.into_iter().enumerate() {
        let vrrp = Vrrp::read(&mut table, &mut used, &service_names);
        if index == MAX_VRRP {
            table.reject_table(Problem::new(
                format!("there are more than {MAX_VRRP} VRRP instances"),
                "remove this one and those below, or put their addresses into those above",
            ));
        }
        if let Some(vrrp) = vrrp {
            check_router_id(&table, &vrrp, &instances);
            check_virtual_mac(&table, &vrrp, &instances);
            check_sync_group(&table, &vrrp, &instances);
            check_announced(&table, &vrrp, services);
            instances.push(vrrp);
        }
        table.finish();
    }
    instances
}

/// Checks that no other instance is the same virtual router.
fn check_router_id(table: &Table<'_>, vrrp: &Vrrp, others: &[Vrrp]) {
    let family_of = |vrrp: &Vrrp| vrrp.addresses.first().map(|first| family(first.address));
    let same = others.iter().find(|other| {
        other.router_id == vrrp.router_id && other.interface == vrrp.interface && family_of(other) == family_of(vrrp)
    });
    if let (Some(other), Some(family)) = (same, family_of(vrrp)) {
        table.reject(
            "router_id",
            Problem::new(
                format!(
                    "router_id {} is that of VRRP instance {:?} on {:?} in {family} already",
                    vrrp.router_id, other.name, vrrp.interface
                ),
                "write another router_id, or put the addresses into one instance",
            ),
        );
    }
}

/// Checks that no other instance has the same virtual MAC address: the datapath knows one interface for each.
fn check_virtual_mac(table: &Table<'_>, vrrp: &Vrrp, others: &[Vrrp]) {
    let same = others.iter().find(|other| {
        other.virtual_mac
            && other.router_id == vrrp.router_id
            && other.is_ipv4() == vrrp.is_ipv4()
            && other.interface != vrrp.interface
    });
    if let Some(other) = same.filter(|_| vrrp.virtual_mac) {
        table.reject(
            "router_id",
            Problem::new(
                format!("router_id {} makes the virtual MAC address of {:?}, too", vrrp.router_id, other.name),
                "write another router_id: the MAC address follows from it",
            ),
        );
    }
}

/// Checks that the members of a group would be master at the same times, had they no group.
fn check_sync_group(table: &Table<'_>, vrrp: &Vrrp, others: &[Vrrp]) {
    let Some(group) = &vrrp.sync_group else { return };
    let Some(first) = others.iter().find(|other| other.sync_group.as_ref() == Some(group)) else { return };
    for ((key, expected), (_, found)) in succession(first).into_iter().zip(succession(vrrp)) {
        if found != expected {
            table.reject(
                key,
                Problem::new(
                    format!("{key} is {found}, and {expected} in {:?} of the same sync_group", first.name),
                    format!("write {key} = {expected}, or another sync_group: members that differ fight each other"),
                ),
            );
        }
    }
}

/// The keys that say who is master when, and their values as in the file.
fn succession(vrrp: &Vrrp) -> [(&'static str, String); 4] {
    [
        ("priority", vrrp.priority.to_string()),
        ("state", format!("\"{}\"", vrrp.initial_state)),
        ("preempt", vrrp.preempt.to_string()),
        ("preempt_delay", format!("\"{}\"", humantime::format_duration(vrrp.preempt_delay))),
    ]
}

/// Checks that no service puts a virtual address on this node, be it master or not.
fn check_announced(table: &Table<'_>, vrrp: &Vrrp, services: &Tally<'_>) {
    for address in vrrp.addresses.iter().map(|address| address.address) {
        for place in services.announcing(address) {
            place.reject(Problem::new(
                format!("announce puts {address} on an interface, and so does {}", table.subject()),
                "remove announce, and interface with it: VRRP puts the address on the interface of the master",
            ));
        }
    }
}
