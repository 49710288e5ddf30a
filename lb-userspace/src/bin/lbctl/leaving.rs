//! Waiting until backends that drain, or were removed, have no flow left.

use std::{
    collections::BTreeSet,
    io::{self, IsTerminal as _, Write as _},
    mem,
    time::{Duration, Instant},
};

use lb_userspace::{
    api::{ChangedView, Client, ClientError},
    config::Tracking,
    model::{Admin, Applied, ServiceView, counted},
};

use serde::Serialize;

use super::tables::whole_seconds;

/// How often it is looked at.
const PERIOD: Duration = Duration::from_millis(500);
/// How often it is said how far it is, where lines cannot be written anew.
const REPORT: Duration = Duration::from_secs(10);
/// For how long an `lbd` that does not answer is asked again: it may be about to start again.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many lines are written anew at most; there may be more backends than a terminal has lines.
const LINES: usize = 10;

/// What the backends were told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaving {
    Drains,
    Removed,
}

/// A backend that leaves.
#[derive(Debug)]
pub(crate) struct Waiting {
    leaving: Leaving,
    /// As it was when it was there the last time.
    pub(crate) seen: ChangedView,
    deadline: Option<Instant>,
    pub(crate) end: Option<End>,
}

/// How the wait for a backend has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// No flow is left, as far as the balancer can know: no slot and no entry of the flow table names the backend.
    Empty,
    /// No slot names it, and that is all that can be known.
    Untracked,
    /// Its deadline came. What it had before that, for people.
    Deadline(String),
    /// The operator gave it flows again.
    Enabled,
    /// The operator cut the flows that it had.
    Disabled,
    /// The service is no more.
    NoService,
}

/// A backend that has left, for programs.
#[derive(Debug, Serialize)]
pub(crate) struct Left {
    #[serde(flatten)]
    pub(crate) backend: ChangedView,
    /// How the wait has ended: `empty`, `untracked` or `deadline`.
    ended: &'static str,
    /// What the backend had until its deadline, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    cut: Option<String>,
}

impl Waiting {
    /// The backend, if the wait has ended as it was to.
    pub(crate) fn left(self) -> Option<Left> {
        let (ended, cut) = match self.end? {
            End::Empty => ("empty", None),
            End::Untracked => ("untracked", None),
            End::Deadline(cut) => ("deadline", Some(cut)),
            End::Enabled | End::Disabled | End::NoService => return None,
        };
        Some(Left { backend: self.seen, ended, cut })
    }

    pub(crate) fn new(leaving: Leaving, seen: ChangedView, now: Instant) -> Self {
        Self { leaving, deadline: seen.time_left.map(|left| now + left), seen, end: None }
    }

    /// Takes in how the services are.
    pub(crate) fn look(&mut self, services: &[ServiceView], now: Instant) {
        let Some(service) = services.iter().find(|service| service.name == self.seen.service) else {
            self.end = Some(End::NoService);
            return;
        };
        let applied = Applied {
            service: self.seen.service.clone(),
            backend: self.seen.backend.clone(),
            address: self.seen.address,
            port: self.seen.port,
        };
        let is_empty = if service.tracking == Tracking::Never { End::Untracked } else { End::Empty };
        if !service.backends.iter().any(|backend| applied.is(backend)) {
            // It was removed, and is forgotten: at its deadline, or before because nothing was left.
            let was_cut_off = has_flows(&self.seen) && self.deadline.is_some_and(|deadline| deadline <= now + PERIOD);
            self.end = Some(if was_cut_off { End::Deadline(left(&self.seen)) } else { is_empty });
            return;
        }
        let before = mem::replace(&mut self.seen, ChangedView::new(&applied, Some(service)));
        self.deadline = self.seen.time_left.map(|left| now + left);
        self.end = match (self.leaving, self.seen.admin) {
            (Leaving::Removed, Some(_)) | (Leaving::Drains, Some(Admin::Enabled)) => Some(End::Enabled),
            (Leaving::Drains, Some(Admin::Disabled)) => Some(End::Disabled),
            _ if is_empty == End::Untracked && !has_flows(&self.seen) => Some(End::Untracked),
            // Its slots are others' now, and what the flow table still says of its flows is of no meaning.
            _ if self.seen.time_left == Some(Duration::ZERO) => Some(End::Deadline(left(&before))),
            _ if !has_flows(&self.seen) => Some(End::Empty),
            _ => None,
        };
    }

    /// What is left, for people.
    pub(crate) fn progress(&self) -> String {
        let time = self.seen.time_left.map_or(String::new(), |left| format!(", {} at most", whole_seconds(left)));
        format!("{}: {}{time}", self.name(), left(&self.seen))
    }

    fn name(&self) -> String {
        format!("{}/{}", self.seen.service, self.seen.backend)
    }

    /// How it has ended, for people; as an error if it is not what was waited for.
    pub(crate) fn outcome(&self) -> Option<Result<String, String>> {
        let name = self.name();
        Some(match self.end.as_ref()? {
            End::Empty => Ok("no flow is left".to_owned()),
            End::Untracked => {
                Ok("no slot is left; this service tracks no flows: packets of those that there were go to other \
                                  backends"
                    .to_owned())
            }
            End::Deadline(left) => Ok(format!("its time is up, which cuts the flows that it had ({left})")),
            End::Enabled if self.leaving == Leaving::Removed => Err(format!("{name} was added again meanwhile")),
            End::Enabled => Err(format!("{name} was enabled meanwhile")),
            End::Disabled => Err(format!("{name} was disabled meanwhile, which cuts the flows that it had")),
            End::NoService => Err(format!("{name}: the service was removed meanwhile, with all its flows")),
        })
    }
}

/// Whether a backend may have flows.
const fn has_flows(backend: &ChangedView) -> bool {
    !matches!(backend.flows, Some(0)) || backend.closing > 0 || backend.hidden_flows || backend.slots > 0
}

/// What it may have, for people.
fn left(backend: &ChangedView) -> String {
    let flows = backend.flows.map_or("flows not counted yet".to_owned(), |flows| counted(flows, "flow"));
    let closing = if backend.closing > 0 { format!(" and {} closing", backend.closing) } else { String::new() };
    let hidden = if backend.hidden_flows { " and those that connection ids name" } else { "" };
    format!("{flows}{closing}{hidden}, {} left", counted(backend.slots as u64, "slot"))
}

/// Returns when each of `backends` has no flow left or has met its deadline, and an error when something else has become of
/// one of them. Says on standard error how far it is.
pub(crate) async fn wait(
    client: &Client,
    leaving: Leaving,
    backends: Vec<ChangedView>,
) -> Result<Vec<Waiting>, ClientError> {
    let mut warned: BTreeSet<String> =
        backends.iter().filter(|view| view.warning.is_some()).map(|view| view.service.clone()).collect();
    let mut waiting: Vec<Waiting> =
        backends.into_iter().map(|seen| Waiting::new(leaving, seen, Instant::now())).collect();
    let mut screen = Screen::new();
    loop {
        let services = services(client, &mut screen).await?;
        for backend in waiting.iter_mut().filter(|backend| backend.end.is_none()) {
            backend.look(&services, Instant::now());
            match backend.outcome() {
                Some(Ok(outcome)) => screen.say(&format!("{}: {outcome}", backend.name())),
                Some(Err(outcome)) => screen.say(&outcome),
                None => {}
            }
            if let Some(warning) = backend.seen.warning.as_ref().filter(|_| warned.insert(backend.seen.service.clone()))
            {
                screen.say(&format!("WARNING: service {}: {warning}", backend.seen.service));
            }
        }
        let left: Vec<String> = waiting.iter().filter(|backend| backend.end.is_none()).map(Waiting::progress).collect();
        if left.is_empty() {
            break;
        }
        screen.show(&left);
        tokio::time::sleep(PERIOD).await;
    }
    let failures: Vec<String> = waiting.iter().filter_map(|backend| backend.outcome()?.err()).collect();
    if failures.is_empty() { Ok(waiting) } else { Err(ClientError::Refused(failures.join("\n"))) }
}

/// The services, from an `lbd` that may be starting again.
async fn services(client: &Client, screen: &mut Screen) -> Result<Vec<ServiceView>, ClientError> {
    let mut since = None;
    loop {
        match client.get("/v1/services").await {
            Ok(services) => {
                if since.is_some() {
                    screen.say("lbd answers again");
                }
                return Ok(services);
            }
            Err(error) => {
                let since = *since.get_or_insert_with(|| {
                    screen.say(&format!("{error}\n    trying again for {}", whole_seconds(PATIENCE)));
                    Instant::now()
                });
                if since.elapsed() >= PATIENCE {
                    return Err(error);
                }
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// Standard error: lines that stay and, below, lines that are written anew. Who closed it does not want to know.
struct Screen {
    is_terminal: bool,
    /// How many lines are to be written anew.
    shown: usize,
    reported: Option<Instant>,
}

impl Screen {
    fn new() -> Self {
        Self { is_terminal: io::stderr().is_terminal(), shown: 0, reported: None }
    }

    /// A line that stays.
    fn say(&mut self, line: &str) {
        self.clear();
        let _ = writeln!(io::stderr(), "{line}");
    }

    /// Lines that take the place of those shown before. Where that cannot be, they are written now and then.
    fn show(&mut self, lines: &[String]) {
        if !self.is_terminal {
            if self.reported.is_none_or(|reported| reported.elapsed() >= REPORT) {
                self.reported = Some(Instant::now());
                let _ = writeln!(io::stderr(), "{}", lines.join("\n"));
            }
            return;
        }
        self.clear();
        let mut shown = lines[..lines.len().min(LINES)].to_vec();
        if lines.len() > LINES {
            shown.push(format!("and {} more", lines.len() - LINES));
        }
        self.shown = shown.len();
        // Without wrapping (DECAWM), so that each is one line of the terminal.
        let _ = writeln!(io::stderr(), "\x1b[?7l{}\x1b[?7h", shown.join("\n"));
    }

    fn clear(&mut self) {
        if self.shown > 0 {
            let _ = write!(io::stderr(), "\x1b[{}A\x1b[J", self.shown);
            self.shown = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use lb_userspace::{
        config::{Algorithm, Forwarding, OnDeath, Protocol},
        model::{BackendState, BackendView},
    };

    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    /// A backend that drains, has flows, and may have them for a while.
    fn backend() -> BackendView {
        BackendView {
            name: "b1".to_owned(),
            address: ADDRESS,
            port: 0,
            weight: 1,
            state: BackendState::Draining,
            admin: Some(Admin::Draining),
            reason: None,
            slots: 0,
            slots_left: 512,
            flows: Some(9),
            active: 9,
            latency: None,
            max_connections: None,
            closing: 182,
            hidden_flows: false,
            time_left: Some(Duration::from_secs(90)),
            next_hop: None,
            probe: None,
            id: 1,
            packets: 0,
            bytes: 0,
        }
    }

    fn enabled() -> BackendView {
        BackendView { state: BackendState::Up, admin: Some(Admin::Enabled), slots: 512, time_left: None, ..backend() }
    }

    fn removed() -> BackendView {
        BackendView { state: BackendState::Removed, admin: None, ..backend() }
    }

    fn over() -> BackendView {
        BackendView { slots_left: 0, flows: Some(0), closing: 0, ..backend() }
    }

    fn service(backends: Vec<BackendView>) -> ServiceView {
        ServiceView {
            name: "web".to_owned(),
            address: [192, 0, 2, 1].into(),
            port: 80,
            protocol: Protocol::Tcp,
            algorithm: Algorithm::Maglev,
            affinity: None,
            begins_in: None,
            source_prefix: None,
            on_full: None,
            one_packet: false,
            forwarding: Forwarding::L2Dsr,
            on_death: OnDeath::Reschedule,
            idle_timeout: Duration::from_mins(15),
            drain_timeout: None,
            slow_start: None,
            gue_port: None,
            tracking: Tracking::WhenNeeded,
            slots: 1024,
            changed: true,
            id: 1,
            packets: 0,
            bytes: 0,
            backends,
        }
    }

    fn waiting(leaving: Leaving, backend: BackendView) -> Waiting {
        let applied = Applied { service: "web".to_owned(), backend: "b1".to_owned(), address: ADDRESS, port: 0 };
        let seen = ChangedView::new(&applied, Some(&service(vec![backend])));
        Waiting::new(leaving, seen, Instant::now())
    }

    /// How the wait for a backend ends that drains, and is found like this.
    fn end_of_drain(now: Vec<BackendView>) -> Option<End> {
        let mut waiting = waiting(Leaving::Drains, backend());
        waiting.look(&[service(now)], Instant::now());
        waiting.end
    }

    #[test]
    fn a_wait_goes_on_while_there_may_be_flows() {
        let cases = [
            backend(),
            removed(),
            BackendView { flows: Some(1), ..over() },
            BackendView { flows: None, ..over() },
            BackendView { closing: 1, ..over() },
            BackendView { slots_left: 1, ..over() },
            BackendView { slots: 1, ..over() },
            BackendView { hidden_flows: true, ..over() },
        ];
        for case in cases {
            assert_eq!(end_of_drain(vec![case.clone()]), None, "{case:?}");
        }
        assert_eq!(end_of_drain(vec![over()]), Some(End::Empty));
    }

    #[test]
    fn a_wait_ends_when_somebody_gives_the_backend_flows_again() {
        assert_eq!(end_of_drain(vec![enabled()]), Some(End::Enabled));
        let mut again = waiting(Leaving::Removed, removed());
        again.look(&[service(vec![BackendView { name: "other".to_owned(), ..enabled() }])], Instant::now());
        assert_eq!(again.outcome(), Some(Err("web/b1 was added again meanwhile".to_owned())));
    }

    #[test]
    fn a_wait_that_ends_because_flows_were_cut_says_so() {
        let disabled = BackendView { state: BackendState::Disabled, admin: Some(Admin::Disabled), ..over() };
        assert_eq!(end_of_drain(vec![disabled]), Some(End::Disabled));
        // At the deadline, its slots are given to others.
        let cut = BackendView { time_left: Some(Duration::ZERO), ..over() };
        let had = "9 flows and 182 closing, 512 slots left".to_owned();
        assert_eq!(end_of_drain(vec![cut]), Some(End::Deadline(had)));
        let mut late = waiting(Leaving::Removed, BackendView { time_left: Some(PERIOD), ..removed() });
        late.look(&[service(Vec::new())], Instant::now());
        let outcome = late.outcome().unwrap().unwrap();
        assert_eq!(
            outcome,
            "its time is up, which cuts the flows that it had (9 flows and 182 closing, 512 slots left)"
        );
    }

    #[test]
    fn a_program_is_told_how_the_wait_has_ended() {
        let json = |now: BackendView| {
            let mut waiting = waiting(Leaving::Drains, backend());
            waiting.look(&[service(vec![now])], Instant::now());
            serde_json::to_value(waiting.left().unwrap()).unwrap()
        };
        let empty = json(over());
        assert_eq!((&empty["service"], &empty["ended"], empty.get("cut")), (&"web".into(), &"empty".into(), None));
        let cut = json(BackendView { time_left: Some(Duration::ZERO), ..over() });
        assert_eq!(cut["ended"], "deadline");
        assert_eq!(cut["cut"], "9 flows and 182 closing, 512 slots left");
    }

    #[test]
    fn a_removed_backend_that_is_forgotten_before_its_deadline_had_no_flow() {
        let mut early = waiting(Leaving::Removed, removed());
        early.look(&[service(Vec::new())], Instant::now());
        assert_eq!(early.end, Some(End::Empty));
        early.look(&[], Instant::now());
        assert_eq!(early.end, Some(End::NoService));
    }

    #[test]
    fn where_flows_are_not_tracked_nobody_claims_that_none_is_left() {
        let mut untracked = waiting(Leaving::Drains, backend());
        let service = ServiceView { tracking: Tracking::Never, ..service(vec![over()]) };
        untracked.look(&[service], Instant::now());
        assert_eq!(untracked.end, Some(End::Untracked));
    }

    #[test]
    fn what_is_left_is_said_in_one_line() {
        let progress = |backend| waiting(Leaving::Drains, backend).progress();
        assert_eq!(progress(backend()), "web/b1: 9 flows and 182 closing, 512 slots left, 1m 30s at most");
        let one = BackendView { flows: Some(1), slots_left: 1, closing: 0, time_left: None, ..backend() };
        assert_eq!(progress(one), "web/b1: 1 flow, 1 slot left");
        let quic = BackendView { hidden_flows: true, flows: None, time_left: None, ..over() };
        assert_eq!(progress(quic), "web/b1: flows not counted yet and those that connection ids name, 0 slots left");
    }
}
