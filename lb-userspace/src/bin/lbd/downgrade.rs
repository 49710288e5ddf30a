//! `lbd downgrade`: the way back to an older lbd.

use std::{net::SocketAddr, path::Path};

use anyhow::bail;
use lb_common::ServiceEntry;
use lb_userspace::dataplane::{Downgraded, Pins, downgrade};

/// Leaves the maps below `pins` as the older lbd knows them.
pub(crate) fn run(pins: &Path) -> anyhow::Result<()> {
    let Some(found) = Pins::existing(pins)? else {
        bail!("there are no pins in {}", pins.display());
    };
    match downgrade(&found)? {
        Downgraded::NothingThere => bail!(
            "there are no maps of this lbd below {}: an older one finds what it has left, if anything",
            pins.display()
        ),
        Downgraded::Refused { translating, scheduled, others } => {
            bail!("{}", refusal(&translating, &scheduled, &others))
        }
        Downgraded::Done { by_source } => {
            if by_source > 0 {
                log::warn!(
                    "{by_source} services had algorithm = \"source-hash\" not long ago, which the older lbd does not know: flows that are \
                     in no flow table go to other backends from now on"
                );
            }
            log::info!("start the older lbd now: it takes over. (Packets go on to be forwarded meanwhile)");
            Ok(())
        }
    }
}

/// Why it cannot be done, and what to do.
fn refusal(translating: &[ServiceEntry], scheduled: &[ServiceEntry], others: &[ServiceEntry]) -> String {
    let reasons = [
        (translating, "translate addresses", "another forwarding than nat and full-nat"),
        (scheduled, "have another algorithm than maglev", "algorithm = \"maglev\""),
        (
            others,
            "balance pings, have affinity or one_packet",
            "neither protocol = \"icmp\" nor [service.affinity] nor one_packet",
        ),
    ];
    let reasons = reasons.into_iter().filter(|(services, ..)| !services.is_empty());
    let (what, instead): (Vec<_>, Vec<_>) = reasons
        .map(|(services, what, instead)| {
            let names: Vec<String> = services.iter().map(name).collect();
            (format!("{} {what}", names.join(", ")), instead)
        })
        .unzip();
    format!(
        "the older lbd cannot do what these services do, nor read what this one has written down of them: {}. Start this one again, give \
         them {} in the configuration file, `lbctl reload`, end it, and run this command again",
        what.join("; "),
        instead.join(", and ")
    )
}

/// What the maps know of a service: its address, port and protocol.
fn name(ServiceEntry { key, .. }: &ServiceEntry) -> String {
    let protocol = match key.protocol {
        6 => "tcp",
        17 => "udp",
        _ => return format!("{}/icmp", key.address.to_ip()),
    };
    match (key.address.to_ip(), key.port.get()) {
        (address, 0) => format!("{address} (all ports)/{protocol}"),
        (address, port) => format!("{}/{protocol}", SocketAddr::new(address, port)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use lb_common::{NetU16, Service, ServiceKey, echo};

    use super::*;

    #[test]
    fn a_refusal_names_the_services_and_says_what_to_do() {
        let service = |last, port, protocol| {
            let address = Ipv4Addr::new(192, 0, 2, last).into();
            ServiceEntry { key: ServiceKey::new(address, NetU16::new(port), protocol), service: Service::default() }
        };
        let (web, dns, all) = (service(1, 80, 6), service(1, 53, 17), service(2, 0, 6));
        assert_eq!(
            refusal(&[all], &[web, dns], &[]),
            "the older lbd cannot do what these services do, nor read what this one has written down of them: 192.0.2.2 (all ports)/tcp \
             translate addresses; 192.0.2.1:80/tcp, 192.0.2.1:53/udp have another algorithm than maglev. Start this one again, give them \
             another forwarding than nat and full-nat, and algorithm = \"maglev\" in the configuration file, `lbctl reload`, end it, and \
             run this command again"
        );
        assert!(!refusal(&[], &[web], &[]).contains("forwarding"));
        let pings = refusal(&[], &[], &[service(3, 0, echo::REQUEST)]);
        assert!(pings.contains("192.0.2.3/icmp balance pings"), "{pings}");
    }
}
