//! Virtual IPs on the interfaces of this host: put there, told to the link, taken away.

use std::{collections::HashMap, io, net::IpAddr, time::Duration};

use thiserror::Error;
use tokio::{task::JoinSet, time::sleep};

use super::{
    frame::{self, Claimant},
    netlink::{self, Netlink},
    packet_socket::PacketSocket,
};

/// A frame may be lost: it is sent this often.
const FRAMES: u32 = 3;
const SPACING: Duration = Duration::from_millis(500);

#[derive(Debug, Error)]
pub enum AnnounceError {
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    #[error("cannot open a packet socket on {interface} (CAP_NET_RAW is needed): {source}")]
    Socket { interface: String, source: io::Error },
}

/// Whose address it is that is on the interface now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// We put it there, now or before: [`Announcer::withdraw`] removes it.
    Ours,
    /// It was there and is not ours: it stays.
    AlreadyPresent,
}

/// Puts virtual IPs on interfaces and announces them.
///
/// The addresses outlive it, so that a restart does not take them away; [`Announcer::announced`] finds them again.
#[derive(Debug)]
pub struct Announcer {
    netlink: Netlink,
    /// By interface name and address.
    announcements: HashMap<(String, IpAddr), Announcement>,
}

#[derive(Debug)]
struct Announcement {
    placement: Placement,
    /// Sends the frames that are still to be sent; ends with this.
    sender: JoinSet<()>,
}

impl Announcer {
    /// To be called on a Tokio runtime. It works in the network namespace of the calling thread.
    pub fn new() -> Result<Self, AnnounceError> {
        Ok(Self { netlink: Netlink::open()?, announcements: HashMap::new() })
    }

    /// Puts an address on an interface, if it is not there yet, and tells the link: by gratuitous ARP, or
    /// unsolicited neighbour advertisements. They are sent in the background, over a second.
    pub async fn announce(&mut self, interface: &str, address: IpAddr) -> Result<Placement, AnnounceError> {
        let (ifindex, link) = self.netlink.link_by_name(interface).await?;
        // Loopback has nobody to tell.
        let announcement = match link.mac {
            Some(mac) => {
                let socket = PacketSocket::open()
                    .map_err(|source| AnnounceError::Socket { interface: interface.to_owned(), source })?;
                let frame = frame::announcement(mac, address, Claimant::Host);
                Some(repeat(socket, ifindex, frame, format!("{address} on {interface}")))
            }
            None => None,
        };
        let present = self.placement(interface, ifindex, address).await?;
        if present.is_none() {
            self.netlink.add_address(ifindex, address).await?;
        }
        let placement = present.unwrap_or(Placement::Ours);
        let mut sender = JoinSet::new();
        if let Some(announcement) = announcement {
            sender.spawn(announcement);
        }
        self.announcements.insert((interface.to_owned(), address), Announcement { placement, sender });
        Ok(placement)
    }

    /// Whether the address is on the interface, whoever put it there.
    pub async fn is_present(&self, interface: &str, address: IpAddr) -> Result<bool, AnnounceError> {
        let (ifindex, _) = self.netlink.link_by_name(interface).await?;
        Ok(self.placement(interface, ifindex, address).await?.is_some())
    }

    /// Takes an address off an interface, if it is ours. From here on no frame claims it.
    pub async fn withdraw(&mut self, interface: &str, address: IpAddr) -> Result<(), AnnounceError> {
        let key = (interface.to_owned(), address);
        if let Some(announcement) = self.announcements.get_mut(&key) {
            announcement.sender.shutdown().await;
        }
        let (ifindex, _) = self.netlink.link_by_name(interface).await?;
        if self.placement(interface, ifindex, address).await? == Some(Placement::Ours) {
            self.netlink.delete_address(ifindex, address).await?;
        }
        self.announcements.remove(&key);
        Ok(())
    }

    /// Our addresses on an interface, those of an earlier run included (on Linux 5.18 or newer, which
    /// remembers whose an address is).
    pub async fn announced(&self, interface: &str) -> Result<Vec<IpAddr>, AnnounceError> {
        let (ifindex, _) = self.netlink.link_by_name(interface).await?;
        let addresses = self.netlink.addresses(ifindex).await?;
        Ok(addresses
            .into_iter()
            .filter(|&(address, marked)| marked || self.placed(interface, address))
            .map(|(address, _)| address)
            .collect())
    }

    /// Whose the address is; `None` if it is not on the interface.
    async fn placement(
        &self,
        interface: &str,
        ifindex: u32,
        address: IpAddr,
    ) -> Result<Option<Placement>, AnnounceError> {
        let addresses = self.netlink.addresses(ifindex).await?;
        let mut present = addresses.iter().filter(|&&(present, _)| present == address);
        Ok(present.next().map(|&(_, marked)| {
            if marked || self.placed(interface, address) { Placement::Ours } else { Placement::AlreadyPresent }
        }))
    }

    /// Whether this announcer put it there: older kernels do not keep the mark.
    fn placed(&self, interface: &str, address: IpAddr) -> bool {
        self.announcements
            .get(&(interface.to_owned(), address))
            .is_some_and(|announcement| announcement.placement == Placement::Ours)
    }
}

async fn repeat(socket: PacketSocket, ifindex: u32, frame: Vec<u8>, what: String) {
    for round in 0..FRAMES {
        if round > 0 {
            sleep(SPACING).await;
        }
        if let Err(error) = socket.send(ifindex, &frame) {
            log::warn!("cannot announce {what}: {error}");
        }
    }
}
