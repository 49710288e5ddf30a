//! What is measured.

use std::{fs, path::PathBuf, process};

use lb_common::{
    Encapsulation, HashInput, HashInputs, HashKey,
    bench::Template,
    flow_table::{BucketBits, idle_ticks},
    layout,
};
use lb_userspace::{config::Algorithm, dataplane::Dataplane};

use crate::{
    frames::{Kind, frame},
    measure::{Bench, PACKETS, Sample, Target, rounds},
    report::CaseResult,
    services::{ALL_COMPARED, Forwarding, ONE_SERVICE, Scale, THOUSAND_SERVICES, fill},
    slots::{Slots, Table, misrouted},
};

const KEY: HashKey = HashKey::from_bytes(*b"a key for speed!");
/// A table of 1,048,576 flows.
const TABLE_BITS: BucketBits = BucketBits::new(17).expect("that is a size");
/// One in which as many flows have room.
const LARGE_TABLE_BITS: BucketBits = BucketBits::new(18).expect("that is a size");
/// A table of 262,144 translated flows, as a node has it unless it says otherwise.
const NAT_TABLE_BITS: BucketBits = BucketBits::new(15).expect("that is a size");
/// One of 2,097,152.
const LARGE_NAT_TABLE_BITS: BucketBits = BucketBits::new(18).expect("that is a size");
const IDLE_SECONDS: u64 = 900;
const MANY: u32 = 1 << 16;
const VERY_MANY: u32 = 1 << 20;

/// One line of the table.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) frame: Vec<u8>,
    pub(crate) ipv4: bool,
    pub(crate) kind: Kind,
    pub(crate) template: Template,
    pub(crate) target: Target,
    /// Packets per sample.
    pub(crate) packets: u32,
    /// What the slots do.
    pub(crate) slots: Slots,
    /// How new flows get their backends.
    pub(crate) algorithm: Algorithm,
}

impl Case {
    /// A case whose flows are `flows`, over the first services of `scale`.
    fn balanced(mode: &str, kind: Kind, ipv4: bool, flows: u32, scale: Scale) -> Self {
        let (frame, template) = frame(kind, ipv4, true);
        let family = if ipv4 { "v4" } else { "v6" };
        let services = if scale.services == 1 { String::new() } else { format!("/{}-services", scale.services) };
        Self {
            name: format!("maglev/{mode}/{family}/{}/{flows}{services}", kind.name()),
            frame,
            ipv4,
            kind,
            template: Template { source_mask: flows - 1, destination_mask: u32::from(scale.services) - 1, ..template },
            target: Target::Balance,
            packets: PACKETS,
            slots: Slots::Stable,
            algorithm: Algorithm::Maglev,
        }
    }

    fn not_ours(kind: Kind, ipv4: bool) -> Self {
        let (frame, template) = frame(kind, ipv4, false);
        let family = if ipv4 { "v4" } else { "v6" };
        Self {
            name: format!("not-ours/-/{family}/{}/1", kind.name()),
            frame,
            ipv4,
            kind,
            template,
            target: Target::Balance,
            packets: PACKETS,
            slots: Slots::Stable,
            algorithm: Algorithm::Maglev,
        }
    }

    /// A floor, on the same frame and with as many flows as the cases that are compared with it.
    fn floor(name: &str, target: Target) -> Self {
        let (frame, template) = frame(Kind::Established, true, true);
        Self {
            name: name.to_owned(),
            frame,
            ipv4: true,
            kind: Kind::Established,
            template: Template { source_mask: MANY - 1, ..template },
            target,
            packets: PACKETS,
            slots: Slots::Stable,
            algorithm: Algorithm::Maglev,
        }
    }

    /// A case whose slots have to be looked behind.
    fn tracked(slots: Slots, kind: Kind, ipv4: bool, flows: u32) -> Self {
        let case = Self::balanced("ipip", kind, ipv4, flows, ONE_SERVICE);
        let name = format!("{}/{}", case.name, slots.name());
        // Of new flows each comes once.
        let packets = if slots == Slots::Always { flows } else { PACKETS };
        Self { name, packets, slots, ..case }
    }

    /// A case of new flows, or of flows that are known, where `algorithm` chooses. Each new flow comes once.
    fn scheduled(algorithm: Algorithm, kind: Kind, flows: u32, scale: Scale) -> Self {
        let case = Self::balanced("ipip", kind, true, flows, scale);
        let backends = if scale == ONE_SERVICE { String::new() } else { format!("/{}-backends", scale.backends) };
        let name = format!("{algorithm}/ipip/v4/{}/{flows}{backends}", kind.name());
        let (slots, packets) = if kind == Kind::Syn { (Slots::Always, flows) } else { (Slots::Known, PACKETS) };
        Self { name, packets, slots, algorithm, ..case }
    }

    /// A case of a service that translates: of its flows' first packets, or of others.
    fn translated(mode: &str, slots: Slots, kind: Kind, ipv4: bool, flows: u32) -> Self {
        let case = Self::balanced(mode, kind, ipv4, flows, ONE_SERVICE);
        // Of new flows each comes once.
        let packets = if slots == Slots::First { flows } else { PACKETS };
        Self { name: format!("{}/{}", case.name, slots.name()), packets, slots, ..case }
    }

    /// Whether flows could be lost, and would be missed.
    fn is_flood_on_moving_slots(&self) -> bool {
        self.slots == Slots::AllMoving && self.template.flood_every != 0
    }

    /// The same with one packet of a flood for each ten packets, or nothing but the flood.
    fn flooded(self, what: &str, flood_every: u32) -> Self {
        Self { name: format!("{}/{what}", self.name), template: Template { flood_every, ..self.template }, ..self }
    }
}

/// Cases that share what is in the maps.
struct Group {
    scale: Scale,
    hash: HashInputs,
    ipv4: bool,
    forwarding: Forwarding,
    cases: Vec<Case>,
}

impl Group {
    fn has_scheduler(&self) -> bool {
        self.cases.iter().any(|case| case.algorithm.is_scheduler())
    }

    /// How large the table of translated flows is, if there is one.
    fn nat_table(&self) -> Option<BucketBits> {
        let has_very_many = self.cases.iter().any(|case| case.template.source_mask >= MANY);
        self.forwarding.translates().then_some(if has_very_many { LARGE_NAT_TABLE_BITS } else { NAT_TABLE_BITS })
    }
}

/// The algorithms that choose for each new flow.
const SCHEDULERS: [Algorithm; 4] =
    [Algorithm::RoundRobin, Algorithm::WeightedRoundRobin, Algorithm::Random, Algorithm::LeastConnections];

fn scheduled(algorithms: &[Algorithm], scale: Scale) -> Vec<Case> {
    let of = |algorithm: &Algorithm| {
        let kinds = [Kind::Syn, Kind::Established];
        kinds.map(|kind| [MANY, VERY_MANY].map(|flows| Case::scheduled(*algorithm, kind, flows, scale)))
    };
    algorithms.iter().flat_map(of).flatten().collect()
}

/// Cases of services whose packets go in IP of the same family.
fn ipip(cases: Vec<Case>, ipv4: bool, scale: Scale) -> Group {
    let forwarding = Forwarding::to(if ipv4 { Encapsulation::IPV4 } else { Encapsulation::IPV6 });
    Group { scale, hash: HashInputs::default(), ipv4, forwarding, cases }
}

/// Cases of services that translate: a table of the size that nodes have, and one for very many flows.
fn translating(mode: &str, ipv4: bool, forwarding: Forwarding) -> [Group; 2] {
    let case = |slots, kind, flows| Case::translated(mode, slots, kind, ipv4, flows);
    let few = vec![
        case(Slots::First, Kind::Syn, MANY),
        case(Slots::Found, Kind::Established, 1),
        case(Slots::Found, Kind::Established, MANY),
        case(Slots::First, Kind::Udp, MANY),
        case(Slots::Found, Kind::Udp, MANY),
    ];
    let many = vec![case(Slots::First, Kind::Syn, VERY_MANY), case(Slots::Found, Kind::Established, VERY_MANY)];
    let group = |cases| Group { scale: ONE_SERVICE, hash: HashInputs::default(), ipv4, forwarding, cases };
    [group(few), group(many)]
}

fn groups() -> Vec<Group> {
    let cases = |mode: &str, ipv4: bool, scale: Scale, kinds: &[Kind], flows: &[u32]| {
        kinds
            .iter()
            .flat_map(|kind| flows.iter().map(|flows| Case::balanced(mode, *kind, ipv4, *flows, scale)))
            .collect::<Vec<_>>()
    };
    let all = [1, MANY, VERY_MANY];
    let every = [Kind::Syn, Kind::Established, Kind::Udp];
    let established = [Kind::Established];
    let established_and_udp = [Kind::Established, Kind::Udp];
    let mut ipip_v4 = cases("ipip", true, ONE_SERVICE, &every, &all);
    ipip_v4.push(Case::not_ours(Kind::Syn, true));
    ipip_v4.push(Case::not_ours(Kind::Syn, false));
    let group = |mode, ipv4, encapsulation, kinds: &[Kind]| Group {
        scale: ONE_SERVICE,
        hash: HashInputs::default(),
        ipv4,
        forwarding: Forwarding::to(encapsulation),
        cases: cases(mode, ipv4, ONE_SERVICE, kinds, &all),
    };
    let moving = || Case::tracked(Slots::AllMoving, Kind::Established, true, MANY);
    let tracked_v4 = vec![
        Case::tracked(Slots::Tracked, Kind::Established, true, MANY),
        Case::tracked(Slots::Always, Kind::Syn, true, MANY),
        Case::tracked(Slots::OnePercentMoving, Kind::Established, true, VERY_MANY),
        moving(),
        moving().flooded("syn-flood-1:10", 11),
        moving().flooded("syn-flood-only", 1),
        Case::balanced("ipip", Kind::Established, true, MANY, ONE_SERVICE).flooded("syn-flood-1:10", 11),
    ];
    let tracked_v6 = vec![
        Case::tracked(Slots::Tracked, Kind::Established, false, MANY),
        Case::tracked(Slots::Always, Kind::Syn, false, MANY),
    ];
    let whole_address = HashInput::source(32).expect("that is a length");
    let by_source = |case: Case| Case { name: case.name.replacen("maglev", "source-hash", 1), ..case };
    let source_hash =
        cases("ipip", true, ONE_SERVICE, &[Kind::Syn, Kind::Established], &all).into_iter().map(by_source).collect();
    let mut groups = vec![
        ipip(ipip_v4, true, ONE_SERVICE),
        ipip(tracked_v4, true, ONE_SERVICE),
        ipip(tracked_v6, false, ONE_SERVICE),
        ipip(scheduled(&SCHEDULERS, ONE_SERVICE), true, ONE_SERVICE),
        ipip(scheduled(&[Algorithm::LeastConnections], ALL_COMPARED), true, ALL_COMPARED),
        Group { hash: HashInputs::new(whole_address), ..ipip(source_hash, true, ONE_SERVICE) },
        group("ipip", false, Encapsulation::IPV6, &every),
        group("ipip-4in6", true, Encapsulation::IPV6, &established),
        group("ipip-6in4", false, Encapsulation::IPV4, &established),
        group("gue", true, Encapsulation::GUE_IPV4, &established_and_udp),
        group("gue", false, Encapsulation::GUE_IPV6, &established_and_udp),
        group("gue-4in6", true, Encapsulation::GUE_IPV6, &established_and_udp),
        group("gue-6in4", false, Encapsulation::GUE_IPV4, &established),
        group("l2-dsr", true, Encapsulation::NONE, &every),
        group("l2-dsr", false, Encapsulation::NONE, &every),
        ipip(cases("ipip", true, THOUSAND_SERVICES, &[Kind::Syn, Kind::Established], &all), true, THOUSAND_SERVICES),
    ];
    groups.extend(
        [
            translating("full-nat", true, Forwarding::full_nat(true)),
            translating("full-nat", false, Forwarding::full_nat(false)),
            translating("full-nat-46", true, Forwarding::full_nat(false)),
            translating("full-nat-64", false, Forwarding::full_nat(true)),
            translating("nat", true, Forwarding::nat(true)),
            translating("nat", false, Forwarding::nat(false)),
        ]
        .into_iter()
        .flatten(),
    );
    groups
}

/// Measures every case with `only` in its name. Each group runs beside the floors, in turn with them.
pub(crate) fn run(only: &str) -> anyhow::Result<Vec<CaseResult>> {
    let mut results: Vec<CaseResult> = Vec::new();
    for (number, mut group) in groups().into_iter().enumerate() {
        group.cases.retain(|case| case.name.contains(only));
        if group.cases.is_empty() {
            continue;
        }
        let pins = Pins::new(number);
        let mut dataplane = Dataplane::load(&pins.0, KEY, layout::AFFINITY_CLIENTS, None)?;
        if let Some(bits) = group.nat_table() {
            dataplane.nat.ensure(bits)?;
        }
        let slots = fill(&mut dataplane, group.scale, group.hash, group.ipv4, group.forwarding)?;
        let bits = if group.has_scheduler() { LARGE_TABLE_BITS } else { TABLE_BITS };
        let (tables, _) = dataplane.open_flow_tables(bits, idle_ticks(IDLE_SECONDS))?;
        let mut bench = Bench::new(&mut dataplane)?;
        let table = Table {
            slots,
            backends: group.scale.backends,
            maps: &dataplane.maps,
            flows: tables.table(),
            nat: dataplane.nat.table(),
        };
        let mut cases = vec![Case::floor("noop", Target::Noop), Case::floor("encap", Target::Encap)];
        cases.extend(group.cases);
        let samples: Vec<Sample> = rounds(&mut bench, &cases, |bench, case| table.prepare(bench, case))?;
        results.extend(CaseResult::of_group(number, &cases, &samples));
        for case in cases.iter().filter(|case| case.is_flood_on_moving_slots()) {
            table.prepare(&mut bench, case)?;
            bench.sample(case, case.packets)?;
            let misrouted = misrouted(&mut bench, case, &dataplane.maps)?;
            results.push(CaseResult::alone(&format!("{}/misrouted", case.name), "flows", &[misrouted.into()]));
        }
    }
    Ok(results)
}

/// A folder of pins of our own, removed at the end.
struct Pins(PathBuf);

impl Pins {
    fn new(number: usize) -> Self {
        Self(format!("/sys/fs/bpf/lb-bench-{}-{number}", process::id()).into())
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
