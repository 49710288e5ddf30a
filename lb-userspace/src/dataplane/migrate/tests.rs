//! With the maps of a kernel, so they need root.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use aya::maps::{Array, Map, PerCpuArray, PerCpuValues};
use lb_common::{
    BackendId, BackendRow, Datagrams, Directory, Encapsulation, FlowHash, FlowState, HashInput, HashInputs, HashKey,
    NatMode, NetU16, Policy, QuicIds, RowIndex, Scheduler, Service, ServiceEntry, ServiceId, ServiceKey, SlotWord,
    Traffic, Verdict, echo,
    flow_table::{BucketBits, MIN_BUCKET_BITS},
    layout,
};
use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::{
    config,
    dataplane::{Attachment, Dataplane, Opened, bpf, flow_time, flows, sweep},
};

/// The loopback interface of a new network namespace has this number.
const LINK: &str = "generic-1";
const FLOW_TABLE: BucketBits = BucketBits::new(MIN_BUCKET_BITS).unwrap();
const IDLE_TICKS: u8 = 10;
const NOW: u32 = layout::VERSION;
const BEFORE: u32 = v3::VERSION;

/// A folder for pins, gone with the test.
struct Root(PathBuf);

impl Root {
    fn pins(&self) -> Pins {
        Pins::create(&self.0).unwrap()
    }

    fn old(&self) -> Folder {
        Folder::of(&self.pins(), v3::VERSION)
    }

    fn current(&self) -> Folder {
        Folder::current(&self.pins())
    }

    fn load(&self) -> Dataplane {
        Dataplane::load(&self.0, HashKey::default(), layout::AFFINITY_CLIENTS, None).unwrap()
    }

    /// The pins in a folder, those of links last.
    fn names(&self, version: u32) -> Vec<String> {
        let folder = self.0.join(format!("v{version}"));
        [folder.clone(), folder.join("links")].into_iter().flat_map(sorted_names).collect()
    }

    fn link(&self, version: u32) -> PathBuf {
        self.0.join(format!("v{version}/links")).join(LINK)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if let Ok(Some(pins)) = Pins::existing(&self.0) {
            let _ = pins.remove();
        }
    }
}

fn sorted_names(folder: PathBuf) -> Vec<String> {
    let names = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).filter(|name| name != "links").collect();
    names.sort();
    names
}

/// Runs `test` in a network namespace of its own, on maps of this layout that an earlier daemon has left.
fn with_maps(name: &str, test: impl FnOnce(&Root) + Send) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let root = Root(Path::new("/sys/fs/bpf").join(format!("lb-unit-{name}-{}", since_1970.as_nanos())));
    let in_namespace = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        fill(&root);
        test(&root);
    };
    thread::scope(|scope| scope.spawn(in_namespace).join().unwrap());
}

fn backend(number: u32) -> BackendId {
    BackendId::truncate(number)
}

fn service(number: u32, quic: QuicIds) -> ServiceEntry {
    let port = NetU16::new(80 + u16::try_from(number).unwrap());
    ServiceEntry {
        key: ServiceKey::new(std::net::Ipv4Addr::new(10, 77, 0, 100).into(), port, 6),
        service: Service {
            id: ServiceId::new(number).unwrap(),
            first_chunk: number,
            slot_mask: 1023,
            quic,
            ..Service::default()
        },
    }
}

fn row(mtu: u16) -> BackendRow {
    BackendRow {
        encapsulation: Encapsulation::NONE,
        mtu,
        service: service(1, QuicIds::NONE).service.id,
        ..BackendRow::default()
    }
}

/// Two services; the first has a slot that moves, and flows.
fn fill(root: &Root) {
    let mut dataplane = root.load();
    let quic = QuicIds::new(3, 4).unwrap();
    let mut services = [service(1, QuicIds::NONE), service(2, quic)];
    // It has just come from another algorithm.
    services[1].service.hash = HashInputs::changed(HashInput::FLOW, HashInput::source(24).unwrap());
    dataplane.maps.store_services(&services, &[]).unwrap();
    for (number, mtu) in [(1, 1500), (2, 9000)] {
        dataplane.maps.put_row(backend(number), RowIndex(number), &row(mtu)).unwrap();
    }
    for slot in 0..1024 {
        dataplane.maps.store_slot(&services[0].service, slot, SlotWord::stable(backend(1)));
    }
    dataplane.maps.store_slot(&services[0].service, 7, SlotWord::new(backend(2), backend(1), true, true));
    let (tables, opened) = dataplane.open_flow_tables(FLOW_TABLE, IDLE_TICKS).unwrap();
    assert_eq!(opened, Opened::Created);
    for (flow, owner) in [(7, 1), (1 << 20 | 7, 2), (8, 1)] {
        tables.table().insert(FlowHash(flow), backend(owner), FlowState::Established, flow_time(), IDLE_TICKS);
    }
    let attachments = attach(&mut dataplane);
    dataplane.detach_all_but(&attachments).unwrap();
    drop(dataplane);

    let new = root.current();
    let counts: Vec<u64> = (0..).take(Verdict::COUNT).map(|verdict| 1000 + verdict).collect();
    count(&new, names::VERDICTS, &counts);
    let traffic = |packets| Traffic { packets, bytes: 100 * packets };
    count(&new, names::BACKEND_TRAFFIC, &[traffic(0), traffic(2), traffic(3)]);
    let mut retired: Array<_, Traffic> = Map::Array(new.map(names::RETIRED_TRAFFIC).unwrap()).try_into().unwrap();
    retired.set(1, traffic(4), 0).unwrap();
}

/// Lets the last CPU have counted these.
fn count<T: aya::Pod>(folder: &Folder, name: &'static str, counts: &[T]) {
    let mut map: PerCpuArray<_, T> = Map::PerCpuArray(folder.map(name).unwrap()).try_into().unwrap();
    for (index, count) in (0..).zip(counts) {
        let mut per_cpu = map.get(&index, 0).unwrap().to_vec();
        *per_cpu.last_mut().unwrap() = *count;
        map.set(index, PerCpuValues::try_from(per_cpu).unwrap(), 0).unwrap();
    }
}

fn attach(dataplane: &mut Dataplane) -> Vec<Attachment> {
    let interface = config::Interface { name: "lo".into(), xdp: config::XdpMode::Generic, gateway: None };
    vec![dataplane.attach(&interface).unwrap()]
}

/// Starts as a daemon does, after [`downgrade`] and whatever happened then, and finds everything as [`fill`] has left it, but for
/// what the older layout does not know.
fn assert_taken_over(root: &Root) {
    let mut dataplane = root.load();
    let maps = &dataplane.maps;
    let mut services = maps.services();
    services.sort_by_key(|entry| entry.service.id);
    assert_eq!(services, [service(1, QuicIds::NONE), service(2, QuicIds::new(3, 4).unwrap())]);
    let moving = SlotWord::new(backend(2), backend(1), true, true);
    let word = |slot| if slot == 7 { moving } else { SlotWord::stable(backend(1)) };
    assert_eq!(maps.load_slots(&services[0].service), (0..1024).map(word).collect::<Vec<_>>());
    let rows = [(1, 1500), (2, 9000)].map(|(number, mtu)| (backend(number), RowIndex(number), row(mtu)));
    assert_eq!(maps.rows().unwrap(), rows);
    assert_eq!(maps.retired_traffic(services[0].service.id).unwrap(), Traffic { packets: 4, bytes: 400 });
    assert_eq!(maps.backend_traffic(backend(2)).unwrap(), Traffic { packets: 3, bytes: 300 });
    let later = Verdict::DropBackendsFull as usize..Verdict::COUNT;
    let expected = |verdict| match verdict as usize {
        number if later.contains(&number) => 0,
        number if verdict == Verdict::DropInternal => {
            1000 * (1 + later.len()) as u64 + (number + later.clone().sum::<usize>()) as u64
        }
        number => 1000 + number as u64,
    };
    let expected: Vec<_> = Verdict::ALL.iter().map(|verdict| (*verdict, expected(*verdict))).collect();
    assert_eq!(maps.verdicts().unwrap(), expected);
    let (tables, opened) = dataplane.open_flow_tables(FLOW_TABLE, IDLE_TICKS).unwrap();
    assert_eq!((opened, flows(&tables.table(), flow_time()).count()), (Opened::TakenOver, 3));
    let attachments = attach(&mut dataplane);
    assert!(attachments[0].taken_over);
    dataplane.detach_all_but(&attachments).unwrap();
    assert_eq!(root.names(BEFORE), [names::VIRTUAL_MACS]);
    // Nobody has counted them.
    let swept = sweep(&tables.table(), None, &dataplane.maps.words(), &mut []);
    assert_eq!(swept.drift, [(backend(1), 2), (backend(2), 1)]);
}

/// What [`upgrade`] and [`downgrade`] pin, in their order.
fn steps() -> Vec<PathBuf> {
    let link = Path::new("links").join(LINK);
    let same = v3::SAME_MAPS.into_iter().chain(["FLOW_TABLE_0"]).map(PathBuf::from);
    let converted = [names::VERDICTS, names::TRACKING, names::DIRECTORIES].map(PathBuf::from);
    let last = [link, names::DIRECTORY_IN_USE.into()];
    same.chain(converted).chain(last).collect()
}

/// How the older lbd sees a directory.
#[repr(C)]
struct OldDirectory {
    filter: [u64; 1024],
    seed: u64,
    entries: [OldEntry; layout::DIRECTORY_PLACES],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
struct OldEntry {
    key: ServiceKey,
    id: ServiceId,
    first_chunk: u32,
    slot_mask: u32,
    quic: QuicIds,
    unused: u16,
}

#[test]
fn after_a_downgrade_an_older_lbd_finds_what_it_knows_and_the_program_in_its_link() {
    with_maps("older", |root| {
        // The places of the services, by the directory itself.
        let places = |folder: &Folder, len: usize| {
            let directory = folder.mapped(names::DIRECTORIES, 2 * len).unwrap();
            let start = folder.directory_in_use().unwrap() as usize * len;
            (start / 4..(start + len) / 4)
                .map(|word| directory.word32(word * 4).load(Ordering::Relaxed))
                .collect::<Vec<_>>()
        };
        let before = places(&root.current(), size_of::<Directory>());
        assert_eq!(downgrade(&root.pins()).unwrap(), Downgraded::Done { by_source: 1 });
        let old = root.old();
        let mapped = old.mapped(names::DIRECTORIES, 2 * size_of::<OldDirectory>()).unwrap();
        assert_eq!(old.directory_in_use().unwrap(), 0);
        // SAFETY: any bytes are one, and nobody writes to it.
        let directory = unsafe { mapped.as_ref::<OldDirectory>(0) };
        let entries = directory.entries.iter().enumerate().filter(|(_, entry)| entry.id != ServiceId::default());
        let [one, two] = entries.collect::<Vec<_>>()[..] else { panic!("there are two services") };
        for (place, entry) in [one, two] {
            let quic = if entry.id.get() == 2 { QuicIds::new(3, 4).unwrap() } else { QuicIds::NONE };
            let ServiceEntry { key, service } = service(entry.id.get(), quic);
            let Service { id, first_chunk, slot_mask, .. } = service;
            let expected = OldEntry { key, id, first_chunk, slot_mask, quic, unused: 0 };
            assert_eq!(*entry, expected);
            let word_before = (8192 + 8 + place * 40 + 20) / 4;
            assert_eq!(before[word_before], entry.id.get(), "it has another place");
        }
        assert_eq!(directory.filter.map(u64::count_ones).iter().sum::<u32>(), 1);
        assert_eq!(u64::from(before[2048]) | u64::from(before[2049]) << 32, directory.seed);

        let verdicts = old.map(names::VERDICTS).unwrap().info().unwrap();
        assert_eq!(verdicts.max_entries(), 14);
        assert_eq!(root.names(NOW), [names::VIRTUAL_MACS]);
        assert!(root.link(BEFORE).exists());
    });
}

/// Neither would an older daemon read the state folder, nor would its program do what they do.
#[test]
fn nothing_is_downgraded_while_services_do_what_the_older_layout_cannot() {
    with_maps("refused", |root| {
        let mut services = [1, 2, 3, 4, 5, 6, 7].map(|number| service(number, QuicIds::NONE));
        services[1].service.nat = NatMode::BOTH;
        services[2].service.hash = HashInputs::new(HashInput::source(24).unwrap());
        services[5].key.protocol = echo::REQUEST;
        services[6].service.datagrams = Datagrams::SINGLE;
        let mut dataplane = root.load();
        dataplane.maps.store_services(&services, &[]).unwrap();
        // It chooses later; and all weights are zero.
        dataplane.maps.store_scheduler(services[3].service.id, Scheduler::new(Policy::SLOT, 9, 2));
        dataplane.maps.store_scheduler(services[4].service.id, Scheduler::new(Policy::LEAST, 9, 0));
        drop(dataplane);
        let before = root.names(NOW);
        let downgraded = downgrade(&root.pins()).unwrap();
        let Downgraded::Refused { translating, mut scheduled, mut others } = downgraded else {
            panic!("{downgraded:?}");
        };
        scheduled.sort_by_key(|entry| entry.service.id);
        others.sort_by_key(|entry| entry.service.id);
        assert_eq!(translating, services[1..2]);
        assert_eq!(scheduled, services[2..5]);
        assert_eq!(others, services[5..]);
        assert_eq!(root.names(NOW), before);
        assert!(!root.old().is_whole());
    });
}

#[test]
fn a_daemon_takes_over_what_an_older_one_has_left() {
    with_maps("newer", |root| {
        downgrade(&root.pins()).unwrap();
        assert_taken_over(root);
    });
}

#[test]
fn an_upgrade_that_was_interrupted_is_begun_again() {
    with_maps("upgrade", |root| {
        downgrade(&root.pins()).unwrap();
        for done in 0..=steps().len() {
            assert!(upgrade(&root.pins()).unwrap());
            for step in &steps()[done..] {
                fs::remove_file(root.current().path().join(step)).unwrap();
            }
            // An older daemon could still start.
            assert!(root.old().is_whole() && root.link(BEFORE).exists());
        }
        assert_taken_over(root);
    });
}

#[test]
fn the_end_of_an_upgrade_that_was_interrupted_is_brought_about_later() {
    with_maps("end", |root| {
        downgrade(&root.pins()).unwrap();
        upgrade(&root.pins()).unwrap();
        fs::remove_file(root.old().path().join(names::DIRECTORY_IN_USE)).unwrap();
        fs::remove_file(root.old().path().join(names::SLOTS)).unwrap();
        assert_taken_over(root);
    });
}

/// What [`downgrade`] does first: so many of the pins of the older folder are made.
fn begin_downgrade(root: &Root, done: usize) {
    let (old, new) = (root.old(), root.current());
    v3::share_maps(&new, &old).unwrap();
    v3::convert_counters_to(&old, &new).unwrap();
    v3::convert_directory_to(&old, &new).unwrap();
    old.share_links(&new).unwrap();
    for step in &steps()[done..steps().len() - 1] {
        fs::remove_file(old.path().join(step)).unwrap();
    }
}

#[test]
fn a_downgrade_that_was_interrupted_is_forgotten_by_the_daemon() {
    with_maps("forgotten", |root| {
        let before = root.names(NOW);
        for done in 0..steps().len() {
            begin_downgrade(root, done);
            assert!(!upgrade(&root.pins()).unwrap());
            assert_eq!(root.names(NOW), before);
            assert!(!root.old().is_whole() && !root.link(BEFORE).exists());
        }
        assert_eq!(downgrade(&root.pins()).unwrap(), Downgraded::Done { by_source: 1 });
        assert_taken_over(root);
    });
}

#[test]
fn a_downgrade_that_was_interrupted_is_begun_again_by_the_next() {
    with_maps("again", |root| {
        for done in 0..steps().len() {
            begin_downgrade(root, done);
            assert!(matches!(downgrade(&root.pins()).unwrap(), Downgraded::Done { .. }));
            assert!(root.old().is_whole() && root.link(BEFORE).exists());
            upgrade(&root.pins()).unwrap();
            finish(&root.pins()).unwrap();
        }
        downgrade(&root.pins()).unwrap();
        assert_taken_over(root);
    });
}

#[test]
fn the_end_of_a_downgrade_that_was_interrupted_is_brought_about_later() {
    with_maps("end-of-downgrade", |root| {
        downgrade(&root.pins()).unwrap();
        upgrade(&root.pins()).unwrap();
        assert_eq!(downgrade(&root.pins()).unwrap(), Downgraded::Done { by_source: 0 });
        assert_eq!(root.names(NOW), [names::VIRTUAL_MACS]);
        assert_eq!(downgrade(&root.pins()).unwrap(), Downgraded::NothingThere);
        assert_taken_over(root);
    });
}

#[test]
fn what_an_older_lbd_makes_beside_a_newer_one_is_removed() {
    with_maps("stranger", |root| {
        let (old, new) = (root.old(), root.current());
        let others: Vec<_> = v3::SAME_MAPS.into_iter().filter(|name| *name != names::SLOTS).collect();
        old.share_maps(&new, &others).unwrap();
        let slots = new.map(names::SLOTS).unwrap().info().unwrap();
        let array = aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY;
        let slots =
            bpf::new_map(names::SLOTS, array, slots.value_size() as usize, slots.max_entries(), layout::MMAPABLE);
        old.pin(names::SLOTS, &slots.unwrap()).unwrap();
        old.make_whole().unwrap();
        let before = root.names(NOW);
        assert!(!upgrade(&root.pins()).unwrap());
        assert_eq!(root.names(NOW), before);
        assert_eq!(root.names(BEFORE), [names::VIRTUAL_MACS]);
    });
}

#[test]
fn a_node_without_maps_has_nothing_to_go_back_to() {
    with_maps("nothing", |root| {
        root.pins().remove().unwrap();
        assert_eq!(downgrade(&root.pins()).unwrap(), Downgraded::NothingThere);
        assert!(!upgrade(&root.pins()).unwrap());
    });
}

#[test]
fn an_unload_takes_the_program_of_an_older_lbd_off() {
    with_maps("unload", |root| {
        downgrade(&root.pins()).unwrap();
        let link = PathBuf::from(format!("{}-link", root.0.display()));
        bpf::pin_again(&root.link(BEFORE), &link).unwrap();
        root.pins().remove().unwrap();
        assert!(!root.0.exists());
        // There would be no place for a second program.
        assert!(!attach(&mut root.load())[0].taken_over);
        fs::remove_file(&link).unwrap();
    });
}

#[test]
fn what_an_lbd_in_development_left_is_not_read_and_goes_with_all_the_rest() {
    with_maps("unreleased", |root| {
        let folder = |version: u32| root.0.join(format!("v{version}"));
        fs::rename(folder(NOW), folder(UNRELEASED)).unwrap();
        let Err(refused) = Dataplane::load(&root.0, HashKey::default(), layout::AFFINITY_CLIENTS, None) else {
            panic!("it was read")
        };
        assert!(refused.to_string().contains("lbd unload"), "{refused}");
        root.pins().remove().unwrap();
        assert!(!folder(UNRELEASED).exists());
    });
}

#[test]
fn the_programs_of_a_load_stay_as_long_as_one_may_be_attached() {
    with_maps("programs", |root| {
        let programs = || -> Vec<String> {
            root.names(NOW).into_iter().filter(|name| name.starts_with(names::PROGRAMS)).collect()
        };
        let first = programs();
        assert_eq!(first.len(), 1, "{first:?}");
        // A start that fails before anything is attached.
        drop(root.load());
        assert_eq!(programs(), first);
        // One that is ended in the middle.
        let mut second = root.load();
        attach(&mut second);
        drop(second);
        assert_eq!(programs().len(), 2);
        let mut third = root.load();
        let attachments = attach(&mut third);
        third.detach_all_but(&attachments).unwrap();
        let last = programs();
        assert!(last.len() == 1 && last != first, "{last:?}");
        drop(third);
        assert_eq!(programs(), last);
    });
}
