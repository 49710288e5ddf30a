/// Packets and bytes, per CPU in the map. Bytes are those of the IP packets as the client sent them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Traffic {
    /// What is left without `other`; none, if that is more.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self { packets: self.packets.saturating_sub(other.packets), bytes: self.bytes.saturating_sub(other.bytes) }
    }
}

impl core::ops::Add for Traffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { packets: self.packets + other.packets, bytes: self.bytes + other.bytes }
    }
}

impl core::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl core::iter::Sum for Traffic {
    fn sum<I: Iterator<Item = Self>>(traffic: I) -> Self {
        traffic.fold(Self::default(), core::ops::Add::add)
    }
}

/// Declares an enum of verdicts whose discriminants index an array of counters.
macro_rules! verdicts {
    ($(#[$meta:meta])* $enum:ident { $($(#[doc = $doc:literal])+ $variant:ident => $name:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum $enum { $($(#[doc = $doc])+ $variant,)+ }

        impl $enum {
            /// Every verdict, in the order of the counters.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];
            /// How many verdicts there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name under which operators see it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

verdicts! {
    /// What became of a packet in the balancer: each packet has exactly one.
    Verdict {
        /// Passed: neither IPv4 nor IPv6 (ARP, for one).
        PassNotIp => "pass-not-ip",
        /// Passed: the frame is not addressed to this interface (flooded, broadcast, multicast).
        PassOtherHost => "pass-other-host",
        /// Passed: truncated, or lengths that contradict each other.
        PassMalformed => "pass-malformed",
        /// Passed: a fragment; its ports are not known.
        PassFragment => "pass-fragment",
        /// Passed: neither TCP nor UDP, nor ICMP echo.
        PassOtherProtocol => "pass-other-protocol",
        /// Passed: no service has this address, protocol and port.
        PassNoService => "pass-no-service",
        /// Passed up the local stack: the chosen backend is this host.
        Local => "local",
        /// Sent from the interface it came in by.
        Transmitted => "transmitted",
        /// Sent from another interface.
        Redirected => "redirected",
        /// Answered with a TCP reset: the flow's backend is gone, and its service wants that.
        Reset => "reset",
        /// Dropped: the service has no backend that can take the flow.
        DropNoBackend => "drop-no-backend",
        /// Dropped: the flow's backend is gone, its service resets connections then, and this is no TCP segment to reset.
        DropBackendGone => "drop-backend-gone",
        /// Dropped: larger than the way to the backend takes.
        DropTooBig => "drop-too-big",
        /// Dropped: no room for the outer header, or a map that the daemon did not fill.
        DropInternal => "drop-internal",
        /// Dropped: a new flow, and all backends that it could go to have as many connections as they may have.
        DropBackendsFull => "drop-backends-full",
        /// Dropped: the table of translated flows has no room for this one.
        DropNatFull => "drop-nat-full",
        /// Dropped: none of the source ports that were tried for the flow was free; or the client's own port was not, where it is kept.
        DropNoPort => "drop-no-port",
        /// Dropped: another CPU was making the same flow at this moment.
        DropNatRace => "drop-nat-race",
        /// Dropped: it has been through too many routers to be sent on by one that translates.
        DropHopLimit => "drop-hop-limit",
        /// Dropped: it cannot be translated (into IPv6 with a source route or as a long datagram without a checksum), or comes with
        /// tags that replies could not be given (two of them, or one of 802.1ad).
        DropUntranslatable => "drop-untranslatable",
        /// Dropped: a segment of a connection that is not in the table of translated flows, and that is not to be answered.
        DropNatUnknown => "drop-nat-unknown",
    }
}

verdicts! {
    /// What became of the flows of packets whose slot asks for a look into the flow table. Not every packet counts, and some
    /// count twice.
    Tracking {
        /// The flow was in the table.
        Hit => "hits",
        /// The flow was not in the table.
        Miss => "misses",
        /// The flow was put into the table.
        Remembered => "remembered",
        /// Another flow, one that had been seen for a short time only, was taken out for it.
        Evicted => "evicted",
        /// The flow should have been put into the table, which had no room for it.
        Full => "full",
        /// The flow's backend is gone, and it was given to another.
        Rescheduled => "rescheduled",
        /// A flow with the same addresses and ports as one that was over: it was scheduled anew.
        Reopened => "reopened",
        /// The flow was found in a table that is being replaced, and copied to the new one.
        Carried => "carried-over",
        /// A flow got its place in the table of translated flows.
        Translated => "translated",
        /// A segment of a connection that is not in the table of translated flows was answered with a reset.
        Unknown => "unknown",
        /// A flow found no room in the table of translated flows, no port, or no backend with room, and its service resets such ones.
        Refused => "refused",
        /// A new flow went to the server that its client had before.
        Affine => "affine",
    }
}

verdicts! {
    /// What became of a packet in the decapsulating program of a backend: each packet has exactly one.
    DecapVerdict {
        /// Passed: neither an IP-in-IP packet nor one of GUE for one of this host's tunnel addresses.
        PassNotTunnel => "pass-not-tunnel",
        /// Passed, for the kernel to decide: a fragment, an outer header with options, a GUE header with more than a packet, or
        /// GUE over IPv6 without a checksum.
        PassForKernel => "pass-for-kernel",
        /// Passed: the outer source is not one of the balancers; it may be another tunnel's.
        PassStranger => "pass-stranger",
        /// The outer headers were taken off.
        Decapsulated => "decapsulated",
        /// Dropped: truncated, wrong checksum, or the inner packet is not what the outer headers say.
        DropMalformed => "drop-malformed",
        /// Dropped: congestion was marked on a packet whose sender does not know ECN (RFC 6040, section 4.2).
        DropCongested => "drop-congested",
    }
}
