//! The loaded balancer, in a network namespace of its own, with nothing left behind.

use std::{fs, net::IpAddr, path::PathBuf, process::Command};

use aya::programs::Xdp;
use etherparse::IpNumber;
use lb_common::{
    Address, BackendId, BackendRow, HashKey, NetU16, RowIndex, Service, ServiceEntry, ServiceId, ServiceKey, SlotWord,
    Traffic, Verdict, layout,
};
use lb_tests::lab::{bpffs, require_root, run, unique_name};
use lb_userspace::dataplane::{Dataplane, Maps, VirtualMacs};
use nix::sched::{CloneFlags, unshare};

use crate::{
    backend::Backend,
    case::{Counter, Datapath, Outcome, increments, test_run},
    frame::Frame,
    world::{BACKEND, FAMILIES, Family, INGRESS_IFINDEX, OTHER_IFINDEX, OWN_MAC, PROTOCOLS, SERVICE, SERVICE_PORT},
};

/// The key of the flow hash.
pub(crate) const HASH_KEY: [u8; 16] = *b"a key for tests!";

/// The balancing program and its maps.
pub(crate) struct Balancer {
    dataplane: Dataplane,
    /// The service ids and backend ids whose traffic is watched.
    watched: Vec<Counter>,
    /// The counters after the last run.
    counted: Counted,
    services: Vec<ServiceEntry>,
    chunks: u32,
    rows: u32,
    pins: PinFolder,
}

impl Balancer {
    /// Without services; `None`, and a loud notice, without root.
    pub(crate) fn empty() -> Option<Self> {
        if !require_root() {
            return None;
        }
        enter_new_namespace();
        bpffs::ensure_mounted().expect("bpffs can be mounted");
        let pins = PinFolder::new();
        let mut dataplane =
            Dataplane::load(&pins.0, HashKey::from_bytes(HASH_KEY), None).expect("the program can be loaded");
        let maps = &mut dataplane.maps;
        maps.put_interface(INGRESS_IFINDEX, OWN_MAC).expect("the interface map takes it");
        maps.put_egress(OTHER_IFINDEX).expect("the interface can be redirected to");
        let mut balancer = Self {
            dataplane,
            watched: Vec::new(),
            counted: Counted::default(),
            services: Vec::new(),
            chunks: 0,
            rows: 0,
            pins,
        };
        balancer.counted = balancer.count();
        Some(balancer)
    }

    /// With the virtual IPs of both families, whose TCP and UDP service on [`SERVICE_PORT`] has one backend,
    /// [`BACKEND`], reached by L2-DSR until a case says otherwise.
    pub(crate) fn with_one_backend() -> Option<Self> {
        let mut balancer = Self::empty()?;
        let owners = vec![SlotWord::stable(BACKEND); layout::MIN_SLOTS as usize];
        let service = balancer.put_slots(SERVICE, &owners);
        balancer.put_services(keys(SERVICE_PORT), service);
        balancer.put_row(BACKEND, &Backend::L2_DSR.row(Family::V4));
        Some(balancer)
    }

    /// Gives a service a slot table; it is not found until [`Balancer::put_services`].
    pub(crate) fn put_slots(&mut self, id: ServiceId, slots: &[SlotWord]) -> Service {
        let slot_count = u32::try_from(slots.len()).expect("a table has at most 65,536 slots");
        let service = Service { id, first_chunk: self.chunks, slot_mask: slot_count - 1, ..Service::default() };
        self.chunks += u32::try_from(slots.len()).expect("a table has at most 65,536 slots") / layout::CHUNK_SLOTS;
        for (slot, word) in (0..).zip(slots) {
            self.dataplane.maps.store_slot(&service, slot, *word);
        }
        self.watch(Counter::Service(id));
        service
    }

    /// Makes packets for these keys belong to `service`.
    pub(crate) fn put_services(&mut self, keys: impl IntoIterator<Item = ServiceKey>, service: Service) {
        self.services.extend(keys.into_iter().map(|key| ServiceEntry { key, service }));
        self.store_services();
    }

    pub(crate) fn remove_service(&mut self, key: ServiceKey) {
        self.services.retain(|entry| entry.key != key);
        self.store_services();
    }

    fn store_services(&mut self) {
        self.dataplane.maps.store_services(&self.services).expect("the directory takes them");
    }

    /// Replaces the row of a backend, as the daemon does: at a place that is not in use.
    pub(crate) fn put_row(&mut self, backend: BackendId, row: &BackendRow) {
        // Row 0 is never written.
        self.rows = self.rows % (layout::BACKEND_ROWS - 1) + 1;
        self.dataplane.maps.put_row(backend, RowIndex(self.rows), row).expect("the row map takes it");
        self.watch(Counter::Backend(backend));
    }

    /// The map of virtual routers, as another process opens it.
    pub(crate) fn virtual_macs(&self) -> VirtualMacs {
        VirtualMacs::new(&self.pins.0)
    }

    pub(crate) fn maps(&mut self) -> &mut Maps {
        &mut self.dataplane.maps
    }

    /// Expects, from now on, that this counter goes up when the case says so, and else stays.
    pub(crate) fn watch(&mut self, counter: Counter) {
        if !self.watched.contains(&counter) {
            self.watched.push(counter);
            self.counted = self.count();
        }
    }

    fn count(&self) -> Counted {
        let maps = &self.dataplane.maps;
        let traffic = |counter| match counter {
            Counter::Service(id) => maps.service_traffic(id),
            Counter::Backend(id) => maps.backend_traffic(id),
        };
        let traffic = |&counter| (counter, traffic(counter).expect("the counters can be read"));
        Counted {
            verdicts: maps.verdicts().expect("the counters can be read"),
            traffic: self.watched.iter().map(traffic).collect(),
        }
    }

    fn program(&mut self) -> &Xdp {
        self.dataplane.program().expect("the program is loaded")
    }
}

impl Datapath for Balancer {
    type Verdict = Verdict;
    /// Rows to put, or to take away, before the run.
    type Setup = Vec<(BackendId, Option<BackendRow>)>;

    fn prepare(&mut self, setup: &Self::Setup) {
        for (backend, row) in setup {
            match row {
                Some(row) => self.put_row(*backend, row),
                None => self.dataplane.maps.remove_row(*backend),
            }
        }
    }

    fn run(&mut self, frame: &[u8]) -> Outcome<Verdict> {
        let (action, out) = test_run(self.program(), frame);
        let counted = self.count();
        let outcome = Outcome {
            action,
            verdicts: increments(&self.counted.verdicts, &counted.verdicts),
            traffic: traffic_increments(&self.counted.traffic, &counted.traffic),
            frame: out,
        };
        self.counted = counted;
        outcome
    }
}

/// What the counters say.
#[derive(Default)]
struct Counted {
    verdicts: Vec<(Verdict, u64)>,
    traffic: Vec<(Counter, Traffic)>,
}

/// A line of a table for the balancer.
pub(crate) type Case = crate::case::Case<Balancer>;

impl Case {
    /// The frame leaves for `backend` as it has to.
    pub(crate) fn forwards(description: impl Into<String>, family: Family, backend: &Backend, frame: &Frame) -> Self {
        Self {
            description: description.into(),
            setup: vec![(BACKEND, Some(backend.row(family)))],
            frame: frame.to_bytes(),
            expected: backend.receives(frame),
        }
    }

    /// The frame goes to the kernel as it is.
    pub(crate) fn passes(description: impl Into<String>, verdict: Verdict, frame: Vec<u8>) -> Self {
        let expected = Outcome::passed(verdict, &frame);
        Self { description: description.into(), setup: Vec::new(), frame, expected }
    }
}

pub(crate) fn key(address: IpAddr, port: u16, protocol: IpNumber) -> ServiceKey {
    ServiceKey::new(Address::from(address), NetU16::new(port), protocol.0)
}

/// TCP and UDP on `port` of the virtual IPs of both families.
pub(crate) fn keys(port: u16) -> impl Iterator<Item = ServiceKey> {
    FAMILIES.into_iter().flat_map(move |family| PROTOCOLS.map(|protocol| key(family.virtual_ip(), port, protocol)))
}

fn traffic_increments(before: &[(Counter, Traffic)], after: &[(Counter, Traffic)]) -> Vec<(Counter, Traffic)> {
    let difference = |(&(counter, before), &(_, after)): (&(Counter, Traffic), &(Counter, Traffic))| {
        (counter, Traffic { packets: after.packets - before.packets, bytes: after.bytes - before.bytes })
    };
    before.iter().zip(after).map(difference).filter(|(_, traffic)| *traffic != Traffic::default()).collect()
}

/// Takes this thread to a network namespace that ends with it, with an interface to redirect to.
fn enter_new_namespace() {
    unshare(CloneFlags::CLONE_NEWNET).expect("root may create a network namespace");
    let index = OTHER_IFINDEX.to_string();
    let arguments = ["link", "add", "name", "other", "index", &index, "type", "veth", "peer", "name", "peer"];
    run(Command::new("ip").args(arguments)).expect("a pair of interfaces can be created");
}

/// The folder of the maps' pins; it goes when the test ends, however that happens.
struct PinFolder(PathBuf);

impl PinFolder {
    fn new() -> Self {
        Self(PathBuf::from(bpffs::MOUNT).join(format!("lb-{}", unique_name("packet"))))
    }
}

impl Drop for PinFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("remove {}: {error}", self.0.display());
        }
    }
}
