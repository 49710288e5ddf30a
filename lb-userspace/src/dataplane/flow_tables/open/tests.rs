use std::{
    fs,
    os::fd::OwnedFd,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use lb_common::{BackendId, FlowEntry, FlowHash, FlowState};
use proptest::prelude::*;

use super::*;

const IDLE_TICKS: u8 = 10;
const SMALL: BucketBits = BucketBits::new(13).unwrap();
const LARGE: BucketBits = BucketBits::new(15).unwrap();

/// The backend of the flow with this number.
fn owner(number: u32) -> BackendId {
    BackendId::truncate(number % 1000 + 1)
}

fn fill(table: &FlowTable, flows: &[FlowHash]) {
    for (flow, number) in flows.iter().zip(0..) {
        let inserted = table.insert(*flow, owner(number), FlowState::Established, flow_time(), IDLE_TICKS);
        assert_eq!(inserted, Inserted::New { evicted: false });
    }
}

fn backend_of(table: &FlowTable, flow: FlowHash) -> Option<BackendId> {
    table.find(flow).map(FlowEntry::backend)
}

fn assert_filled(table: &FlowTable, flows: &[FlowHash]) {
    for (flow, number) in flows.iter().zip(0..) {
        assert_eq!(backend_of(table, *flow), Some(owner(number)), "flow {number}");
    }
    assert_eq!(table.places().count(), flows.len());
}

fn random_flows(seed: u64, count: usize) -> Vec<FlowHash> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..count).map(|_| FlowHash(random.u64(..))).collect()
}

fn copy_all(from: &FlowTable, to: &FlowTable, in_both: InBoth) -> Copied {
    copy(from, to, in_both, Lifetimes::new(IDLE_TICKS), IDLE_TICKS, flow_time)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn every_flow_is_found_in_a_copy_of_any_size(
        sizes in [13u32..18, 13..18], seed: u64,
    ) {
        let [from, to] = sizes.map(|bits| FlowTable::in_memory(BucketBits::new(bits).unwrap()).unwrap());
        let flows = random_flows(seed, 20_000);
        fill(&from, &flows);
        let copied = copy_all(&from, &to, InBoth::Leave);
        prop_assert_eq!(copied, Copied { flows: flows.len() as u64, refused: 0 });
        assert_filled(&to, &flows);
        prop_assert_eq!(copy_all(&from, &to, InBoth::Leave), Copied::default());
        assert_filled(&to, &flows);
    }
}

#[test]
fn a_flow_that_packets_have_carried_over_is_left_as_they_have_left_it() {
    let [from, to] = [SMALL, LARGE].map(|bits| FlowTable::in_memory(bits).unwrap());
    let flows = random_flows(3, 2);
    fill(&from, &flows);
    fill(&to, &flows[1..]);
    assert_eq!(copy_all(&from, &to, InBoth::Leave), Copied { flows: 1, refused: 0 });
    assert_eq!(backend_of(&to, flows[1]), Some(owner(0)));
    let [from, to] = [SMALL, LARGE].map(|bits| FlowTable::in_memory(bits).unwrap());
    fill(&from, &flows);
    fill(&to, &flows[1..]);
    assert_eq!(copy_all(&from, &to, InBoth::Overwrite), Copied { flows: 1, refused: 0 });
    assert_eq!(backend_of(&to, flows[1]), Some(owner(1)));
}

#[test]
fn each_flow_that_is_copied_counts_once_and_what_has_no_room_stays() {
    let [from, to] = [LARGE, SMALL].map(|bits| FlowTable::in_memory(bits).unwrap());
    let flows = random_flows(3, 90_000);
    fill(&from, &flows);
    let copied = copy_all(&from, &to, InBoth::Leave);
    assert!(copied.refused > 20_000, "{copied:?}");
    assert_eq!(from.count(), usize::try_from(copied.refused).unwrap());
    for table in [&from, &to] {
        let active = |id| table.connections().tally(BackendId::truncate(id)).active() as usize;
        assert_eq!((0..=1000).map(active).sum::<usize>(), table.count());
    }
}

#[test]
fn what_is_over_is_not_copied() {
    let [from, to] = [SMALL, LARGE].map(|bits| FlowTable::in_memory(bits).unwrap());
    let [alive, over] = random_flows(3, 2)[..] else { unreachable!() };
    let long_ago = FlowTime(flow_time().0.wrapping_sub(400_000_000_000));
    fill(&from, &[alive]);
    from.insert(over, owner(1), FlowState::Established, long_ago, IDLE_TICKS);
    assert_eq!(copy_all(&from, &to, InBoth::Leave), Copied { flows: 1, refused: 0 });
    assert_filled(&to, &[alive]);
}

/// The maps of a datapath without its program. They need a kernel, and root.
struct Kernel {
    outer: OwnedFd,
    in_use: MapData,
    folder: PathBuf,
    connections: Arc<Connections>,
}

impl Kernel {
    fn new(test: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let folder = Path::new("/sys/fs/bpf").join(format!("lb-unit-{test}-{}", since_1970.as_nanos()));
        fs::create_dir_all(&folder).unwrap();
        let template = create_map(SMALL).unwrap();
        let outer = bpf::create_array_of_maps(2, template.fd().as_fd()).unwrap();
        let in_use = aya_obj::Map::new_from_params(BPF_MAP_TYPE_ARRAY as u32, 4, 8, 1, 1 << 10);
        let in_use = MapData::create(in_use, "IN_USE", None).unwrap();
        Some(Self { outer, in_use, folder, connections: Arc::new(Connections::in_memory().unwrap()) })
    }

    fn places(&self) -> Places {
        let in_use = Mapped::new(self.in_use.fd(), size_of::<u64>()).unwrap();
        let outer = MapData::from_fd(self.outer.try_clone().unwrap()).unwrap();
        Places { outer, in_use, folder: self.folder.clone(), connections: Arc::clone(&self.connections) }
    }

    fn open(&self, size: BucketBits) -> (Arc<FlowTable>, Opened) {
        let (tables, opened) = FlowTables::open(self.places(), size, IDLE_TICKS).unwrap();
        (tables.table(), opened)
    }

    /// Opens it, and what has to be true afterwards is: the flows are there, the size is right, and nothing else is left.
    fn open_and_check(&self, size: BucketBits, flows: &[FlowHash]) -> Opened {
        let (table, opened) = self.open(size);
        let word = self.places().word();
        let Some((place, bits)) = word.current() else { panic!("there is no table") };
        assert_eq!((bits, word.old(), word.idle_ticks()), (table.bits(), None, IDLE_TICKS));
        assert!(self.places().pin(place).exists() && !self.places().pin(place ^ 1).exists());
        let nothing = bpf::remove_inner_map(self.places().outer.fd().as_fd(), place ^ 1).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::NotFound);
        assert_filled(&table, flows);
        opened
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn a_table_is_made_at_the_first_start_and_taken_over_at_the_next() {
    let Some(kernel) = Kernel::new("first") else { return };
    let (table, opened) = kernel.open(SMALL);
    assert_eq!((table.bits(), opened), (SMALL, Opened::Created));
    let flows = random_flows(3, 1000);
    fill(&table, &flows);
    assert_eq!(kernel.open_and_check(SMALL, &flows), Opened::TakenOver);
}

#[test]
fn a_table_becomes_larger_and_smaller_with_all_its_flows() {
    let Some(kernel) = Kernel::new("resize") else { return };
    let flows = random_flows(3, 30_000);
    fill(&kernel.open(SMALL).0, &flows);
    assert_eq!(kernel.open_and_check(LARGE, &flows), Opened::Resized { from: SMALL, copied: 30_000, refused: 0 });
    assert_eq!(kernel.open_and_check(SMALL, &flows), Opened::Resized { from: LARGE, copied: 30_000, refused: 0 });
}

#[test]
fn a_table_with_too_many_flows_for_a_smaller_one_stays_as_it_is() {
    let Some(kernel) = Kernel::new("crowded") else { return };
    let flows = random_flows(3, 50_000);
    fill(&kernel.open(LARGE).0, &flows);
    assert_eq!(kernel.open_and_check(SMALL, &flows), Opened::Kept { flows: 50_000 });
}

#[test]
fn a_table_whose_flows_crowd_in_few_buckets_comes_back_when_they_do_not_fit_a_smaller_one() {
    let Some(kernel) = Kernel::new("skewed") else { return };
    // With the same two buckets in the smaller table, and different ones in the larger.
    let pair = SMALL.buckets_of(FlowHash(0));
    let crowd = (0..).map(|number: u64| FlowHash((number & 3) << 16 | number >> 2));
    let crowd: Vec<_> = crowd.filter(|flow| SMALL.buckets_of(*flow) == pair).take(17).collect();
    let (table, _) = kernel.open(LARGE);
    let flows = [crowd, random_flows(3, 1000)].concat();
    fill(&table, &flows);
    assert_eq!(kernel.open_and_check(SMALL, &flows), Opened::Kept { flows: 1017 });
    let (place, bits) = kernel.places().word().current().unwrap();
    assert_eq!((place, bits), (0, LARGE));
}

#[test]
fn a_start_goes_on_where_an_earlier_one_was_interrupted() {
    let Some(kernel) = Kernel::new("interrupted") else { return };
    let flows = random_flows(3, 10_000);
    fill(&kernel.open(SMALL).0, &flows);

    let (place, _) = kernel.places().word().current().unwrap();
    kernel.places().create(place ^ 1, LARGE).unwrap();
    assert_eq!(kernel.open_and_check(SMALL, &flows), Opened::TakenOver, "a new table is there, and not in use");

    let new = kernel.places().create(place ^ 1, LARGE).unwrap();
    kernel.places().store(Word::new(place ^ 1, LARGE, Some(SMALL), IDLE_TICKS));
    fill(&new, &flows[..100]);
    let opened = kernel.open_and_check(LARGE, &flows);
    assert_eq!(
        opened,
        Opened::Resized { from: SMALL, copied: 9_900, refused: 0 },
        "the new table is in use, and not all is copied"
    );

    let place = place ^ 1;
    let new = kernel.places().create(place ^ 1, SMALL).unwrap();
    fill(&new, &flows);
    kernel.places().store(Word::new(place ^ 1, SMALL, None, IDLE_TICKS));
    assert_eq!(kernel.open_and_check(SMALL, &flows), Opened::TakenOver, "the old table is still there");
    let counted = |id| kernel.connections.tally(BackendId::truncate(id)).active();
    assert_eq!((1..=1000).map(counted).collect::<Vec<_>>(), [10; 1000], "and its flows count no longer");

    let place = place ^ 1;
    kernel.places().create(place ^ 1, SMALL).unwrap();
    kernel.places().store(Word::new(place ^ 1, SMALL, Some(SMALL), IDLE_TICKS));
    let opened = kernel.open_and_check(LARGE, &flows);
    assert_eq!(
        opened,
        Opened::Resized { from: SMALL, copied: 10_000, refused: 0 },
        "a change of size, and another one is wanted"
    );
}

#[test]
fn a_pin_of_another_table_is_refused() {
    let Some(kernel) = Kernel::new("stranger") else { return };
    drop(kernel.open(SMALL));
    kernel.places().store(Word::new(0, LARGE, None, IDLE_TICKS));
    let error = FlowTables::open(kernel.places(), LARGE, IDLE_TICKS).unwrap_err();
    assert!(matches!(error, DataplaneError::FlowTable { .. }), "{error}");
}
