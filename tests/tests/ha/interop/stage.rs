//! Speakers on the balancers of a lab, what becomes of them, and what they are expected to make of it.

use std::{net::IpAddr, thread};

use anyhow::{Context as _, Result, ensure};
use lb_tests::lab::{
    Capture, Kind, Lab, Speaker, run,
    vrrp::{Instance, State},
    wait_for,
};

use super::wire::{self, Word};
use crate::support::SOON;

/// All speakers, and all that they said.
pub(crate) struct Stage<'lab> {
    lab: &'lab Lab,
    /// That of the balancer with the same number.
    players: Vec<Player<'lab>>,
    capture: Capture,
    /// What the capture is expected to hold.
    conversation: Vec<Word>,
}

/// One balancer.
struct Player<'lab> {
    node: &'static str,
    kind: Kind,
    instances: Vec<Instance>,
    speaker: Option<Speaker<'lab>>,
    /// The states of each instance since the speaker has started.
    expected: Vec<State>,
}

impl Player<'_> {
    fn is_master(&self) -> bool {
        self.expected.last() == Some(&State::Master)
    }

    fn speaker(&self) -> Result<&Speaker<'_>> {
        self.speaker.as_ref().with_context(|| format!("no speaker on {}", self.node))
    }

    /// Fails unless each instance went through the expected states, and no others, as soon as it has told them.
    fn ensure_expected(&self) -> Result<()> {
        for instance in &self.instances {
            let what =
                format!("{} of {} on {} to tell {:?}", instance.name, self.kind.name(), self.node, self.expected);
            let told = wait_for(&what, SOON, || {
                let transitions = self.speaker()?.transitions()?;
                let of_instance = transitions.iter().filter(|told| told.instance == instance.name);
                let told: Vec<_> = of_instance.map(|told| told.state).collect();
                Ok((told.len() >= self.expected.len()).then_some(told))
            })?;
            ensure!(
                told == self.expected,
                "{} on {}: {told:?}, expected {:?}",
                self.kind.name(),
                self.node,
                self.expected
            );
        }
        Ok(())
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.instances.iter().flat_map(|instance| &instance.addresses).map(|address| address.ip)
    }
}

impl<'lab> Stage<'lab> {
    /// With a speaker for each balancer of the lab, none of which is started.
    pub(crate) fn new(lab: &'lab Lab, players: impl IntoIterator<Item = (Kind, Vec<Instance>)>) -> Result<Self> {
        let players = ["lb", "lb2", "lb3"].into_iter().zip(players).map(|(node, (kind, instances))| Player {
            node,
            kind,
            instances,
            speaker: None,
            expected: Vec::new(),
        });
        Ok(Self { lab, players: players.collect(), capture: capture(lab)?, conversation: Vec::new() })
    }

    /// Starts a speaker, which becomes backup.
    pub(crate) fn start(&mut self, number: usize) -> Result<()> {
        let player = &mut self.players[number];
        player.expected = vec![State::Backup];
        player.speaker = Some(self.lab.balancer(player.node).start_speaker(player.kind, &player.instances)?);
        player.ensure_expected()
    }

    /// Waits until a speaker is master, and whoever was it gives way.
    pub(crate) fn expect_master(&mut self, number: usize) -> Result<()> {
        for (other, player) in self.players.iter_mut().enumerate() {
            if other == number {
                player.expected.push(State::Master);
            } else if player.is_master() {
                player.expected.push(State::Backup);
            }
        }
        self.conversation.push(Word::Reign(number));
        self.ensure_expected()
    }

    /// Lets two speakers not hear one another until both are master, then lets them hear that. What they said until then is not judged.
    pub(crate) fn contest(&mut self, winner: usize, loser: usize) -> Result<()> {
        let [one, other] = [winner, loser].map(|number| self.players[number].node);
        self.lab.split(one, other)?;
        for number in [winner, loser] {
            let player = &mut self.players[number];
            if !player.is_master() {
                player.expected.push(State::Master);
            }
            player.ensure_expected()?;
        }
        self.lab.mend(one)?;
        self.players[loser].expected.push(State::Backup);
        self.ensure_expected()?;
        self.capture = capture(self.lab)?;
        self.conversation = vec![Word::Reign(winner)];
        self.expect_no_change()
    }

    /// A speaker, and its whole group, is to take no part.
    pub(crate) fn expect_fault(&mut self, number: usize) {
        let player = &mut self.players[number];
        if player.is_master() {
            self.conversation.push(Word::Farewell(number));
        }
        player.expected.push(State::Fault);
    }

    /// That speaker is to take part again.
    pub(crate) fn expect_recovery(&mut self, number: usize) {
        self.players[number].expected.push(State::Backup);
    }

    /// Gives all the time that it takes to become master, which nobody does.
    pub(crate) fn expect_no_change(&self) -> Result<()> {
        let instances = self.players.iter().flat_map(|player| &player.instances);
        let longest = instances.map(|instance| instance.master_down_interval() + instance.interval).max();
        thread::sleep(longest.unwrap_or_default());
        self.ensure_expected()
    }

    /// Ends a speaker in order.
    pub(crate) fn stop(&mut self, number: usize) -> Result<()> {
        if self.players[number].is_master() {
            self.conversation.push(Word::Farewell(number));
        }
        self.take(number)?.stop()
    }

    /// Ends a speaker, and with it the machine that it is on.
    pub(crate) fn crash(&mut self, number: usize) -> Result<()> {
        self.take(number)?.crash()?;
        self.lab.cut(self.players[number].node)
    }

    /// Starts the machine, and the speaker, of one that has crashed.
    pub(crate) fn revive(&mut self, number: usize) -> Result<()> {
        let player = &self.players[number];
        for address in player.instances.iter().flat_map(|instance| &instance.addresses) {
            let node = self.lab.node(player.node);
            if self.lab.balancer(player.node).has_address(&address.ip.to_string())? {
                run(node.command("ip").args(["address", "del", &address.to_string(), "dev", "eth0"]))?;
            }
        }
        self.lab.mend(player.node)?;
        self.start(number)
    }

    /// The running speaker of a balancer.
    pub(crate) fn speaker(&self, number: usize) -> Result<&Speaker<'lab>> {
        self.players[number].speaker.as_ref().context("no speaker")
    }

    /// Holds what has passed against what was expected.
    pub(crate) fn finish(self) -> Result<()> {
        let kinds: Vec<_> = self.players.iter().map(|player| player.kind).collect();
        let adverts = wire::read(self.lab, &kinds, &self.capture.finish()?)?;
        wire::ensure_alike(&kinds, &adverts)?;
        for instance in &self.players[0].instances {
            let mut said = wire::conversation(&adverts, instance.router_id);
            let mut expected = self.conversation.clone();
            if instance.sync_group.is_some() {
                // One instance goes first. The others follow it with a farewell of their own, sooner or later than their successors.
                for words in [&mut said, &mut expected] {
                    words.retain(|word| matches!(word, Word::Reign(_)));
                    words.dedup();
                }
            }
            ensure!(said == expected, "{}: {said:?}, expected {expected:?}", instance.name);
        }
        Ok(())
    }

    fn take(&mut self, number: usize) -> Result<Speaker<'lab>> {
        self.ensure_expected()?;
        let player = &mut self.players[number];
        player.expected.clear();
        player.speaker.take().context("no speaker")
    }

    /// Fails unless all went through the expected states, and the master, and nobody else alive, has the addresses.
    fn ensure_expected(&self) -> Result<()> {
        let running = || self.players.iter().filter(|player| player.speaker.is_some());
        running().try_for_each(Player::ensure_expected)?;
        for player in running() {
            let balancer = self.lab.balancer(player.node);
            for address in player.addresses() {
                let verb = if player.is_master() { "has" } else { "has not" };
                wait_for(&format!("that {} {verb} {address}", player.node), SOON, || {
                    Ok((balancer.has_address(&address.to_string())? == player.is_master()).then_some(()))
                })?;
            }
        }
        Ok(())
    }
}

fn capture(lab: &Lab) -> Result<Capture> {
    lab.start_capture("switch", "ip proto 112 or ip6 proto 112")
}
