use std::{future::pending, net::Ipv4Addr};

use tokio::net::TcpListener;

use super::*;
use crate::config::CheckKind;

const INTERVAL: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(30);

fn monitor(initial: Health) -> Monitor {
    let timing = Timing { interval: INTERVAL, rise: 2, fall: 3, jitter_percent: 0 };
    Monitor::new(timing, initial, now(), 0)
}

fn tcp_check() -> HealthCheck {
    HealthCheck {
        kind: CheckKind::Tcp,
        interval: Duration::from_millis(10),
        timeout: PATIENCE,
        rise: 2,
        fall: 3,
        jitter: 10,
        port: None,
    }
}

#[tokio::test(start_paused = true)]
async fn each_probe_is_reported_and_the_ones_that_change_health_are_marked() {
    let (reports, mut reported) = mpsc::channel(1);
    let mut results = [true, false, false, false, true, true].into_iter();
    let probe = || {
        let succeeded = results.next().expect("no more probes than results");
        async move { succeeded.then_some(Duration::ZERO).ok_or(Failure::Refused) }
    };
    let check = run("web-1", monitor(Health::Unknown), probe, reports);
    let watch = async {
        for (health, transition, streak) in [
            (Health::Up, true, 1),
            (Health::Up, false, 1),
            (Health::Up, false, 2),
            (Health::Down, true, 3),
            (Health::Down, false, 1),
            (Health::Up, true, 2),
        ] {
            let report = reported.recv().await.unwrap();
            assert_eq!(
                (report.id, report.health, report.transition, report.streak),
                ("web-1", health, transition, streak)
            );
            assert_eq!(report.transition, report.since == report.checked_at);
        }
    };
    tokio::select! {
        () = check => panic!("the check ended"),
        () = watch => {}
    }
}

#[tokio::test(start_paused = true)]
async fn probes_start_one_interval_apart_however_long_they_take() {
    let (reports, mut reported) = mpsc::channel::<Report<()>>(10);
    let begin = Instant::now();
    let probe = || async {
        let started = begin.elapsed();
        tokio::time::sleep(INTERVAL / 4).await;
        Ok(started)
    };
    let watch = async {
        for n in 0..5 {
            // The probe gives its start as latency. Sleeps are as exact as the timer: 1 ms.
            let started = reported.recv().await.unwrap().latency.unwrap();
            assert!(started.abs_diff(n * INTERVAL) < Duration::from_millis(10));
        }
    };
    tokio::select! {
        () = run((), monitor(Health::Up), probe, reports) => panic!("the check ended"),
        () = watch => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_ends_when_nobody_wants_its_reports() {
    let (reports, reported) = mpsc::channel(1);
    drop(reported);
    run((), monitor(Health::Up), async || Ok(Duration::ZERO), reports).await;
}

#[tokio::test]
async fn dropping_the_handle_stops_the_running_probe() {
    let (reports, mut reported) = mpsc::channel(1);
    let (started, mut probes) = mpsc::channel(1);
    let handle = CheckHandle(tokio::spawn(async move {
        let probe = || async {
            started.send(()).await.unwrap();
            pending().await
        };
        run((), monitor(Health::Up), probe, reports).await;
    }));
    assert_eq!(probes.recv().await, Some(()));
    drop(handle);
    assert_eq!(probes.recv().await, None, "the probe is gone");
    assert_eq!(reported.recv().await, None, "the check is gone");
}

#[tokio::test]
async fn a_backend_goes_up_and_down_with_its_listener() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (reports, mut reported) = mpsc::channel(1);
    let _check = spawn(7, listener.local_addr().unwrap(), tcp_check(), Health::Unknown, reports);

    let up = reported.recv().await.unwrap();
    assert_eq!((up.id, up.health, up.failure), (7, Health::Up, None));
    assert!(up.latency.is_some());

    drop(listener);
    let down = loop {
        let report = reported.recv().await.unwrap();
        if report.transition {
            break report;
        }
    };
    assert_eq!(down.health, Health::Down);
    assert_eq!(down.failure, Some(Failure::Refused));
    assert_eq!(down.streak, 3);
}

#[tokio::test]
async fn the_port_of_the_check_overrides_that_of_the_target() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (reports, mut reported) = mpsc::channel(1);
    let check = HealthCheck { port: Some(listener.local_addr().unwrap().port()), ..tcp_check() };
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let _check = spawn((), target, check, Health::Unknown, reports);
    assert_eq!(reported.recv().await.unwrap().failure, None);
}
