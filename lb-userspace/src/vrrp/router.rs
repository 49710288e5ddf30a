//! All virtual routers of this node: pure. It takes events, returns effects, and knows neither sockets nor clocks.
//!
//! It finds the instance that a packet is for, checks the packet (`reception.rs`), runs the state machines
//! (`instance.rs`), and keeps what they have in common: groups, counters, history.

mod member;
mod reception;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use self::{member::Member, reception::Discard};
use super::{
    instance::{Action, State},
    links::LinkState,
    priority::{self, Reading, Standing},
};
use crate::config;

/// A point in time, by both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For timers.
    pub instant: Instant,
    /// Since the Unix epoch: for seals, and for people.
    pub unix: Duration,
}

/// A packet of IP protocol 112.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// The interface that it came in by.
    pub ifindex: u32,
    /// The source of the IP header.
    pub source: IpAddr,
    /// The destination of the IP header.
    pub destination: IpAddr,
    /// Its TTL, or hop limit.
    pub ttl: u8,
    /// What follows the IP header.
    pub payload: &'a [u8],
}

/// What is to be done for the instance of that number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send this IP payload.
    Send {
        /// Which instance.
        instance: usize,
        /// The source of the IP header.
        source: IpAddr,
        /// The destination of the IP header.
        destination: IpAddr,
        /// The VRRP message.
        payload: Bytes,
    },
    /// Put its addresses on the interface.
    Acquire(usize),
    /// Tell the link so many times where its addresses are.
    Announce(usize, u8),
    /// Take its addresses off.
    Release(usize),
    /// Its state has changed.
    Changed(usize, Change),
}

/// A change of state, as it is remembered and told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// When, since the Unix epoch.
    pub at: Duration,
    /// The state before.
    pub from: Status,
    /// The state from then on.
    pub to: Status,
    /// Why.
    pub reason: String,
    /// The priority at that time.
    pub priority: u8,
}

/// What an instance is, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It has not started, or is ended.
    Stopped,
    /// It takes no part, because something that it needs is not there.
    Fault,
    /// It waits for the master to go silent.
    Backup,
    /// The addresses are here.
    Master,
}

impl Status {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Fault => "fault",
            Self::Backup => "backup",
            Self::Master => "master",
        }
    }
}

/// Why an operator's wish cannot be fulfilled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WishError {
    /// There is no such instance.
    #[error("there is no VRRP instance {name:?}; this node has {known}")]
    NoInstance {
        /// The name asked for.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// There is nothing to hand over.
    #[error("{name} is not master here but {status}: ask the node that is")]
    NotMaster {
        /// The instance.
        name: String,
        /// What it is.
        status: &'static str,
    },
}

/// All virtual routers of this node.
#[derive(Debug, Default)]
pub struct Router {
    members: Vec<Member>,
    /// By interface, router id, and whether it is IPv4.
    by_key: HashMap<(u32, u8, bool), usize>,
    /// Packets that no instance of this node is for, and those that cannot be read, by reason.
    strays: BTreeMap<&'static str, u64>,
    /// Says that all are to stop.
    stopping: bool,
}

impl Router {
    /// The instances of a configuration, none of which takes part yet: that needs their links and readings.
    pub fn new(instances: Vec<config::Vrrp>) -> Self {
        let members = instances.into_iter().map(Member::new).collect();
        Self { members, ..Self::default() }
    }

    /// The instances, by number.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Packets that were for no instance, by reason.
    pub fn strays(&self) -> &BTreeMap<&'static str, u64> {
        &self.strays
    }

    /// When [`Router::on_time`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.members.iter().filter_map(Member::next_deadline).min()
    }

    /// Does what is due.
    pub fn on_time(&mut self, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        for index in 0..self.members.len() {
            if self.members[index].next_deadline().is_some_and(|deadline| deadline <= now.instant) {
                self.wait_for_group(index, now.instant);
                let reason = self.members[index].reason("no better master was heard", now);
                let actions = self.members[index].instance.on_time(now.instant);
                self.carry_out(index, actions, reason, now, &mut effects);
                let again = self.members[index].announce_again(now.instant);
                effects.extend(again.map(|frames| Effect::Announce(index, frames)));
            }
        }
        effects
    }

    /// A group takes over when all of its instances would: as long as one of them hears the master, that one lives, and
    /// would be master of all again one packet later.
    fn wait_for_group(&mut self, index: usize, now: Instant) {
        let deadlines = self.group_of(index).into_iter().filter_map(|other| self.members[other].instance.master_down());
        if let Some(latest) = deadlines.max().filter(|latest| *latest > now) {
            self.members[index].instance.wait_until(latest, now);
        }
    }

    /// Takes in a packet.
    pub fn on_packet(&mut self, packet: Packet<'_>, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        let (advertisement, seal) = match reception::read(packet) {
            Ok(read) => read,
            Err(discard) => {
                self.stray(packet, discard, now);
                return effects;
            }
        };
        let key = (packet.ifindex, advertisement.router_id, packet.source.is_ipv4());
        let Some(&index) = self.by_key.get(&key) else {
            self.stray(packet, Discard::UnknownRouter, now);
            return effects;
        };
        let checked = self.members[index].check(packet, &advertisement, seal, now.unix);
        if let Ok(heard) = checked {
            let reason = format!("{} advertises priority {}", heard.source, heard.priority);
            let reason = self.members[index].reason(&reason, now);
            let actions = self.members[index].instance.on_advertisement(heard, now.instant);
            self.carry_out(index, actions, reason, now, &mut effects);
        }
        effects
    }

    /// Counts a packet that cannot be read or has no instance; where the router id can be guessed, with that instance.
    fn stray(&mut self, packet: Packet<'_>, discard: Discard, now: Now) {
        let guess = packet.payload.get(1).map(|id| (packet.ifindex, *id, packet.source.is_ipv4()));
        match guess.and_then(|key| self.by_key.get(&key)) {
            Some(&index) => self.members[index].count_discard(discard, packet.source, now.unix),
            None => *self.strays.entry(discard.name()).or_default() += 1,
        }
    }

    /// Whether an interface is another way than it was.
    pub fn is_news(&self, interface: &str, link: Option<&LinkState>) -> bool {
        self.members.iter().any(|member| member.is_news(interface, link))
    }

    /// Takes in what has become of an interface; `None` if it is gone.
    pub fn on_link(&mut self, interface: &str, link: Option<&LinkState>, now: Now) -> Vec<Effect> {
        let is_another = |member: &Member| {
            let known = (member.config.interface == interface).then(|| member.link()).flatten();
            known.zip(link).is_some_and(|(known, link)| known.ifindex != link.ifindex)
        };
        // Made anew, with the same name: the addresses went with the old one.
        let mut effects = Vec::new();
        if self.members.iter().any(is_another) {
            effects = self.on_link(interface, None, now);
        }
        for member in &mut self.members {
            member.see_link(interface, link);
        }
        self.find_keys();
        self.reconsider(now, &mut effects);
        effects
    }

    /// Takes in what has become of track number `track` of an instance.
    pub fn on_reading(&mut self, instance: usize, track: usize, reading: Reading, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.members[instance].set_reading(track, reading);
        self.reconsider(now, &mut effects);
        effects
    }

    /// Has an instance hand over, and its group with it.
    pub fn fail_over(&mut self, name: &str, now: Now) -> Result<Vec<Effect>, WishError> {
        let index = self.find(name)?;
        let status = self.members[index].status();
        if status != Status::Master {
            return Err(WishError::NotMaster { name: name.to_owned(), status: status.name() });
        }
        let mut effects = Vec::new();
        let reason = self.members[index].reason("handed over on request", now);
        let actions = self.members[index].instance.hand_over(now.instant);
        self.carry_out(index, actions, reason, now, &mut effects);
        Ok(effects)
    }

    /// Gives an instance, and its group, another priority than the configured one; `None` for that one again.
    pub fn set_priority(&mut self, name: &str, priority: Option<u8>, now: Now) -> Result<Vec<Effect>, WishError> {
        let index = self.find(name)?;
        for index in self.group_of(index) {
            self.members[index].override_priority = priority;
        }
        let mut effects = Vec::new();
        self.reconsider(now, &mut effects);
        Ok(effects)
    }

    /// Says farewell for instances that an earlier life of this process left as master.
    pub fn bury(&mut self, names: &[String], now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        for index in 0..self.members.len() {
            if names.contains(&self.members[index].config.name) {
                for action in self.members[index].instance.bury() {
                    self.act(index, action, now, &mut effects);
                }
            }
        }
        effects
    }

    /// Has all instances hand over, and stop once their successors are heard.
    pub fn stop(&mut self, now: Now) -> Vec<Effect> {
        self.stopping = true;
        let mut effects = Vec::new();
        for index in 0..self.members.len() {
            let actions = self.members[index].instance.hand_over(now.instant);
            self.carry_out(index, actions, "this node stops", now, &mut effects);
        }
        self.reconsider(now, &mut effects);
        effects
    }

    /// Whether [`Router::stop`] was called.
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Whether, after [`Router::stop`], nothing is left to do.
    pub fn is_stopped(&self) -> bool {
        self.stopping && self.members.iter().all(|member| member.instance.state() == State::Initialize)
    }

    /// Goes by another configuration from now on. Instances that stay the same in what others know them by go on.
    ///
    /// The numbers of the instances change: what the caller keeps by number is void. Those that are left out have said
    /// farewell and released their addresses by the effects of [`Router::retire`], which comes before.
    pub fn reconfigure(&mut self, instances: Vec<config::Vrrp>, now: Now) -> Vec<Effect> {
        let mut old: Vec<Member> = std::mem::take(&mut self.members);
        self.members = instances
            .into_iter()
            .map(|config| match old.iter().position(|member| member.can_become(&config)) {
                Some(index) => old.swap_remove(index).with_config(config),
                None => Member::new(config),
            })
            .collect();
        self.find_keys();
        let mut effects = Vec::new();
        self.reconsider(now, &mut effects);
        for index in 0..self.members.len() {
            if self.members[index].instance.state() == State::Master {
                // There may be new addresses: to put and announce all is to do so with those.
                self.act(index, Action::Acquire, now, &mut effects);
            }
        }
        effects
    }

    /// Ends the instances that cannot go on under another configuration.
    pub fn retire(&mut self, next: &[config::Vrrp], now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        for index in 0..self.members.len() {
            if !next.iter().any(|config| self.members[index].can_become(config)) {
                let actions = self.members[index].instance.shutdown();
                self.carry_out(index, actions, "left the configuration", now, &mut effects);
            }
        }
        effects
    }

    fn find_keys(&mut self) {
        let keys = self.members.iter().enumerate().filter_map(|(index, member)| Some((member.key()?, index)));
        self.by_key = keys.collect();
    }

    fn find(&self, name: &str) -> Result<usize, WishError> {
        self.members.iter().position(|member| member.config.name == name).ok_or_else(|| {
            let known: Vec<_> = self.members.iter().map(|member| format!("{:?}", member.config.name)).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            WishError::NoInstance { name: name.to_owned(), known }
        })
    }

    /// The instances that change state together with this one, itself among them.
    fn group_of(&self, index: usize) -> Vec<usize> {
        let group = &self.members[index].config.sync_group;
        let is_in = |(other, member): (usize, &Member)| {
            (other == index || group.is_some() && member.config.sync_group == *group).then_some(other)
        };
        self.members.iter().enumerate().filter_map(is_in).collect()
    }

    /// Starts, ends and re-weighs instances by what is known of links and tracks. What befalls one befalls its group.
    fn reconsider(&mut self, now: Now, effects: &mut Vec<Effect>) {
        for index in 0..self.members.len() {
            let standing = self.group_standing(index);
            let member = &mut self.members[index];
            member.standing = standing.clone();
            match standing {
                // What it waits for comes soon, or it goes on as it is.
                Standing::Unclear(_) => {}
                Standing::Unfit(reason) => {
                    let actions = self.members[index].instance.shutdown();
                    self.carry_out(index, actions, &reason, now, effects);
                }
                Standing::Fit(_) if self.stopping => {
                    self.carry_out(index, Vec::new(), "this node stops", now, effects);
                }
                Standing::Fit(_) => {
                    let Some(parameters) = member.parameters() else { continue };
                    let reason = member.reason("all that it needs is there", now);
                    let told = self.members[index].instance.set_parameters(parameters, now.instant);
                    let actions = [told, self.members[index].instance.startup(now.instant)].concat();
                    self.carry_out(index, actions, reason, now, effects);
                }
            }
        }
    }

    /// The standing of an instance with that of its group: one that is unfit makes all unfit, and the priorities' changes
    /// add up, so that all members of a group have the same one.
    fn group_standing(&self, index: usize) -> Standing {
        let group = self.group_of(index);
        let links = group.iter().map(|&other| self.members[other].standing_by_link());
        let readings = group.iter().flat_map(|&other| self.members[other].readings());
        let tracks = priority::standing(self.members[index].base_priority(), readings);
        links.rfold(tracks, |standing, link| link.and(standing))
    }

    /// What an instance's state machine wants, and all that follows from it.
    fn carry_out(&mut self, index: usize, mut actions: Vec<Action>, reason: &str, now: Now, effects: &mut Vec<Effect>) {
        let member = &mut self.members[index];
        if self.stopping && !member.instance.holds_addresses() {
            actions.extend(member.instance.shutdown());
        }
        for action in actions {
            self.act(index, action, now, effects);
        }
        let Some(change) = self.members[index].record(reason, now) else { return };
        let (before, after) = (change.from, change.to);
        effects.push(Effect::Changed(index, change));
        let name = self.members[index].config.name.clone();
        let others: BTreeSet<usize> = self.group_of(index).into_iter().filter(|&other| other != index).collect();
        for other in others {
            let reason = format!("{name}: {reason}");
            match (before, after) {
                (_, Status::Master) => {
                    let actions = self.members[other].instance.claim(now.instant);
                    self.carry_out(other, actions, &reason, now, effects);
                }
                (Status::Master, Status::Backup) => {
                    let Ok([leader, follower]) = self.members.get_disjoint_mut([index, other]) else { continue };
                    let actions = follower.instance.follow(&leader.instance, now.instant);
                    self.carry_out(other, actions, &reason, now, effects);
                }
                _ => {}
            }
        }
    }

    fn act(&mut self, index: usize, action: Action, now: Now, effects: &mut Vec<Effect>) {
        let member = &mut self.members[index];
        match action {
            Action::Advertise(priority) => {
                let packets = member.advertise(priority, now.unix);
                effects.extend(packets.into_iter().map(|(source, destination, payload)| Effect::Send {
                    instance: index,
                    source,
                    destination,
                    payload,
                }));
            }
            Action::Acquire => {
                member.acquired(now.instant);
                effects.push(Effect::Acquire(index));
                effects.push(Effect::Announce(index, member.config.announcement.repeat));
            }
            Action::Announce => effects.push(Effect::Announce(index, 1)),
            Action::Release => effects.push(Effect::Release(index)),
        }
    }
}
