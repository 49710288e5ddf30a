//! What each state does next, whatever is wanted and has become of its backends. A slot is B's that was A's, or A's alone.

use std::fmt::Write as _;

use super::*;

/// What may have become of a backend. The deadline of one that is late has passed.
const FATES: [&str; 5] = ["serving", "leaving", "late", "held", "gone"];

fn fate(name: &str, now: Instant) -> Fate {
    match name {
        "serving" => Fate::Serving,
        "leaving" => Fate::Leaving { until: Some(now + secs(600)) },
        "late" => Fate::Leaving { until: Some(now) },
        "held" => Fate::Held,
        _ => Fate::Gone,
    }
}

fn name(id: BackendId) -> &'static str {
    ["nobody", "A", "B", "C"][id.get() as usize]
}

fn describe(word: SlotWord) -> String {
    let (current, previous) = (name(word.current()), name(word.previous()));
    match State::of(word) {
        State::Empty => "empty".to_owned(),
        State::Stable => format!("stable {current}"),
        State::Arming => format!("arming {current}"),
        State::Moving => format!("moving {current}<{previous}"),
        State::Tracked => format!("tracked {current}"),
    }
}

/// The word after the one that was there `since` so long.
fn after(word: SlotWord, since: Duration, wanted: BackendId, tracking: Tracking, fates: [&str; 2]) -> String {
    let start = Instant::now();
    let now = start + since;
    let mut mover = SlotMover::take_over(vec![word], start);
    mover.set_wanted([wanted]);
    let fate = |id| match id {
        A => fate(fates[0], now),
        B => fate(fates[1], now),
        _ => Fate::Serving,
    };
    mover.advance(&Pace { tracking, ..TCP }, fate, now);
    describe(mover.words().next().unwrap())
}

/// All combinations in which the wanted one serves: a column for each fate of the owner, a line for all else.
fn table(tracking: Tracking) -> String {
    let mut table = String::new();
    let mut line = |title: &str, cells: [String; 5]| {
        let cells = cells.map(|cell| format!("{cell:11}")).join(" ");
        writeln!(table, "{title:42} {}", cells.trim_end()).unwrap();
    };
    let open = |wanted: BackendId, owner: BackendId, fate: &str| wanted != owner || fate == "serving";
    line("", FATES.map(str::to_owned));
    let cell = |wanted| after(SlotWord::EMPTY, secs(0), wanted, tracking, ["serving"; 2]);
    line("empty, A wanted", [cell(A), String::new(), String::new(), String::new(), String::new()]);
    line("empty, nobody wanted", [cell(NOBODY), String::new(), String::new(), String::new(), String::new()]);
    for (word, since) in
        [(stable(A), HANDSHAKE), (tracked(A), HANDSHAKE), (arming(A), HANDSHAKE - TICK), (arming(A), HANDSHAKE)]
    {
        for wanted in [A, C, NOBODY] {
            let cell = |fate| after(word, since, wanted, tracking, [fate, "serving"]);
            line(
                &format!("{} for {since:?}, {} wanted", describe(word), name(wanted)),
                FATES.map(|fate| if open(wanted, A, fate) { cell(fate) } else { "-".to_owned() }),
            );
        }
    }
    for wanted in [A, B, C, NOBODY] {
        for previous in FATES.iter().filter(|fate| open(wanted, A, fate)) {
            let cell = |fate| after(moving(B, A), HANDSHAKE, wanted, tracking, [previous, fate]);
            line(
                &format!("moving B<A, A {previous}, {} wanted", name(wanted)),
                FATES.map(|fate| if open(wanted, B, fate) { cell(fate) } else { "-".to_owned() }),
            );
        }
    }
    table
}

#[test]
fn slots_of_a_service_that_tracks_when_needed() {
    insta::assert_snapshot!(table(Tracking::WhenNeeded), @"
                                               serving     leaving     late        held        gone
    empty, A wanted                            tracked A
    empty, nobody wanted                       empty
    stable A for 3s, A wanted                  stable A    -           -           -           -
    stable A for 3s, C wanted                  arming A    arming A    tracked C   moving C<A  tracked C
    stable A for 3s, nobody wanted             stable A    stable A    stable A    stable A    empty
    tracked A for 3s, A wanted                 tracked A   -           -           -           -
    tracked A for 3s, C wanted                 arming A    arming A    tracked C   moving C<A  tracked C
    tracked A for 3s, nobody wanted            tracked A   tracked A   tracked A   tracked A   empty
    arming A for 2.9s, A wanted                tracked A   -           -           -           -
    arming A for 2.9s, C wanted                arming A    arming A    tracked C   moving C<A  tracked C
    arming A for 2.9s, nobody wanted           tracked A   tracked A   tracked A   tracked A   empty
    arming A for 3s, A wanted                  tracked A   -           -           -           -
    arming A for 3s, C wanted                  moving C<A  moving C<A  tracked C   moving C<A  tracked C
    arming A for 3s, nobody wanted             tracked A   tracked A   tracked A   tracked A   empty
    moving B<A, A serving, A wanted            tracked A   tracked A   tracked A   tracked A   tracked A
    moving B<A, A serving, B wanted            moving B<A  -           -           -           -
    moving B<A, A leaving, B wanted            moving B<A  -           -           -           -
    moving B<A, A late, B wanted               tracked B   -           -           -           -
    moving B<A, A held, B wanted               moving B<A  -           -           -           -
    moving B<A, A gone, B wanted               tracked B   -           -           -           -
    moving B<A, A serving, C wanted            moving C<A  moving C<A  moving C<A  moving C<A  moving C<A
    moving B<A, A leaving, C wanted            moving C<A  moving C<A  moving C<A  moving C<A  moving C<A
    moving B<A, A late, C wanted               arming B    arming B    tracked C   moving C<B  tracked C
    moving B<A, A held, C wanted               moving C<A  moving C<A  moving C<A  moving C<A  moving C<A
    moving B<A, A gone, C wanted               arming B    arming B    tracked C   moving C<B  tracked C
    moving B<A, A serving, nobody wanted       moving B<A  moving B<A  moving B<A  moving B<A  tracked A
    moving B<A, A leaving, nobody wanted       moving B<A  moving B<A  moving B<A  moving B<A  tracked A
    moving B<A, A late, nobody wanted          tracked B   tracked B   tracked B   tracked B   tracked A
    moving B<A, A held, nobody wanted          moving B<A  moving B<A  moving B<A  moving B<A  tracked A
    moving B<A, A gone, nobody wanted          tracked B   tracked B   tracked B   tracked B   empty
    ");
}

#[test]
fn slots_of_a_service_that_always_tracks() {
    insta::assert_snapshot!(table(Tracking::Always), @"
                                               serving     leaving     late        held        gone
    empty, A wanted                            arming A
    empty, nobody wanted                       empty
    stable A for 3s, A wanted                  arming A    -           -           -           -
    stable A for 3s, C wanted                  arming A    arming A    arming C    moving C<A  arming C
    stable A for 3s, nobody wanted             arming A    arming A    arming A    arming A    empty
    tracked A for 3s, A wanted                 arming A    -           -           -           -
    tracked A for 3s, C wanted                 arming A    arming A    arming C    moving C<A  arming C
    tracked A for 3s, nobody wanted            arming A    arming A    arming A    arming A    empty
    arming A for 2.9s, A wanted                arming A    -           -           -           -
    arming A for 2.9s, C wanted                arming A    arming A    arming C    moving C<A  arming C
    arming A for 2.9s, nobody wanted           arming A    arming A    arming A    arming A    empty
    arming A for 3s, A wanted                  arming A    -           -           -           -
    arming A for 3s, C wanted                  moving C<A  moving C<A  arming C    moving C<A  arming C
    arming A for 3s, nobody wanted             arming A    arming A    arming A    arming A    empty
    moving B<A, A serving, A wanted            arming A    arming A    arming A    arming A    arming A
    moving B<A, A serving, B wanted            moving B<A  -           -           -           -
    moving B<A, A leaving, B wanted            moving B<A  -           -           -           -
    moving B<A, A late, B wanted               arming B    -           -           -           -
    moving B<A, A held, B wanted               moving B<A  -           -           -           -
    moving B<A, A gone, B wanted               arming B    -           -           -           -
    moving B<A, A serving, C wanted            moving C<A  moving C<A  moving C<A  moving C<A  moving C<A
    moving B<A, A leaving, C wanted            moving C<A  moving C<A  moving C<A  moving C<A  moving C<A
    moving B<A, A late, C wanted               arming B    arming B    arming C    moving C<B  arming C
    moving B<A, A held, C wanted               moving C<A  moving C<A  moving C<A  moving C<A  moving C<A
    moving B<A, A gone, C wanted               arming B    arming B    arming C    moving C<B  arming C
    moving B<A, A serving, nobody wanted       moving B<A  moving B<A  moving B<A  moving B<A  arming A
    moving B<A, A leaving, nobody wanted       moving B<A  moving B<A  moving B<A  moving B<A  arming A
    moving B<A, A late, nobody wanted          arming B    arming B    arming B    arming B    arming A
    moving B<A, A held, nobody wanted          moving B<A  moving B<A  moving B<A  moving B<A  arming A
    moving B<A, A gone, nobody wanted          arming B    arming B    arming B    arming B    empty
    ");
}

#[test]
fn slots_of_a_service_that_never_tracks() {
    insta::assert_snapshot!(table(Tracking::Never), @"
                                               serving     leaving     late        held        gone
    empty, A wanted                            stable A
    empty, nobody wanted                       empty
    stable A for 3s, A wanted                  stable A    -           -           -           -
    stable A for 3s, C wanted                  stable C    stable C    stable C    stable C    stable C
    stable A for 3s, nobody wanted             stable A    stable A    stable A    stable A    empty
    tracked A for 3s, A wanted                 stable A    -           -           -           -
    tracked A for 3s, C wanted                 stable C    stable C    stable C    stable C    stable C
    tracked A for 3s, nobody wanted            stable A    stable A    stable A    stable A    empty
    arming A for 2.9s, A wanted                stable A    -           -           -           -
    arming A for 2.9s, C wanted                stable C    stable C    stable C    stable C    stable C
    arming A for 2.9s, nobody wanted           stable A    stable A    stable A    stable A    empty
    arming A for 3s, A wanted                  stable A    -           -           -           -
    arming A for 3s, C wanted                  stable C    stable C    stable C    stable C    stable C
    arming A for 3s, nobody wanted             stable A    stable A    stable A    stable A    empty
    moving B<A, A serving, A wanted            stable A    stable A    stable A    stable A    stable A
    moving B<A, A serving, B wanted            stable B    -           -           -           -
    moving B<A, A leaving, B wanted            stable B    -           -           -           -
    moving B<A, A late, B wanted               stable B    -           -           -           -
    moving B<A, A held, B wanted               stable B    -           -           -           -
    moving B<A, A gone, B wanted               stable B    -           -           -           -
    moving B<A, A serving, C wanted            stable C    stable C    stable C    stable C    stable C
    moving B<A, A leaving, C wanted            stable C    stable C    stable C    stable C    stable C
    moving B<A, A late, C wanted               stable C    stable C    stable C    stable C    stable C
    moving B<A, A held, C wanted               stable C    stable C    stable C    stable C    stable C
    moving B<A, A gone, C wanted               stable C    stable C    stable C    stable C    stable C
    moving B<A, A serving, nobody wanted       stable B    stable B    stable B    stable B    stable A
    moving B<A, A leaving, nobody wanted       stable B    stable B    stable B    stable B    stable A
    moving B<A, A late, nobody wanted          stable B    stable B    stable B    stable B    stable A
    moving B<A, A held, nobody wanted          stable B    stable B    stable B    stable B    stable A
    moving B<A, A gone, nobody wanted          stable B    stable B    stable B    stable B    empty
    ");
}
